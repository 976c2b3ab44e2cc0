"""Metrics of predictions, their calibration, and what abstaining gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from ser_hf.errors import UserError
from ser_hf.labels import EMOTIONS


class ConfidenceError(UserError):
    """A coverage or an error that is out of range, or that these clips do not reach."""


def confusion(references: np.ndarray, predictions: np.ndarray, classes: int = len(EMOTIONS)) -> np.ndarray:
    """Counts of shape `(classes, classes)`: rows are the references, columns the predictions."""
    flat = np.asarray(references, dtype=np.int64) * classes + np.asarray(predictions, dtype=np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of `METRICS` for confusion matrices `(..., classes, classes)`, each `(...)`."""
    matrix = np.asarray(matrix, dtype=np.float64)
    return {name: metric.function(matrix) for name, metric in METRICS.items()}


def accuracy(matrix: np.ndarray) -> np.ndarray:
    """Share of right predictions, which the field calls weighted accuracy (WA)."""
    return _ratio(_hits(matrix).sum(-1), matrix.sum((-2, -1)))


def uar(matrix: np.ndarray) -> np.ndarray:
    """Mean recall of the classes that occur: unweighted average recall (Schuller et al. 2009)."""
    support = matrix.sum(-1)
    occurs = support > 0
    return _ratio((_ratio(_hits(matrix), support) * occurs).sum(-1), occurs.sum(-1))


def macro_f1(matrix: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes that occur or are predicted, as scikit-learn defines it."""
    named = matrix.sum(-1) + matrix.sum(-2) > 0
    return _ratio((_f1(matrix) * named).sum(-1), named.sum(-1))


def weighted_f1(matrix: np.ndarray) -> np.ndarray:
    """Mean F1 weighted by the support of each class, as scikit-learn defines it."""
    support = matrix.sum(-1)
    return _ratio((_f1(matrix) * support).sum(-1), support.sum(-1))


def _hits(matrix: np.ndarray) -> np.ndarray:
    return np.diagonal(matrix, axis1=-2, axis2=-1)


def _f1(matrix: np.ndarray) -> np.ndarray:
    return _ratio(2 * _hits(matrix), matrix.sum(-1) + matrix.sum(-2))


def _ratio(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """`part / total`, and 0 where the total is 0."""
    return np.divide(part, total, out=np.zeros(np.broadcast(part, total).shape), where=np.asarray(total) > 0)


@dataclass(frozen=True)
class Metric:
    """A figure between 0 and 1, the higher the better, that a confusion matrix determines."""

    function: Callable[[np.ndarray], np.ndarray]
    """Takes float64 matrices `(..., classes, classes)` and returns figures `(...)`.

    It is vectorised because the bootstrap calls it for thousands of resamples at once.
    """
    averages: Literal["clips", "classes"]
    """What it averages over, on which the effective number of speakers depends."""


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, "clips"),
    "uar": Metric(uar, "classes"),
    "macro_f1": Metric(macro_f1, "classes"),
    "weighted_f1": Metric(weighted_f1, "clips"),
}
"""One entry adds a metric: to `results.json` (`further_metrics`), its intervals, the card and the
logs of training."""


def per_class(references: np.ndarray, predictions: np.ndarray) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each emotion, 0 where undefined.

    Args:
        references: class indices, shape `(n,)`.
        predictions: class indices, shape `(n,)`.
    """
    figures = precision_recall_fscore_support(
        references, predictions, labels=range(len(EMOTIONS)), average=None, zero_division=0.0
    )
    return {
        emotion: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
        for emotion, precision, recall, f1, support in zip(EMOTIONS, *figures, strict=True)
    }


def _confidence_bins(
    references: np.ndarray, probabilities: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, whether the prediction is right, and the bin of equal width, of each clip."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == references
    return confidence, correct, np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def calibration_error(references: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017), over bins of equal width.

    Args:
        references: class indices, shape `(n,)`.
        probabilities: shape `(n, classes)`.
        bins: of the confidence of the answer.
    """
    confidence, correct, index = _confidence_bins(references, probabilities, bins)
    gap = np.bincount(index, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(references))


def brier(references: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean squared distance of the probabilities to the label, 0 to 2 (Brier 1950).

    scikit-learn's `brier_score_loss` sums float32 probabilities in float32, which costs digits.
    """
    onehot = np.eye(probabilities.shape[1])[np.asarray(references, dtype=int)]
    return float(np.square(probabilities.astype(np.float64) - onehot).sum(axis=1).mean())


def auroc(references: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """Area under the ROC curve of each emotion against all others (Fawcett 2006).

    It is None where all clips or none are of the emotion.
    """
    areas: dict[str, float | None] = {}
    for index, emotion in enumerate(EMOTIONS):
        occurs = np.asarray(references) == index
        mixed = 0 < occurs.sum() < len(occurs)
        areas[emotion] = float(roc_auc_score(occurs, probabilities[:, index])) if mixed else None
    return areas


def abstention_threshold(
    probabilities: np.ndarray, references: np.ndarray, coverage: float | None = None, error: float | None = None
) -> dict[str, float]:
    """The confidence below which to abstain (selective classification: El-Yaniv and Wiener 2010).

    For a coverage, the fewest clips that make it up; for an error, the most clips that keep to it
    (Geifman and El-Yaniv 2017, without their bound: it holds for these clips, and for others about
    as well as these stand for them). Clips of the same confidence are answered together or not at
    all.

    Args:
        probabilities: of validation clips, calibrated, shape `(n, classes)`.
        references: class indices, shape `(n,)`.
        coverage: share of the clips to be answered, in (0, 1]; this or `error`.
        error: share of wrong answers among those given, in (0, 1).

    Returns:
        `abstain_below`, halfway between the last answered and the first refused confidence, 0 where
        all are answered; and the `coverage` and `error` that it has on these clips.

    Raises:
        ConfidenceError: unless one of the two is given, for a value out of range, an error that no
            threshold keeps to.
    """
    check_abstention(coverage, error)
    if len(references) == 0:
        raise ConfidenceError("0 clips to find a threshold on: give validation clips")
    confidence, mistakes = _sorted(references, probabilities)
    last = np.flatnonzero(np.append(confidence[1:] < confidence[:-1], True))  # the last clip of each confidence
    answered = last + 1
    errors = mistakes.cumsum()[last] / answered
    if coverage is not None:
        # not a share against a share: 7 of 10 must make up 0.7
        chosen = int(np.argmax(answered >= coverage * len(mistakes) - 1e-9))
    elif (errors <= error).any():
        chosen = int(np.flatnonzero(errors <= error)[-1])
    else:
        best = int(errors.argmin())
        raise ConfidenceError(
            f"error {error} cannot be reached: the least is {errors[best]:.3f}, at a coverage of "
            f"{answered[best] / len(mistakes):.3f}; ask for more, or for a coverage"
        )
    end = last[chosen]
    limit = 0.0 if end + 1 == len(confidence) else (float(confidence[end]) + float(confidence[end + 1])) / 2
    return {
        "abstain_below": limit,
        "coverage": float(answered[chosen] / len(mistakes)),
        "error": float(errors[chosen]),
    }


def check_abstention(coverage: float | None, error: float | None) -> None:
    """Refuse what `abstention_threshold` refuses for any clips.

    Raises:
        ConfidenceError: naming what was given.
    """
    if (coverage is None) == (error is None):
        targets = "neither" if coverage is None else f"coverage {coverage} and error {error}"
        raise ConfidenceError(f"{targets} given: give either a coverage or an error")
    if coverage is not None and not 0 < coverage <= 1:
        raise ConfidenceError(f"coverage {coverage} is out of range: give a share above 0 and up to 1")
    if error is not None and not 0 < error < 1:
        raise ConfidenceError(f"error {error} is out of range: give a share between 0 and 1")


def reliability(references: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> list[dict[str, float]]:
    """Confidence and accuracy in bins of equal width (Guo et al. 2017, section 2).

    Args:
        references: class indices, shape `(n,)`.
        probabilities: shape `(n, classes)`.
        bins: as for `calibration_error`, which is the mean gap of these, weighted by `n`.

    Returns:
        For each bin that holds a clip its mean `confidence`, `accuracy`, `n`, and its edges `low`
        and `high`.
    """
    confidence, correct, index = _confidence_bins(references, probabilities, bins)
    return [
        {
            "confidence": float(confidence[index == place].mean(dtype=np.float64)),
            "accuracy": float(correct[index == place].mean()),
            "n": int((index == place).sum()),
            "low": float(place / bins),
            "high": float((place + 1) / bins),
        }
        for place in np.unique(index)
    ]


def risk_coverage(references: np.ndarray, probabilities: np.ndarray, points: int = 50) -> dict:
    """The error among the most confident answers, against their share (Geifman and El-Yaniv 2017).

    Clips of the same confidence count as wrong by their mean, as nobody knows which of them comes
    first.

    Args:
        references: class indices, shape `(n,)`, at least one.
        probabilities: shape `(n, classes)`.
        points: of the curve that is returned, at most; the last is all clips.

    Returns:
        `coverage` and `error`, lists as long as each other, from the most confident on; and `aurc`,
        the mean error over the coverages of 1 to all clips (Geifman et al. 2019), from the whole
        curve.
    """
    confidence, mistakes = _sorted(references, probabilities)
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    expected = (np.bincount(group, weights=mistakes) / sizes)[group]
    errors = expected.cumsum() / np.arange(1, len(mistakes) + 1)
    counts = np.unique(np.ceil(np.arange(1, points + 1) * len(mistakes) / points).astype(int))
    return {
        "coverage": [float(count / len(mistakes)) for count in counts],
        "error": [float(errors[count - 1]) for count in counts],
        "aurc": float(errors.mean()),
    }


def _sorted(references: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, the highest first, and whether each answer is wrong."""
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    return confidence[order], (probabilities.argmax(axis=1) != references)[order]
