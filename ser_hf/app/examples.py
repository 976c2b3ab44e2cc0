"""Synthetic voices to try the page with, written when the app starts; no person speaks in them."""

from pathlib import Path

import numpy as np
import soundfile

from ser_hf.audio import SAMPLING_RATE, synthesis

FOLDER = "examples"
"""The folder of the examples inside the upload folder; the sweep of old uploads spares it."""

_SHORT = ("angry", "sad", "happy", "surprised")
_LONG = ("neutral", "happy", "angry", "sad", "fearful", "calm", "surprised")


def write_examples(folder: Path) -> list[Path]:
    """Write the examples as WAV files; the last one is long and has several voices.

    Args:
        folder: created where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    voices = [synthesis.SyntheticVoice.of(f"example {number}", female=number % 2 == 0) for number in range(len(_LONG))]
    files = []
    for number, emotion in enumerate(_SHORT):
        files.append(folder / f"synthetic {emotion}.wav")
        _write_wav(files[-1], _utterance(voices[number], emotion, number))
    pause = np.zeros(SAMPLING_RATE * 2 // 5, dtype=np.float32)
    parts = [part for n, emotion in enumerate(_LONG) for part in (_utterance(voices[n], emotion, n), pause)]
    files.append(folder / "synthetic conversation.wav")
    _write_wav(files[-1], np.concatenate(parts))
    return files


def _utterance(voice: synthesis.SyntheticVoice, emotion: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return synthesis.synthesize(voice, emotion, rng.integers(0, 5, 9).tolist(), rng)


def _write_wav(path: Path, samples: np.ndarray) -> None:
    peak = max(float(np.abs(samples).max()), 1e-6)
    soundfile.write(path, samples / peak * 0.6, SAMPLING_RATE, subtype="PCM_16")
