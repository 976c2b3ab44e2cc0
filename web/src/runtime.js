// The runtime and the model, loaded from beside the page and from nowhere else.

import "./products.js";
import {
  ASTFeatureExtractor,
  SeamlessM4TFeatureExtractor,
  Wav2Vec2FeatureExtractor,
  WhisperFeatureExtractor,
  env,
} from "@huggingface/transformers";
import { Engine, UserError } from "./engine.js";
import { hasWebGpu } from "./webgpu.js";

env.allowRemoteModels = false; // nothing is asked of any other host

/**
 * Load everything that a prediction needs.
 * @param {URL} base - of the folder that was exported
 * @param {{webgpu: boolean, int8: boolean, threads: number}} wanted
 * @param {function} onProgress - called with bytes loaded and bytes in all
 */
export async function loadEngine(base, wanted, onProgress = () => {}) {
  const settings = await json(new URL("ser_hf.json", base));
  const extractor = makeExtractor(await json(new URL("preprocessor_config.json", base)));
  const device = wanted.webgpu && (await hasWebGpu()) ? "webgpu" : "wasm";
  const ort = device === "webgpu" ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  const name = device === "webgpu" ? "ort-wasm-simd-threaded.asyncify" : "ort-wasm-simd-threaded";
  ort.env.wasm.wasmPaths = { mjs: new URL(`ort/${name}.mjs`, base).href, wasm: new URL(`ort/${name}.wasm`, base).href };
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? wanted.threads : 1;
  const graph = wanted.int8 && settings.graphs.int8 ? settings.graphs.int8 : settings.graphs.fp32;
  const files = [graph, settings.graphs.voice];
  const contents = await loadAll(files.map((file) => new URL(file, base)), onProgress);
  try {
    const model = await ort.InferenceSession.create(contents[0], { executionProviders: [device] });
    const voice = await ort.InferenceSession.create(contents[1], { executionProviders: ["wasm"] });
    const engine = new Engine(ort, settings, { model, voice }, extractor);
    return Object.assign(engine, { device, graph, threads: ort.env.wasm.numThreads });
  } catch (error) {
    throw new UserError(`this browser cannot run the model (${firstLine(error)}): allow WebAssembly, or use another one`);
  }
}

const EXTRACTORS = {
  ASTFeatureExtractor,
  SeamlessM4TFeatureExtractor,
  Wav2Vec2FeatureExtractor,
  WhisperFeatureExtractor,
};

/** Features of a waveform, by the class of transformers.js that the export names. */
export function makeExtractor(config) {
  const Extractor = EXTRACTORS[config.feature_extractor_type];
  if (!Extractor) throw new UserError(`features of the kind '${config.feature_extractor_type}' are not known here`);
  if (config.feature_extractor_type === "SeamlessM4TFeatureExtractor")
    return stackedFrames(new Extractor({ ...config, stride: 1 }), config.stride);
  const extractor = new Extractor(config);
  return (samples) => extractor(samples);
}

/**
 * Features of w2v-BERT: `stride` frames side by side, an even number of frames, without the stacks that Python masks.
 * transformers.js stacks them itself, but fails for strides other than 2.
 */
function stackedFrames(extractor, stride) {
  return async (samples) => {
    const { input_features: mel } = await extractor(samples, { padding: false, return_attention_mask: false });
    const [, frames, bins] = mel.dims;
    const rows = Math.min(Math.floor((frames + (frames % 2)) / stride), Math.ceil((frames - 1) / stride));
    const data = new Float32Array(rows * stride * bins);
    data.set(mel.data.subarray(0, data.length));
    return { input_features: { data, dims: [1, rows, stride * bins] } };
  };
}

async function json(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new UserError(`'${url.pathname}' is missing beside the page: export it again`);
  return answer.json();
}

async function loadAll(urls, onProgress) {
  const answers = await Promise.all(urls.map((url) => fetch(url)));
  answers.forEach((answer, i) => {
    if (!answer.ok) throw new UserError(`'${urls[i].pathname}' is missing beside the page: export it again`);
  });
  const total = answers.reduce((sum, answer) => sum + Number(answer.headers.get("content-length") ?? 0), 0);
  let loaded = 0;
  return Promise.all(
    answers.map(async (answer) => {
      const parts = [];
      for (const reader = answer.body.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        parts.push(value);
        loaded += value.length;
        onProgress(loaded, total);
      }
      return new Uint8Array(await new Blob(parts).arrayBuffer());
    }),
  );
}

function firstLine(error) {
  return String(error?.message ?? error).split("\n")[0].slice(0, 160);
}
