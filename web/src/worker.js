// The model runs here, so that the page stays quick. Messages in: {id, do, ...}; out: {id, done | error | progress}.

import { conditioned } from "./decode.js";
import { UserError } from "./engine.js";
import { loadEngine } from "./runtime.js";

let engine = null;

const actions = {
  async load({ base, wanted }, progress) {
    engine = await loadEngine(new URL(base), wanted, (loaded, total) => progress({ loaded, total }));
    const { device, graph, threads, settings } = engine;
    return { device, graph, threads, labels: engine.labels, settings };
  },
  async predict({ file, channels, rate }, progress) {
    return engine.predict(file, conditioned({ channels, rate }), (share) => progress({ share }));
  },
  async adapt() {
    return engine.adapt();
  },
  async forget() {
    engine.forget();
  },
};

let last = Promise.resolve(); // one at a time, in their order

self.onmessage = ({ data }) => {
  last = last.then(async () => {
    const progress = (value) => self.postMessage({ id: data.id, progress: value });
    try {
      self.postMessage({ id: data.id, done: (await actions[data.do](data, progress)) ?? null });
    } catch (error) {
      const message = error instanceof UserError ? error.message : `the model failed (${error?.message ?? error})`;
      self.postMessage({ id: data.id, error: message });
    }
  });
};
