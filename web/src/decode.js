// Whatever the browser plays becomes samples at 16 kHz, resampled by our filter, not by its own.

import { downmix, withoutOffset } from "./conditioning.js";
import { UserError } from "./engine.js";
import { resample } from "./resample.js";

const OTHER_RATE = 48000; // of containers whose header is not read here; most record at it
const [LEAST_RATE, MOST_RATE] = [8000, 96000]; // that every browser opens a context for

const text = (bytes, at, length) => String.fromCharCode(...bytes.subarray(at, at + length));

/**
 * The sampling rate in the header of a file, so that the browser need not resample it.
 * @param {Uint8Array} bytes
 * @returns {number | null} in Hz
 */
export function headerRate(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const kind = text(bytes, 0, 4);
  if ((kind === "RIFF" || kind === "RF64") && text(bytes, 8, 4) === "WAVE") {
    for (let at = 12; at + 16 <= bytes.length; ) {
      if (text(bytes, at, 4) === "fmt ") return view.getUint32(at + 12, true);
      at += 8 + view.getUint32(at + 4, true) + (view.getUint32(at + 4, true) % 2);
    }
  }
  if (kind === "fLaC" && bytes.length > 21) return view.getUint32(18) >>> 12;
  if (kind === "OggS" && bytes.length > 48 && text(bytes, 29, 6) === "vorbis") return view.getUint32(40, true);
  if (kind === "FORM" && text(bytes, 8, 3) === "AIF") return null;
  const mp3 = kind.startsWith("ID3") ? afterId3(bytes) : 0;
  if (mp3 + 4 < bytes.length && bytes[mp3] === 0xff && (bytes[mp3 + 1] & 0xe6) === 0xe2) {
    const version = (bytes[mp3 + 1] >> 3) & 3; // 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    const rate = [44100, 48000, 32000][(bytes[mp3 + 2] >> 2) & 3];
    return rate && version !== 1 ? rate / { 3: 1, 2: 2, 0: 4 }[version] : null;
  }
  return null;
}

function afterId3(bytes) {
  return 10 + ((bytes[6] << 21) | (bytes[7] << 14) | (bytes[8] << 7) | bytes[9]);
}

/**
 * Decode a file.
 * @param {ArrayBuffer} content
 * @param {string} name - for errors
 * @returns {Promise<{channels: Float32Array[], rate: number}>}
 */
export async function decode(content, name) {
  if (!content.byteLength) throw new UserError(`'${name}' is empty (0 bytes): record or download it again`);
  const found = headerRate(new Uint8Array(content));
  const rate = found >= LEAST_RATE && found <= MOST_RATE ? found : OTHER_RATE;
  let buffer;
  try {
    buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(content);
  } catch {
    throw new UserError(`'${name}' is not audio that this browser plays: convert it to WAV, MP3 or FLAC`);
  }
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, index) => buffer.getChannelData(index));
  return { channels, rate };
}

/** One channel at 16 kHz without an offset: the order is that of `ser_hf.audio.io.mono_16k`. */
export function conditioned({ channels, rate }) {
  return resample(withoutOffset(downmix(channels, rate), rate), rate);
}
