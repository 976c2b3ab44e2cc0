"""95 % intervals of figures by a bootstrap over speakers that holds for few speakers.

Clips of one voice are not independent, so speakers are drawn, not clips (Field and Welsh 2007). The
percentiles of such a bootstrap are too narrow for few speakers. With 3 to 8 speakers they hold the
true value 73 to 89 times in 100. So the bootstrap gives only the standard error, times sqrt(G / (G
- 1)) for G speakers. The bounds are quantiles of t, on the logit scale for figures (Hesterberg
2015). `benchmarks/coverage.py` counts how often the bounds hold the true value.
"""

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t

from ser_hf.evaluation.metrics import METRICS, confusion, scores

MIN_SPEAKERS = 3
MIN_WORTH = 0.6
"""Least effective speakers per speaker: below it the coverage of 95 % becomes 87 to 99 %."""


def speaker_intervals(
    references: np.ndarray, predictions: np.ndarray, speakers: np.ndarray, resamples: int = 2000, seed: int = 0
) -> tuple[dict[str, list[float]] | None, str]:
    """95 % intervals of each figure for new speakers with as many clips of each label as these.

    Bounds lie in [0, 1] and enclose the figure. Where all predictions are right, or all speakers
    alike, the spread is taken as that of one clip. So a figure of 1.0 has a lower bound below 1.0.

    Args:
        references: class indices, shape `(n,)`.
        predictions: likewise.
        speakers: the name of the speaker of each clip, shape `(n,)`.
        resamples: how often speakers are drawn.
        seed: of the draws.

    Returns:
        `[low, high]` of each of `ser_hf.evaluation.metrics.METRICS`, and a sentence on the method.
        None and the reason where there are fewer than three speakers, or where a few speakers have
        so many of the clips that no interval would hold.

    >>> references = np.array([0, 0, 1, 1] * 6)
    >>> predicted = np.array([0, 0, 1, 0] * 3 + [0, 0, 1, 1] * 3)
    >>> speakers = np.repeat(["a", "b", "c", "d"], 6)
    >>> bounds, description = speaker_intervals(references, predicted, speakers)
    >>> description
    '95 % bootstrap over 4 test speakers (2,000 resamples, t on the logit scale)'
    >>> [round(bound, 2) for bound in bounds["accuracy"]]
    [0.42, 0.99]
    """
    _, matrices = speaker_confusions(references, predictions, speakers)
    if reason := missing_interval_reason(matrices):
        return None, reason
    description = f"95 % bootstrap over {len(matrices)} test speakers ({resamples:,} resamples, t on the logit scale)"
    return interval_bounds(matrices, resamples, seed), description


def speaker_confusions(
    references: np.ndarray, predictions: np.ndarray, speakers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The sorted names of the speakers, and their confusion matrices.

    Returns:
        Names of shape `(speakers,)` and matrices of shape `(speakers, classes, classes)`.
    """
    names = np.unique(speakers)
    masks = [np.asarray(speakers) == name for name in names]
    return names, np.stack([confusion(np.asarray(references)[m], np.asarray(predictions)[m]) for m in masks])


def missing_interval_reason(matrices: np.ndarray) -> str | None:
    """Why no interval can be given for these speakers; None where one can.

    A speaker with most of the clips decides the figure, and the spread between such speakers cannot
    be estimated from one. The reason depends on the clips of each label and speaker, not on the
    predictions.

    Args:
        matrices: of the speakers, shape `(speakers, classes, classes)`.
    """
    number = len(matrices)
    if number < MIN_SPEAKERS:
        return f"no interval: {number} test speaker(s), at least {MIN_SPEAKERS} are needed"
    worth = min(effective_speakers(matrices).values())
    if worth < MIN_WORTH * number:
        clips = matrices.sum((1, 2))
        share = f"{100 * clips.max() / clips.sum():.0f} %"
        return (
            f"no interval: one of {number} test speakers has {share} of the clips, so that they are worth {worth:.1f} "
            f"speakers; at least {MIN_WORTH * number:.1f} are needed"
        )
    return None


def interval_bounds(matrices: np.ndarray, resamples: int = 2000, seed: int = 0) -> dict[str, list[float]]:
    """`[low, high]` of each figure, computed on the logit scale.

    It gives them even where `missing_interval_reason` has a reason against it.

    Args:
        matrices: of the speakers, shape `(speakers, classes, classes)`.
        resamples: how often speakers are drawn.
        seed: of the draws.
    """
    figures, resampled = scores(matrices.sum(0)), resampled_figures(matrices, resamples, seed)
    halves, clip = half_widths(matrices, resampled), 1 / matrices.sum()
    intervals = {}
    for name in METRICS:
        figure = float(figures[name])
        middle = min(max(figure, clip), 1 - clip)  # the logit of 1 is infinite: one clip is taken as half a chance
        half = halves[name] / (middle * (1 - middle))  # delta method
        low, high = expit(logit(middle) - half), expit(logit(middle) + half)
        intervals[name] = [min(float(low), figure), max(float(high), figure)]
    return intervals


def resampled_figures(matrices: np.ndarray, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Each figure, shape `(resamples,)`, of equally many speakers drawn with replacement."""
    number = len(matrices)
    weights = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=resamples)
    return scores(np.tensordot(weights.astype(np.float64), matrices.astype(np.float64), axes=1))


def half_widths(matrices: np.ndarray, resampled: dict[str, np.ndarray]) -> dict[str, float]:
    """Half the width of the 95 % interval of each figure or difference, on its own scale.

    The degrees of freedom are the mean of the number of speakers and of `effective_speakers`, less
    one. Unequal sizes count in full only where speakers differ by more than chance. The standard
    error is at least that of one clip in all.

    Args:
        matrices: of the speakers, shape `(speakers, classes, classes)`, which give the number of
            clips of each.
        resampled: what `resampled_figures` returned, or the difference of two such.
    """
    number, worth, clip = len(matrices), effective_speakers(matrices), 1 / matrices.sum()
    halves = {}
    for name, values in resampled.items():
        error = max(float(values.std(ddof=1)) * np.sqrt(number / (number - 1)), clip)
        halves[name] = float(t.ppf(0.975, (number + worth[name]) / 2 - 1) * error)
    return halves


def effective_speakers(matrices: np.ndarray) -> dict[str, float]:
    """The number of equally large speakers that these are worth to each figure.

    It is 1 over the sum of squares of the speakers' shares (Kish 1965; Carter, Schnepel and
    Steigerwald 2017). For accuracy and weighted F1 these are shares of the clips. For UAR and macro
    F1 they are shares of each class, averaged over the classes that occur.

    Args:
        matrices: of the speakers, shape `(speakers, classes, classes)`.
    """
    support = matrices.sum(2)
    support = support[:, support.sum(0) > 0]
    of_clips = support.sum(1) / support.sum()
    of_classes = (support / support.sum(0)).mean(1)
    clips, classes = (float(1 / np.square(share).sum()) for share in (of_clips, of_classes))
    return {name: clips if metric.averages == "clips" else classes for name, metric in METRICS.items()}
