// The model runs here, so that the page stays quick. Messages in: {id, do, ...}; out: {id, done | error | progress}.
// {id, do: "cancel"} ends the call `id` at its next progress.

import { conditioned } from "./decode.js";
import { UserError } from "./engine.js";
import { loadEngine } from "./runtime.js";

let engine = null;

const actions = {
  async load({ id, base, wanted }) {
    engine = await loadEngine(new URL(base), wanted, (loaded, total) =>
      self.postMessage({ id, progress: { loaded, total } }),
    );
    const { device, graph, threads, settings } = engine;
    return { device, graph, threads, labels: engine.labels, settings };
  },
  async predict({ file, channels, rate, kept, adapted }, progress) {
    const samples = conditioned({ channels, rate });
    return engine.predict(file, samples, (share) => progress({ share }), { kept, adapted });
  },
  async clips() {
    return engine.clips.length;
  },
  async adapt() {
    return engine.adapt();
  },
  async forget() {
    engine.forget();
  },
};

let last = Promise.resolve(); // one at a time, in their order
const cancelled = new Set();

/** Tell the page, and let its messages in: one of them may cancel the call. */
async function report(id, value) {
  self.postMessage({ id, progress: value });
  await new Promise((resolve) => setTimeout(resolve));
  if (cancelled.has(id)) throw new UserError("cancelled");
}

self.onmessage = ({ data }) => {
  if (data.do === "cancel") return void cancelled.add(data.id);
  last = last.then(async () => {
    const progress = (value) => report(data.id, value);
    try {
      if (cancelled.has(data.id)) throw new UserError("cancelled");
      self.postMessage({ id: data.id, done: (await actions[data.do](data, progress)) ?? null });
    } catch (error) {
      const message = error instanceof UserError ? error.message : `the model failed (${error?.message ?? error})`;
      self.postMessage({ id: data.id, error: message });
    } finally {
      cancelled.delete(data.id);
    }
  });
};
