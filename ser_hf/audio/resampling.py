"""Windowed-sinc resampling, whole or in parts.

The filter is that of `torchaudio.functional.resample` with its defaults, which is what
`transformers.pipeline` uses: both give the same answer for the same recording. torchaudio builds
its kernel for every phase over every input sample, 390 MB and seconds a clip at the 24,414 Hz of
TESS; here only the taps that are not zero are computed.
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ser_hf.utils import blas

if TYPE_CHECKING:
    from scipy import sparse


_ZEROS = 6  # zero crossings on each side of the filter, and its roll-off: the defaults of torchaudio
_ROLLOFF = 0.99
_DENSE = 400_000  # elements of the largest filter matrix that is not kept sparse


def resample(samples: np.ndarray, rate: int, new_rate: int = 16_000) -> np.ndarray:
    """Resample `(samples,)` as `torchaudio.functional.resample` does with its defaults.

    Smith, "Digital audio resampling", https://ccrma.stanford.edu/~jos/resample/; Hann window, 6
    zero crossings, roll-off 0.99. Output length is `ceil(samples * new_rate / rate)`.
    """
    parts = list(resample_blocks([samples], rate, new_rate))
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype=np.float32), *parts])


def resample_blocks(blocks: Iterable[np.ndarray], rate: int, new_rate: int = 16_000) -> Iterator[np.ndarray]:
    """Resample a recording that comes in parts, as `resample` would the whole of it."""
    resampler = Resampler(rate, new_rate)
    for block in blocks:
        if len(ready := resampler.feed(block)):
            yield ready
    if len(rest := resampler.finish()):
        yield rest


class Resampler:
    """`resample` for a recording that is handed over in parts."""

    def __init__(self, rate: int, new_rate: int = 16_000) -> None:
        """Rates are in Hz."""
        divisor = math.gcd(rate, new_rate)
        self._old, self._new = rate // divisor, new_rate // divisor
        if self._old == self._new:
            return
        self._taps = _filter_bank(self._old, self._new)[1].shape[1]
        # outputs a step; a multiple of new, so that every step starts at phase 0
        self._period = max(1, 64 // self._new) * self._new
        self._waiting = np.zeros(self._taps, dtype=np.float32)  # silence before the recording
        self._received = self._produced = 0

    def feed(self, block: np.ndarray) -> np.ndarray:
        """Take the next samples `(samples,)`; return outputs that no later sample can change."""
        block = block.astype(np.float32, copy=False)
        if self._old == self._new:
            return block
        self._waiting = np.concatenate([self._waiting, block])
        self._received += len(block)
        steps = (len(self._waiting) - 2 * self._taps) * self._new // self._old // self._period
        if steps <= 0:
            return block[:0]
        ready = _filtered(self._waiting, self._old, self._new, steps * self._period)
        self._waiting = self._waiting[steps * self._period // self._new * self._old :]
        self._produced += len(ready)
        return ready

    def finish(self) -> np.ndarray:
        """The outputs that are left when no more samples come."""
        left = 0 if self._old == self._new else math.ceil(self._received * self._new / self._old) - self._produced
        if left <= 0:  # nothing came, or nothing was kept back
            return np.zeros(0, dtype=np.float32)
        steps = math.ceil(left / self._period)
        after = steps * self._period // self._new * self._old + 2 * self._taps  # and silence after it
        return _filtered(np.pad(self._waiting, (0, after)), self._old, self._new, steps * self._period)[:left]


def _filtered(padded: np.ndarray, old: int, new: int, length: int) -> np.ndarray:
    """Compute `length` outputs from phase 0 on, whose input is `padded[taps]`."""
    starts, taps = _filter_bank(old, new)
    matrix = _filter_matrix(old, new)
    inputs, outputs = matrix.shape
    step, first = outputs // new * old, int(starts[0]) + taps.shape[1]
    rows = np.lib.stride_tricks.sliding_window_view(padded, inputs)
    with blas.one_thread():
        return (rows[first : first + length // outputs * step : step] @ matrix).reshape(-1)


@lru_cache(maxsize=8)
def _filter_bank(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the taps of each phase start in the block, and the taps `(new, taps)`."""
    base = min(old, new) * _ROLLOFF
    width = math.ceil(_ZEROS * old / base)
    position = np.arange(new) * old / new
    starts = np.floor(position).astype(np.int64) - width
    offsets = starts[:, None] + np.arange(2 * width + 2)
    time = np.clip((offsets - position[:, None]) / old * base, -_ZEROS, _ZEROS)
    taps = np.sinc(time) * np.cos(time * np.pi / _ZEROS / 2) ** 2 * base / old
    return starts, taps.astype(np.float32)


@lru_cache(maxsize=8)
def _filter_matrix(old: int, new: int) -> "np.ndarray | sparse.csc_array":
    """Return the matrix `(inputs, outputs)` that gives one or several periods of outputs.

    Each output has its taps in its column; where periods are long, as from 24,414 Hz, hardly
    anything else is in it.
    """
    starts, taps = _filter_bank(old, new)
    outputs = max(1, 64 // new) * new
    output = np.arange(outputs)
    first = output // new * old + starts[output % new] - starts[0]
    rows = first[:, None] + np.arange(taps.shape[1])
    shape = (int(rows.max()) + 1, outputs)
    if shape[0] * shape[1] > _DENSE:
        from scipy import sparse

        ends = np.arange(0, rows.size + 1, taps.shape[1])
        return sparse.csc_array((taps[output % new].ravel(), rows.ravel(), ends), shape=shape)
    matrix = np.zeros(shape, dtype=np.float32)
    matrix[rows, output[:, None]] = taps[output % new]
    return matrix
