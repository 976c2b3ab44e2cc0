"""Training of the head that predicts a voice from embeddings standardised by its own clips.

It is a linear discriminant analysis with a shrunken covariance (Friedman 1989). Its shrinkage is
chosen on the validation side, or by cross-validation over the training speakers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
from scipy.special import log_softmax
from sklearn.model_selection import GroupKFold

from ser_hf import protocols
from ser_hf.data.dataset import decoded_clips
from ser_hf.evaluation import calibration
from ser_hf.inference.adaptation_head import AdaptationHead
from ser_hf.inference.predictor import Predictor
from ser_hf.models.discriminant import SHRINKAGES, Moments, discriminants

DEFAULT_SHRINKAGE = 0.3
"""Where there are neither validation speakers nor enough training speakers to try any."""

FOLDS = 4
"""Of training speakers; fewer speakers are not cross-validated."""

MOST_CLIPS = 3_000
"""Training clips whose embeddings are computed, spread over the speakers."""

_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, eq=False)
class Embedded:
    """Clips as a model gives them."""

    logits: np.ndarray
    """Shape `(clips, labels)`."""
    embeddings: np.ndarray
    """Shape `(clips, width)`."""
    labels: np.ndarray
    """Class indices."""
    speakers: np.ndarray
    weights: np.ndarray | None = None
    """Of the clips in training, shape `(clips,)`; alike where None."""


def embed_sides(
    predictor: Predictor, rows: datasets.Dataset, split: protocols.Split
) -> tuple[Embedded, Embedded | None]:
    """Embed clips of the training side of a split, and all of its validation side if it has one.

    Args:
        predictor: the model.
        rows: the dataset that the split indexes.
        split: of which at most `MOST_CLIPS` training clips are taken.
    """
    train = _embed(predictor, rows, spread_over_speakers(rows, split.train))
    return train, _embed(predictor, rows, split.validation) if split.validation else None


def spread_over_speakers(rows: datasets.Dataset, indices: Sequence[int], most: int = MOST_CLIPS) -> list[int]:
    """Draw at most `most` clips: all of the speakers with few, and as many of each other one."""
    speakers = np.asarray(rows["speaker"])[list(indices)]
    shuffled = np.random.default_rng(0).permutation(len(indices))
    taken: dict[str, int] = {}
    turns = np.empty(len(indices), dtype=int)
    for position in shuffled:
        turns[position] = taken[speakers[position]] = taken.get(speakers[position], -1) + 1
    chosen = np.lexsort((shuffled, turns))[:most]
    return [indices[position] for position in sorted(chosen)]


def fit_head(train: Embedded, validation: Embedded | None, digest: str) -> AdaptationHead:
    """Train a head, choose its shrinkage, and calibrate it.

    Args:
        train: clips of the training speakers.
        validation: clips of other speakers, or None. With them the head's temperature is the one
            that fits best, divided by that of the model's own logits, which is 1 after calibration.
            Without them the head's logits get the deviation of the model's own.
        digest: of the model.
    """
    points = standardised(train.embeddings, train.speakers)
    if validation is not None:
        unseen = standardised(validation.embeddings, validation.speakers)
        tried = {value: _logits(*_fit(points, train.labels, value, train.weights), unseen) for value in SHRINKAGES}
        shrinkage = max(tried, key=lambda value: -_best_loss(tried[value], validation.labels))
        temperature = _temperature(tried[shrinkage], validation.labels)
        temperature /= _temperature(np.float64(validation.logits), validation.labels)
    elif len(set(train.speakers)) >= FOLDS:
        tried = {value: _cross_fitted(points, train, value) for value in SHRINKAGES}
        shrinkage = max(tried, key=lambda value: -_best_loss(tried[value], train.labels))
        temperature = _deviation(tried[shrinkage]) / _deviation(train.logits)
    else:
        shrinkage = DEFAULT_SHRINKAGE
        temperature = _deviation(_logits(*_fit(points, train.labels, shrinkage, train.weights), points)) / _deviation(
            train.logits
        )
    weight, bias = _fit(points, train.labels, shrinkage, train.weights)
    means, variances = _speaker_statistics(train.embeddings, train.speakers)
    return AdaptationHead(
        weight=np.float32(weight / temperature),
        bias=np.float32(bias / temperature),
        mean=np.float32(means.mean(axis=0)),
        spread=np.float32(np.sqrt(variances.mean(axis=0) + _LEAST_SPREAD**2)),
        model=digest,
        shrinkage=shrinkage,
        temperature=float(temperature),
    )


def standardised(embeddings: np.ndarray, speakers: np.ndarray) -> np.ndarray:
    """Embeddings `(clips, width)`, each dimension with mean 0 and deviation 1 for each speaker."""
    result = np.array(embeddings, dtype=np.float64)
    for speaker in np.unique(speakers):
        own = speakers == speaker
        result[own] = (result[own] - result[own].mean(axis=0)) / (result[own].std(axis=0) + _LEAST_SPREAD)
    return result


def _embed(predictor: Predictor, rows: datasets.Dataset, indices: Sequence[int]) -> Embedded:
    chosen = rows.select(indices)
    logits, embeddings = predictor.outputs(decoded_clips(chosen, "Embedding clips"))
    return Embedded(logits, embeddings, np.asarray(chosen["label"]), np.asarray(chosen["speaker"]))


def _fit(
    points: np.ndarray, labels: np.ndarray, shrinkage: float, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weight `(labels, width)` and bias `(labels,)` of a discriminant analysis."""
    return next(discriminants(Moments.of(points, labels, weights), (shrinkage,)))


def _logits(weight: np.ndarray, bias: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ weight.T + bias


def _cross_fitted(points: np.ndarray, train: Embedded, shrinkage: float) -> np.ndarray:
    """Logits `(clips, labels)`; those of a clip come from a head without its speaker."""
    logits = np.empty_like(train.logits, dtype=np.float64)
    for rest, part in GroupKFold(FOLDS).split(points, groups=train.speakers):
        weights = None if train.weights is None else train.weights[rest]
        logits[part] = _logits(*_fit(points[rest], train.labels[rest], shrinkage, weights), points[part])
    return logits


def _temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    bounds = tuple(np.log(calibration.BOUNDS))
    return calibration.likeliest_temperature(logits, labels, bounds, 1e-8)


def _best_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """The negative log likelihood at the temperature that fits best."""
    scaled = log_softmax(logits / _temperature(logits, labels), axis=1)
    return float(-scaled[np.arange(len(labels)), labels].mean())


def _deviation(logits: np.ndarray) -> float:
    """Root mean square of the logits around the mean of their clip."""
    return max(float(np.std(logits - logits.mean(axis=1, keepdims=True))), _LEAST_SPREAD)


def _speaker_statistics(embeddings: np.ndarray, speakers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances `(speakers, width)`."""
    own = [np.asarray(embeddings, dtype=np.float64)[speakers == speaker] for speaker in np.unique(speakers)]
    return np.array([part.mean(axis=0) for part in own]), np.array([part.var(axis=0) for part in own])
