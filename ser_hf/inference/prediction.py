"""A prediction as JSON: the command line, the page, the API and streams give the same keys."""

from os import PathLike
from pathlib import Path
from typing import TypedDict, final

import numpy as np

from ser_hf.audio import SAMPLING_RATE, Source

_DIGITS = 6  # of probabilities: more would be rounding noise


class Segment(TypedDict):
    """A stretch of a recording with one label."""

    start: float
    """In seconds, like `end`."""
    end: float
    label: str
    score: float
    """Mean probability of the label."""


@final
class Prediction(TypedDict):
    """What a model predicts for a recording."""

    file: str | None
    """Name of the file, without folders; None where there is no file."""
    label: str
    score: float
    """Probability of the label."""
    scores: dict[str, float]
    """Probability of each label."""
    abstained: bool
    """Whether the score lies under the threshold of the model, or no voice was found."""
    duration: float
    """In seconds."""
    segments: list[Segment]


@final
class FailedPrediction(TypedDict):
    """A recording that cannot be used, among others that can."""

    file: str | None
    error: str
    """One line that names the value and the remedy."""


def prediction(
    file: str | None,
    length: int,
    probabilities: np.ndarray,
    segments: list[Segment],
    labels: list[str],
    abstain_below: float = 0.0,
    label: int | None = None,
) -> Prediction:
    """Make a prediction of probabilities.

    Args:
        file: name of the recording, or None.
        length: in samples at 16 kHz.
        probabilities: shape `(labels,)`.
        segments: as `segment` makes them; none where no voice was found, and the model abstains.
        labels: of the model, in its order.
        abstain_below: the score under which the model abstains.
        label: index of the predicted label; that of the largest probability if None.
    """
    best = int(probabilities.argmax()) if label is None else label
    return {
        "file": file,
        "label": labels[best],
        "score": _rounded(probabilities[best]),
        "scores": {name: _rounded(value) for name, value in zip(labels, probabilities, strict=True)},
        "abstained": not segments or bool(probabilities[best] < abstain_below),
        "duration": round(length / SAMPLING_RATE, 3),
        "segments": segments,
    }


def without_voice(file: str | None, length: int, labels: list[str]) -> Prediction:
    """Make the prediction of a recording without voice: uniform, abstained and without segments."""
    return prediction(file, length, np.full(len(labels), 1 / len(labels)), [], labels)


def segment(start: int, end: int, label: str, score: float) -> Segment:
    """Make a segment; `start` and `end` are samples at 16 kHz."""
    return {
        "start": round(start / SAMPLING_RATE, 3),
        "end": round(end / SAMPLING_RATE, 3),
        "label": label,
        "score": _rounded(score),
    }


def source_name(source: Source) -> str | None:
    """Name of a recording in its prediction: that of its file, without folders."""
    if isinstance(source, dict):
        source = source.get("path")
    return Path(source).name if isinstance(source, str | PathLike) else None


def _rounded(probability: float) -> float:
    return round(float(probability), _DIGITS)
