// A bar for the score of each label.

import { colour } from "./colours.js";
import { element, styled } from "./dom.js";

/** Bars that can be moved, so that a running answer does not build them anew. */
export class Bars {
  constructor(labels) {
    this.rows = labels.map((label) => new Bar(label));
    this.element = element("div", { class: "ser-bars" }, ...this.rows.map((row) => row.element));
  }

  /** @param {Object<string, number>} scores - by label */
  show(scores) {
    for (const row of this.rows) row.show(scores[row.label]);
  }
}

class Bar {
  constructor(label) {
    this.label = label;
    this.fill = styled(element("div", { class: "ser-fill" }), { colour: colour(label), width: "0%" });
    this.track = element(
      "div",
      { class: "ser-track", role: "meter", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100" },
      this.fill,
    );
    this.score = element("span", { class: "ser-score", "aria-hidden": "true" });
    const name = element("span", { "aria-hidden": "true" }, label); // the meter says both
    this.element = element("div", { class: "ser-bar" }, name, this.track, this.score);
  }

  show(score) {
    this.score.textContent = `${(100 * score).toFixed(1)} %`;
    this.track.setAttribute("aria-valuenow", (100 * score).toFixed(0));
    this.track.setAttribute("aria-valuetext", this.score.textContent);
    styled(this.fill, { width: `${(100 * score).toFixed(1)}%` });
  }
}
