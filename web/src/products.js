// transformers.js computes features by a product of matrices, for which it would load a second runtime, from a CDN.
// It takes what it finds under this symbol instead: this module has to be imported before it.

/** The product of two matrices, as tensors of ONNX Runtime. */
export function product(a, b) {
  const [[rows, inner], [, columns]] = [a.dims, b.dims];
  const data = new Float32Array(rows * columns);
  const sums = new Float64Array(columns);
  for (let row = 0; row < rows; row++) {
    sums.fill(0);
    for (let k = 0; k < inner; k++) {
      const factor = a.data[row * inner + k];
      if (factor === 0) continue; // a filter of mel bands is nought for most frequencies
      for (let column = 0; column < columns; column++) sums[column] += factor * b.data[k * columns + column];
    }
    data.set(sums, row * columns);
  }
  return new a.constructor("float32", data, [rows, columns]);
}

globalThis[Symbol.for("onnxruntime")] = {
  InferenceSession: { create: async () => ({ run: async ({ a, b }) => ({ c: product(a, b) }) }) },
  Tensor: { [Symbol.hasInstance]: (one) => typeof one === "object" && one !== null && "dims" in one && "data" in one },
};
