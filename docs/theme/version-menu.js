// The menu of versions beside the title. `versions.js` lists them as a script: a page on file:// may read no JSON.
const link = (version) => {
  const item = document.createElement("li");
  const anchor = document.createElement("a");
  item.className = "md-version__item";
  anchor.className = "md-version__link";
  anchor.href = `${window.BASE}/../${version}/index.html`;
  anchor.textContent = version;
  item.append(anchor);
  return item;
};

const menu = document.createElement("div");
const button = document.createElement("button");
const list = document.createElement("ul");
menu.className = "md-version";
button.className = "md-version__current";
button.setAttribute("aria-label", "Select version");
button.textContent = window.DOCUMENTED;
list.className = "md-version__list";
list.append(...(window.VERSIONS ?? [window.DOCUMENTED]).map(link));
menu.append(button, list);
document.querySelector(".md-header__topic").append(menu);
