// What the service worker keeps, and under which headers it passes files on.

/** Headers with which the page may use threads. */
export const HEADERS = {
  "cross-origin-embedder-policy": "require-corp",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
};

/** The policy of the page, which its worker would not have: a worker has that of its own answer. */
export const POLICY =
  "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; " +
  "media-src 'self' blob:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; " +
  "form-action 'none'";

/** Files that are fetched when the service worker is installed, besides the examples. */
export const FIRST = ["./", "style.css", "main.js", "microphone.js", "icon.svg", "manifest.webmanifest", "ser_hf.json"];

/**
 * How a request is answered.
 * @param {{url: string, method: string, headers: Headers}} request
 * @param {string} scope - address of the page's folder
 * @returns {"model" | "page" | null} `model` for what changes with the model alone; null: not ours
 */
export function kindOf(request, scope) {
  if (request.method !== "GET" || request.headers.has("range") || !request.url.startsWith(scope)) return null;
  return /^(?:onnx|ort)\//.test(request.url.slice(scope.length)) ? "model" : "page";
}

/** The address under which an answer is kept: without query and fragment. */
export function keyOf(url) {
  return url.replace(/[?#].*$/, "");
}

/** Names of the caches of a folder: other pages of the same host have their own. */
export function cacheNames(scope, settings) {
  return { page: `ser-hf ${scope} page`, model: `ser-hf ${scope} model ${settings?.version} ${settings?.digest}` };
}

/** Whether a cache is of this folder, and of other weights or another version. */
export function isOld(name, scope, settings) {
  const { page, model } = cacheNames(scope, settings);
  return name.startsWith(`ser-hf ${scope} `) && name !== page && name !== model;
}

/** The same answer with `HEADERS`, and `POLICY` beside that of the host. */
export function isolated(response) {
  if (response.status === 0) return response; // the browser follows such a redirection by itself
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  headers.append("content-security-policy", POLICY);
  const { status, statusText } = response;
  return new Response([204, 304].includes(status) ? null : response.body, { status, statusText, headers });
}
