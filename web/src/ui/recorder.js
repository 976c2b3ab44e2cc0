// The button that records a clip from the microphone.

import { byId } from "./dom.js";
import { Microphone, joined, wavFile } from "./microphone.js";
import { clock, microphoneText } from "./words.js";

const LONGEST = 600; // seconds that a recording of the page may last: it lies in memory

/**
 * Wire the button.
 * @param {function({name: string, blob: Blob})} onRecording
 * @param {function(string)} onTrouble - takes words for the visitor
 */
export function wireRecorder(onRecording, onTrouble) {
  const button = byId("record");
  let [microphone, blocks, heard, rate, count] = [null, [], 0, 0, 0];

  const stop = () => {
    if (!microphone) return;
    microphone.stop();
    microphone = null;
    button.textContent = "Record";
    button.classList.remove("ser-primary");
    if (!heard) return onTrouble("Nothing was recorded: the microphone gave no sound.");
    const content = wavFile(joined(blocks), rate);
    blocks = [];
    onRecording({ name: `recording ${++count}.wav`, blob: new Blob([content], { type: "audio/wav" }) });
  };

  const take = (block, blockRate) => {
    blocks.push(block);
    heard += block.length;
    rate = blockRate;
    const text = `${clock(heard / rate)} recorded`;
    if (byId("recorded").textContent !== text) byId("recorded").textContent = text;
    if (heard >= LONGEST * rate) stop();
  };

  button.addEventListener("click", async () => {
    if (microphone) return stop();
    [blocks, heard] = [[], 0];
    byId("recorded").textContent = "";
    button.disabled = true;
    try {
      microphone = await Microphone.start(take, stop);
      button.textContent = "Stop";
      button.classList.add("ser-primary");
    } catch (error) {
      onTrouble(microphoneText(error));
    } finally {
      button.disabled = false;
      button.focus();
    }
  });
}
