// Windows of a long recording that hold voice, and its timeline, as `ser_hf.inference.long_audio`.

export const RATE = 16000;
export const LONG = 10 * RATE;
export const WINDOW = 4 * RATE;
export const HOP = 2 * RATE;
export const FRAME = 512;
const MIN_VOICE = RATE / 4;
const LIKELY = 0.5;
const FAINTEST = 0.3;

/** The stretches of a recording with voice, in samples. */
export class VoicedStretches {
  constructor(probabilities = [], least = LIKELY) {
    this.starts = [];
    this.ends = [];
    probabilities.forEach((probability, index) => {
      if (!(probability >= least)) return;
      const start = index * FRAME;
      if (this.ends.at(-1) !== start) {
        this.starts.push(start);
        this.ends.push(start);
      }
      this.ends[this.ends.length - 1] += FRAME;
    });
  }

  /** Samples with voice from `start` to `end`; the first of them, and one past the last. */
  within(start, end) {
    let [total, first, last] = [0, end, start];
    for (let i = 0; i < this.starts.length; i++) {
      if (this.ends[i] <= start) continue;
      if (this.starts[i] >= end) break;
      const [low, high] = [Math.max(start, this.starts[i]), Math.min(end, this.ends[i])];
      total += high - low;
      first = Math.min(first, low);
      last = high;
    }
    return [total, first, last];
  }
}

/** Whether any frame may be voice. */
export function hasVoice(probabilities) {
  return probabilities.some((probability) => probability >= FAINTEST);
}

/**
 * Where the windows with voice start, and the voice that the timeline counts.
 * @param {number} length - of the recording in samples, more than a window
 * @param {Float32Array} probabilities - of voice in each frame
 */
export function voicedWindows(length, probabilities) {
  const voiced = new VoicedStretches(probabilities, LIKELY);
  const faint = new VoicedStretches(probabilities, FAINTEST);
  const starts = [];
  let start = 0;
  for (; length - start >= WINDOW; start += HOP) starts.push(start);
  if (length > start - HOP + WINDOW) starts.push(length - WINDOW);
  const taken = starts.filter((at) => voiced.within(at, at + WINDOW)[0] >= MIN_VOICE);
  if (taken.length) return { starts: taken, voiced };
  let [best, most] = [null, 0];
  for (const at of starts) {
    const much = faint.within(at, at + WINDOW)[0];
    if (much > most) [best, most] = [at, much];
  }
  return { starts: best === null ? [] : [best], voiced: best === null ? voiced : faint };
}

/**
 * The mean probabilities of a recording, and its segments.
 * @param {string[]} labels
 * @param {{start: number, probabilities: Float32Array}[]} windows
 * @param {VoicedStretches} voiced
 * @param {number} length - in samples
 */
export function timeline(labels, windows, voiced, length) {
  const sums = new Map();
  for (const { start, probabilities } of windows) {
    for (let cell = Math.floor(start / HOP); cell < Math.ceil((start + WINDOW) / HOP); cell++) {
      const shared = Math.min(start + WINDOW, (cell + 1) * HOP) - Math.max(start, cell * HOP);
      const held = sums.get(cell) ?? { sum: new Float64Array(labels.length), weight: 0 };
      probabilities.forEach((value, label) => (held.sum[label] += shared * value));
      held.weight += shared;
      sums.set(cell, held);
    }
  }
  const total = new Float64Array(labels.length);
  let weight = 0;
  const runs = [];
  for (const cell of [...sums.keys()].sort((a, b) => a - b)) {
    const [voice, first, last] = voiced.within(cell * HOP, Math.min((cell + 1) * HOP, length));
    if (!voice) continue;
    const held = sums.get(cell);
    const probabilities = held.sum.map((value) => value / held.weight);
    probabilities.forEach((value, label) => (total[label] += voice * value));
    weight += voice;
    const label = argmax(probabilities);
    let run = runs.at(-1);
    if (!(run && run.label === label && run.cell === cell - 1)) {
      run = { label, start: first, sum: 0, weight: 0 };
      runs.push(run);
    }
    run.sum += voice * probabilities[label];
    run.weight += voice;
    run.end = last;
    run.cell = cell;
  }
  const mean = weight ? total.map((value) => value / weight) : total.fill(1 / labels.length);
  return {
    mean,
    segments: runs.map((run) => segment(run.start, run.end, labels[run.label], run.sum / run.weight)),
  };
}

export function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

export function rounded(value, digits = 6) {
  return Number(value.toFixed(digits));
}

export function segment(start, end, label, score) {
  return { start: rounded(start / RATE, 3), end: rounded(end / RATE, 3), label, score: rounded(score) };
}
