"""Long recordings: windows with voice, and running predictions of a stream."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from ser_hf import audio
from ser_hf.audio import SAMPLING_RATE, joined, resampling, voice_activity
from ser_hf.inference.backends import InferencePool
from ser_hf.inference.prediction import prediction, segment

LONG = 10 * SAMPLING_RATE
"""Samples up to which a recording is one utterance, asked whole, as stock `pipeline` does."""

WINDOW, HOP = 4 * SAMPLING_RATE, 2 * SAMPLING_RATE
MIN_VOICE = SAMPLING_RATE // 4
"""Samples with voice below which a window is not asked."""
_PIECE = 8 * SAMPLING_RATE  # listened to at a time
_BATCH = 8  # windows that share a batch, where that pays


def opened(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray | None, Iterator[np.ndarray]]:
    """A recording of up to `LONG`, whole; or None, and the blocks of a longer one, of which the
    first are in memory."""
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
    """Iterates over the windows of a recording that hold voice; `length` and `voiced` are complete
    when it ends."""

    def __init__(
        self, blocks: Iterable[np.ndarray], listener: voice_activity.VadStream, workers: InferencePool
    ) -> None:
        """`blocks` of shape `(samples,)` at 16 kHz, `WINDOW` or more in all; `workers` listen for
        voice in them."""
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
            Probabilities `(labels,)`: the mean over what is voice, uniform where none is; and the
            stretches of one label, `start` and `end` in seconds (from the first voice in it to the
            last), `label`, `score`.
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
    windows: Windows, workers: InferencePool, labels: list[str], together: bool, check: Callable[[], None]
) -> tuple[np.ndarray, list[dict]]:
    """What is said of a long recording, by the windows that hold voice; only a few of them are in
    memory.

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


EVERY = audio.SAMPLING_RATE
"""Samples from one answer to the next."""

_KEPT = 0.5  # share of the last answer's probabilities in the next: a single odd window changes little
_MARGIN = 0.1  # by which another label must lead before the answer changes (hysteresis)


class Stream:
    """One recording that is going on; for one thread at a time, any number of them side by side.

    An answer is of the last 4 s, or of what there is, and of those before it, half as much each.
    Its label changes only when another leads by 0.1, so that it does not flicker. Where no voice
    was heard in them the last answer stands, `abstained`. `duration` is what has been heard so far,
    and `segments` how the label went.
    """

    def __init__(
        self,
        workers: InferencePool,
        listener: voice_activity.VadStream,
        labels: list[str],
        below: float,
        sampling_rate: int,
    ) -> None:
        """Begin; `sampling_rate` is that of the chunks, in Hz, `below` the score under which the
        model abstains."""
        audio.check_rate(sampling_rate, "the stream")
        self._workers, self._listener, self._labels, self._below = workers, listener, labels, below
        self._resampler = resampling.Resampler(sampling_rate)
        self._voiced = Voiced()
        self._last = np.zeros(0, dtype=np.float32)  # up to a window
        self._length = 0
        self._probabilities: np.ndarray | None = None
        self._held: int | None = None
        self._segments: list[dict] = []
        self._sums: list[float] = []  # of the running segment's scores

    def feed(self, chunk: np.ndarray) -> list[dict]:
        """Take what was recorded since, and give the answers that are due: none, one, or one for
        each second of it.

        Args:
            chunk: shape `(samples,)` or `(samples, channels)`, float in [-1, 1] or integer, of any
                length.

        Raises:
            AudioError: for another shape, NaN or infinity.
        """
        samples = self._resampler.feed(audio.mono(chunk, "the stream"))
        due = []
        while len(samples):
            room = EVERY - self._length % EVERY
            part, samples = samples[:room], samples[room:]
            self._voiced.add(self._listener.feed(part))
            self._last = np.concatenate([self._last, part])[-WINDOW:]
            self._length += len(part)
            if self._length % EVERY == 0:
                due.append(self._answer())
        return due

    def _answer(self) -> dict:
        start = self._length - len(self._last)
        spoken = self._voiced.within(start, self._length)[0] >= MIN_VOICE
        if spoken:
            self._hear(self._workers.ask([self._last]).result()[0])
        if self._probabilities is None:
            nothing = np.full(len(self._labels), 1 / len(self._labels))
            return prediction(None, self._length, nothing, [], self._labels)
        below = self._below if spoken else np.inf
        segments = [dict(one) for one in self._segments]
        return prediction(None, self._length, self._probabilities, segments, self._labels, below, self._held)

    def _hear(self, probabilities: np.ndarray) -> None:
        before = probabilities if self._probabilities is None else self._probabilities
        self._probabilities = now = _KEPT * before + (1 - _KEPT) * probabilities
        best = int(now.argmax())
        if self._held is None or now[best] >= now[self._held] + _MARGIN:
            changed, self._held = best != self._held, best
        else:
            changed = False
        label, second = self._labels[self._held], self._length - EVERY
        if changed or second / audio.SAMPLING_RATE > self._segments[-1]["end"]:
            self._segments.append(segment(second, self._length, label, now[self._held]))
            self._sums = []
        self._sums.append(float(now[self._held]))
        begun = round(self._segments[-1]["start"] * audio.SAMPLING_RATE)
        self._segments[-1] = segment(begun, self._length, label, np.mean(self._sums))
