"""What is done to the samples of every recording first: one channel, and no constant offset."""

from collections.abc import Iterable, Iterator

import numpy as np

from ser_hf.audio.errors import AudioError
from ser_hf.utils import blas

SMALLEST_OFFSET = 1e-4
"""Share of full scale, three steps of 16-bit samples. A mean up to it is no offset: such a
recording keeps its samples to the last bit, and so its answer by stock `pipeline`."""

OFFSET_SECONDS = 10
"""Seconds over which a recording is averaged to find its offset."""


def offset(samples: np.ndarray) -> float:
    """Return the constant offset of samples `(samples,)`: their mean, or 0 for a small one.

    A microphone passes no constant, so the mean of what it records is 0, voice or not. What is
    left is an error of the recorder.
    """
    mean = float(samples.mean(dtype=np.float64)) if len(samples) else 0.0
    return mean if abs(mean) > SMALLEST_OFFSET else 0.0


def without_offset(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Take the offset of each 10 s from blocks `(samples,)`; how they are cut does not matter.

    The last seconds of a longer recording, fewer than 10, have the offset of its last 10 s. A mean
    of so much is exact. A high-pass filter would change each recording, those without an offset,
    too, and change it again wherever samples are read once more.
    """
    length = OFFSET_SECONDS * rate
    before, waiting, count = np.zeros(0, dtype=np.float32), [], 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        if count >= length:
            joined = np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
            for start in range(0, count - length + 1, length):
                before = joined[start : start + length]
                yield _minus(before, offset(before))
            count %= length
            waiting = [joined[len(joined) - count :]]
    if count:
        rest = np.concatenate(waiting)
        yield _minus(rest, offset(np.concatenate([before, rest])[-length:]))


def _minus(samples: np.ndarray, found: float) -> np.ndarray:
    return samples - np.float32(found) if found else samples


_FRAMES_A_SECOND = 10
_INVERTED = -0.5  # correlation with the loudest channel under which a channel is its inverse
_MEMORY = 0.99  # of a frame, from each frame to the next: correlations are those of about 10 s
_LOUDER = 4.0  # times the power at which another channel becomes the one that others are compared with


class Downmixer:
    """Averages channels to one, and turns those round that would cancel the loudest.

    A channel with the opposite polarity, by a crossed cable or a "voice removed" mix, cancels the
    others where all are averaged. Channels are compared in frames of 0.1 s. One whose correlation
    with the loudest is under -0.5 is inverted before the mean is taken. All others are averaged
    as they are, as stock `pipeline` and FFmpeg do.
    """

    def __init__(self, rate: int) -> None:
        """Begin a recording at a rate in Hz."""
        self.inverted = False
        """Whether a channel was turned round so far."""
        self._frame = max(1, rate // _FRAMES_A_SECOND)
        self._covariance: np.ndarray | float = 0.0  # (channels, channels), of the frames so far
        self._signs = np.ones(1, dtype=np.float32)
        self._loudest = 0
        self._rest: np.ndarray | None = None

    def feed(self, block: np.ndarray) -> np.ndarray:
        """Take the next frames `(frames, channels)`, and return samples `(samples,)`.

        Of several channels, less than 0.1 s is kept back for the next call, or for `finish`.
        """
        if self._rest is None:
            self._rest, self._signs = block[:0], np.ones(block.shape[1], dtype=np.float32)
        if block.shape[1] != len(self._signs):
            raise AudioError(f"the recording had {len(self._signs)} channels, now {block.shape[1]}: begin another one")
        if block.shape[1] == 1:
            return block[:, 0]
        joined = np.concatenate([self._rest, block]) if len(self._rest) else block
        count = len(joined) // self._frame
        whole, self._rest = np.split(joined, [count * self._frame])
        if not count:
            return whole[:, 0]
        centred = whole.reshape(count, self._frame, -1)
        centred = centred - centred.mean(axis=1, keepdims=True)
        with blas.one_thread():
            covariances = centred.transpose(0, 2, 1) @ centred
        signs = np.stack([self._compare(one) for one in covariances])
        if (signs > 0).all():
            return whole.mean(axis=1)
        self.inverted = True
        return (whole.reshape(count, self._frame, -1) * signs[:, None]).mean(axis=2).reshape(-1)

    def finish(self) -> np.ndarray:
        """Return what was kept back: its signs are those of the frame before it."""
        rest = np.zeros((0, 1), dtype=np.float32) if self._rest is None else self._rest
        self.inverted |= bool((self._signs < 0).any())
        return (rest * self._signs).mean(axis=1)

    def _compare(self, covariance: np.ndarray) -> np.ndarray:
        """Take the covariance of a frame, and return the signs `(channels,)` of its channels."""
        self._covariance = _MEMORY * self._covariance + covariance
        power = np.diag(self._covariance)
        loudest = int(power.argmax())
        if power[loudest] > _LOUDER * power[self._loudest]:
            self._loudest = loudest
        reference = self._loudest
        likeness = self._covariance[reference] / np.sqrt(np.maximum(power * power[reference], 1e-30))
        # the sign of the reference stays: the waveform does not turn round within a recording
        self._signs = np.where(likeness < _INVERTED, -1, 1).astype(np.float32) * self._signs[reference]
        return self._signs
