// The page: its parts are wired to each other and to the worker that holds the model.

import { Analysis } from "./ui/analysis.js";
import { AnswerPanel } from "./ui/answer.js";
import { Batch } from "./ui/batch.js";
import { showCard } from "./ui/card.js";
import { Client } from "./ui/client.js";
import { byId, element, message } from "./ui/dom.js";
import { wireLive } from "./ui/live.js";
import { startOffline } from "./ui/offline.js";
import { wireRecorder } from "./ui/recorder.js";
import { wireTabs } from "./ui/tabs.js";
import { wireVoice } from "./ui/voice_section.js";
import { deviceText, loadingText, megabytes } from "./ui/words.js";

const MOST_THREADS = 4; // more gain nothing for a clip
const base = new URL(".", location.href);

let settings = null;
let client = null;
let loads = 0; // so that a load which another one replaced keeps quiet
let isOffline = false;
let open; // the gate at which the first questions wait
let loaded = new Promise((resolve) => (open = resolve));

const model = () => loaded;
const panel = new AnswerPanel();
const batch = new Batch((item) => analysis.open(item));
const refreshVoice = wireVoice(model);
const analysis = new Analysis(model, {
  panel,
  batch,
  threshold: () => settings.abstain_below,
  onDone: () => refreshVoice().catch(() => {}), // a model that failed has said so
});
const stopLive = wireLive(model);

/** Load a graph into a worker of its own, and end the worker before. */
async function load(int8) {
  client?.close("another model is being loaded: ask again");
  const number = ++loads;
  const wanted = { webgpu: true, int8, threads: Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) };
  byId("loading").hidden = false;
  byId("status").textContent = "The model is being loaded.";
  try {
    const answer = await attempt(wanted).catch((error) => {
      if (!navigator.gpu || number !== loads) throw error;
      client.close();
      return attempt({ ...wanted, webgpu: false }); // a graphics card that fails is no reason to fail
    });
    const offline = isOffline ? " The page works offline from now on." : "";
    byId("status").textContent = `${deviceText(answer)}${offline}`;
    byId("trouble").replaceChildren();
    return client;
  } catch (error) {
    if (number === loads) sayTrouble(error);
    throw new Error(loadingText(error.message));
  } finally {
    if (number === loads) {
      byId("loading").hidden = true;
      byId("bytes").textContent = "";
    }
  }
}

function sayTrouble(error) {
  byId("status").textContent = "No model is loaded.";
  byId("trouble").replaceChildren(message(loadingText(error.message)));
}

function attempt(wanted) {
  client = new Client(new Worker(new URL("worker.js", base), { type: "module" }));
  return client.call("load", { base: base.href, wanted }, { onProgress: showLoaded });
}

function showLoaded({ loaded: bytes, total }) {
  const bar = byId("loading");
  if (total >= bytes) [bar.max, bar.value] = [total, bytes];
  else bar.removeAttribute("value"); // a host that compresses does not tell how much is to come
  const text = total >= bytes ? `${megabytes(bytes)} of ${megabytes(total)}` : megabytes(bytes);
  bar.setAttribute("aria-valuetext", text);
  byId("bytes").textContent = text;
}

async function loadSettings() {
  const answer = await fetch(new URL("ser_hf.json", base));
  if (!answer.ok) throw new Error(`'${new URL("ser_hf.json", base).pathname}' is missing beside the page: export it again`);
  return answer.json();
}

function showExamples() {
  const rows = (settings.examples ?? []).map(({ file, label }) => {
    const button = element("button", { type: "button", class: "ser-button" }, label);
    button.addEventListener("click", () => tryExample(file));
    return element("li", {}, button);
  });
  byId("examples").hidden = !rows.length;
  byId("examples").querySelector("ul").replaceChildren(...rows);
}

// These voices are not the visitor's: they neither count for the adaptation nor have it.
async function tryExample(file) {
  const answer = await fetch(new URL(file, base)).catch(() => null);
  if (!answer?.ok) return panel.say(`'${file}' is missing beside the page: export it again`);
  const name = file.replace(/^.*\//, "");
  await analysis.run([{ name, blob: await answer.blob() }], { kept: false, adapted: false });
}

function wireFiles() {
  const run = (files) => analysis.run(Array.from(files, (file) => ({ name: file.name, blob: file })));
  const [input, area] = [byId("files"), byId("drop")];
  input.addEventListener("change", () => {
    run(input.files);
    input.value = ""; // so that the same file may be chosen again
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault(); // the browser would open the file in place of the page
    area.classList.add("ser-over");
  });
  for (const end of ["dragleave", "drop"]) document.addEventListener(end, () => area.classList.remove("ser-over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const files = event.dataTransfer?.files ?? [];
    if (files.length) run(files);
    else panel.say("What was dropped holds no file: drop a recording.");
  });
}

function wireSmaller() {
  byId("smaller-row").hidden = !settings.graphs.int8;
  byId("smaller").addEventListener("change", async () => {
    stopLive();
    analysis.cancel();
    loaded = load(byId("smaller").checked);
    byId("forget").hidden = true; // the voice was one of the other model
    byId("voice-message").replaceChildren();
    await refreshVoice().catch(() => {}); // a model that failed has said so
  });
}

async function start() {
  wireTabs(document.querySelector("[role=tablist]"), (tab) => tab !== "tab-live" && stopLive());
  wireFiles();
  wireRecorder((recording) => analysis.run([recording]), (text) => panel.say(text));
  isOffline = await startOffline(() => analysis.isBusy);
  try {
    settings = await loadSettings();
  } catch (error) {
    sayTrouble(error);
    return open(Promise.reject(new Error(loadingText(error.message))));
  }
  showCard(settings);
  showExamples();
  wireSmaller();
  open(load(false));
  await loaded.catch(() => {}); // it has said so
  document.documentElement.dataset.ready = "true";
}

start();
