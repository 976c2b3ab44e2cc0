// The panel with the answer to one recording.

import { Bars } from "./bars.js";
import { byId, dot, element, message } from "./dom.js";
import { save } from "./download.js";
import { picture } from "./timeline.js";
import { headline } from "./words.js";

/** Put a headline into a live region, unless it says so already: a screen reader reads each change. */
export function showHeadline(region, { title, text = "", label }) {
  if (region.dataset.shown === JSON.stringify([title, text])) return;
  region.dataset.shown = JSON.stringify([title, text]);
  const name = element("p", { class: "ser-label" }, ...(label ? [dot(label), title] : [title]));
  region.replaceChildren(name, ...(text ? [element("p", { class: "ser-sub" }, text)] : []));
}

export class AnswerPanel {
  constructor() {
    this.prediction = null;
    byId("save").addEventListener("click", () => {
      save("prediction.json", JSON.stringify(this.prediction) + "\n", "application/json");
    });
  }

  clear() {
    this.prediction = null;
    if (this.source) URL.revokeObjectURL(this.source);
    this.source = null;
    for (const id of ["message", "headline", "details"]) byId(id).replaceChildren();
    delete byId("headline").dataset.shown;
    byId("save").hidden = true;
  }

  say(text, kind) {
    this.clear();
    byId("message").replaceChildren(message(text, kind));
  }

  /**
   * @param {object} prediction
   * @param {{blob: Blob, peaks: number[]}} recording
   * @param {number} threshold - the score below which the model abstains
   */
  show(prediction, recording, threshold) {
    this.clear();
    this.prediction = prediction;
    this.source = URL.createObjectURL(recording.blob);
    const bars = new Bars(Object.keys(prediction.scores));
    bars.show(prediction.scores);
    showHeadline(byId("headline"), headline(prediction, threshold));
    byId("details").append(
      element("p", { class: "ser-name" }, prediction.file),
      bars.element,
      picture(prediction, recording.peaks, this.source),
    );
    byId("save").hidden = false;
  }
}
