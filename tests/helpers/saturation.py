"""What AVX2, and AVX-512 without VNNI, make of int8 products: an emulation.

`vpmaddubsw` multiplies unsigned bytes with signed ones, and adds two neighbouring products with
saturation to 16 bits. `vpmaddwd` adds pairs of these sums in 32 bits. ONNX Runtime computes
MatMulInteger so where the weights are signed.
"""

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

SMALLEST, LARGEST = -(2**15), 2**15 - 1


def saturating_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Product of uint8 `(…, rows, inner)` and int8 `(inner, columns)`, as AVX2 computes it."""
    left, right = left.astype(np.int32), right.astype(np.int32)
    if right.shape[0] % 2:  # the kernels fill up with zeros
        left, right = np.pad(left, [(0, 0)] * (left.ndim - 1) + [(0, 1)]), np.pad(right, [(0, 1), (0, 0)])
    total = np.zeros((*left.shape[:-1], right.shape[1]), dtype=np.int32)
    for first in range(0, right.shape[0], 2):
        pair = left[..., first, None] * right[first] + left[..., first + 1, None] * right[first + 1]
        total += np.clip(pair, SMALLEST, LARGEST)
    return total


def largest_pair(weights: np.ndarray) -> int:
    """Largest magnitude of a sum of two products with any uint8 values."""
    weights = np.pad(weights.astype(np.int32), [(0, len(weights) % 2), (0, 0)])
    sums = [np.maximum(sign * weights, 0) for sign in (1, -1)]
    return 255 * max(int((values[::2] + values[1::2]).max()) for values in sums)


class MatMulInteger(OpRun):
    """The operator with the sums of AVX2; zero points are taken off afterwards, as there."""

    def _run(self, left, right, left_zero=None, right_zero=None):
        if right.dtype == np.uint8:  # those are widened to 16 bits first
            return (np.matmul(left - np.int32(left_zero), right - np.int32(right_zero)),)
        assert not np.any(right_zero)
        return (saturating_product(left, right) - np.int32(left_zero) * right.astype(np.int32).sum(axis=0),)


class Session:
    """The members of a session of ONNX Runtime that a check calls."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.graph, self.evaluator = graph, ReferenceEvaluator(graph, new_ops=[MatMulInteger])

    def get_inputs(self) -> list:
        return list(self.graph.graph.input)

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self.evaluator.run(names, inputs)


def saturating(graph: onnx.ModelProto) -> Session:
    """A graph as AVX2 computes it."""
    return Session(graph)
