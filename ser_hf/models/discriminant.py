"""Linear discriminant analysis with a shrunken covariance, in closed form.

Friedman, "Regularized discriminant analysis" (JASA 1989). scikit-learn's analysis takes no weights,
and sees all points again for each fold. Moments of folds are added up here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from ser_hf.labels import EMOTIONS

SHRINKAGES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Shares of a multiple of the identity in the covariance that are tried."""

_ABSENT = 5.0
_ABSENT_DEVIATIONS = 6.0
"""Nats, and deviations, by which a label without clips lies below the lowest centre."""

_NOTHING = 1e-9  # share of all weight that is rounding


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over weighted points: all that a discriminant analysis asks of them."""

    weight: np.ndarray
    """Total weight of each label, shape `(labels,)`."""
    sums: np.ndarray
    """Weighted sums of the points of each label, shape `(labels, width)`."""
    squares: np.ndarray
    """Weighted sum of the outer products of all points, shape `(width, width)`."""

    @classmethod
    def of(cls, points: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> "Moments":
        """Sum up points.

        Args:
            points: shape `(clips, width)`.
            labels: numbers of emotions, shape `(clips,)`.
            weights: of the clips, shape `(clips,)`; alike where None.
        """
        weights = np.ones(len(labels)) if weights is None else weights
        members = (labels == np.arange(len(EMOTIONS))[:, None]) * weights
        rooted = points * np.sqrt(weights)[:, None]
        return cls(members.sum(axis=1), members @ points, rooted.T @ rooted)

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of the points of both."""
        return Moments(self.weight + other.weight, self.sums + other.sums, self.squares + other.squares)

    def __sub__(self, other: "Moments") -> "Moments":
        """The moments without those of some of the points."""
        return Moments(self.weight - other.weight, self.sums - other.sums, self.squares - other.squares)

    def labels(self) -> np.ndarray:
        """The numbers of the labels that have points."""
        return np.flatnonzero(self.weight > _NOTHING * self.weight.sum())

    def mean_and_deviation(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of all points, each of shape `(width,)`."""
        mean = self.sums.sum(axis=0) / self.weight.sum()
        return mean, np.sqrt(np.maximum(np.diag(self.squares) / self.weight.sum() - mean**2, 0))

    def scaled(self, mean: np.ndarray, scale: np.ndarray) -> "Moments":
        """The moments of `(points - mean) * scale`."""
        total = self.sums.sum(axis=0)
        squares = self.squares - np.outer(total, mean) - np.outer(mean, total - self.weight.sum() * mean)
        return Moments(self.weight, (self.sums - self.weight[:, None] * mean) * scale, squares * scale * scale[:, None])


def discriminants(
    moments: Moments, shrinkages: Sequence[float] = SHRINKAGES
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fit a classifier for each shrinkage: logits are `points @ coefficients.T + intercept`.

    The prior of each label is the same, because UAR counts labels alike. The logits of a label
    without points lie far below those of the others.

    Args:
        moments: of the points to fit.
        shrinkages: share of the identity, times the mean variance, in the covariance within labels.

    Yields:
        Coefficients `(labels, width)` and intercept `(labels,)`.
    """
    present = moments.labels()
    centres = moments.sums[present] / moments.weight[present, None]
    between = (centres * moments.weight[present, None]).T @ centres
    covariance = (moments.squares - between) / moments.weight.sum()
    identity = np.eye(len(covariance))
    spherical = np.trace(covariance) / len(covariance)
    # points that are alike within their labels leave rounding of either sign
    if spherical <= _NOTHING * np.trace(moments.squares) / moments.weight.sum() / len(covariance):
        covariance, spherical = np.zeros_like(covariance), 1.0
    for shrinkage in shrinkages:
        shrunk = (1 - shrinkage) * covariance + shrinkage * spherical * identity
        found = cho_solve(cho_factor(shrunk, overwrite_a=True), centres.T).T
        offset = -(found * centres).sum(axis=1) / 2
        deviations = np.sqrt(np.maximum(np.einsum("kd,kd->k", found @ covariance, found), 0))
        lowest = (centres @ found.T + offset).min() - _ABSENT_DEVIATIONS * deviations.max() - _ABSENT
        coefficients = np.zeros((len(EMOTIONS), centres.shape[1]))
        intercept = np.full(len(EMOTIONS), lowest)
        coefficients[present], intercept[present] = found, offset
        yield coefficients, intercept
