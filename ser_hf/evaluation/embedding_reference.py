"""Fitting of the reference that tells how many clips of an archive lie outside the training."""

from pathlib import Path

import datasets
import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.model_selection import GroupKFold

from ser_hf import protocols
from ser_hf.evaluation import adaptation_head
from ser_hf.evaluation.adaptation_head import Embedded
from ser_hf.inference.adaptation_head import FILE as HEAD_FILE
from ser_hf.inference.embedding_reference import FILE, EmbeddingReference, mahalanobis
from ser_hf.inference.predictor import Predictor
from ser_hf.models import loading

QUANTILE = 0.99
FOLDS = 8
"""Of training speakers, for the distances of clips that the Gaussian was not fitted to."""

_MOST_DIRECTIONS = 64
_MOST_VALUES = 40_960  # of directions in float16, 80 KB: the file stays below 100 KB
_LEAST_VARIANCE = 1e-12


def write_head_and_reference(
    predictor: Predictor, rows: datasets.Dataset, split: protocols.Split, folder: Path
) -> None:
    """Write what is fitted to a model's embeddings into its folder: adaptation head and reference.

    Args:
        predictor: the model, as it lies in the folder.
        rows: the dataset that the split indexes.
        split: its training side is fitted to; its validation side, where it has one, chooses the
            settings of the head, and gives the reference its held-out clips.
        folder: gets `adaptation_head.safetensors` and `embedding_reference.safetensors`.
    """
    train, validation = adaptation_head.embed_sides(predictor, rows, split)
    digest = loading.digest(predictor.model)
    adaptation_head.fit_head(train, validation, digest).save(folder / HEAD_FILE)
    write_reference(train, validation, digest, folder)


def write_reference(train: Embedded, validation: Embedded | None, digest: str, folder: Path) -> None:
    """Fit a reference and write it into a model's folder; nothing of fewer than two speakers.

    Args:
        train: clips of the training speakers.
        validation: clips of other speakers, or None.
        digest: of the model.
        folder: gets `embedding_reference.safetensors`.
    """
    reference = fit_reference(train, validation, digest)
    if reference is not None:
        reference.save(folder / FILE)


def fit_reference(train: Embedded, validation: Embedded | None, digest: str) -> EmbeddingReference | None:
    """Fit a Gaussian to the training clips, and its threshold to clips of speakers left out of it.

    The threshold is the 99 % quantile of cross-fitted distances: of a clip, under a Gaussian of the
    other speakers. The share of held-out clips outside is that of the validation clips; without
    any, it is that of the cross-fitted ones, which is 1 % over all of them.

    Args:
        train: clips of the training speakers.
        validation: clips of other speakers, or None.
        digest: of the model.

    Returns:
        None for fewer than two speakers, of whom none can be left out.
    """
    points, speakers = np.asarray(train.embeddings, dtype=np.float64), train.speakers
    folds = min(FOLDS, len(set(speakers)))
    if folds < 2:
        return None
    distances = np.empty(len(points))
    for rest, part in GroupKFold(folds).split(points, groups=speakers):
        distances[part] = mahalanobis(points[part], *_gaussian(points[rest])[:4])
    threshold = float(np.quantile(distances, QUANTILE))
    mean, directions, variances, residual, shrinkage = _gaussian(points)
    held_out = "cross-fitted"
    if validation is not None:
        held_out, speakers = "validation", validation.speakers
        distances = mahalanobis(validation.embeddings, mean, directions, variances, residual)
    outside = distances > threshold
    return EmbeddingReference(
        mean=np.float32(mean),
        directions=np.ascontiguousarray(directions, dtype=np.float16),
        variances=np.float32(variances),
        residual=residual,
        threshold=threshold,
        quantile=QUANTILE,
        shrinkage=shrinkage,
        held_out=held_out,
        share=float(outside.mean()),
        highest_share=max(float(outside[speakers == speaker].mean()) for speaker in np.unique(speakers)),
        clips=len(outside),
        speakers=len(set(speakers)),
        model=digest,
    )


def _gaussian(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Mean, principal directions, variances along them and along all others, and the shrinkage."""
    mean = points.mean(axis=0)
    covariance, shrinkage = ledoit_wolf(points - mean, assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values[::-1], _LEAST_VARIANCE)
    width = len(mean)
    count = min(_MOST_DIRECTIONS, _MOST_VALUES // width, width - 1)
    directions = vectors[:, ::-1][:, :count].T
    # as they are stored: what rounding leaves of a direction must not count as the rest
    directions = np.float64(np.float16(directions))
    return mean, directions, values[:count], float(values[count:].mean()), float(shrinkage)
