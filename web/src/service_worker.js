// Keeps the page's own files, so that it works without a network, and adds the headers that threads need.
// A recording is never a request, so that nothing of the visitor can be kept.

import { FIRST, cacheNames, isOld, isolated, keyOf, kindOf } from "./ui/caching.js";

const scope = self.registration.scope;
const SETTINGS = new URL("ser_hf.json", scope).href;

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(keepPage(FIRST));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const kind = kindOf(event.request, scope);
  if (kind) event.respondWith((kind === "model" ? fromCache(event) : fromNetwork(event)).then(isolated));
});

// The page names the files that it had before this worker was there; the examples come with them.
self.addEventListener("message", (event) => {
  const own = event.data.keep.filter((url) => kindOf({ url, method: "GET", headers: new Headers() }, scope) === "page");
  event.waitUntil(settings().then((found) => keepPage([...own, ...(found?.examples ?? []).map(({ file }) => file)])));
});

async function keepPage(files) {
  const cache = await caches.open(cacheNames(scope).page);
  await Promise.all(
    files.map(async (file) => {
      const url = new URL(file, scope).href;
      const answer = await fetch(url, { cache: "no-cache" });
      if (answer.ok) await cache.put(keyOf(url), answer);
    }),
  );
}

async function fromNetwork(event) {
  const { url } = event.request;
  const cache = await caches.open(cacheNames(scope).page);
  try {
    const answer = await fetch(url, { cache: "no-cache" });
    if (!answer.ok) return answer;
    const kept = cache.put(keyOf(url), answer.clone());
    if (keyOf(url) === SETTINGS) await kept.then(dropOld); // before the model is asked for
    else event.waitUntil(kept);
    return answer;
  } catch (error) {
    const kept = await cache.match(keyOf(url));
    if (kept) return kept;
    throw error;
  }
}

async function fromCache(event) {
  const { url } = event.request;
  const cache = await caches.open(cacheNames(scope, await settings()).model);
  const kept = await cache.match(keyOf(url));
  if (kept) return kept;
  const answer = await fetch(url, { cache: "no-cache" });
  if (answer.ok) event.waitUntil(cache.put(keyOf(url), answer.clone()));
  return answer;
}

async function settings() {
  const kept = await (await caches.open(cacheNames(scope).page)).match(SETTINGS);
  return kept ? kept.json() : null;
}

async function dropOld() {
  const current = await settings();
  for (const name of await caches.keys()) if (isOld(name, scope, current)) await caches.delete(name);
}
