// Tabs as the ARIA Authoring Practices have them: arrows, Home and End move, Tab leaves.

/**
 * Wire the tabs of a list.
 * @param {HTMLElement} list - with role tablist
 * @param {function(string)} onChange - takes the id of the tab that opens
 */
export function wireTabs(list, onChange) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const open = (tab) => {
    for (const one of tabs) {
      one.setAttribute("aria-selected", String(one === tab));
      one.tabIndex = one === tab ? 0 : -1;
      document.getElementById(one.getAttribute("aria-controls")).hidden = one !== tab;
    }
    onChange(tab.id);
  };
  list.addEventListener("click", (event) => event.target.closest("[role=tab]") && open(event.target.closest("[role=tab]")));
  list.addEventListener("keydown", (event) => {
    const next = nextTab(event.key, tabs.indexOf(document.activeElement), tabs.length);
    if (next === null) return;
    event.preventDefault();
    tabs[next].focus();
    open(tabs[next]);
  });
}

/** Which tab a key leads to; null for a key that is not the tabs'. */
export function nextTab(key, at, count) {
  const moves = { ArrowRight: (at + 1) % count, ArrowLeft: (at + count - 1) % count, Home: 0, End: count - 1 };
  return Object.hasOwn(moves, key) ? moves[key] : null;
}
