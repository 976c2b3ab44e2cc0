"""Waveform augmentation for training: what may change in a recording while its emotion stays."""

import numpy as np

SPEED = (0.85, 1.18)
"""Pitch, formants and tempo together, as another vocal tract would."""
GAIN_DB = (-10.0, 6.0)
SNR_DB = (20.0, 50.0)


def augment(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change speed, loudness and noise floor, each drawn anew.

    Args:
        samples: float32, shape `(samples,)`, 16 kHz.
        rng: the same state gives the same result.

    Returns:
        float32 of shape `(samples / speed,)`.
    """
    speed = np.exp(rng.uniform(*np.log(SPEED)))
    positions = np.arange(0, len(samples) - 1, speed)
    changed = np.interp(positions, np.arange(len(samples)), samples)
    level = np.sqrt(np.mean(changed**2)) * 10 ** (-rng.uniform(*SNR_DB) / 20)
    changed += rng.normal(size=len(changed)) * level
    return (changed * 10 ** (rng.uniform(*GAIN_DB) / 20)).astype(np.float32)
