"""Metrics of predictions, their calibration, and what abstaining gives."""

import numpy as np
from sklearn.metrics import roc_auc_score

from ser_hf.errors import UserError
from ser_hf.labels import EMOTIONS

NAMES = ("accuracy", "uar", "macro_f1", "weighted_f1")


def confusion(references: np.ndarray, predictions: np.ndarray, classes: int = len(EMOTIONS)) -> np.ndarray:
    """Counts of shape `(classes, classes)`: rows are the references, columns the predictions."""
    flat = np.asarray(references, dtype=np.int64) * classes + np.asarray(predictions, dtype=np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of confusion matrices of shape `(..., classes, classes)`, each of shape `(...)`.

    `accuracy` is the field's weighted accuracy (WA); `uar` the mean recall of the classes that
    occur (unweighted average recall, Schuller et al. 2009); `macro_f1` the mean over the classes
    that occur or are predicted and `weighted_f1` the mean weighted by support, as scikit-learn
    defines both.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    support, predicted = matrix.sum(-1), matrix.sum(-2)
    recall = _ratio(hits, support)
    f1 = _ratio(2 * hits, support + predicted)
    occurs, named = support > 0, support + predicted > 0
    total = support.sum(-1)
    return {
        "accuracy": _ratio(hits.sum(-1), total),
        "uar": _ratio((recall * occurs).sum(-1), occurs.sum(-1)),
        "macro_f1": _ratio((f1 * named).sum(-1), named.sum(-1)),
        "weighted_f1": _ratio((f1 * support).sum(-1), total),
    }


def per_class(matrix: np.ndarray) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each emotion from one confusion matrix."""
    hits, support, predicted = np.diagonal(matrix), matrix.sum(1), matrix.sum(0)
    precision, recall, f1 = _ratio(hits, predicted), _ratio(hits, support), _ratio(2 * hits, support + predicted)
    return {
        emotion: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": int(support[i]),
        }
        for i, emotion in enumerate(EMOTIONS)
    }


def calibration_error(references: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): the gap of confidence and accuracy over bins of
    equal width.

    Args:
        references: class indices, shape `(n,)`.
        probabilities: shape `(n, classes)`.
        bins: of the confidence of the answer.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == references
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(references))


def brier(references: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over clips of the squared distance to the right answer, 0 to 2 (Brier 1950)."""
    right = np.eye(probabilities.shape[1])[np.asarray(references, dtype=int)]
    return float(np.square(probabilities.astype(np.float64) - right).sum(axis=1).mean())


def auroc(references: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """Area under the ROC curve of each emotion against the rest (Fawcett 2006); None where all or
    none are of it."""
    found: dict[str, float | None] = {}
    for index, emotion in enumerate(EMOTIONS):
        is_it = np.asarray(references) == index
        found[emotion] = float(roc_auc_score(is_it, probabilities[:, index])) if 0 < is_it.sum() < len(is_it) else None
    return found


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=np.asarray(whole) > 0)


class ConfidenceError(UserError):
    """A wish for a threshold that is out of range, or that these clips cannot fulfil."""


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
    confidence, wrong = _sorted(references, probabilities)
    last = np.flatnonzero(np.append(confidence[1:] < confidence[:-1], True))  # the last clip of each confidence
    answered = last + 1
    errors = wrong.cumsum()[last] / answered
    if coverage is not None:
        # not a share against a share: 7 of 10 must make up 0.7
        chosen = int(np.argmax(answered >= coverage * len(wrong) - 1e-9))
    elif (errors <= error).any():
        chosen = int(np.flatnonzero(errors <= error)[-1])
    else:
        best = int(errors.argmin())
        raise ConfidenceError(
            f"error {error} cannot be reached: the least is {errors[best]:.3f}, at a coverage of "
            f"{answered[best] / len(wrong):.3f}; ask for more, or for a coverage"
        )
    end = last[chosen]
    limit = 0.0 if end + 1 == len(confidence) else (float(confidence[end]) + float(confidence[end + 1])) / 2
    return {
        "abstain_below": limit,
        "coverage": float(answered[chosen] / len(wrong)),
        "error": float(errors[chosen]),
    }


def check_abstention(coverage: float | None, error: float | None) -> None:
    """Refuse what `threshold` would refuse whatever the clips.

    Raises:
        ConfidenceError: naming what was given.
    """
    if (coverage is None) == (error is None):
        given = "neither" if coverage is None else f"coverage {coverage} and error {error}"
        raise ConfidenceError(f"{given} given: give either a coverage or an error")
    if coverage is not None and not 0 < coverage <= 1:
        raise ConfidenceError(f"coverage {coverage} is out of range: give a share above 0 and up to 1")
    if error is not None and not 0 < error < 1:
        raise ConfidenceError(f"error {error} is out of range: give a share between 0 and 1")


def reliability(references: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> list[dict[str, float]]:
    """Confidence and accuracy by bins of the confidence, of equal width (Guo et al. 2017, section
    2).

    Args:
        references: class indices, shape `(n,)`.
        probabilities: shape `(n, classes)`.
        bins: as for `metrics.calibration_error`, which is the mean gap of these, weighted by `n`.

    Returns:
        For each bin that holds a clip its mean `confidence`, `accuracy`, `n`, and its edges `low`
        and `high`.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == references
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return [
        {
            "confidence": float(confidence[index == one].mean(dtype=np.float64)),
            "accuracy": float(right[index == one].mean()),
            "n": int((index == one).sum()),
            "low": float(one / bins),
            "high": float((one + 1) / bins),
        }
        for one in np.unique(index)
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
    confidence, wrong = _sorted(references, probabilities)
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    expected = (np.bincount(group, weights=wrong) / sizes)[group]
    errors = expected.cumsum() / np.arange(1, len(wrong) + 1)
    counts = np.unique(np.ceil(np.arange(1, points + 1) * len(wrong) / points).astype(int))
    return {
        "coverage": [float(count / len(wrong)) for count in counts],
        "error": [float(errors[count - 1]) for count in counts],
        "aurc": float(errors.mean()),
    }


def _sorted(references: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, the highest first, and whether each answer is wrong."""
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    return confidence[order], (probabilities.argmax(axis=1) != references)[order]
