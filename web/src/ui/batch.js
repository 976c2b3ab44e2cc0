// A table with a row for each recording, of which any can be opened.

import { byId, dot, element } from "./dom.js";
import { csvText, jsonLines, save } from "./download.js";
import { length, percent, shortAnswer } from "./words.js";

export class Batch {
  /** @param {function(object)} onOpen - takes the item of a row */
  constructor(onOpen) {
    this.onOpen = onOpen;
    this.items = [];
    const rows = () => this.items.map((item) => item.prediction);
    byId("save-csv").addEventListener("click", () => save("predictions.csv", csvText(rows()), "text/csv"));
    byId("save-jsonl").addEventListener("click", () => {
      save("predictions.jsonl", jsonLines(rows()), "application/jsonl");
    });
  }

  /** Begin a table; none is shown for a single recording. */
  start(count) {
    this.items = [];
    this.body = element("tbody");
    const names = ["recording", "label", "score", "length"].map((name) => element("th", { scope: "col" }, name));
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...names)), this.body);
    const frame = element("div", { class: "ser-table", role: "region", "aria-label": "all recordings", tabindex: "0" });
    frame.append(table);
    byId("batch").replaceChildren(...(count > 1 ? [frame] : []));
    byId("batch-save").hidden = true;
  }

  /** @param {{prediction: object}} item - a prediction, or `{file, error}` */
  add(item) {
    this.items.push(item);
    this.body.append(element("tr", {}, ...this.#cells(item)));
    byId("batch-save").hidden = this.items.length < 2;
  }

  get failed() {
    return this.items.filter((item) => item.prediction.error).length;
  }

  #cells(item) {
    const { prediction } = item;
    const { file, error } = prediction;
    if (error) return [element("th", { scope: "row" }, file), element("td", { colspan: "3" }, error)];
    const open = element("button", { type: "button", class: "ser-open", "aria-pressed": "false" }, file);
    open.addEventListener("click", () => {
      for (const other of this.body.querySelectorAll(".ser-open")) other.setAttribute("aria-pressed", "false");
      open.setAttribute("aria-pressed", "true");
      this.onOpen(item);
    });
    const isSure = prediction.segments.length && !prediction.abstained;
    return [
      element("th", { scope: "row" }, open),
      element("td", {}, ...(isSure ? [dot(prediction.label), " "] : []), shortAnswer(prediction)),
      element("td", {}, percent(prediction.score)),
      element("td", {}, length(prediction.duration)),
    ];
  }
}
