// A live session: the last seconds that were heard, and the answers so far.

export const LIMIT = 300; // seconds of a session
const WINDOW = 4; // seconds of an answer
const STEP = 1; // seconds from one answer to the next

export class LiveSession {
  /** @param {number} rate - of the microphone in Hz */
  constructor(rate) {
    this.rate = rate;
    this.last = new Float32Array(WINDOW * rate);
    this.heard = 0; // samples
    this.answeredAt = 0; // seconds
    this.segments = [];
  }

  get seconds() {
    return this.heard / this.rate;
  }

  get isOver() {
    return this.seconds >= LIMIT;
  }

  get isDue() {
    return this.seconds - this.answeredAt >= STEP;
  }

  /** Take the next samples; what is older than the window is dropped. */
  add(block) {
    const taken = block.subarray(Math.max(0, block.length - this.last.length));
    this.last.copyWithin(0, taken.length);
    this.last.set(taken, this.last.length - taken.length);
    this.heard += block.length;
  }

  /** The samples for the next answer: a copy of the last seconds. */
  take() {
    this.answeredAt = this.seconds;
    return this.last.slice(Math.max(0, this.last.length - this.heard));
  }

  /**
   * Add an answer to the timeline: it holds from the answer before.
   * @param {object} prediction - of the window
   * @param {number} end - of the window in seconds
   */
  answered(prediction, end) {
    const start = Math.min(end, this.shownUntil ?? 0);
    this.shownUntil = end;
    if (!prediction.segments.length) return;
    const { label, score } = prediction;
    const run = this.segments.at(-1);
    if (run && run.label === label && run.end === start) {
      const share = (end - start) / (end - run.start);
      run.score = (1 - share) * run.score + share * score;
      run.end = end;
    } else {
      this.segments.push({ start, end, label, score });
    }
  }
}
