"""Long recordings: windows with voice, and running predictions of a stream."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from scipy.special import softmax

from ser_hf import audio
from ser_hf.audio import SAMPLING_RATE, concatenate, resampling, voice_activity
from ser_hf.audio.conditioning import OFFSET_SECONDS, Downmixer, offset
from ser_hf.errors import UserError
from ser_hf.inference.prediction import Prediction, Segment, prediction, segment, without_voice
from ser_hf.inference.session import InferenceSession, OnEmbeddings

LONG = 10 * SAMPLING_RATE
"""Samples up to which a recording is one clip, as in stock `pipeline`."""

WINDOW, HOP = 4 * SAMPLING_RATE, 2 * SAMPLING_RATE
MIN_VOICE = SAMPLING_RATE // 4
"""Samples with voice below which a window is left out, unless none has so much."""
STREAM_STEP = SAMPLING_RATE
"""Samples from one prediction of a stream to the next."""

_VAD_BLOCK = 8 * SAMPLING_RATE  # samples that the voice detector takes at a time
_BATCH = 8  # windows that share a batch, where that pays
_SMOOTHING = 0.5  # share of the last probabilities of a stream in the next: a single odd window changes little
_HYSTERESIS = 0.1  # by which another label must lead before the label of a stream changes


def longest_clip(session: InferenceSession) -> int:
    """Samples up to which a recording is one clip: `LONG`, or a shorter window of the model.

    Raises:
        UserError: for a window that is shorter than those of long recordings.
    """
    longest = session.front_end.longest or LONG
    if longest < WINDOW:
        seconds, needed = longest / SAMPLING_RATE, WINDOW // SAMPLING_RATE
        raise UserError(f"the window of the model is {seconds:g} s: give a model whose window is {needed} s or more")
    return min(LONG, longest)


def split_long(
    blocks: Iterable[np.ndarray], longest_clip: int = LONG
) -> tuple[np.ndarray | None, Iterator[np.ndarray]]:
    """Read a recording up to `longest_clip` samples.

    Returns:
        The waveform of a recording of up to so many samples; or None, and the blocks of a longer
        one, of which the first are in memory.
    """
    blocks, head, length = iter(blocks), [], 0
    for block in blocks:
        head.append(block)
        length += len(block)
        if length > longest_clip:
            return None, chain(head, blocks)
    return concatenate(head), iter(())


@dataclass(frozen=True)
class Window:
    """`WINDOW` samples of a recording that hold voice."""

    start: int
    """In samples."""
    samples: np.ndarray


class VoicedStretches:
    """The stretches of a recording with voice."""

    def __init__(self) -> None:
        """Begin without frames."""
        self.starts: list[int] = []  # samples
        self.ends: list[int] = []
        self._frames = 0

    def add(self, frames: np.ndarray) -> None:
        """Add the next frames: whether there is voice in each, shape `(frames,)`."""
        for index in np.flatnonzero(frames) + self._frames:
            start = int(index) * voice_activity.FRAME
            if not (self.ends and self.ends[-1] == start):
                self.starts.append(start)
                self.ends.append(start)
            self.ends[-1] += voice_activity.FRAME
        self._frames += len(frames)

    def within(self, start: int, end: int) -> tuple[int, int, int]:
        """Samples with voice from `start` to `end`; the first of them, and one past the last."""
        total, first, last = 0, end, start
        for stretch in range(bisect_right(self.ends, start), bisect_left(self.starts, end)):
            low, high = max(start, self.starts[stretch]), min(end, self.ends[stretch])
            total, first, last = total + high - low, min(first, low), high
        return total, first, last


class Windows:
    """Iterates over the windows of a recording that hold voice.

    Those with `MIN_VOICE` of likely voice are taken. Where there is none, the one with most of what
    may be voice is: a recording without any frame of that kind holds no voice, however long it is
    (`voice_activity.VoiceActivityDetector.has_voice`). `length` and `voiced` are complete when it
    ends.
    """

    def __init__(
        self, blocks: Iterable[np.ndarray], session: InferenceSession, check: Callable[[], None] = lambda: None
    ) -> None:
        """Take a recording.

        Args:
            blocks: of shape `(samples,)` at 16 kHz, `WINDOW` or more in all.
            session: whose threads and voice detector are used.
            check: called every few seconds of the recording, with voice or without; an error that
                it raises ends the iteration.
        """
        self._blocks, self._vad, self._pool = blocks, session.vad.open_stream(), session.pool
        self._check = check
        self.voiced, self.length = VoicedStretches(), 0
        self._faint = VoicedStretches()
        self._best: Window | None = None  # of those with little voice, until one has more
        self._most, self._any_taken = 0, False

    def __iter__(self) -> Iterator[Window]:
        kept, start = np.zeros(0, dtype=np.float32), 0  # samples in memory; where the next window starts
        pieces = (block[at : at + _VAD_BLOCK] for block in self._blocks for at in range(0, len(block), _VAD_BLOCK))
        for block in pieces:
            self._check()
            self._listen(self._pool.submit(self._vad.feed, block).result())
            self.length += len(block)
            kept = np.concatenate([kept, block])
            # a frame more than the window, so that its last frame of voice is decided
            while self.length - start >= WINDOW + voice_activity.FRAME:
                yield from self._window(start, kept[len(kept) - (self.length - start) :][:WINDOW])
                start += HOP
                kept = kept[max(0, len(kept) - (self.length - start + HOP)) :]  # the last window may start earlier
        self._listen(self._vad.finish())
        while self.length - start >= WINDOW:
            yield from self._window(start, kept[len(kept) - (self.length - start) :][:WINDOW])
            start += HOP
        if self.length > start - HOP + WINDOW:  # what follows the last window: one more that ends with the recording
            yield from self._window(self.length - WINDOW, kept[-WINDOW:])
        if self._best is not None and not self._any_taken:
            self.voiced = self._faint
            yield self._best

    def _listen(self, probabilities: np.ndarray) -> None:
        self.voiced.add(probabilities >= voice_activity.LIKELY)
        self._faint.add(probabilities >= voice_activity.FAINTEST)

    def _window(self, start: int, samples: np.ndarray) -> Iterator[Window]:
        if self.voiced.within(start, start + WINDOW)[0] >= MIN_VOICE:
            self._any_taken, self._best = True, None
            yield Window(start, samples)
        elif not self._any_taken and (faint := self._faint.within(start, start + WINDOW)[0]) > self._most:
            self._most, self._best = faint, Window(start, samples.copy())


class Timeline:
    """The probabilities of each `HOP` of a recording: the mean over the windows around it."""

    def __init__(self, labels: list[str]) -> None:
        """Take the labels of the model, in its order."""
        self.labels = labels
        self._sums: dict[int, np.ndarray] = {}
        self._weights: dict[int, int] = {}

    def add(self, start: int, probabilities: np.ndarray) -> None:
        """Add the probabilities `(labels,)` of the window that starts at the sample `start`."""
        for cell in range(start // HOP, -(-(start + WINDOW) // HOP)):
            shared = min(start + WINDOW, (cell + 1) * HOP) - max(start, cell * HOP)
            self._sums[cell] = self._sums.get(cell, 0) + shared * probabilities.astype(np.float64)
            self._weights[cell] = self._weights.get(cell, 0) + shared

    def read(self, voiced: VoicedStretches, length: int) -> tuple[np.ndarray, list[Segment]]:
        """Sum up the recording, and cut it into stretches of one label.

        Args:
            voiced: where there is voice.
            length: of the recording, in samples.

        Returns:
            Probabilities `(labels,)`, the mean over what is voice, uniform where none is; and the
            segments, each from the first voice in it to the last.
        """
        total, weight = np.zeros(len(self.labels)), 0
        runs: list[dict] = []  # of cells with one label
        for cell in sorted(self._sums):
            voice_here, first, last = voiced.within(cell * HOP, min((cell + 1) * HOP, length))
            if not voice_here:
                continue
            probabilities = self._sums[cell] / self._weights[cell]
            total, weight = total + voice_here * probabilities, weight + voice_here
            label = int(probabilities.argmax())
            if not (runs and runs[-1]["label"] == label and runs[-1]["cell"] == cell - 1):
                runs.append({"label": label, "start": first, "sum": 0.0, "weight": 0})
            runs[-1]["sum"] += voice_here * probabilities[label]
            runs[-1]["weight"] += voice_here
            runs[-1] |= {"end": last, "cell": cell}
        mean = total / weight if weight else np.full(len(self.labels), 1 / len(self.labels))
        return mean, [
            segment(run["start"], run["end"], self.labels[run["label"]], run["sum"] / run["weight"]) for run in runs
        ]


def predict_windows(
    windows: Windows, session: InferenceSession, watch: OnEmbeddings | None = None
) -> tuple[np.ndarray, list[Segment]]:
    """Predict a long recording by its windows; only a few of them are in memory.

    Args:
        windows: of the recording.
        session: that predicts them.
        watch: is given the embedding of the first window, and of those that share its batch.

    Returns:
        The result of `Timeline.read`.
    """
    timeline = Timeline(session.labels)
    waiting: deque[tuple[list[int], Future[np.ndarray]]] = deque()

    def take() -> None:
        starts, result = waiting.popleft()
        for start, probabilities in zip(starts, result.result(), strict=True):
            timeline.add(start, probabilities)

    remaining = iter(windows)
    while batch := list(islice(remaining, _BATCH if session.batches_windows else 1)):
        starts, clips = [window.start for window in batch], [window.samples for window in batch]
        waiting.append((starts, session.submit(clips, watch)))
        watch = None
        if len(waiting) > 2 * session.pool.count:
            take()
    while waiting:
        take()
    return timeline.read(windows.voiced, windows.length)


def rows(
    waveforms: Iterable[np.ndarray], session: InferenceSession, submit: Callable[[list[np.ndarray]], Future]
) -> Iterator:
    """Results of `submit` for waveforms of any lengths, one a waveform, in their order.

    A waveform that the window of the model does not hold is cut into windows, as `predict_windows`
    does. Its logits are the logarithms of the mean probabilities, and its embedding is the mean of
    the embeddings, with the same weights. Where no voice is found, the logits are 0, and the
    embedding is that of the first window.

    Args:
        waveforms: shape `(samples,)`, 16 kHz.
        session: that predicts them.
        submit: its `submit_logits` or `submit_outputs`.
    """
    weights: deque[np.ndarray | None] = deque()  # of the waveforms whose rows are awaited

    def parts() -> Iterator[np.ndarray]:
        for waveform in waveforms:
            if session.front_end.longest is None or len(waveform) <= session.front_end.longest:
                weights.append(None)
                yield waveform
                continue
            windows = Windows([waveform], session)
            kept = list(windows)
            weights.append(_window_weights([window.start for window in kept], windows) if kept else np.zeros(1))
            yield from [window.samples for window in kept] or [waveform[:WINDOW]]

    waiting: list = []
    for row in session.rows(parts(), submit):
        waiting.append(row)
        if weights[0] is None:
            weights.popleft()
            yield waiting.pop()
        elif len(waiting) == len(weights[0]):
            yield _mean_row(waiting, weights.popleft())
            waiting = []


def _window_weights(starts: list[int], windows: Windows) -> np.ndarray:
    """Weights of the windows, which sum to 1, in the mean that `Timeline.read` takes."""
    shared: dict[int, np.ndarray] = {}
    for index, start in enumerate(starts):
        for cell in range(start // HOP, -(-(start + WINDOW) // HOP)):
            overlap = min(start + WINDOW, (cell + 1) * HOP) - max(start, cell * HOP)
            shared.setdefault(cell, np.zeros(len(starts)))[index] = overlap
    total = np.zeros(len(starts))
    for cell, overlaps in shared.items():
        voice_here = windows.voiced.within(cell * HOP, min((cell + 1) * HOP, windows.length))[0]
        total += voice_here * overlaps / overlaps.sum()
    return total / total.sum()


def _mean_row(rows: list, weights: np.ndarray) -> object:
    """The row of a waveform, of those of its windows: logits, or logits and an embedding."""
    if isinstance(rows[0], tuple):
        logits, embeddings = zip(*rows, strict=True)
        mean = np.average(embeddings, axis=0, weights=weights if weights.any() else None)
        return _mean_row(list(logits), weights), mean.astype(np.float32)
    if not weights.any():
        return np.zeros_like(rows[0])
    probabilities = weights @ softmax(np.stack(rows), axis=-1)
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)).astype(np.float32)


class Stream:
    """A recording that is going on; for one thread at a time, any number of them side by side.

    A prediction is of the last 4 s, or of what there is. The probabilities before it count half.
    The label changes only when another leads by 0.1, so that it does not flicker. Where the last
    4 s hold no voice, the last prediction stands, `abstained`. A constant offset is that of the
    last 10 s. `duration` is the time since the beginning, and `segments` are the labels since then.
    """

    def __init__(self, session: InferenceSession, sampling_rate: int) -> None:
        """Begin.

        Args:
            session: that predicts.
            sampling_rate: of the chunks, in Hz.

        Raises:
            AudioError: for a sampling rate that no recording has.
        """
        sampling_rate = audio.checked_rate(sampling_rate, "the stream")
        self._session, self._vad = session, session.vad.open_stream()
        self._downmixer, self._resampler = Downmixer(sampling_rate), resampling.Resampler(sampling_rate)
        self._voiced = VoicedStretches()
        self._recent = np.zeros(0, dtype=np.float32)  # up to so much as a constant offset is found in
        self._length = 0
        self._probabilities: np.ndarray | None = None
        self._label: int | None = None
        self._segments: list[Segment] = []
        self._scores: list[float] = []  # of the last segment

    def feed(self, chunk: np.ndarray) -> list[Prediction]:
        """Take the next samples, and give the predictions that are due: one for each full second.

        Args:
            chunk: shape `(samples,)` or `(samples, channels)`, float in [-1, 1] or integer, of any
                length.

        Raises:
            AudioError: for another shape, NaN or infinity.
        """
        samples = self._resampler.feed(self._downmixer.feed(audio.frames(chunk, "the stream")))
        due = []
        while len(samples):
            missing = STREAM_STEP - self._length % STREAM_STEP
            part, samples = samples[:missing], samples[missing:]
            self._recent = np.concatenate([self._recent, part])[-OFFSET_SECONDS * SAMPLING_RATE :]
            self._length += len(part)
            if self._length % STREAM_STEP == 0:
                due.append(self._predict())
        return due

    def _predict(self) -> Prediction:
        labels, window = self._session.labels, self._recent[-WINDOW:] - np.float32(offset(self._recent))
        self._voiced.add(self._vad.feed(window[-STREAM_STEP:]) >= voice_activity.LIKELY)
        has_voice = self._voiced.within(self._length - len(window), self._length)[0] >= MIN_VOICE
        if has_voice:
            self._update(self._session.submit([window]).result()[0])
        if self._probabilities is None:
            return without_voice(None, self._length, labels)
        abstain_below = self._session.abstain_below if has_voice else np.inf
        segments: list[Segment] = [past.copy() for past in self._segments]
        return prediction(None, self._length, self._probabilities, segments, labels, abstain_below, self._label)

    def _update(self, probabilities: np.ndarray) -> None:
        before = probabilities if self._probabilities is None else self._probabilities
        self._probabilities = smoothed = _SMOOTHING * before + (1 - _SMOOTHING) * probabilities
        best = int(smoothed.argmax())
        if self._label is None or smoothed[best] >= smoothed[self._label] + _HYSTERESIS:
            changed, self._label = best != self._label, best
        else:
            changed = False
        label, second = self._session.labels[self._label], self._length - STREAM_STEP
        if changed or second / SAMPLING_RATE > self._segments[-1]["end"]:
            self._segments.append(segment(second, self._length, label, smoothed[self._label]))
            self._scores = []
        self._scores.append(float(smoothed[self._label]))
        start = round(self._segments[-1]["start"] * SAMPLING_RATE)
        self._segments[-1] = segment(start, self._length, label, np.mean(self._scores))
