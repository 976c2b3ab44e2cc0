// One channel and no constant offset, as `ser_hf.audio.conditioning` has it.

const SMALLEST_OFFSET = 1e-4;
const OFFSET_SECONDS = 10;
const INVERTED = -0.5;
const MEMORY = 0.99;
const LOUDER = 4;

/**
 * Average channels, and turn those round that would cancel the loudest.
 * @param {Float32Array[]} channels - of one length
 * @param {number} rate - in Hz
 * @returns {Float32Array} samples
 */
export function downmix(channels, rate) {
  const width = channels.length;
  if (width === 1) return channels[0];
  const length = channels[0].length;
  const frame = Math.max(1, Math.floor(rate / 10));
  const result = new Float32Array(length);
  const covariance = Array.from({ length: width }, () => new Float64Array(width));
  const means = new Float64Array(width);
  let signs = new Array(width).fill(1);
  let loudest = 0;
  for (let start = 0; start < length; start += frame) {
    const end = Math.min(length, start + frame);
    if (end - start === frame) {
      for (let c = 0; c < width; c++) {
        means[c] = 0;
        for (let i = start; i < end; i++) means[c] += channels[c][i];
        means[c] /= frame;
      }
      for (let a = 0; a < width; a++) {
        for (let b = 0; b < width; b++) {
          let sum = 0;
          for (let i = start; i < end; i++) sum += (channels[a][i] - means[a]) * (channels[b][i] - means[b]);
          covariance[a][b] = MEMORY * covariance[a][b] + sum;
        }
      }
      let most = 0;
      for (let c = 1; c < width; c++) if (covariance[c][c] > covariance[most][most]) most = c;
      if (covariance[most][most] > LOUDER * covariance[loudest][loudest]) loudest = most;
      const power = covariance[loudest][loudest];
      const kept = signs[loudest];
      signs = signs.map((_, c) => {
        const likeness = covariance[loudest][c] / Math.sqrt(Math.max(covariance[c][c] * power, 1e-30));
        return (likeness < INVERTED ? -1 : 1) * kept;
      });
    }
    for (let i = start; i < end; i++) {
      let sum = 0;
      for (let c = 0; c < width; c++) sum += signs[c] * channels[c][i];
      result[i] = sum / width;
    }
  }
  return result;
}

/** The constant offset of samples: their mean, or 0 for a small one. */
export function offset(samples) {
  let sum = 0;
  for (let i = 0; i < samples.length; i++) sum += samples[i];
  const mean = samples.length ? sum / samples.length : 0;
  return Math.abs(mean) > SMALLEST_OFFSET ? mean : 0;
}

/**
 * Take the offset of each 10 s away; the last seconds have that of the last 10 s.
 * @param {Float32Array} samples - one channel
 * @param {number} rate - in Hz
 * @returns {Float32Array}
 */
export function withoutOffset(samples, rate) {
  const length = OFFSET_SECONDS * rate;
  const result = samples.slice();
  for (let start = 0; start < samples.length; start += length) {
    const end = Math.min(samples.length, start + length);
    const found = Math.fround(offset(samples.subarray(Math.max(0, end - length), end)));
    if (found) for (let i = start; i < end; i++) result[i] = samples[i] - found;
  }
  return result;
}
