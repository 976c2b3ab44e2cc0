// The tab with a running answer, each second, of the last four.

import { showHeadline } from "./answer.js";
import { Bars } from "./bars.js";
import { byId, message } from "./dom.js";
import { LIMIT, LiveSession } from "./live_session.js";
import { Microphone } from "./microphone.js";
import { stretches } from "./timeline.js";
import { clock, liveHeadline, microphoneText } from "./words.js";

/**
 * Wire the tab.
 * @param {function(): Promise<Client>} model - gives the worker's client once the model is there
 * @returns {function()} that stops a session, as the visitor leaves the tab
 */
export function wireLive(model) {
  const button = byId("live");
  let [microphone, session, isAsking, bars, timeline] = [null, null, false, null, null];

  const say = (text, kind) => byId("live-message").replaceChildren(message(text, kind));

  const stop = () => {
    if (!microphone) return;
    microphone.stop();
    microphone = null;
    button.textContent = "Record";
  };

  const show = (prediction) => {
    if (!bars) {
      bars = new Bars(Object.keys(prediction.scores));
      byId("live-details").replaceChildren(bars.element);
    }
    showHeadline(byId("live-headline"), liveHeadline(prediction, session.segments.length > 0));
    bars.show(prediction.scores);
    const next = stretches(session.segments, session.shownUntil);
    if (timeline) timeline.replaceWith(next);
    else bars.element.after(next);
    timeline = next;
  };

  const ask = async (current) => {
    isAsking = true;
    const [samples, end] = [current.take(), current.seconds];
    try {
      const client = await model();
      const fields = { file: null, channels: [samples], rate: current.rate, kept: false, adapted: true };
      const prediction = await client.call("predict", fields, { transfer: [samples.buffer] });
      if (current !== session) return; // of a session that is over
      current.answered(prediction, end);
      show(prediction);
    } catch (error) {
      stop();
      say(error.message);
    } finally {
      isAsking = false;
    }
  };

  const take = (block, rate) => {
    session ??= new LiveSession(rate);
    session.add(block);
    const text = `${clock(session.seconds)} recorded`;
    if (byId("live-length").textContent !== text) byId("live-length").textContent = text;
    if (session.isOver) {
      stop();
      say(`A live session lasts ${LIMIT} s: press Record for another.`, "note");
    } else if (session.isDue && !isAsking) {
      ask(session);
    }
  };

  button.addEventListener("click", async () => {
    if (microphone) return stop();
    [session, bars, timeline] = [null, null, null];
    for (const id of ["live-message", "live-headline", "live-length", "live-details"]) byId(id).replaceChildren();
    delete byId("live-headline").dataset.shown;
    button.disabled = true;
    try {
      microphone = await Microphone.start(take, stop);
      button.textContent = "Stop";
      showHeadline(byId("live-headline"), liveHeadline(null, false));
    } catch (error) {
      say(microphoneText(error));
    } finally {
      button.disabled = false;
      button.focus();
    }
  });
  return stop;
}
