"""A linear classifier of pooled features: a discriminant analysis, and how its shrinkage is chosen.

The covariance is shrunken. On frozen features of Whisper it does better on unseen voices than a
logistic regression, and it takes no iterations (studies/bundled_model.md).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from sklearn.model_selection import GroupKFold

from ser_hf.evaluation import calibration
from ser_hf.labels import EMOTIONS
from ser_hf.models.discriminant import SHRINKAGES, Moments, discriminants
from ser_hf.training.recovery import TrainingError

_FOLDS = 5
_CHUNK = 16_384  # rows of features in memory at a time
_CONSTANT = 1e-4
"""A feature whose deviation is a smaller share of its mean is rounding, and is left out."""
_TEMPERATURES = (0.3, 100.0)
"""Bounds of the temperature: where all clips are answered rightly, no temperature is the best."""


class Features(Protocol):
    """Rows of features: an array, or what reads them from disk when they are asked for."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Features `(len(rows), width)` of rows, by their numbers."""


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier on standardised features."""

    shrinkage: float
    """Of the covariance (`ser_hf.models.discriminant`)."""
    mean: np.ndarray
    """Of the training clips, shape `(width,)`."""
    scale: np.ndarray
    """One over their standard deviation, shape `(width,)`; 0 for a feature that is constant."""
    coefficients: np.ndarray
    """Shape `(labels, width)`."""
    intercept: np.ndarray
    """Shape `(labels,)`."""

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits `(clips, labels)` of features `(clips, width)`."""
        return (features - self.mean) * self.scale @ self.coefficients.T + self.intercept

    def tempered(self, temperature: float) -> "LinearHead":
        """The same classifier with its logits divided by a temperature."""
        return replace(self, coefficients=self.coefficients / temperature, intercept=self.intercept / temperature)


ChosenOn = Literal["validation", "held-out training speakers", "held-out training clips"]
"""Of what the UAR is that chose a classifier."""


@dataclass(frozen=True)
class HeadStart:
    """What the head of a model begins with."""

    shrinkage: float
    """Of the covariance of the discriminant analysis."""
    uar: float
    """UAR of the classifier on the clips that chose it."""
    chosen_on: ChosenOn

    def __str__(self) -> str:
        """The line that is printed before training."""
        side = "validation UAR" if self.chosen_on == "validation" else f"UAR on {self.chosen_on}"
        return f"head start: discriminant analysis, shrinkage {self.shrinkage:g}, {side} {self.uar:.3f} before training"


@dataclass(frozen=True, eq=False)
class Choice:
    """The classifier that was chosen, and what its like say of voices that they did not see."""

    start: HeadStart
    head: LinearHead
    """Of all training clips; its logits have the temperature that fits those that chose it."""
    held_out: np.ndarray
    """Logits of the training clips by classifiers that did not see their speaker, of the same
    temperature; shape `(clips, labels)`."""


def choose(
    train: tuple[Features, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    weights: np.ndarray | None,
    speakers: np.ndarray,
) -> Choice:
    """Fit all candidates, and choose the one of the best UAR.

    Where there is no validation side, it is chosen by cross-validation over the training speakers,
    or over clips where there is one speaker; clips count by their weights there.

    Args:
        train: features `(rows, width)`, of which some thousand are in memory at a time, and labels
            `(rows,)`. The first rows are the clips, and those that follow augmented copies of them,
            once or several times in the same order.
        validation: the same; without clips where there is no such side.
        weights: of the rows, `(rows,)`; alike where None.
        speakers: of the clips, `(clips,)`.

    Raises:
        TrainingError: where all training clips have one label.
    """
    several, clips = len(np.unique(speakers)) > 1, len(speakers)
    _refuse_one_label(train[1])
    folds = _Folds(*train, weights, speakers if several else np.arange(clips))
    heads = list(_fit(folds.whole))
    if len(validation[1]):
        chosen_on: ChosenOn = "validation"
        labels, counts = validation[1], None
        logits = np.stack([head.logits(validation[0]) for head in heads])
    else:
        chosen_on = "held-out training speakers" if several else "held-out training clips"
        labels = train[1][:clips]
        counts, logits = None if weights is None else weights[:clips], folds.held_out(SHRINKAGES)
    scores = [_uar(each, labels, counts) for each in logits]
    best = int(np.argmax(scores))  # the first of equal ones
    lowest, highest = map(math.log, _TEMPERATURES)
    temperature = calibration.likeliest_temperature(logits[best], labels, (lowest, highest), 1e-4, counts)
    start = HeadStart(heads[best].shrinkage, scores[best], chosen_on)
    held_out = folds.held_out([heads[best].shrinkage])[0] if len(validation[1]) else logits[best]
    return Choice(start, heads[best].tempered(temperature), held_out / temperature)


class _Folds:
    """Moments of parts of the clips, each of the clips of some groups with all of their copies.

    The points are summed up once: what is left without a part is a difference of sums.
    """

    def __init__(self, features: Features, labels: np.ndarray, weights: np.ndarray | None, groups: np.ndarray) -> None:
        self._features, self._clips, self._parts = features, len(groups), []
        copies = len(labels) // len(groups)
        folds = GroupKFold(min(_FOLDS, len(np.unique(groups))))
        for _, held_out in folds.split(np.empty((len(groups), 0)), groups=groups):
            rows = np.concatenate([held_out + copy * len(groups) for copy in range(copies)])
            moments = (
                Moments.of(features[chunk], labels[chunk], None if weights is None else weights[chunk])
                for chunk in _chunks(rows)
            )
            self._parts.append((held_out, sum(moments, start=next(moments))))
        self.whole = sum((moments for _, moments in self._parts[1:]), start=self._parts[0][1])

    def held_out(self, shrinkages: Sequence[float]) -> np.ndarray:
        """Logits `(shrinkages, clips, labels)` by classifiers of the other parts.

        Where the other parts have one label alone, nothing is known, and the logits are 0.
        """
        logits = np.zeros((len(shrinkages), self._clips, len(EMOTIONS)))
        for held_out, moments in self._parts:
            others = self.whole - moments
            heads = list(_fit(others, shrinkages)) if len(others.labels()) > 1 else []
            for chunk in _chunks(held_out) if heads else ():
                features = self._features[chunk]
                for number, head in enumerate(heads):
                    logits[number, chunk] = head.logits(features)
        return logits


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))


def fit(features: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Iterator[LinearHead]:
    """Fit a discriminant analysis of each of `discriminant.SHRINKAGES` on standardised features.

    Args:
        features: shape `(clips, width)`.
        labels: numbers of emotions, shape `(clips,)`.
        weights: of the clips, shape `(clips,)`; alike where None.

    Raises:
        TrainingError: where all clips have one label.
    """
    _refuse_one_label(labels)
    return _fit(Moments.of(features, labels, weights))


def _refuse_one_label(labels: np.ndarray) -> None:
    if len(set(labels.tolist())) == 1:
        raise TrainingError(
            f"all clips to train on are '{EMOTIONS[labels[0]]}': a head start needs two labels, --head_start false"
        )


def _fit(moments: Moments, shrinkages: Sequence[float] = SHRINKAGES) -> Iterator[LinearHead]:
    mean, deviation = moments.mean_and_deviation()
    varies = deviation > _CONSTANT * np.abs(mean)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
    classifiers = discriminants(moments.scaled(mean, scale), shrinkages)
    for shrinkage, (coefficients, intercept) in zip(shrinkages, classifiers, strict=True):
        yield LinearHead(shrinkage, mean, scale, coefficients, intercept)


def _uar(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean over labels of the share of clips, or of their weight, that is answered rightly."""
    weights = np.ones(len(labels)) if weights is None else weights
    right = np.bincount(labels, weights * (logits.argmax(axis=1) == labels), len(EMOTIONS))
    all_of = np.bincount(labels, weights, len(EMOTIONS))
    return float((right[all_of > 0] / all_of[all_of > 0]).mean())
