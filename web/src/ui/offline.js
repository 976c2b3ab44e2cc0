// The service worker of the page: with it the page works offline, and gets its threads.

const PATIENCE = 4000; // milliseconds that the page waits for its service worker

/**
 * Start the service worker, and load the page once more where it only then may use threads.
 * @param {function(): boolean} isBusy - whether the visitor has given something that a reload would lose
 * @returns {Promise<boolean>} whether the page is kept for a visit without network
 */
export async function startOffline(isBusy) {
  if (!navigator.serviceWorker) return false; // an old browser, a private window, or plain http
  try {
    await navigator.serviceWorker.register("service_worker.js", { scope: "./" });
  } catch {
    return false; // the browser refuses to store anything for this page
  }
  const wasThere = Boolean(navigator.serviceWorker.controller);
  if (!wasThere && !(await controlled())) return false;
  const own = performance.getEntriesByType("resource").map((entry) => entry.name);
  if (!wasThere) navigator.serviceWorker.controller.postMessage({ keep: own });
  if (!globalThis.crossOriginIsolated && !isBusy() && isFirstTry()) {
    location.reload();
    await new Promise(() => {}); // the page ends here
  }
  return true;
}

async function controlled() {
  await new Promise((resolve) => {
    navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
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
