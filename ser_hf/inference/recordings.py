"""Recordings read within limits: of the seconds that they last, and of those that they take."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ser_hf import audio
from ser_hf.errors import UserError
from ser_hf.inference import long_audio, prediction

_Result = TypeVar("_Result")

OnSamples = Callable[[np.ndarray], None]
"""Called with each decoded block of a recording."""


class TimeoutExceeded(UserError):
    """A recording that took longer than its timeout."""


class Deadline:
    """A point in time, some seconds from now, or never."""

    def __init__(self, seconds: float | None) -> None:
        """Begin; the deadline never comes where `seconds` is None."""
        self._until = None if seconds is None else time.monotonic() + seconds

    def check(self, file: str | None) -> None:
        """Refuse to go on after the deadline.

        Raises:
            TimeoutExceeded: naming the file.
        """
        if self._until is not None and time.monotonic() > self._until:
            raise _timed_out(file)

    def result(self, future: Future[_Result], file: str | None) -> _Result:
        """Wait for a result, at most until the deadline, then cancel it.

        Raises:
            TimeoutExceeded: naming the file.
        """
        try:
            return future.result(None if self._until is None else max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            future.cancel()
            raise _timed_out(file) from None


def _timed_out(file: str | None) -> TimeoutExceeded:
    return TimeoutExceeded(f"{file!r} took longer than it was given: cut it into parts")


@dataclass(frozen=True)
class ReadRecording:
    """A recording that was read as far as a model needs it to begin."""

    name: str | None
    """Of its file, without folders."""
    clip: np.ndarray | None
    """Waveform `(samples,)` at 16 kHz of one that is one clip; None for a longer one."""
    blocks: Iterator[np.ndarray]
    """Blocks of a longer one, of which the first are in memory."""


def read(
    source: audio.Source,
    longest_clip: int,
    longest: float | None = None,
    on_samples: OnSamples | None = None,
    name: str | None = None,
    on_open: Callable[[audio.Reader], None] | None = None,
) -> ReadRecording:
    """Read a recording that is one clip whole, and of a longer one the beginning.

    Args:
        source: whatever `ser_hf.audio.load` takes.
        longest_clip: samples up to which it is one clip (`ser_hf.inference.long_audio`).
        longest: seconds of audio beyond which it is refused, where not None.
        on_samples: called with each decoded block, shape `(samples,)` at 16 kHz, in order.
        name: what errors call it; its path where None.
        on_open: of `ser_hf.audio.stream`.

    Raises:
        AudioError: if it cannot be used or is too long; it is named.
    """
    blocks = audio.stream(source, name=name, longest=longest, on_open=on_open)
    blocks = blocks if on_samples is None else _observed(blocks, on_samples)
    return ReadRecording(prediction.source_name(source), *long_audio.split_long(blocks, longest_clip))


def _observed(blocks: Iterator[np.ndarray], on_samples: OnSamples) -> Iterator[np.ndarray]:
    for block in blocks:
        on_samples(block)
        yield block
