// Windowed-sinc resampling with the filter of `ser_hf.audio.resampling` (torchaudio's defaults).

const ZEROS = 6;
const ROLLOFF = 0.99;
const banks = new Map();

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}

/** Where the taps of each phase start in a block of `from` samples, and the taps of each phase. */
function filterBank(from, to) {
  const key = `${from}/${to}`;
  if (!banks.has(key)) {
    const base = Math.min(from, to) * ROLLOFF;
    const width = Math.ceil((ZEROS * from) / base);
    const count = 2 * width + 2;
    const starts = new Int32Array(to);
    const taps = new Float32Array(to * count);
    for (let phase = 0; phase < to; phase++) {
      const position = (phase * from) / to;
      starts[phase] = Math.floor(position) - width;
      for (let tap = 0; tap < count; tap++) {
        const offset = starts[phase] + tap - position;
        const time = Math.max(-ZEROS, Math.min(ZEROS, (offset / from) * base));
        const sinc = time === 0 ? 1 : Math.sin(Math.PI * time) / (Math.PI * time);
        taps[phase * count + tap] = (sinc * Math.cos((time * Math.PI) / ZEROS / 2) ** 2 * base) / from;
      }
    }
    banks.set(key, { starts, taps, count });
  }
  return banks.get(key);
}

/**
 * Resample a whole recording.
 * @param {Float32Array} samples - one channel
 * @param {number} rate - in Hz
 * @param {number} newRate - in Hz
 * @returns {Float32Array} `ceil(samples * newRate / rate)` samples
 */
export function resample(samples, rate, newRate = 16000) {
  const divisor = gcd(rate, newRate);
  const [from, to] = [rate / divisor, newRate / divisor];
  if (from === to) return samples;
  const { starts, taps, count } = filterBank(from, to);
  const result = new Float32Array(Math.ceil((samples.length * to) / from));
  for (let index = 0; index < result.length; index++) {
    const phase = index % to;
    const start = Math.floor(index / to) * from + starts[phase];
    const [first, last] = [Math.max(0, -start), Math.min(count, samples.length - start)];
    let sum = 0;
    for (let tap = first; tap < last; tap++) sum += samples[start + tap] * taps[phase * count + tap];
    result[index] = sum;
  }
  return result;
}
