"""The threads that a model works on: one a core, each alone on its clips."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy

import numpy as np
import torch
from scipy.special import softmax

from ser_hf import features
from ser_hf.backends import Backend


class Workers:
    """A backend behind a pool of threads; any thread may ask.

    On a CPU each worker computes with one thread of its own: no clip waits for another's, and its answer is the same to
    the last bit however many are asked at a time. A GPU has one worker.
    """

    def __init__(self, backend: Backend) -> None:
        """Start the pool."""
        self.backend = backend
        self.on_gpu = getattr(backend, "device", "cpu") != "cpu"
        self.count = 1 if self.on_gpu else os.cpu_count() or 1
        # of torch's, and of the calling thread alone, which is one of the pool
        begin = None if self.on_gpu else lambda: torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self.count, "predictor", begin)

    def of(self, backend: Backend) -> "Workers":
        """The same threads, of another backend on the same device."""
        other = copy(self)
        other.backend = backend
        return other

    def ask(self, clips: list[np.ndarray]) -> Future[np.ndarray]:
        """Probabilities `(clips, labels)` of clips of one length, 16 kHz; of several only where `backend.together`."""
        return self._pool.submit(self._asked, clips)

    def run(self, function: Callable, *arguments: object) -> Future:
        """Anything else that should not take more than its core."""
        return self._pool.submit(function, *arguments)

    def _asked(self, clips: list[np.ndarray]) -> np.ndarray:
        made = np.stack([features.extract(self.backend.extractor, clip) for clip in clips])
        return softmax(self.backend.logits(made), axis=-1)
