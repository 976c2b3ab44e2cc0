// Recordings that the visitor gives become answers, one after the other.

import { decode } from "../decode.js";
import { byId } from "./dom.js";
import { peaks } from "./timeline.js";

const LONGEST = 2 * 3600; // seconds
const PATIENCE = 3000; // milliseconds for the browser to tell how long a recording is

/** What a recording that is too long is told, in the engine's words. */
export const tooLong = (name) => `'${name}' is longer than 2 hours: cut it into parts`;

/** Whether a failure only says that the visitor cancelled. */
export const isCancelled = (error) => error.name === "AbortError" || error.message === "cancelled";

export class Analysis {
  /**
   * @param {function(): Promise<Client>} model - gives the worker's client once the model is there
   * @param {{panel: AnswerPanel, batch: Batch, threshold: function(): number, onDone: function}} page
   */
  constructor(model, { panel, batch, threshold, onDone }) {
    Object.assign(this, { model, panel, batch, threshold, onDone });
    this.running = null;
    byId("cancel").addEventListener("click", () => this.cancel());
  }

  get isBusy() {
    return this.running !== null;
  }

  /** Stop what is being analysed; what comes next begins at once. */
  cancel() {
    this.running?.abort();
  }

  /**
   * Analyse recordings and show the answers.
   * @param {{name: string, blob: Blob}[]} recordings
   * @param {{kept: boolean, adapted: boolean}} voice - as `Engine.predict` takes it
   */
  async run(recordings, voice = { kept: true, adapted: true }) {
    if (!recordings.length) return;
    this.cancel();
    const control = new AbortController();
    this.running = control;
    this.panel.clear();
    this.batch.start(recordings.length);
    byId("working").hidden = false;
    byId("answer").scrollIntoView({ block: "nearest" }); // on a phone it lies below
    try {
      for (const [index, recording] of recordings.entries()) {
        const part = recordings.length > 1 ? `, ${index + 1} of ${recordings.length}` : "";
        byId("working-text").textContent = `Analysing ${recording.name}${part}`;
        const item = await this.#answer(recording, voice, control.signal);
        if (control.signal.aborted) break;
        this.batch.add(item);
        if (recordings.length === 1) this.open(item);
      }
    } catch (error) {
      if (this.running === control) this.panel.say(error.message);
    } finally {
      if (this.running === control) this.#finish(control, recordings.length);
    }
    this.onDone();
  }

  /** Show an item of the batch. */
  open({ prediction, recording }) {
    if (prediction.error) this.panel.say(prediction.error);
    else this.panel.show(prediction, recording, this.threshold());
    byId("headline").scrollIntoView({ block: "nearest" });
  }

  #finish({ signal }, wanted) {
    this.running = null;
    byId("working").hidden = true;
    const { items, failed } = this.batch;
    if (signal.aborted) {
      const after = wanted > 1 ? ` after ${items.length} of ${wanted} recordings` : "";
      this.panel.say(`Cancelled${after}.`, "note");
    } else if (items.length > 1) {
      const trouble = failed ? `, ${failed.toLocaleString("en")} could not be read` : "";
      const text = `${(items.length - failed).toLocaleString("en")} recordings analysed${trouble}`;
      this.panel.say(`${text}. Open one from the table.`, "note");
    }
  }

  async #answer({ name, blob }, voice, signal) {
    const share = byId("share");
    share.removeAttribute("value"); // as long as nothing is known of it
    const client = await this.model(); // a model that cannot be loaded ends the whole batch
    try {
      signal.throwIfAborted();
      if (blob.size && (await secondsOf(blob)) > LONGEST) throw new Error(tooLong(name));
      const { channels, rate } = await decode(await blob.arrayBuffer(), name);
      signal.throwIfAborted();
      const heights = peaks(channels);
      const fields = { file: name, channels, rate, ...voice };
      const options = { signal, transfer: channels.map((one) => one.buffer), onProgress: (done) => (share.value = done.share) };
      return { prediction: await client.call("predict", fields, options), recording: { blob, peaks: heights } };
    } catch (error) {
      return { prediction: { file: name, error: isCancelled(error) ? "cancelled" : error.message } };
    }
  }
}

/** The length that a recording's header states in seconds, without decoding it; NaN where it states none. */
function secondsOf(blob) {
  const audio = document.createElement("audio");
  const address = URL.createObjectURL(blob);
  return new Promise((resolve) => {
    const tell = () => resolve(Number.isFinite(audio.duration) ? audio.duration : NaN);
    for (const event of ["loadedmetadata", "error"]) audio.addEventListener(event, tell);
    setTimeout(tell, PATIENCE);
    audio.preload = "metadata";
    audio.src = address;
  }).finally(() => {
    audio.removeAttribute("src");
    URL.revokeObjectURL(address);
  });
}
