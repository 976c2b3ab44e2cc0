// The page's side of the worker: a call is a promise, and can be cancelled.

export class Client {
  /** @param {Worker} worker - started on worker.js */
  constructor(worker) {
    this.worker = worker;
    this.calls = new Map();
    this.count = 0;
    worker.onmessage = ({ data }) => this.#take(data);
    worker.onerror = (event) => {
      event.preventDefault?.();
      const reason = event.message ? ` (${event.message})` : "";
      this.close(`'worker.js' is missing beside the page or does not start${reason}: export it again`);
    };
  }

  /**
   * Have the worker do something.
   * @param {string} action - load, predict, clips, adapt or forget
   * @param {object} fields - what the action takes
   * @param {{transfer: Transferable[], onProgress: function, signal: AbortSignal}} options
   */
  call(action, fields = {}, { transfer = [], onProgress = () => {}, signal } = {}) {
    if (this.closed) return Promise.reject(new Error(this.closed));
    const id = ++this.count;
    signal?.addEventListener("abort", () => this.calls.has(id) && this.worker.postMessage({ id, do: "cancel" }));
    return new Promise((resolve, reject) => {
      this.calls.set(id, { resolve, reject, onProgress });
      this.worker.postMessage({ ...fields, id, do: action }, transfer);
    });
  }

  /** End the worker; whoever waits for it is told why. */
  close(reason = "the model was closed") {
    this.closed = reason;
    this.worker.terminate();
    for (const { reject } of this.calls.values()) reject(new Error(reason));
    this.calls.clear();
  }

  #take({ id, progress, done, error }) {
    const call = this.calls.get(id);
    if (!call) return;
    if (progress !== undefined) return call.onProgress(progress);
    this.calls.delete(id);
    if (error === undefined) call.resolve(done);
    else call.reject(new Error(error));
  }
}
