// The picture of a recording: its waveform, coloured stretches with words, and a list that plays them.

import { colour, textColour } from "./colours.js";
import { dot, element, styled } from "./dom.js";
import { clock, length, percent, segmentText } from "./words.js";

const COLUMNS = 400;

/** Whether a recording is shown with a timeline. */
export function hasTimeline({ segments, duration }) {
  return segments.length > 1 || (segments.length === 1 && duration > 10);
}

/**
 * The loudest samples of a recording, by magnitude.
 * @param {Float32Array[]} channels - of one length
 * @returns {number[]} one a column of the picture
 */
export function peaks(channels, columns = COLUMNS) {
  const samples = channels[0].length;
  return Array.from({ length: columns }, (_, column) => {
    const start = Math.floor((column * samples) / columns);
    const end = Math.max(start + 1, Math.floor(((column + 1) * samples) / columns));
    let most = 0;
    for (const channel of channels)
      for (let i = start; i < end && i < samples; i++) if (Math.abs(channel[i]) > most) most = Math.abs(channel[i]);
    return most;
  });
}

/** The path of a waveform, `columns` wide and 90 high. */
export function wavePath(heights) {
  const loudest = Math.max(1e-6, ...heights);
  return heights
    .map((height, x) => {
      const y = Math.max((height / loudest) * 44, 0.5);
      return `M${x} ${(45 - y).toFixed(1)}V${(45 + y).toFixed(1)}`;
    })
    .join("");
}

/**
 * Where the stretches of a timeline lie.
 * @returns {{left: number, width: number, text: string}[]} in percent; `text` where it has space
 */
export function layout(segments, duration) {
  return segments.map(({ start, end, label }) => {
    const width = (100 * (end - start)) / duration;
    return { left: (100 * start) / duration, width, text: width > 2.2 * label.length + 3 ? label : "" };
  });
}

/** Coloured stretches; screen readers and keyboards have the list, which says the same. */
export function stretches(segments, duration) {
  const parts = layout(segments, duration).map(({ left, width, text }, index) => {
    const background = colour(segments[index].label);
    const part = element("div", { class: "ser-part", title: segmentText(segments[index]) }, text);
    part.dataset.start = segments[index].start;
    const properties = { left: `${left.toFixed(3)}%`, width: `${width.toFixed(3)}%` };
    return styled(part, { ...properties, colour: background, "on-colour": textColour(background) });
  });
  return element("div", { class: "ser-timeline", "aria-hidden": "true" }, ...parts);
}

/** A list of buttons that play a segment each. */
export function segmentList(segments) {
  const rows = segments.map((segment) => {
    const times = `${clock(segment.start)} – ${clock(segment.end)}`;
    const button = element(
      "button",
      { class: "ser-jump", type: "button", "aria-label": `play ${segmentText(segment)}` },
      dot(segment.label),
      element("span", {}, times),
      element("b", {}, segment.label),
      element("span", {}, percent(segment.score)),
    );
    button.dataset.start = segment.start;
    return element("li", {}, button);
  });
  return element("ol", { class: "ser-parts", "aria-label": "timeline" }, ...rows);
}

/**
 * Waveform, timeline and player of a recording.
 * @param {object} prediction
 * @param {number[]} heights - of `peaks`
 * @param {string | null} source - address of the recording in memory; no player without
 */
export function picture(prediction, heights, source) {
  const { segments, duration } = prediction;
  const withTimeline = hasTimeline(prediction);
  const cursor = element("div", { class: "ser-cursor", hidden: "" });
  const drawing = element(
    "div",
    { class: "ser-picture" },
    waveform(heights, duration),
    withTimeline ? stretches(segments, duration) : null,
    cursor,
  );
  const list = withTimeline ? segmentList(segments) : null;
  const whole = element("div", {}, drawing, list);
  if (source) whole.prepend(player(source, { drawing, cursor, list, whole, duration }));
  return whole;
}

function waveform(heights, duration) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const attributes = { viewBox: `0 0 ${heights.length} 90`, preserveAspectRatio: "none", role: "img" };
  for (const [name, value] of Object.entries(attributes)) svg.setAttribute(name, value);
  svg.setAttribute("aria-label", `waveform of ${length(duration)}`);
  svg.classList.add("ser-wave");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", wavePath(heights));
  path.setAttribute("stroke", "currentColor");
  path.setAttribute("stroke-width", "0.8");
  svg.append(path);
  return svg;
}

function player(source, { drawing, cursor, list, whole, duration }) {
  const audio = element("audio", { class: "ser-player", controls: "", src: source, "aria-label": "the recording" });
  const jumps = list ? [...list.querySelectorAll(".ser-jump")] : [];
  const follow = () => {
    cursor.hidden = false;
    styled(cursor, { left: `${Math.min(100, (100 * audio.currentTime) / duration)}%` });
    const now = jumps.filter((jump) => Number(jump.dataset.start) <= audio.currentTime + 0.01).at(-1);
    for (const jump of jumps) jump.setAttribute("aria-current", String(jump === now));
  };
  const seek = (second) => {
    audio.currentTime = second;
    audio.play().catch(() => {}); // a browser may want a gesture first; the place is set all the same
    follow();
  };
  for (const event of ["timeupdate", "seeked", "play"]) audio.addEventListener(event, follow);
  whole.addEventListener("click", (event) => {
    const part = event.target.closest("[data-start]");
    if (part) return seek(Number(part.dataset.start));
    if (!event.target.closest(".ser-picture")) return;
    const box = drawing.getBoundingClientRect();
    seek((duration * (event.clientX - box.left)) / box.width);
  });
  return audio;
}
