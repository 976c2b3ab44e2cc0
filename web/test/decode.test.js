// The rate in the header of a file.

import assert from "node:assert/strict";
import { test } from "node:test";
import { headerRate } from "../src/decode.js";

const ascii = (text) => [...text].map((letter) => letter.charCodeAt(0));
const little = (value) => [value & 255, (value >> 8) & 255, (value >> 16) & 255, (value >> 24) & 255];

test("WAV says its rate behind other chunks", () => {
  const format = [...ascii("fmt "), ...little(16), 1, 0, 1, 0, ...little(24414), ...little(48828), 2, 0, 16, 0];
  const odd = [...ascii("LIST"), ...little(3), 1, 2, 3, 0];
  assert.equal(headerRate(new Uint8Array([...ascii("RIFF"), ...little(99), ...ascii("WAVE"), ...format])), 24414);
  assert.equal(headerRate(new Uint8Array([...ascii("RIFF"), ...little(99), ...ascii("WAVE"), ...odd, ...format])), 24414);
  assert.equal(headerRate(new Uint8Array([...ascii("RIFF"), ...little(99), ...ascii("WAVE")])), null);
});

test("FLAC says it in 20 bits", () => {
  const head = [...ascii("fLaC"), 0, 0, 0, 34, 16, 0, 16, 0, 0, 0, 0, 0, 0, 0];
  const rate = 44100 << 4;
  assert.equal(headerRate(new Uint8Array([...head, (rate >> 16) & 255, (rate >> 8) & 255, rate & 255, 0, 0, 0])), 44100);
});

test("MP3 says it in each frame, behind tags", () => {
  assert.equal(headerRate(new Uint8Array([0xff, 0xfb, 0x90, 0x00, 0, 0])), 44100);
  assert.equal(headerRate(new Uint8Array([0xff, 0xf3, 0x94, 0x00, 0, 0])), 24000);
  assert.equal(headerRate(new Uint8Array([0xff, 0xe3, 0x98, 0x00, 0, 0])), 8000);
  const tag = [...ascii("ID3"), 4, 0, 0, 0, 0, 0, 3, 9, 9, 9];
  assert.equal(headerRate(new Uint8Array([...tag, 0xff, 0xfb, 0x94, 0x00, 0, 0])), 48000);
});

test("what says nothing is of the rate that most record at", () => {
  for (const bytes of [[], ascii("hello world, this is no sound"), [0, 0, 0, 24, ...ascii("ftypM4A ")]])
    assert.equal(headerRate(new Uint8Array(bytes)), null);
});
