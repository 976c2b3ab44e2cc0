// The licence texts of what a bundle holds: of every package that esbuild took in, and of those that packages took in before.

import { readFile, readdir } from "node:fs/promises";
import { existsSync } from "node:fs";

const here = new URL(".", import.meta.url);
const PACKAGE = /^(.*node_modules\/((?:@[^/]+\/)?[^/]+))\//; // the last one of a path
const INLINED = /^\/\/ .*node_modules\/((?:@[^/]+\/)?[^/]+)\//gm; // what esbuild writes above each module
const WITHOUT_TEXT = { "onnxruntime-common": "onnxruntime.txt", "onnxruntime-web": "onnxruntime.txt" };
const BESIDE = [["silero-vad, as onnx/voice_activity.onnx of an exported page", "silero-vad.txt"]];

/**
 * One text for all packages of a bundle; packages of the same licence text share it.
 * @param {object[]} metafiles - of esbuild's builds
 * @returns {Promise<string>}
 */
export async function licenceTexts(metafiles) {
  const holders = new Map(); // licence text -> the names of what is under it
  const add = (text, name) => holders.set(text, [...(holders.get(text) ?? []), name]);
  for (const [folder, name] of [...(await packagesOf(metafiles))].sort()) {
    const { version, license } = JSON.parse(await readFile(new URL(`${folder}/package.json`, here), "utf8"));
    add(await licenceOf(name, folder), `${name} ${version} (${license})`);
  }
  for (const [name, file] of BESIDE) add(await kept(file), `${name} (MIT)`);
  const head = "The page holds these packages, under these licences. Its own code is under Apache-2.0.\n";
  const parts = [...holders].map(([text, names]) => `${"=".repeat(79)}\n${names.join("\n")}\n\n${text}\n`);
  return [head, ...parts].join("\n");
}

async function packagesOf(metafiles) {
  const found = new Map(); // folder -> name
  for (const { outputs } of metafiles)
    for (const { inputs } of Object.values(outputs))
      for (const [path, { bytesInOutput }] of Object.entries(inputs)) {
        const [, folder, name] = path.match(PACKAGE) ?? [];
        if (!folder || bytesInOutput === 0) continue;
        found.set(folder, name);
        const code = await readFile(new URL(path, here), "utf8");
        for (const [, inlined] of code.matchAll(INLINED)) found.set(folderOf(inlined, folder), inlined);
      }
  return found;
}

/** Where npm put what a package depends on: within it, or beside it. */
function folderOf(name, dependent) {
  const within = `${dependent}/node_modules/${name}`;
  return existsSync(new URL(within, here)) ? within : `node_modules/${name}`;
}

async function licenceOf(name, folder) {
  const files = (await readdir(new URL(folder, here))).filter((file) => /^(licen[cs]e|notice)(\.(md|txt))?$/i.test(file));
  if (files.length) {
    const texts = files.sort().map((file) => readFile(new URL(`${folder}/${file}`, here), "utf8"));
    return (await Promise.all(texts)).map(plain).join("\n\n");
  }
  if (!(name in WITHOUT_TEXT)) throw new Error(`${name} ships no licence text: add it to web/licenses/ and to WITHOUT_TEXT`);
  return kept(WITHOUT_TEXT[name]);
}

async function kept(file) {
  return plain(await readFile(new URL(`licenses/${file}`, here), "utf8"));
}

function plain(text) {
  return text.replaceAll("\r\n", "\n").replace(/^\n+|\s+$/g, "");
}
