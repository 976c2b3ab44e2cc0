import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { headerRate } from "../src/decode.js";
import { product } from "../src/products.js";
import { HEADERS, POLICY, cacheNames, isOld, isolated, keyOf, kindOf } from "../src/ui/caching.js";
import { Client } from "../src/ui/client.js";
import { LIMIT, LiveSession } from "../src/ui/live_session.js";
import { joined, wavFile } from "../src/ui/microphone.js";
import { hasTimeline, layout, peaks, wavePath } from "../src/ui/timeline.js";

const answer = (label, score = 0.5, segments = [{}]) => ({ label, score, segments });

test("a live session keeps four seconds and no more", () => {
  const session = new LiveSession(100);
  session.add(Float32Array.from({ length: 150 }, (_, i) => i));
  assert.equal(session.isDue, true);
  assert.deepEqual([...session.take()], Array.from({ length: 150 }, (_, i) => i));
  assert.equal(session.isDue, false);
  for (let start = 150; start < 1000; start += 50) session.add(Float32Array.from({ length: 50 }, (_, i) => start + i));
  assert.deepEqual([...session.take()], Array.from({ length: 400 }, (_, i) => 600 + i));
  session.add(new Float32Array(900).fill(7));
  assert.deepEqual([...new Set(session.take())], [7]);
  assert.equal(session.seconds, 19);
});

test("a live session ends by itself", () => {
  const session = new LiveSession(10);
  session.add(new Float32Array(LIMIT * 10 - 1));
  assert.equal(session.isOver, false);
  session.add(new Float32Array(1));
  assert.equal(session.isOver, true);
});

test("running answers become stretches, with gaps where nobody spoke", () => {
  const session = new LiveSession(10);
  session.answered(answer("sad", 0.4), 1);
  session.answered(answer("sad", 0.6), 2);
  session.answered(answer("sad", 0.6, []), 3);
  session.answered(answer("sad", 0.6), 4);
  session.answered(answer("calm", 0.9), 5);
  const found = session.segments.map(({ start, end, label, score }) => [start, end, label, Number(score.toFixed(6))]);
  assert.deepEqual(found, [[0, 2, "sad", 0.5], [3, 4, "sad", 0.6], [4, 5, "calm", 0.9]]);
});

test("a recording of the microphone is a WAV file of the same samples", () => {
  const samples = joined([Float32Array.of(0, 0.25), Float32Array.of(-1), new Float32Array(0)]);
  const content = wavFile(samples, 44100);
  assert.equal(headerRate(new Uint8Array(content)), 44100);
  assert.deepEqual([...new Float32Array(content, 44)], [0, 0.25, -1]);
  assert.equal(new DataView(content).getUint32(4, true), content.byteLength - 8);
});

test("peaks are the loudest of each column, over all channels", () => {
  const channels = [Float32Array.of(0, -1, 0, 0.5), Float32Array.of(0.5, 0, 0, -0.75)];
  assert.deepEqual(peaks(channels, 2), [1, 0.75]);
  assert.deepEqual(peaks([Float32Array.of(1)], 3), [1, 1, 1]);
  assert.deepEqual(peaks([new Float32Array(0)], 2), [0, 0]);
  assert.equal(wavePath([0, 1]), "M0 44.5V45.5M1 1.0V89.0");
});

test("stretches lie where the segments are, and are named where there is space", () => {
  const segments = [{ start: 1, end: 9, label: "surprised" }, { start: 9, end: 9.5, label: "sad" }];
  assert.deepEqual(layout(segments, 10), [
    { left: 10, width: 80, text: "surprised" },
    { left: 90, width: 5, text: "" },
  ]);
  assert.equal(hasTimeline({ segments: segments.slice(1), duration: 9 }), false);
  assert.equal(hasTimeline({ segments: segments.slice(1), duration: 11 }), true);
  assert.equal(hasTimeline({ segments, duration: 2 }), true);
  assert.equal(hasTimeline({ segments: [], duration: 99 }), false);
});

class FakeWorker {
  sent = [];
  postMessage(data) {
    this.sent.push(data);
  }
  terminate() {
    this.ended = true;
  }
}

test("calls of the worker get their own answers, progress and errors", async () => {
  const worker = new FakeWorker();
  const client = new Client(worker);
  const shares = [];
  const first = client.call("predict", { file: "a" }, { onProgress: ({ share }) => shares.push(share) });
  const second = client.call("adapt");
  worker.onmessage({ data: { id: 2, error: "too few" } });
  worker.onmessage({ data: { id: 1, progress: { share: 0.5 } } });
  worker.onmessage({ data: { id: 1, done: "sad" } });
  worker.onmessage({ data: { id: 1, done: "again" } });
  assert.equal(await first, "sad");
  await assert.rejects(second, /too few/);
  assert.deepEqual(shares, [0.5]);
  assert.deepEqual(worker.sent[0], { file: "a", id: 1, do: "predict" });
});

test("an aborted call is cancelled in the worker, and one that is over is not", async () => {
  const worker = new FakeWorker();
  const client = new Client(worker);
  const control = new AbortController();
  const call = client.call("predict", {}, { signal: control.signal });
  control.abort();
  assert.deepEqual(worker.sent[1], { id: 1, do: "cancel" });
  worker.onmessage({ data: { id: 1, error: "cancelled" } });
  await assert.rejects(call, /cancelled/);
  const done = new AbortController();
  const over = client.call("clips", {}, { signal: done.signal });
  worker.onmessage({ data: { id: 2, done: 3 } });
  assert.equal(await over, 3);
  done.abort();
  assert.equal(worker.sent.length, 3);
});

test("a worker that does not start fails all calls, those to come too", async () => {
  const worker = new FakeWorker();
  const client = new Client(worker);
  const waiting = client.call("load");
  worker.onerror({ message: "" });
  await assert.rejects(waiting, /'worker.js' is missing/);
  await assert.rejects(client.call("predict"), /'worker.js' is missing/);
  assert.equal(worker.ended, true);
});

const SCOPE = "https://host.example/space/";
const asked = (path, method = "GET", headers = {}) => ({ url: SCOPE + path, method, headers: new Headers(headers) });

test("the service worker answers for the page's own files alone", () => {
  assert.equal(kindOf(asked(""), SCOPE), "page");
  assert.equal(kindOf(asked("examples/a.wav"), SCOPE), "page");
  assert.equal(kindOf(asked("onnx/model.onnx"), SCOPE), "model");
  assert.equal(kindOf(asked("ort/ort.wasm"), SCOPE), "model");
  assert.equal(kindOf(asked("", "POST"), SCOPE), null);
  assert.equal(kindOf(asked("a.wav", "GET", { range: "bytes=0-" }), SCOPE), null);
  assert.equal(kindOf({ ...asked(""), url: "https://elsewhere.example/space/" }, SCOPE), null);
  assert.equal(kindOf({ ...asked(""), url: "blob:https://host.example/space/1" }, SCOPE), null);
  assert.equal(keyOf(`${SCOPE}?token=1#top`), SCOPE);
});

test("caches of other weights, versions and folders are told apart", () => {
  const settings = { version: "1", digest: "abc" };
  const { page, model } = cacheNames(SCOPE, settings);
  const others = [{ version: "2", digest: "abc" }, { version: "1", digest: "abd" }];
  for (const other of others) assert.equal(isOld(model, SCOPE, other), true);
  for (const name of [page, model, cacheNames(`${SCOPE}deeper/`, others[0]).model, "somebody else's"])
    assert.equal(isOld(name, SCOPE, settings), false);
});

test("an answer gets the headers of isolation, and keeps its own", async () => {
  const passed = isolated(new Response("x", { status: 404, headers: { "content-type": "text/css" } }));
  assert.equal(passed.status, 404);
  assert.equal(await passed.text(), "x");
  assert.equal(passed.headers.get("content-type"), "text/css");
  for (const [name, value] of Object.entries(HEADERS)) assert.equal(passed.headers.get(name), value);
  assert.equal(passed.headers.get("content-security-policy"), POLICY);
  const stricter = isolated(new Response("", { headers: { "content-security-policy": "frame-ancestors 'none'" } }));
  assert.equal(stricter.headers.get("content-security-policy"), `frame-ancestors 'none', ${POLICY}`);
  assert.equal(isolated(new Response(null, { status: 304 })).status, 304);
  const opaque = { status: 0 };
  assert.equal(isolated(opaque), opaque);
});

test("the page and its worker have one policy", () => {
  const page = readFileSync(new URL("../static/index.html", import.meta.url), "utf8");
  assert.equal(page.match(/http-equiv="Content-Security-Policy" content="([^"]*)"/)[1], POLICY);
  assert.doesNotMatch(page, /\sstyle=|<style|\son\w+=|<script(?![^>]*\ssrc=)/);
  assert.doesNotMatch(page, /https?:\/\//);
});

test("a product of matrices is one", () => {
  class Tensor {
    constructor(type, data, dims) {
      Object.assign(this, { type, data, dims });
    }
  }
  const [a, b] = [new Tensor("float32", [1, 0, 2, 0, 3, 0], [2, 3]), new Tensor("float32", [1, 2, 3, 4, 5, 6], [3, 2])];
  const c = product(a, b);
  assert.deepEqual([[...c.data], c.dims], [[11, 14, 9, 12], [2, 2]]);
});
