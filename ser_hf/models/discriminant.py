"""Linear discriminant analysis with a shrunken covariance, in closed form.

Friedman, "Regularized discriminant analysis" (JASA 1989). scikit-learn's analysis takes no weights.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ser_hf.labels import EMOTIONS

SHRINKAGES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Shares of a multiple of the identity in the covariance that are tried."""

ABSENT = 5.0
"""Nats by which a label without clips lies below all logits of the clips."""


def discriminants(
    points: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    shrinkages: Sequence[float] = SHRINKAGES,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fit a classifier for each shrinkage: logits are `points @ coefficients.T + intercept`.

    The prior of each label is the same, because UAR counts labels alike.

    Args:
        points: shape `(clips, width)`.
        labels: numbers of emotions, shape `(clips,)`.
        weights: of the clips, shape `(clips,)`; alike where None.
        shrinkages: share of the identity, times the mean variance, in the covariance within labels.

    Yields:
        Coefficients `(labels, width)` and intercept `(labels,)`.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    present = np.unique(labels)
    members = (labels == present[:, None]) * weights
    centres = members @ points / members.sum(axis=1, keepdims=True)
    residuals = points - centres[np.searchsorted(present, labels)]
    covariance = (residuals * weights[:, None]).T @ residuals / weights.sum()
    # One decomposition serves all shrinkages.
    variances, axes = np.linalg.eigh(covariance)
    spherical = variances.mean() or 1.0  # clips that are alike within their labels leave no covariance
    rotated = centres @ axes
    for shrinkage in shrinkages:
        found = (rotated / ((1 - shrinkage) * np.maximum(variances, 0) + shrinkage * spherical)) @ axes.T
        offset = -(found * centres).sum(axis=1) / 2
        coefficients = np.zeros((len(EMOTIONS), points.shape[1]))
        intercept = np.full(len(EMOTIONS), (points @ found.T + offset).min() - ABSENT)
        coefficients[present], intercept[present] = found, offset
        yield coefficients, intercept
