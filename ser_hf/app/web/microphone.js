// Runs on the audio thread: passes on what the microphone hears, about 20 ms at a time.

const BLOCK = 1024;

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
  }

  process([channels]) {
    if (!channels.length) return true;
    for (let at = 0; at < channels[0].length; at++) {
      this.block[this.filled++] = channels.reduce((sum, channel) => sum + channel[at], 0) / channels.length;
      if (this.filled < BLOCK) continue;
      this.port.postMessage(this.block);
      this.block = new Float32Array(BLOCK);
      this.filled = 0;
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);
