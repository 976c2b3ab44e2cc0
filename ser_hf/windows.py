"""Long recordings as overlapping windows with voice in them, and what is said of those as a timeline.

Models hear utterances of a few seconds in training; a minute of talk is not one of them, has several emotions, and
would take memory by its length. Nothing here grows with a recording but a few numbers for each two seconds.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from ser_hf.answers import segment
from ser_hf.audio import SAMPLING_RATE, joined, voice_activity
from ser_hf.workers import Workers

LONG = 10 * SAMPLING_RATE
"""Samples up to which a recording is one utterance, asked whole, as stock `pipeline` does."""

WINDOW, HOP = 4 * SAMPLING_RATE, 2 * SAMPLING_RATE
MIN_VOICE = SAMPLING_RATE // 4
"""Samples with voice below which a window is not asked."""
_PIECE = 8 * SAMPLING_RATE  # listened to at a time
_BATCH = 8  # windows that share a batch, where that pays


def opened(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray | None, Iterator[np.ndarray]]:
    """A recording of up to `LONG`, whole; or None, and the blocks of a longer one, of which the first are in memory."""
    blocks, head, length = iter(blocks), [], 0
    for block in blocks:
        head.append(block)
        length += len(block)
        if length > LONG:
            return None, chain(head, blocks)
    return joined(head), iter(())


@dataclass(frozen=True)
class Window:
    """`WINDOW` samples of a recording that hold voice."""

    start: int  # samples
    samples: np.ndarray


class Voiced:
    """The stretches with voice of a recording, as frames are told of them."""

    def __init__(self) -> None:
        """Nothing is heard yet."""
        self.starts: list[int] = []  # samples
        self.ends: list[int] = []
        self._frames = 0

    def add(self, frames: np.ndarray) -> None:
        """Whether there is voice in each of the next frames."""
        for index in np.flatnonzero(frames) + self._frames:
            start = int(index) * voice_activity.FRAME
            if not (self.ends and self.ends[-1] == start):
                self.starts.append(start)
                self.ends.append(start)
            self.ends[-1] += voice_activity.FRAME
        self._frames += len(frames)

    def within(self, start: int, end: int) -> tuple[int, int, int]:
        """Samples with voice from `start` to `end`; the first of them, and one past the last."""
        found, first, last = 0, end, start
        for run in range(bisect_right(self.ends, start), bisect_left(self.starts, end)):
            low, high = max(start, self.starts[run]), min(end, self.ends[run])
            found, first, last = found + high - low, min(first, low), high
        return found, first, last


class Windows:
    """Iterates over the windows of a recording that hold voice; `length` and `voiced` are complete when it ends."""

    def __init__(self, blocks: Iterable[np.ndarray], listener: voice_activity.VadStream, workers: Workers) -> None:
        """`blocks` of shape `(samples,)` at 16 kHz, `WINDOW` or more in all; `workers` listen for voice in them."""
        self._blocks, self._listener, self._workers = blocks, listener, workers
        self.voiced, self.length = Voiced(), 0

    def __iter__(self) -> Iterator[Window]:
        held, start = np.zeros(0, dtype=np.float32), 0  # what is kept, and where the next window starts
        pieces = (block[at : at + _PIECE] for block in self._blocks for at in range(0, len(block), _PIECE))
        for block in pieces:
            self.voiced.add(self._workers.run(self._listener.feed, block).result())
            self.length += len(block)
            held = np.concatenate([held, block])
            # a frame more than the window, so that its last frame of voice is known
            while self.length - start >= WINDOW + voice_activity.FRAME:
                yield from self._window(start, held[len(held) - (self.length - start) :][:WINDOW])
                start += HOP
                held = held[max(0, len(held) - (self.length - start + HOP)) :]  # the last window may start earlier
        self.voiced.add(self._listener.finish())
        while self.length - start >= WINDOW:
            yield from self._window(start, held[len(held) - (self.length - start) :][:WINDOW])
            start += HOP
        if self.length > start - HOP + WINDOW:  # what follows the last window: one more that ends with the recording
            yield from self._window(self.length - WINDOW, held[-WINDOW:])

    def _window(self, start: int, samples: np.ndarray) -> Iterator[Window]:
        if self.voiced.within(start, start + WINDOW)[0] >= MIN_VOICE:
            yield Window(start, samples)


class Timeline:
    """What is said of each `HOP` of a recording: the mean over the windows around it."""

    def __init__(self, labels: list[str]) -> None:
        """The labels of the model, in its order."""
        self.labels = labels
        self._sums: dict[int, np.ndarray] = {}
        self._weights: dict[int, int] = {}

    def add(self, start: int, probabilities: np.ndarray) -> None:
        """The probabilities `(labels,)` of the window that starts at the sample `start`."""
        for cell in range(start // HOP, -(-(start + WINDOW) // HOP)):
            shared = min(start + WINDOW, (cell + 1) * HOP) - max(start, cell * HOP)
            self._sums[cell] = self._sums.get(cell, 0) + shared * probabilities.astype(np.float64)
            self._weights[cell] = self._weights.get(cell, 0) + shared

    def read(self, voiced: Voiced, length: int) -> tuple[np.ndarray, list[dict]]:
        """The whole, and its parts.

        Args:
            voiced: where there is voice.
            length: of the recording, in samples.

        Returns:
            Probabilities `(labels,)`: the mean over what is voice, uniform where none is; and the stretches of one
            label, `start` and `end` in seconds (from the first voice in it to the last), `label`, `score`.
        """
        total, weight = np.zeros(len(self.labels)), 0
        segments: list[dict] = []
        for cell in sorted(self._sums):
            voice_here, first, last = voiced.within(cell * HOP, min((cell + 1) * HOP, length))
            if not voice_here:
                continue
            probabilities = self._sums[cell] / self._weights[cell]
            total, weight = total + voice_here * probabilities, weight + voice_here
            label = int(probabilities.argmax())
            if not (segments and segments[-1]["label"] == label and segments[-1]["cell"] == cell - 1):
                segments.append({"label": label, "start": first, "sum": 0.0, "weight": 0})
            segments[-1]["sum"] += voice_here * probabilities[label]
            segments[-1]["weight"] += voice_here
            segments[-1] |= {"end": last, "cell": cell}
        whole = total / weight if weight else np.full(len(self.labels), 1 / len(self.labels))
        return whole, [
            segment(one["start"], one["end"], self.labels[one["label"]], one["sum"] / one["weight"]) for one in segments
        ]


def heard(
    windows: Windows, workers: Workers, labels: list[str], together: bool, check: Callable[[], None]
) -> tuple[np.ndarray, list[dict]]:
    """What is said of a long recording, by the windows that hold voice; only a few of them are in memory.

    Args:
        windows: of the recording.
        workers: that are asked about them.
        labels: of the model, in its order.
        together: ask several at a time.
        check: called before each is asked; what it raises ends it all.

    Returns:
        What `Timeline.read` does.
    """
    timeline = Timeline(labels)
    waiting: deque[tuple[list[int], Future[np.ndarray]]] = deque()

    def take() -> None:
        starts, asked = waiting.popleft()
        for start, probabilities in zip(starts, asked.result(), strict=True):
            timeline.add(start, probabilities)

    windowed = iter(windows)
    while batch := list(islice(windowed, _BATCH if together else 1)):
        check()
        waiting.append(([one.start for one in batch], workers.ask([one.samples for one in batch])))
        if len(waiting) > 2 * workers.count:
            take()
    while waiting:
        take()
    return timeline.read(windows.voiced, windows.length)
