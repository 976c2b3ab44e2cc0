// The service worker of the page: with it the page works offline, and gets its threads.

const PATIENCE = 4000; // milliseconds that the page waits for its service worker

/**
 * Start the service worker, and load the page once more where it only then may use threads.
 * @param {function(): boolean} isBusy - whether the visitor has given something that a reload would lose
 * @returns {Promise<boolean>} whether the page is kept for a visit without network
 */
export async function startOffline(isBusy) {
  if (!navigator.serviceWorker) return false; // an old browser, a private window, or plain http
  let registration;
  try {
    registration = await navigator.serviceWorker.register("service_worker.js", { scope: "./" });
  } catch {
    return false; // the browser refuses to store anything for this page
  }
  const wasThere = Boolean(navigator.serviceWorker.controller);
  if (!wasThere && !(await controlled(registration))) return false;
  const own = performance.getEntriesByType("resource").map((entry) => entry.name);
  if (!wasThere) navigator.serviceWorker.controller.postMessage({ keep: own });
  if (!globalThis.crossOriginIsolated && !isBusy() && isFirstTry()) {
    location.reload();
    await new Promise(() => {}); // the page ends here
  }
  return true;
}

// Whether the service worker takes the page. A forced reload leaves it out, and so does a failed installation.
async function controlled(registration) {
  const worker = registration?.installing ?? registration?.waiting ?? registration?.active;
  if (!worker || worker.state === "activated") return Boolean(navigator.serviceWorker.controller);
  await new Promise((resolve) => {
    navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
    worker.addEventListener("statechange", () => worker.state === "redundant" && resolve());
    setTimeout(resolve, PATIENCE);
  });
  return Boolean(navigator.serviceWorker.controller);
}

// A page in a frame of another site never becomes isolated: it must not reload for ever.
function isFirstTry() {
  try {
    if (sessionStorage.getItem("reloaded")) return false;
    sessionStorage.setItem("reloaded", "once");
    return true;
  } catch {
    return false; // without storage nobody could tell the first try
  }
}
