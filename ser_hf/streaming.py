"""Running answers for a recording that is still going on: chunks in, one prediction a second out."""

import numpy as np

from ser_hf import audio, windows
from ser_hf.answers import answer, segment
from ser_hf.audio import resampling, voice_activity
from ser_hf.workers import Workers

EVERY = audio.SAMPLING_RATE
"""Samples from one answer to the next."""

_KEPT = 0.5  # share of the last answer's probabilities in the next: a single odd window changes little
_MARGIN = 0.1  # by which another label must lead before the answer changes (hysteresis)


class Stream:
    """One recording that is going on; for one thread at a time, any number of them side by side.

    An answer is of the last 4 s, or of what there is, and of those before it, half as much each. Its label changes only
    when another leads by 0.1, so that it does not flicker. Where no voice was heard in them the last answer stands,
    `abstained`. `duration` is what has been heard so far, and `segments` how the label went.
    """

    def __init__(
        self, workers: Workers, listener: voice_activity.VadStream, labels: list[str], below: float, sampling_rate: int
    ) -> None:
        """Begin; `sampling_rate` is that of the chunks, in Hz, `below` the score under which the model abstains."""
        audio.check_rate(sampling_rate, "the stream")
        self._workers, self._listener, self._labels, self._below = workers, listener, labels, below
        self._resampler = resampling.Resampler(sampling_rate)
        self._voiced = windows.Voiced()
        self._last = np.zeros(0, dtype=np.float32)  # up to a window
        self._length = 0
        self._probabilities: np.ndarray | None = None
        self._held: int | None = None
        self._segments: list[dict] = []
        self._sums: list[float] = []  # of the running segment's scores

    def feed(self, chunk: np.ndarray) -> list[dict]:
        """Take what was recorded since, and give the answers that are due: none, one, or one for each second of it.

        Args:
            chunk: shape `(samples,)` or `(samples, channels)`, float in [-1, 1] or integer, of any length.

        Raises:
            AudioError: for another shape, NaN or infinity.
        """
        samples = self._resampler.feed(audio.mono(chunk, "the stream"))
        due = []
        while len(samples):
            room = EVERY - self._length % EVERY
            part, samples = samples[:room], samples[room:]
            self._voiced.add(self._listener.feed(part))
            self._last = np.concatenate([self._last, part])[-windows.WINDOW :]
            self._length += len(part)
            if self._length % EVERY == 0:
                due.append(self._answer())
        return due

    def _answer(self) -> dict:
        start = self._length - len(self._last)
        spoken = self._voiced.within(start, self._length)[0] >= windows.MIN_VOICE
        if spoken:
            self._hear(self._workers.ask([self._last]).result()[0])
        if self._probabilities is None:
            nothing = np.full(len(self._labels), 1 / len(self._labels))
            return answer(None, self._length, nothing, [], self._labels)
        below = self._below if spoken else np.inf
        segments = [dict(one) for one in self._segments]
        return answer(None, self._length, self._probabilities, segments, self._labels, below, self._held)

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
