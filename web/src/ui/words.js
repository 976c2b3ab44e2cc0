// What the page says, in the words of the Gradio page (`ser_hf.app.html`).

/** A time in a recording: 3671.9 is 61:11. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** A probability as people read it: 0.0713 is 7 %. */
export function percent(score) {
  return `${(100 * score).toFixed(0)} %`;
}

export function length(seconds) {
  return seconds < 60 ? `${seconds.toFixed(1)} s` : `${clock(seconds)} min`;
}

/** Bytes as people read them: 23642848 is 23.6 MB. */
export function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/**
 * The answer in a few words.
 * @param {object} prediction
 * @param {number} threshold - the score below which the model abstains
 * @returns {{title: string, text: string, label: string | null}} `label` where the model decides
 */
export function headline(prediction, threshold) {
  const { label, segments, duration } = prediction;
  const score = percent(prediction.score);
  if (!segments.length) return { title: "No voice was found", text: `in ${length(duration)} of audio`, label: null };
  if (!prediction.abstained) return { title: label, text: `${score} sure, ${length(duration)} of audio`, label };
  const reason = threshold ? `, and the model was calibrated to abstain below ${percent(threshold)}` : "";
  return { title: "Not sure", text: `The likeliest is ${label} with ${score}${reason}.`, label: null };
}

/** The running answer in a few words; `spoke` says whether there was a voice before. */
export function liveHeadline(prediction, spoke) {
  if (!prediction?.segments.length) return { title: spoke ? "Nobody speaks" : "Listening", label: null };
  if (prediction.abstained) return { title: `Not sure, ${prediction.label}?`, label: null };
  return { title: prediction.label, label: prediction.label };
}

/** The answer in a cell of a table. */
export function shortAnswer(prediction) {
  if (!prediction.segments.length) return "no voice was found";
  return prediction.abstained ? `not sure, ${prediction.label}?` : prediction.label;
}

export function segmentText({ start, end, label, score }) {
  return `${clock(start)} to ${clock(end)}, ${label}, ${percent(score)}`;
}

/** On what the model runs. */
export function deviceText({ device, threads, graph }) {
  const smaller = graph.includes("quantized") ? " It is the smaller one." : "";
  if (device === "webgpu") return `The model runs on the graphics card (WebGPU).${smaller}`;
  return `The model runs on the processor (WebAssembly, ${threads} thread${threads === 1 ? "" : "s"}).${smaller}`;
}

const INSTEAD = "or upload a recording";
const MICROPHONE = {
  NotAllowedError: `The microphone is not allowed: allow it in this browser's settings of the page, ${INSTEAD}.`,
  NotFoundError: `No microphone was found: connect one, ${INSTEAD}.`,
  NotReadableError: `The microphone is in use elsewhere: close the other program, ${INSTEAD}.`,
  NotSupportedError: `Browsers give the microphone to pages at https or localhost alone: open the page there, ${INSTEAD}.`,
};

/** Why the microphone cannot be heard, and what to do. */
export function microphoneText(error) {
  return MICROPHONE[error.name] ?? `The microphone failed (${error.message || error.name}): try again, ${INSTEAD}.`;
}

/** Why the model could not be loaded; browsers have words of their own for a lost connection. */
export function loadingText(message) {
  if (/failed to fetch|networkerror|load failed|network error/i.test(message))
    return "The model could not be fetched: connect to the network once, and load the page again.";
  return `The model could not be loaded: ${message}.`;
}

export function voiceCountText(clips, fewest) {
  if (!clips) return `No clip so far: ${fewest} are needed.`;
  const few = clips < fewest ? `: ${fewest} are needed` : "";
  return `${clips.toLocaleString("en")} clip${clips === 1 ? "" : "s"} so far${few}.`;
}
