// Whether a graphics card can run the model.

/** A fallback adapter computes on the processor, eighty times slower than WebAssembly does. */
export async function hasWebGpu(gpu = globalThis.navigator?.gpu) {
  try {
    const adapter = await gpu?.requestAdapter();
    return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
  } catch {
    return false;
  }
}
