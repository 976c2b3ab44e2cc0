// What a visitor could not read or reach on a page: one line for each problem that is seen.
() => {
  const problems = new Set();
  const name = (one) => {
    const marks = one.id ? `#${one.id}` : [...one.classList].slice(0, 2).map((word) => `.${word}`).join("");
    const text = (one.textContent || one.getAttribute("alt") || "").trim().replace(/\s+/g, " ").slice(0, 30);
    return `${one.tagName.toLowerCase()}${marks} "${text}"`;
  };
  const shown = (one) => {
    const box = one.getBoundingClientRect();
    return box.width > 1 && box.height > 1 && one.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  };
  const numbers = (colour) => {
    const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    paint.fillStyle = colour; // any notation, color-mix() included
    paint.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = paint.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const seen = new Map();
  const rgba = (colour) => seen.get(colour) ?? seen.set(colour, numbers(colour)).get(colour);
  const over = (upper, lower) => [0, 1, 2].map((i) => upper[i] * upper[3] + lower[i] * (1 - upper[3]));
  const ground = (one) => {
    const layers = [];
    for (let place = one; place; place = place.parentElement) {
      const style = getComputedStyle(place);
      if (style.backgroundImage.includes("url(")) return null; // a picture: not to be judged here
      layers.push(rgba(style.backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    const canvas = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
    return layers.reverse().reduce((below, layer) => over(layer, below), canvas);
  };
  const luminance = (colour) => {
    const [red, green, blue] = colour.map((part) => {
      const channel = part / 255;
      return channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, two) => {
    const [dark, light] = [luminance(one), luminance(two)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const scrolls = (one) => {
    for (let place = one.parentElement; place && place !== document.body; place = place.parentElement)
      if (getComputedStyle(place).overflowX !== "visible") return true;
    return false;
  };

  if (document.documentElement.scrollWidth > innerWidth) problems.add(`the page is ${document.documentElement.scrollWidth} px wide`);
  for (const one of document.body.querySelectorAll("*")) {
    if (!shown(one) || one.closest("svg") || ["SCRIPT", "STYLE"].includes(one.tagName)) continue;
    const box = one.getBoundingClientRect();
    if ((box.right > innerWidth + 1 || box.left < -1) && !scrolls(one)) problems.add(`beyond the window: ${name(one)}`);
    if (one.tagName === "IMG" && !one.hasAttribute("alt")) problems.add(`without alt: ${name(one)}`);
    const headless = one.tagName === "TABLE" && !one.querySelector("th") && !one.matches(".file-preview"); // Gradio's list
    if (headless) problems.add(`a table without headers: ${name(one)}`);
    const words = [...one.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (!words || one.closest("[disabled], [aria-hidden=true]")) continue;
    const style = getComputedStyle(one);
    if (parseFloat(style.fontSize) < 12) problems.add(`letters of ${style.fontSize}: ${name(one)}`);
    const below = ground(one);
    if (!below) continue;
    let visible = rgba(style.color);
    for (let place = one; place; place = place.parentElement)
      visible = [...visible.slice(0, 3), visible[3] * parseFloat(getComputedStyle(place).opacity)];
    const ratio = contrast(over(visible, below), below);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) problems.add(`contrast ${ratio.toFixed(2)}: ${name(one)}`);
  }
  return [...problems];
}
