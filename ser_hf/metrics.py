"""Figures of a set of answers: WA, UAR and F1 from counts; calibration, Brier score and AUROC from probabilities."""

import numpy as np
from sklearn.metrics import roc_auc_score

from ser_hf.labels import EMOTIONS

NAMES = ("accuracy", "uar", "macro_f1", "weighted_f1")


def confusion(references: np.ndarray, predictions: np.ndarray, classes: int = len(EMOTIONS)) -> np.ndarray:
    """Counts of shape `(classes, classes)`: rows are the references, columns the predictions."""
    flat = np.asarray(references, dtype=np.int64) * classes + np.asarray(predictions, dtype=np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of confusion matrices of shape `(..., classes, classes)`, each of shape `(...)`.

    `accuracy` is the field's weighted accuracy (WA); `uar` the mean recall of the classes that occur (unweighted
    average recall, Schuller et al. 2009); `macro_f1` the mean over the classes that occur or are predicted and
    `weighted_f1` the mean weighted by support, as scikit-learn defines both.
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
    """Expected calibration error (Guo et al. 2017): the gap of confidence and accuracy over bins of equal width.

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
    """Area under the ROC curve of each emotion against the rest (Fawcett 2006); None where all or none are of it."""
    found: dict[str, float | None] = {}
    for index, emotion in enumerate(EMOTIONS):
        is_it = np.asarray(references) == index
        found[emotion] = float(roc_auc_score(is_it, probabilities[:, index])) if 0 < is_it.sum() < len(is_it) else None
    return found


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=np.asarray(whole) > 0)
