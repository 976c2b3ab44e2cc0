"""How far confidence can be trusted: its bins, the error among the most confident, and when to abstain."""

import numpy as np

from ser_hf.errors import UserError


class ConfidenceError(UserError):
    """A wish for a threshold that is out of range, or that these clips cannot fulfil."""


def threshold(
    probabilities: np.ndarray, references: np.ndarray, coverage: float | None = None, error: float | None = None
) -> dict[str, float]:
    """The confidence below which to abstain (selective classification: El-Yaniv and Wiener 2010).

    For a coverage, the fewest clips that make it up; for an error, the most clips that keep to it (Geifman and El-Yaniv
    2017, without their bound: it holds for these clips, and for others about as well as these stand for them). Clips of
    the same confidence are answered together or not at all.

    Args:
        probabilities: of validation clips, calibrated, shape `(n, classes)`.
        references: class indices, shape `(n,)`.
        coverage: share of the clips to be answered, in (0, 1]; this or `error`.
        error: share of wrong answers among those given, in (0, 1).

    Returns:
        `abstain_below`, halfway between the last answered and the first refused confidence, 0 where all are answered;
        and the `coverage` and `error` that it has on these clips.

    Raises:
        ConfidenceError: unless one of the two is given, for a value out of range, an error that no threshold keeps to.
    """
    check_wish(coverage, error)
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


def check_wish(coverage: float | None, error: float | None) -> None:
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
    """Confidence and accuracy by bins of the confidence, of equal width (Guo et al. 2017, section 2).

    Args:
        references: class indices, shape `(n,)`.
        probabilities: shape `(n, classes)`.
        bins: as for `metrics.calibration_error`, which is the mean gap of these, weighted by `n`.

    Returns:
        For each bin that holds a clip its mean `confidence`, `accuracy`, `n`, and its edges `low` and `high`.
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

    Clips of the same confidence count as wrong by their mean, as nobody knows which of them comes first.

    Args:
        references: class indices, shape `(n,)`, at least one.
        probabilities: shape `(n, classes)`.
        points: of the curve that is returned, at most; the last is all clips.

    Returns:
        `coverage` and `error`, lists as long as each other, from the most confident on; and `aurc`, the mean error over
        the coverages of 1 to all clips (Geifman et al. 2019), from the whole curve.
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
