// Where a voice is: silero-vad's network, frame by frame, as `ser_hf.audio.voice_activity`.

import { FRAME, RATE } from "./windows.js";

const CONTEXT = 64;
const WIDTH = 128;
const TOGETHER = 256; // frames that the network takes at a time

/**
 * Probabilities of voice in each frame of a recording; silence completes the last frame.
 * `onProgress` is called with the share that is done, and awaited.
 */
export async function voiceProbabilities(ort, session, samples, onProgress = () => {}) {
  const count = Math.ceil(samples.length / FRAME);
  const padded = new Float32Array(CONTEXT + count * FRAME);
  padded.set(samples, CONTEXT);
  const result = new Float32Array(count);
  let [hidden, cell] = [0, 1].map(() => new ort.Tensor("float32", new Float32Array(WIDTH), [1, 1, WIDTH]));
  for (let first = 0; first < count; first += TOGETHER) {
    const frames = Math.min(TOGETHER, count - first);
    const input = new Float32Array(frames * (CONTEXT + FRAME));
    for (let i = 0; i < frames; i++) {
      const at = (first + i) * FRAME;
      input.set(padded.subarray(at, at + CONTEXT + FRAME), i * (CONTEXT + FRAME));
    }
    const output = await session.run({
      frames: new ort.Tensor("float32", input, [frames, CONTEXT + FRAME]),
      hidden,
      cell,
    });
    result.set(output.probabilities.data, first);
    [hidden, cell] = [output.next_hidden, output.next_cell];
    if (first + frames < count) await onProgress((first + frames) / count);
  }
  return result;
}

/** A clip of less than 1 s, repeated to 1 s: the network finds less without context. */
export function repeated(samples) {
  if (!samples.length || samples.length >= RATE) return samples;
  return Float32Array.from({ length: RATE }, (_, index) => samples[index % samples.length]);
}
