// Bundles the page's modules into `ser_hf/app/web`, which the wheel ships. Same sources, same bytes.

import { build } from "esbuild";
import { licenceTexts } from "./licenses.mjs";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";

const here = new URL(".", import.meta.url);
const output = process.argv[2] ?? new URL("../ser_hf/app/web", here).pathname;

await rm(output, { recursive: true, force: true });
await mkdir(output, { recursive: true });
const common = {
  absWorkingDir: here.pathname,
  bundle: true,
  platform: "browser",
  target: ["chrome120", "firefox120", "safari17"],
  minify: true,
  legalComments: "none", // their licences lie beside them
  external: ["node:*", "fs", "path", "url", "sharp"],
  outdir: output,
  logLevel: "warning",
  metafile: true,
};
const modules = { format: "esm", splitting: true, chunkNames: "chunk-[hash]" };
const page = await build({ ...common, ...modules, entryPoints: ["src/main.js", "src/worker.js"] });
const worker = await build({ ...common, format: "iife", entryPoints: ["src/service_worker.js"] }); // not all browsers take modules
const { dependencies } = JSON.parse(await readFile(new URL("package.json", here), "utf8"));
await writeFile(`${output}/versions.json`, JSON.stringify(dependencies) + "\n");
await cp(new URL("static", here), output, { recursive: true });
await writeFile(`${output}/THIRD_PARTY_LICENSES.txt`, await licenceTexts([page.metafile, worker.metafile]));
