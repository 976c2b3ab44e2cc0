import assert from "node:assert/strict";
import { test } from "node:test";

import { COLOURS, colour, textColour } from "../src/ui/colours.js";
import { csvText, jsonLines } from "../src/ui/download.js";
import { nextTab } from "../src/ui/tabs.js";
import {
  clock,
  deviceText,
  headline,
  length,
  liveHeadline,
  loadingText,
  microphoneText,
  percent,
  segmentText,
  shortAnswer,
  voiceCountText,
} from "../src/ui/words.js";

const sure = { file: "a.wav", label: "sad", score: 0.912, abstained: false, duration: 3.04, segments: [{}] };
const unsure = { ...sure, score: 0.31, abstained: true };
const silent = { ...sure, score: 0.125, abstained: true, segments: [] };

test("times, lengths and scores are as people read them", () => {
  assert.deepEqual([0, 59.99, 3671.9].map(clock), ["0:00", "0:59", "61:11"]);
  assert.deepEqual([0.1, 59.94, 60, 3671.9].map(length), ["0.1 s", "59.9 s", "1:00 min", "61:11 min"]);
  assert.deepEqual([0.0713, 1, 0].map(percent), ["7 %", "100 %", "0 %"]);
  assert.equal(segmentText({ start: 4, end: 75.2, label: "sad", score: 0.5 }), "0:04 to 1:15, sad, 50 %");
});

test("an answer, a doubt and silence are said as the Gradio page says them", () => {
  assert.deepEqual(headline(sure, 0.5), { title: "sad", text: "91 % sure, 3.0 s of audio", label: "sad" });
  assert.equal(headline(silent, 0.5).title, "No voice was found");
  assert.equal(headline(unsure, 0.5).title, "Not sure");
  const reason = "The likeliest is sad with 31 %, and the model was calibrated to abstain below 50 %.";
  assert.equal(headline(unsure, 0.5).text, reason);
  assert.equal(headline(unsure, 0).text, "The likeliest is sad with 31 %.");
  assert.deepEqual([sure, unsure, silent].map(shortAnswer), ["sad", "not sure, sad?", "no voice was found"]);
});

test("a running answer tells silence from a pause", () => {
  assert.deepEqual(liveHeadline(null, false), { title: "Listening", label: null });
  assert.equal(liveHeadline(silent, false).title, "Listening");
  assert.equal(liveHeadline(silent, true).title, "Nobody speaks");
  assert.equal(liveHeadline(unsure, true).title, "Not sure, sad?");
  assert.deepEqual(liveHeadline(sure, true), { title: "sad", label: "sad" });
});

test("failures have words and a remedy", () => {
  for (const name of ["NotAllowedError", "NotFoundError", "NotReadableError", "NotSupportedError", "AbortError"])
    assert.match(microphoneText(new DOMException("odd", name)), /or upload a recording\.$/);
  assert.match(microphoneText(new DOMException("odd", "AbortError")), /\(odd\)/);
  for (const words of ["TypeError: Failed to fetch", "NetworkError when attempting", "Load failed"])
    assert.match(loadingText(words), /connect to the network/);
  assert.equal(loadingText("'x' is missing"), "The model could not be loaded: 'x' is missing.");
});

test("the device, its threads and the graph are named", () => {
  const wasm = { device: "wasm", threads: 1, graph: "onnx/model.onnx" };
  assert.equal(deviceText(wasm), "The model runs on the processor (WebAssembly, 1 thread).");
  const small = { device: "wasm", threads: 4, graph: "onnx/model_quantized.onnx" };
  assert.match(deviceText(small), /4 threads\)\. It is the smaller one\.$/);
  assert.match(deviceText({ ...wasm, device: "webgpu" }), /WebGPU/);
});

test("clips of the voice are counted", () => {
  const texts = [0, 1, 4, 5].map((clips) => voiceCountText(clips, 5));
  assert.deepEqual(texts, [
    "No clip so far: 5 are needed.",
    "1 clip so far: 5 are needed.",
    "4 clips so far: 5 are needed.",
    "5 clips so far.",
  ]);
});

test("words on a colour have contrast", () => {
  assert.equal(Object.keys(COLOURS).length, 8);
  const chosen = Object.fromEntries(Object.entries(COLOURS).map(([label, one]) => [label, textColour(one)]));
  assert.equal(chosen.sad, "#ffffff");
  assert.equal(chosen.happy, "#000000");
  assert.equal(textColour("#ffffff"), "#000000");
  assert.equal(colour("bored"), "#666666");
  assert.equal(colour("constructor"), "#666666");
});

test("a table of predictions holds no formula", () => {
  const scored = { ...sure, scores: { sad: 0.912, happy: 0.088 } };
  const rows = ["=1+1.wav", "+a", "-a", "@a", 'x"y,z.wav'].map((file) => ({ ...scored, file }));
  const lines = csvText([{ file: "bad.wav", error: "no sound, sorry" }, ...rows]).trimEnd().split("\r\n");
  assert.equal(lines[0], "file,label,score,abstained,duration,error,sad,happy");
  assert.equal(lines[1], 'bad.wav,,,,,"no sound, sorry",,');
  assert.deepEqual(lines.slice(2, 6).map((line) => line.slice(0, 2)), ["'=", "'+", "'-", "'@"]);
  assert.equal(lines[6], '"x""y,z.wav",sad,0.912,false,3.04,,0.912,0.088');
  assert.deepEqual(jsonLines([sure, unsure]).trimEnd().split("\n").map((line) => JSON.parse(line)), [sure, unsure]);
});

test("arrows move between tabs and come round", () => {
  assert.deepEqual(["ArrowRight", "ArrowLeft", "Home", "End"].map((key) => nextTab(key, 2, 3)), [0, 1, 0, 2]);
  assert.equal(nextTab("Tab", 0, 3), null);
  assert.equal(nextTab("constructor", 0, 3), null);
});
