// Small helpers that build the page. Texts are never read as HTML.

import { colour } from "./colours.js";

export const byId = (id) => document.getElementById(id);

/** An element with attributes and children; a child that is text stays text. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Set custom properties, which the style sheet reads: the policy of the page has no style attributes. */
export function styled(made, properties) {
  for (const [name, value] of Object.entries(properties)) made.style.setProperty(`--${name}`, value);
  return made;
}

export function dot(label) {
  return styled(element("span", { class: "ser-dot", "aria-hidden": "true" }), { colour: colour(label) });
}

/** A line for the visitor: screen readers read an `error` at once, a `note` later. */
export function message(text, kind = "error") {
  return element("div", { class: `ser-${kind}`, role: kind === "error" ? "alert" : "status" }, text);
}
