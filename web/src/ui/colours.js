// The colours of the emotions, those of `ser_hf.labels`.

export const COLOURS = {
  neutral: "#646464",
  calm: "#56b4e9",
  happy: "#e69f00",
  sad: "#0072b2",
  angry: "#d55e00",
  fearful: "#aa55ee",
  disgust: "#009e73",
  surprised: "#cc79a7",
};
const OTHER_LABEL = "#666666"; // of a label that is none of the eight

/** The colour of a label, `#rrggbb`. */
export function colour(label) {
  return Object.hasOwn(COLOURS, label) ? COLOURS[label] : OTHER_LABEL;
}

/** Black or white, whichever has more contrast (WCAG 2.2) with a background `#rrggbb`. */
export function textColour(background) {
  const linear = [1, 3, 5].map((start) => {
    const channel = parseInt(background.slice(start, start + 2), 16) / 255;
    return channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4;
  });
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return 1.05 / (luminance + 0.05) >= (luminance + 0.05) / 0.05 ? "#ffffff" : "#000000";
}
