"""Where the voice of a clip begins and ends, and how much of the silence around it to keep.

Silence is judged against the loudest frame of the same clip, so that it does not depend on the recording's level.
"""

from collections.abc import Iterator

import numpy as np

from ser_hf import audio

_FRAME, _HOP = audio.SAMPLING_RATE // 40, audio.SAMPLING_RATE // 100  # 25 ms every 10 ms
_MARGIN = audio.SAMPLING_RATE // 20  # 50 ms: soft onsets and fading ends lie below the threshold
_STRETCH = audio.SAMPLING_RATE // 5  # 0.2 s: shorter edges say little about a room
MARGIN = 0.2
"""Seconds beside the voice that a clip without its silence may keep in training."""
_ZEROS = audio.SAMPLING_RATE // 100  # 10 ms of exact zeros in a row were never recorded


def voiced(samples: np.ndarray, below: float = 35.0) -> tuple[int, int]:
    """First and one-past-last sample of what is not silence at the edges; pauses within do not count.

    A frame of 25 ms, one every 10 ms, is not silent where its energy lies at most `below` dB under that of the loudest
    one; 50 ms are left on each side. Where the noise floor is higher than that, the whole clip counts.

    Args:
        samples: shape `(samples,)`, 16 kHz.
        below: dB.

    Returns:
        `(0, len(samples))` for a clip of zeros or of less than a frame.

    >>> voiced(np.repeat(np.float32([0, 1, 0]), 4_000))
    (2880, 9040)
    """
    length = len(samples)
    if length < _FRAME:
        return 0, length
    sums = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    # the last frame ends with the clip, or what follows the last full hop would not be heard
    starts = np.append(np.arange(0, length - _FRAME, _HOP), length - _FRAME)
    energy = sums[starts + _FRAME] - sums[starts]
    loudest = energy.max()
    if loudest == 0:
        return 0, length
    loud = starts[energy >= loudest * 10 ** (-below / 10)]
    return max(0, int(loud[0]) - _MARGIN), min(length, int(loud[-1]) + _FRAME + _MARGIN)


def vary(length: int, bounds: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """New start and end for a clip: the silence before and after `bounds` is each cut to a random share of itself.

    What is kept touches the voice. The share is u² with u uniform in [0, 1]: a third on average, and up to all of it.

    Args:
        length: of the clip, in samples, frames or any other unit.
        bounds: first and one-past-last of what is not silence, in the same unit.
        rng: two numbers are drawn from it, whatever the bounds.
    """
    start, end = bounds
    before, after = (rng.random(2) ** 2).tolist()
    return start - round(before * start), end + round(after * (length - end))


def either(length: int, bounds: tuple[int, int], rng: np.random.Generator, margin: int) -> tuple[int, int]:
    """New start and end for a clip: half of the clips stay whole, on each side of the others at most `margin` is left.

    A model that normalises over the clip hears a voice otherwise where silence surrounds it: it should learn both.
    Arguments and draws as for `vary`; but three numbers are drawn, and `margin` is in the same unit.
    """
    start, end = bounds
    whole, before, after = rng.random(3).tolist()
    if whole < 0.5:
        return 0, length
    return max(0, start - round(before * margin)), min(length, end + round(after * margin))


def edges(samples: np.ndarray) -> Iterator[np.ndarray]:
    """What was recorded before and after the voice: stretches of at least 0.2 s outside `voiced`.

    Digital zeros, which were added and not recorded, part stretches and are left out.

    Args:
        samples: shape `(samples,)`, 16 kHz; the stretches are views of it.
    """
    start, end = voiced(samples)
    for edge in (samples[:start], samples[end:]):
        sounding = np.flatnonzero(edge)
        parts = np.split(sounding, np.flatnonzero(np.diff(sounding) > _ZEROS) + 1)
        yield from (edge[part[0] : part[-1] + 1] for part in parts if len(part) and np.ptp(part) >= _STRETCH - 1)
