// What the visitor saves: one prediction, or all.

import { element } from "./dom.js";

const COLUMNS = ["file", "label", "score", "abstained", "duration", "error"];

/** Predictions as JSON lines. */
export function jsonLines(predictions) {
  return predictions.map((row) => JSON.stringify(row) + "\n").join("");
}

/** Predictions as CSV, one a line, with the score of each label; no cell is a formula. */
export function csvText(predictions) {
  const labels = Object.keys(predictions.find((row) => row.scores)?.scores ?? {});
  const rows = predictions.map((row) => [
    ...COLUMNS.map((name) => row[name] ?? ""),
    ...labels.map((label) => row.scores?.[label] ?? ""),
  ]);
  return [[...COLUMNS, ...labels], ...rows].map((row) => row.map(cell).join(",") + "\r\n").join("");
}

// Text in place of what a spreadsheet would run as a formula (OWASP, CSV injection).
function cell(value) {
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Save a text from memory; no server is asked. */
export function save(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
