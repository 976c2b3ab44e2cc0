// Windows with voice and their timeline.

import assert from "node:assert/strict";
import { test } from "node:test";
import { downmix, offset, withoutOffset } from "../src/conditioning.js";
import { resample } from "../src/resample.js";
import { FRAME, HOP, RATE, VoicedStretches, WINDOW, hasVoice, timeline, voicedWindows } from "../src/windows.js";

const frames = (seconds, value) => new Float32Array(Math.ceil((seconds * RATE) / FRAME)).fill(value);

test("stretches of voice join neighbouring frames", () => {
  const voiced = new VoicedStretches([0, 0.9, 0.6, 0.4, 0.9]);
  assert.deepEqual(voiced.starts, [FRAME, 4 * FRAME]);
  assert.deepEqual(voiced.ends, [3 * FRAME, 5 * FRAME]);
  assert.deepEqual(voiced.within(0, 2 * FRAME), [FRAME, FRAME, 2 * FRAME]);
  assert.deepEqual(voiced.within(3 * FRAME, 4 * FRAME), [0, 4 * FRAME, 3 * FRAME]);
});

test("windows without voice are left out, and the last one ends with the recording", () => {
  const length = 11 * RATE;
  assert.deepEqual(voicedWindows(length, frames(11, 1)).starts, [0, HOP, 2 * HOP, 3 * HOP, length - WINDOW]);
  const late = new Float32Array([...frames(8, 0), ...frames(3, 1)]);
  assert.deepEqual(voicedWindows(length, late).starts, [3 * HOP, length - WINDOW]);
});

test("where voice is faint the window with most of it is taken, and none where there is none", () => {
  const faint = new Float32Array([...frames(6, 0), ...frames(5, 0.4)]);
  assert.equal(voicedWindows(11 * RATE, faint).starts.length, 1);
  assert.deepEqual(voicedWindows(11 * RATE, frames(11, 0.2)).starts, []);
  assert.equal(hasVoice(frames(1, 0.29)), false);
  assert.equal(hasVoice(frames(1, 0.31)), true);
});

test("a timeline averages the windows around each moment", () => {
  const { starts, voiced } = voicedWindows(6 * RATE, frames(6, 1));
  assert.deepEqual(starts, [0, HOP]);
  const windows = [[1, 0], [0, 1]].map((probabilities, i) => ({ start: starts[i], probabilities }));
  const { mean, segments } = timeline(["calm", "sad"], windows, voiced, 6 * RATE);
  assert.deepEqual([...mean], [0.5, 0.5]);
  assert.deepEqual(segments, [
    { start: 0, end: 4, label: "calm", score: 0.75 },
    { start: 4, end: 6, label: "sad", score: 1 },
  ]);
  assert.deepEqual([...timeline(["a", "b"], [], voiced, 6 * RATE).mean], [0.5, 0.5]);
});

test("a channel that would cancel the other is turned round, and an offset goes away", () => {
  const wave = Float32Array.from({ length: RATE }, (_, i) => Math.sin(i / 9) / 2);
  const mixed = downmix([wave, wave.map((value) => -value)], RATE);
  assert.ok(Math.max(...mixed.map((value, i) => Math.abs(value - wave[i]))) < 1e-6);
  const shifted = wave.map((value) => value + 0.25);
  assert.ok(Math.abs(offset(withoutOffset(shifted, RATE))) < 1e-6);
  assert.equal(offset(wave.map((value) => value * 1e-3)), 0);
});

test("resampling keeps a tone and its length", () => {
  const tone = Float32Array.from({ length: 48000 }, (_, i) => Math.sin((2 * Math.PI * 440 * i) / 48000));
  const result = resample(tone, 48000);
  assert.equal(result.length, 16000);
  for (let i = 1000; i < 15000; i++) assert.ok(Math.abs(result[i] - Math.sin((2 * Math.PI * 440 * i) / 16000)) < 2e-3);
  assert.equal(resample(tone.subarray(0, 24414), 24414).length, 16000);
});
