"""What a set of answers is worth: WA, UAR, F1, calibration error, and intervals over speakers."""

import datasets
import evaluate
import numpy as np

from ser_hf.emotions import EMOTIONS

MIN_SPEAKERS = 3
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


def intervals(
    references: np.ndarray, predictions: np.ndarray, speakers: np.ndarray, resamples: int = 2000, seed: int = 0
) -> tuple[dict[str, list[float]] | None, str]:
    """95 % percentile bootstrap over speakers (clusters), not utterances (Field and Welsh 2007).

    Returns:
        For each figure its `[low, high]`, and a sentence that says how; None and the reason below three speakers.
    """
    names = np.unique(speakers)
    if len(names) < MIN_SPEAKERS:
        return None, f"no interval: {len(names)} test speaker(s), at least {MIN_SPEAKERS} are needed"
    matrices = np.stack([confusion(references[speakers == name], predictions[speakers == name]) for name in names])
    weights = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    drawn = scores(np.einsum("rs,sij->rij", weights, matrices))
    bounds = {name: [float(x) for x in np.quantile(drawn[name], [0.025, 0.975])] for name in NAMES}
    return bounds, f"95 % bootstrap over {len(names)} test speakers, {resamples} resamples"


class SpeechEmotion(evaluate.Metric):
    """`accuracy`, `uar`, `macro_f1` and `weighted_f1` as an `evaluate.Metric` that downloads nothing.

    >>> SpeechEmotion().compute(predictions=[0, 1, 1], references=[0, 1, 2])["accuracy"]
    0.6666666666666666
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Figures of speech emotion recognition over the eight emotions of ser_hf.",
            citation="",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        figures = scores(confusion(np.array(references), np.array(predictions)))
        return {name: float(value) for name, value in figures.items()}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=np.asarray(whole) > 0)
