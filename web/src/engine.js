// A model in use: samples at 16 kHz become predictions, with the keys of every other door.

import { FEWEST_CLIPS, fitWithHead, moved, softmax } from "./adaptation.js";
import { repeated, voiceProbabilities } from "./voice.js";
import { LONG, RATE, WINDOW, argmax, hasVoice, rounded, segment, timeline, voicedWindows } from "./windows.js";

const SHORTEST = 0.1; // seconds
const LONGEST = 2 * 3600;
const VOICE = 0.1; // the share of a long recording's progress that finding the voice takes

/** What the visitor can mend, in words for the page. */
export class UserError extends Error {}

export class Engine {
  /**
   * @param {object} ort - the module of ONNX Runtime
   * @param {object} settings - `ser_hf.json` of the export
   * @param {{model: object, voice: object}} sessions
   * @param {function} extractor - features of a waveform, as transformers.js computes them
   */
  constructor(ort, settings, sessions, extractor) {
    Object.assign(this, { ort, settings, sessions, extractor });
    this.labels = settings.labels;
    this.longest = Math.min(LONG, settings.longest ?? LONG);
    this.adaptation = null;
    this.clips = []; // logits and embeddings of the clips of this visit, in memory alone
  }

  /** Logits and embedding of one clip, before any adaptation. */
  async outputs(samples) {
    const features = (await this.extractor(samples))[this.settings.input];
    const input = new this.ort.Tensor("float32", features.data, features.dims);
    const output = await this.sessions.model.run({ [this.settings.input]: input });
    return { logits: Array.from(output.logits.data), embedding: Array.from(output.embedding.data) };
  }

  async probabilities(samples, { kept, adapted }) {
    const { logits, embedding } = await this.outputs(samples);
    if (kept) this.clips.push({ logits, embedding });
    return softmax(adapted && this.adaptation ? moved(this.adaptation, logits, embedding) : logits);
  }

  /**
   * Predict a recording of any length.
   * @param {string | null} file - name
   * @param {Float32Array} samples - 16 kHz, one channel, without offset
   * @param {function} onProgress - called with the share that is done, and awaited
   * @param {{kept: boolean, adapted: boolean}} voice - whether the recording is kept for `adapt`, and whether the
   *   answer is for the voice that was adapted to
   */
  async predict(file, samples, onProgress = () => {}, { kept = true, adapted = true } = {}) {
    const seconds = samples.length / RATE;
    const name = file ? `'${file}'` : "the recording";
    if (seconds < SHORTEST) throw new UserError(`${name} is ${seconds.toFixed(3)} s long: at least 0.1 s is needed`);
    if (seconds > LONGEST) throw new UserError(`${name} is longer than 2 hours: cut it into parts`);
    if (!samples.every(Number.isFinite)) throw new UserError(`${name} holds NaN or infinite samples: record it again`);
    const isClip = samples.length <= this.longest;
    const heard = isClip ? repeated(samples) : samples;
    const voice = await voiceProbabilities(this.ort, this.sessions.voice, heard, (share) => onProgress(VOICE * share));
    if (isClip) return this.#predictClip(file, samples, hasVoice(voice), { kept, adapted });
    const { starts, voiced } = voicedWindows(samples.length, voice);
    const windows = [];
    for (const start of starts) {
      const probabilities = await this.probabilities(samples.slice(start, start + WINDOW), { kept, adapted });
      windows.push({ start, probabilities });
      await onProgress(VOICE + ((1 - VOICE) * windows.length) / starts.length);
    }
    const { mean, segments } = timeline(this.labels, windows, voiced, samples.length);
    return this.#prediction(file, samples.length, mean, segments);
  }

  async #predictClip(file, samples, isVoiced, voice) {
    if (!isVoiced) return this.#prediction(file, samples.length, this.labels.map(() => 1 / this.labels.length), []);
    const probabilities = await this.probabilities(samples, voice);
    const best = argmax(probabilities);
    const only = [segment(0, samples.length, this.labels[best], probabilities[best])];
    return this.#prediction(file, samples.length, probabilities, only);
  }

  #prediction(file, length, probabilities, segments) {
    const best = argmax(probabilities);
    return {
      file,
      label: this.labels[best],
      score: rounded(probabilities[best]),
      scores: Object.fromEntries(this.labels.map((label, i) => [label, rounded(probabilities[i])])),
      abstained: !segments.length || probabilities[best] < this.settings.abstain_below,
      duration: rounded(length / RATE, 3),
      segments,
    };
  }

  /** Adapt to the voice of the clips of this visit; all later predictions are of it. */
  adapt() {
    if (this.clips.length < FEWEST_CLIPS)
      throw new UserError(`${this.clips.length} clips of one voice are too few to adapt to: give ${FEWEST_CLIPS} or more`);
    const [logits, embeddings] = [this.clips.map((clip) => clip.logits), this.clips.map((clip) => clip.embedding)];
    this.adaptation = fitWithHead(this.settings.adaptation_head, logits, embeddings);
    return this.clips.length;
  }

  /** Forget the voice and its clips. */
  forget() {
    this.adaptation = null;
    this.clips = [];
  }
}
