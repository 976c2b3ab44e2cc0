import numpy as np
import pytest
from scipy.special import softmax

from ser_hf.evaluation import metrics
from ser_hf.evaluation.metrics import ConfidenceError


def draw(degrees, n=2000, seed=0):
    """Logits and references such that `softmax(logits / degrees)` is calibrated."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((n, 8))
    chances = softmax(logits / degrees, axis=1).cumsum(axis=1)
    return logits, (rng.random((n, 1)) > chances).sum(axis=1).clip(0, 7)


def confident(*scores):
    """Probabilities of two classes whose answer is class 0 with these scores."""
    return np.array([[score, 1 - score] for score in scores])


def test_a_threshold_reaches_its_coverage_with_the_fewest_clips():
    logits, references = draw(1.0)
    probabilities = softmax(logits, axis=1)
    scores = probabilities.max(axis=1)
    for share in (0.1, 0.5, 0.7, 0.99, 1.0):
        found = metrics.abstention_threshold(probabilities, references, coverage=share)
        answered = scores >= found["abstain_below"]
        assert answered.mean() == found["coverage"] == pytest.approx(share, abs=1e-12)
        assert found["error"] == pytest.approx((probabilities.argmax(1) != references)[answered].mean())
    assert found["abstain_below"] == 0


def test_a_threshold_keeps_to_its_error_with_the_most_clips():
    logits, references = draw(1.0)
    probabilities = softmax(logits, axis=1)
    scores, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != references
    found = metrics.abstention_threshold(probabilities, references, error=0.2)
    answered = scores >= found["abstain_below"]
    assert wrong[answered].mean() == pytest.approx(found["error"])
    assert found["error"] <= 0.2
    assert 0.3 < found["coverage"] == answered.mean() < 1
    for limit in scores[~answered]:
        assert wrong[scores >= limit].mean() > 0.2
    assert metrics.abstention_threshold(probabilities, references, error=0.99)["abstain_below"] == 0


def test_clips_of_one_confidence_are_answered_together():
    probabilities = confident(0.9, 0.8, 0.8, 0.8, 0.6)
    references = np.array([0, 0, 1, 0, 1])
    found = metrics.abstention_threshold(probabilities, references, coverage=0.4)
    assert found == {"abstain_below": pytest.approx(0.7), "coverage": 0.8, "error": 0.25}
    assert metrics.abstention_threshold(probabilities, references, error=0.25) == found
    assert metrics.abstention_threshold(probabilities, references, error=0.2)["abstain_below"] == pytest.approx(0.85)


def test_an_error_that_cannot_be_reached_is_refused():
    probabilities, references = confident(0.9, 0.8, 0.7, 0.6), np.array([1, 0, 0, 1])
    with pytest.raises(ConfidenceError, match=r"error 0\.1 cannot be reached: the least is 0\.333, .* of 0\.750"):
        metrics.abstention_threshold(probabilities, references, error=0.1)


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({}, "neither given"),
        ({"coverage": 0.5, "error": 0.1}, "coverage 0.5 and error 0.1 given"),
        ({"coverage": 0.0}, "coverage 0.0 is out of range"),
        ({"coverage": 1.01}, "coverage 1.01 is out of range"),
        ({"error": 0.0}, "error 0.0 is out of range"),
        ({"error": 1.0}, "error 1.0 is out of range"),
        ({"error": float("nan")}, "error nan is out of range"),
    ],
)
def test_a_wish_without_sense_is_refused(wish, says):
    with pytest.raises(ConfidenceError, match=says):
        metrics.abstention_threshold(confident(0.9, 0.8), np.array([0, 1]), **wish)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("bins", [10, 15])
def test_reliability_is_what_the_calibration_error_sums(bins, kind):
    logits, references = draw(2.0)
    probabilities = softmax(logits, axis=1).astype(kind)
    found = metrics.reliability(references, probabilities, bins)
    gaps = [one["n"] * abs(one["accuracy"] - one["confidence"]) for one in found]
    expected = metrics.calibration_error(references, probabilities, bins)
    assert sum(gaps) / len(references) == pytest.approx(expected, abs=1e-7)
    assert sum(one["n"] for one in found) == len(references)
    assert all(one["low"] <= one["confidence"] <= one["high"] for one in found)
    assert all(one["n"] > 0 for one in found)


def test_reliability_by_hand():
    found = metrics.reliability(np.array([0, 1, 0]), confident(0.95, 0.85, 0.55), bins=5)
    assert found == [
        {"confidence": pytest.approx(0.55), "accuracy": 1.0, "n": 1, "low": 0.4, "high": 0.6},
        {"confidence": pytest.approx(0.9), "accuracy": 0.5, "n": 2, "low": 0.8, "high": 1.0},
    ]


def test_risk_and_coverage_by_hand():
    references = np.array([0, 1, 0, 0, 1])  # right, wrong, right, right, wrong
    found = metrics.risk_coverage(references, confident(0.7, 0.8, 0.99, 0.6, 0.55))
    assert found["coverage"] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert found["error"] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4, 2 / 5])
    assert found["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    tied = metrics.risk_coverage(references, confident(0.8, 0.8, 0.99, 0.6, 0.55))
    assert tied["error"] == pytest.approx([0, 1 / 4, 1 / 3, 1 / 4, 2 / 5])


def test_risk_and_coverage_of_many_clips():
    logits, references = draw(1.0)
    probabilities = softmax(logits, axis=1)
    found = metrics.risk_coverage(references, probabilities)
    assert len(found["coverage"]) == len(found["error"]) == 50
    assert found["coverage"][24] == 0.5
    assert found["error"][24] == metrics.abstention_threshold(probabilities, references, coverage=0.5)["error"]
    assert found["error"][-1] == pytest.approx((probabilities.argmax(axis=1) != references).mean())
    assert found["aurc"] < found["error"][-1]
    blind = metrics.risk_coverage(references, np.full((2000, 8), 1 / 8))
    assert blind["aurc"] == pytest.approx(blind["error"][-1])


def test_a_threshold_needs_clips():
    with pytest.raises(ConfidenceError, match="0 clips to find a threshold on: give validation clips"):
        metrics.abstention_threshold(np.zeros((0, 2)), np.zeros(0, dtype=int), coverage=0.5)
    found = metrics.abstention_threshold(confident(0.9), np.array([0]), coverage=0.5)
    assert found == {"abstain_below": 0.0, "coverage": 1.0, "error": 0.0}


@pytest.mark.parametrize("error", [0.25, 1 / 3, 0.5])
def test_an_error_that_is_just_reached_is_kept_to(error):
    wrong = {0.25: (0, 0, 1, 0), 1 / 3: (0, 1, 0), 0.5: (0, 1)}[error]
    scores = np.full(len(wrong), 0.8)  # answered together, so that there is one error alone
    found = metrics.abstention_threshold(confident(*scores), np.array(wrong), error=error)
    assert (found["error"], found["coverage"]) == (error, 1.0)
