"""Everything that can be said of a set of answers, for `results.json` and for programs of the `evaluate` library."""

from typing import Any

import datasets
import evaluate
import numpy as np

from ser_hf import confidence, intervals, metrics

GROUPS = ("corpus", "channel", "speaker", "sex", "intensity")
"""Columns by which figures are broken down; each becomes `per_<column>`."""


def score(references: np.ndarray, probabilities: np.ndarray, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """Figures, intervals and groups.

    Args:
        references: class indices, shape `(n,)`.
        probabilities: shape `(n, labels)`, the labels in the order of `EMOTIONS`.
        columns: what `GROUPS` names, each of shape `(n,)`; `speaker` is needed, the others may be missing.

    Returns:
        `accuracy`, `uar`, `macro_f1`, `weighted_f1`, `ece`, `brier`, `auroc`, `ci95` (None below three speakers),
        `ci95_says`, `per_class`, `confusion_matrix`, `reliability`, `risk_coverage`, and `per_<column>`.
    """
    predictions = probabilities.argmax(axis=1)
    matrix = metrics.confusion(references, predictions)
    ci95, says = intervals.by_speaker(references, predictions, columns["speaker"])
    auroc = metrics.auroc(references, probabilities)
    per_class = metrics.per_class(matrix)
    known = [area for area in auroc.values() if area is not None]
    return {
        "n": len(references),
        **{name: float(value) for name, value in metrics.scores(matrix).items()},
        "ece": metrics.calibration_error(references, probabilities),
        "brier": metrics.brier(references, probabilities),
        "auroc": float(np.mean(known)) if known else None,
        "ci95": ci95,
        "ci95_says": says,
        "per_class": {emotion: row | {"auroc": auroc[emotion]} for emotion, row in per_class.items()},
        "confusion_matrix": matrix.tolist(),
        "reliability": confidence.reliability(references, probabilities),
        "risk_coverage": confidence.risk_coverage(references, probabilities),
        **{
            f"per_{name}": _grouped(columns[name], references, predictions, columns["speaker"])
            for name in GROUPS
            if name in columns
        },
    }


class SpeechEmotion(evaluate.Metric):
    """The figures of `score` as an `evaluate.Metric` that downloads nothing.

    From predictions and references alone: `accuracy`, `uar`, `macro_f1`, `weighted_f1`, `per_class` and
    `confusion_matrix`. With `speakers=`, `ci95` and `ci95_says` too. With `probabilities=` and `speakers=`, everything.

    >>> SpeechEmotion().compute(predictions=[0, 1, 1], references=[0, 1, 2])["accuracy"]
    0.6666666666666666
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Figures of speech emotion recognition over the eight emotions of ser_hf.",
            citation="",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(
        self,
        predictions: list[int],
        references: list[int],
        probabilities: np.ndarray | None = None,
        speakers: list[str] | None = None,
        **groups: list[str],
    ) -> dict[str, Any]:
        references, predictions = np.array(references), np.array(predictions)
        if probabilities is not None and speakers is not None:
            columns = {name: np.array(values) for name, values in groups.items()}
            return score(references, np.asarray(probabilities), {**columns, "speaker": np.array(speakers)})
        matrix = metrics.confusion(references, predictions)
        found: dict[str, Any] = {name: float(value) for name, value in metrics.scores(matrix).items()}
        found |= {"per_class": metrics.per_class(matrix), "confusion_matrix": matrix.tolist()}
        if speakers is not None:
            found["ci95"], found["ci95_says"] = intervals.by_speaker(references, predictions, np.array(speakers))
        return found


def _grouped(values: np.ndarray, references: np.ndarray, predictions: np.ndarray, speakers: np.ndarray) -> dict:
    """Accuracy, UAR and their intervals for each value of a column; empty ones are `unknown`."""
    values = np.array([value or "unknown" for value in values])
    groups = {}
    for value in sorted(set(values.tolist())):
        mask = values == value
        figures = metrics.scores(metrics.confusion(references[mask], predictions[mask]))
        ci95, _ = intervals.by_speaker(references[mask], predictions[mask], speakers[mask])
        groups[value] = {
            "n": int(mask.sum()),
            "speakers": len(set(speakers[mask].tolist())),
            "accuracy": float(figures["accuracy"]),
            "uar": float(figures["uar"]),
            "ci95": ci95 and {name: ci95[name] for name in ("accuracy", "uar")},
        }
    return groups
