"""Augmentation of log mel frames while training: cheaper than of waveforms, since the frames are computed once.

All arrays are float32 natural logarithms of mel power, shape `(frames, bins)`. No function changes its input.
"""

from collections.abc import Callable

import numpy as np

_FEWEST = 12  # frames: shorter clips are not sped up
_HISS = 0.5  # spread of a noise's log power from frame to frame and bin to bin
_TILT = 1.0  # spread of a noise's log power over the spectrum, at five places


def tempo(mel: np.ndarray, rng: np.random.Generator, share: float = 0.1) -> np.ndarray:
    """Slower or faster by a factor of up to exp(`share`), the pitch unmoved; frames are interpolated."""
    frames = int(len(mel) * np.exp(rng.uniform(-share, share)))
    if frames < min(_FEWEST, len(mel)):
        return mel
    return _between(mel, np.linspace(0, len(mel) - 1, frames))


def tract(mel: np.ndarray, rng: np.random.Generator, share: float = 0.06) -> np.ndarray:
    """A longer or shorter vocal tract: the mel axis stretched by a factor of up to exp(`share`).

    Jaitly and Hinton, "Vocal tract length perturbation improves speech recognition" (ICML workshop 2013), on mel bins.
    """
    bins = mel.shape[1]
    places = np.minimum(np.arange(bins) * np.exp(rng.uniform(-share, share)), bins - 1)
    return np.ascontiguousarray(_between(mel.T, places).T)


def hiss(mel: np.ndarray, rng: np.random.Generator, low: float = 10.0, high: float = 40.0) -> np.ndarray:
    """Stationary noise of a random spectrum, `low` to `high` dB below the clip's loud frames (95th percentile)."""
    loud = np.quantile(mel.mean(axis=1), 0.95)
    bins = mel.shape[1]
    tilt = np.interp(np.arange(bins), np.linspace(0, bins - 1, 5), rng.normal(0, _TILT, 5))
    level = loud - rng.uniform(low, high) * np.log(10) / 10 + tilt
    grain = _HISS * rng.standard_normal(mel.shape, dtype=np.float32)
    return np.logaddexp(mel, level.astype(np.float32) + grain)


def bands(mel: np.ndarray, rng: np.random.Generator, widest: float = 10.0) -> np.ndarray:
    """Up to `widest` neighbouring bins become their mean over the clip, which its normalisation makes 0.

    Park et al., "SpecAugment" (Interspeech 2019). Where nothing is normalised, they keep their mean.
    """
    width = int(rng.integers(0, min(int(widest), mel.shape[1]) + 1))
    start = int(rng.integers(0, mel.shape[1] - width + 1))
    masked = mel.copy()
    masked[:, start : start + width] = mel.mean(axis=0)[start : start + width]
    return masked


def gaps(mel: np.ndarray, rng: np.random.Generator, longest: float = 0.3, rate: float = 100.0) -> np.ndarray:
    """Up to `longest` seconds, of `rate` frames each, become the clip's mean frame (Park et al. 2019).

    At most a quarter of the clip does.
    """
    length = int(rng.integers(0, min(round(longest * rate), len(mel) // 4) + 1))
    start = int(rng.integers(0, len(mel) - length + 1))
    masked = mel.copy()
    masked[start : start + length] = mel.mean(axis=0)
    return masked


def mixup(mel: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """`share` of a clip's power and the rest of another's, which is brought to its level first, and cut to its length.

    Zhang et al., "mixup: Beyond empirical risk minimization" (ICLR 2018). Powers of unlike sounds add up.
    """
    louder = np.quantile(mel.mean(axis=1), 0.95) - np.quantile(other.mean(axis=1), 0.95)
    common = min(len(mel), len(other))
    mixed = mel + np.float32(np.log(share))
    rest = other[:common] + np.float32(louder + np.log(max(1 - share, 1e-6)))
    mixed[:common] = np.logaddexp(mixed[:common], rest)
    return mixed


_ALL = (tempo, tract, hiss, bands, gaps)
STEPS: dict[str, Callable[..., np.ndarray]] = {step.__name__: step for step in _ALL}
"""In the order in which they are applied."""

RANGES: dict[str, tuple[float, float, str]] = {
    "tempo": (0.02, 0.5, "a share from 0.02 to 0.5, such as tempo:0.1"),
    "tract": (0.01, 0.3, "a share from 0.01 to 0.3, such as tract:0.06"),
    "hiss": (-20.0, 60.0, "two numbers of dB, from -20 to 60, the lower first, such as hiss:10-40"),
    "bands": (1.0, 40.0, "1 to 40 bins, such as bands:10"),
    "gaps": (0.01, 2.0, "0.01 to 2 seconds, such as gaps:0.3"),
}


def _between(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows at fractional places, linearly."""
    below = places.astype(int)
    above = np.minimum(below + 1, len(rows) - 1)
    share = (places - below).astype(np.float32)[:, None]
    return rows[below] * (1 - share) + rows[above] * share
