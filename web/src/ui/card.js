// What the model is and how it was tested.

import { byId, element, message } from "./dom.js";

/** @param {{card: [string, string][], warnings: string[]}} settings - `ser_hf.json` of the export */
export function showCard({ card = [], warnings = [] }) {
  const rows = card.map(([name, value]) =>
    element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value)),
  );
  const notes = warnings.map((text) => message(text, "note"));
  byId("facts").replaceChildren(...notes, element("table", {}, element("tbody", {}, ...rows)));
}
