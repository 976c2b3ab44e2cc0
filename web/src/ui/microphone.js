// The microphone as blocks of samples, and a recording of them as a file.

/** What the visitor's microphone hears, from `start` to `stop`. */
export class Microphone {
  /**
   * Ask for the microphone and listen.
   * @param {function(Float32Array, number)} onBlock - takes samples of one channel and their rate in Hz
   * @param {function} onEnd - called when the microphone goes away by itself
   */
  static async start(onBlock, onEnd = () => {}) {
    if (!navigator.mediaDevices?.getUserMedia || !globalThis.AudioWorkletNode)
      throw new DOMException("no microphone for this page", "NotSupportedError");
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const microphone = new Microphone();
    microphone.stream = stream;
    try {
      microphone.context = new AudioContext();
      await microphone.context.audioWorklet.addModule("microphone.js");
      await microphone.context.resume();
      const source = microphone.context.createMediaStreamSource(stream);
      microphone.node = new AudioWorkletNode(microphone.context, "microphone", { numberOfOutputs: 0 });
      microphone.node.port.onmessage = ({ data }) => onBlock(data, microphone.context.sampleRate);
      source.connect(microphone.node);
    } catch (error) {
      microphone.stop();
      throw error;
    }
    stream.getTracks().forEach((track) => track.addEventListener("ended", onEnd));
    return microphone;
  }

  stop() {
    if (this.node) this.node.port.onmessage = null;
    this.stream.getTracks().forEach((track) => track.stop());
    this.context?.close();
  }
}

/** Blocks of samples as one. */
export function joined(blocks) {
  const samples = new Float32Array(blocks.reduce((sum, block) => sum + block.length, 0));
  let at = 0;
  for (const block of blocks) {
    samples.set(block, at);
    at += block.length;
  }
  return samples;
}

/**
 * A WAV file of one channel of 32-bit floats: every sample stays what it was.
 * @param {Float32Array} samples
 * @param {number} rate - in Hz
 * @returns {ArrayBuffer}
 */
export function wavFile(samples, rate) {
  const content = new ArrayBuffer(44 + 4 * samples.length);
  const view = new DataView(content);
  const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 4 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 3, true); // IEEE floats
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 4 * rate, true);
  view.setUint16(32, 4, true);
  view.setUint16(34, 32, true);
  text(36, "data");
  view.setUint32(40, 4 * samples.length, true);
  new Float32Array(content, 44).set(samples); // browsers run on little-endian machines alone
  return content;
}
