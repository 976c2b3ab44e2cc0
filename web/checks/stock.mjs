// What the stock pipeline of transformers.js says of raw samples, for a test in Python.

import { readFile } from "node:fs/promises";
import { env, pipeline } from "@huggingface/transformers";

const { folder, name, clips } = JSON.parse(await new Response(process.stdin).text());
env.allowRemoteModels = false;
env.localModelPath = folder;
const classify = await pipeline("audio-classification", name, { dtype: "fp32" });
for (const path of clips) {
  const bytes = await readFile(path);
  const samples = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const rows = await classify(samples, { top_k: null });
  console.log(JSON.stringify(Object.fromEntries(rows.map(({ label, score }) => [label, score]))));
}
