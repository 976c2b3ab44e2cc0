// Answers of the engine in Node, for the tests in Python: reads {folder, clips} on stdin, prints a prediction a line.
// Each clip is {file, rate, channels: paths of raw float32 samples}.

import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";
import { conditioned } from "../src/decode.js";
import { Engine } from "../src/engine.js";
import { makeExtractor } from "../src/runtime.js";

const input = JSON.parse(await new Response(process.stdin).text());
const read = (name) => readFile(`${input.folder}/${name}`);
const json = async (name) => JSON.parse(await read(name));
const settings = await json("ser_hf.json");
ort.env.wasm.numThreads = 1;
const [model, voice] = await Promise.all(
  [settings.graphs[input.graph ?? "fp32"], settings.graphs.voice].map(async (name) =>
    ort.InferenceSession.create(await read(name), { executionProviders: ["wasm"] }),
  ),
);
const engine = new Engine(ort, settings, { model, voice }, makeExtractor(await json("preprocessor_config.json")));
for (const { file, rate, channels } of input.clips) {
  const samples = await Promise.all(
    channels.map(async (path) => {
      const bytes = await readFile(path);
      return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    }),
  );
  console.log(JSON.stringify(await engine.predict(file, conditioned({ channels: samples, rate }))));
}
if (input.adapt) {
  engine.adapt();
  for (const clip of engine.clips.slice()) {
    const { moved, softmax } = await import("../src/adaptation.js");
    console.log(JSON.stringify(softmax(moved(engine.adaptation, clip.logits, clip.embedding))));
  }
}
