import assert from "node:assert/strict";
import { test } from "node:test";

import { hasWebGpu } from "../src/webgpu.js";

const giving = (adapter) => ({ requestAdapter: async () => adapter });

for (const [name, gpu, expected] of [
  ["a graphics card", giving({ info: { isFallbackAdapter: false } }), true],
  ["a graphics card of an older browser", giving({}), true],
  ["a fallback on the processor", giving({ info: { isFallbackAdapter: true } }), false],
  ["a fallback of an older browser", giving({ isFallbackAdapter: true }), false],
  ["no adapter", giving(null), false],
  ["no WebGPU", undefined, false],
]) {
  test(`WebGPU with ${name}`, async () => assert.equal(await hasWebGpu(gpu), expected));
}

test("WebGPU that fails is none", async () => {
  const failing = { requestAdapter: async () => Promise.reject(new Error("lost")) };
  assert.equal(await hasWebGpu(failing), false);
});
