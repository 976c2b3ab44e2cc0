// Adaptation to the visitor's voice from the clips of this visit.

import { FEWEST_CLIPS } from "../adaptation.js";
import { byId, message } from "./dom.js";
import { voiceCountText } from "./words.js";

/**
 * Wire the section.
 * @param {function(): Promise<Client>} model
 * @returns {function()} that asks how many clips there are, and shows it
 */
export function wireVoice(model) {
  const say = (...children) => byId("voice-message").replaceChildren(...children);

  const refresh = async () => {
    const clips = await (await model()).call("clips");
    byId("voice-count").textContent = voiceCountText(clips, FEWEST_CLIPS);
  };

  byId("adapt").addEventListener("click", async () => {
    try {
      const clips = await (await model()).call("adapt");
      say(message(`Predictions are now for the voice of ${clips.toLocaleString("en")} clips.`, "note"));
      byId("forget").hidden = false;
    } catch (error) {
      say(message(error.message));
    }
  });

  byId("forget").addEventListener("click", async () => {
    await (await model()).call("forget");
    say(message("The voice and its clips are forgotten.", "note"));
    byId("forget").hidden = true;
    byId("adapt").focus();
    await refresh();
  });
  return refresh;
}
