"""A prediction as it is worded everywhere: the command line, the page, the API and running answers
say it alike."""

from os import PathLike
from pathlib import Path

import numpy as np

from ser_hf.audio import SAMPLING_RATE, Source

_DIGITS = 6  # of probabilities: more would be rounding noise


def prediction(
    file: str | None,
    length: int,
    probabilities: np.ndarray,
    segments: list[dict],
    labels: list[str],
    below: float = 0.0,
    label: int | None = None,
) -> dict:
    """What is said of a recording.

    Args:
        file: its name, or None.
        length: in samples at 16 kHz.
        probabilities: shape `(labels,)`.
        segments: as `segment` makes them; none where no voice was found, of which nothing can be
            said.
        labels: of the model, in its order.
        below: the score under which the model abstains.
        label: the index of the answer; that of the largest probability if None.
    """
    best = int(probabilities.argmax()) if label is None else label
    return {
        "file": file,
        "label": labels[best],
        "score": _rounded(probabilities[best]),
        "scores": {name: _rounded(value) for name, value in zip(labels, probabilities, strict=True)},
        "abstained": not segments or bool(probabilities[best] < below),
        "duration": round(length / SAMPLING_RATE, 3),
        "segments": segments,
    }


def segment(start: int, end: int, label: str, score: float) -> dict:
    """A stretch with one label; `start` and `end` are samples at 16 kHz."""
    return {
        "start": round(start / SAMPLING_RATE, 3),
        "end": round(end / SAMPLING_RATE, 3),
        "label": label,
        "score": _rounded(score),
    }


def source_name(source: Source) -> str | None:
    """What a prediction calls a recording: its file's name, without folders."""
    if isinstance(source, dict):
        source = source.get("path")
    return Path(source).name if isinstance(source, str | PathLike) else None


def _rounded(probability: float) -> float:
    return round(float(probability), _DIGITS)
