import warnings

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

from ser_hf.evaluation import metrics
from ser_hf.labels import EMOTIONS


def draw(seed, n=400, classes=8):
    rng = np.random.default_rng(seed)
    references = rng.integers(0, classes, n)
    predictions = np.where(rng.random(n) < 0.5, references, rng.integers(0, classes, n))
    return references, predictions


@pytest.mark.parametrize("seed", range(5))
def test_figures_agree_with_scikit_learn(seed):
    references, predictions = draw(seed, classes=8 if seed else 7)
    matrix = metrics.confusion(references, predictions)
    np.testing.assert_array_equal(matrix, confusion_matrix(references, predictions, labels=range(8)))
    figures = metrics.scores(matrix)
    present = np.unique(references)
    expected = {
        "accuracy": accuracy_score(references, predictions),
        "uar": recall_score(references, predictions, labels=present, average="macro"),
        "macro_f1": f1_score(references, predictions, average="macro"),
        "weighted_f1": f1_score(references, predictions, average="weighted"),
    }
    for name, value in expected.items():
        assert abs(figures[name] - value) < 1e-12
    rows = precision_recall_fscore_support(references, predictions, labels=range(8), zero_division=0)
    ours = metrics.per_class(references, predictions)
    for index, emotion in enumerate(EMOTIONS):
        np.testing.assert_allclose(list(ours[emotion].values()), [row[index] for row in rows], atol=1e-12)


def test_a_class_that_never_occurs_does_not_count_as_recall():
    figures = metrics.scores(metrics.confusion(np.array([0, 0, 2, 2]), np.array([0, 0, 2, 1])))
    assert figures["uar"] == 0.75
    assert figures["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    references = np.array([0, 0, 1, 1])
    expected = 3 / 4 * abs(2 / 3 - 0.9) + 1 / 4 * abs(1 - 0.6)
    assert metrics.calibration_error(references, probabilities) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_brier_and_auroc_agree_with_scikit_learn(seed):
    references, _ = draw(seed, classes=8 if seed else 7)
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(8), len(references))
    expected = brier_score_loss(references, probabilities, labels=range(8), scale_by_half=False)
    assert abs(metrics.brier(references, probabilities) - expected) < 1e-12
    areas = metrics.auroc(references, probabilities)
    for index, emotion in enumerate(EMOTIONS[: 8 if seed else 7]):
        assert abs(areas[emotion] - roc_auc_score(references == index, probabilities[:, index])) < 1e-12
    assert (areas["surprised"] is None) == (seed == 0)  # nobody was


def test_brier_by_hand():
    assert metrics.brier(np.array([0, 1]), np.array([[0.8, 0.2], [0.8, 0.2]])) == pytest.approx(
        (0.04 + 0.04 + 0.64 + 0.64) / 2
    )


def test_many_matrices_at_once_have_the_figures_of_each():
    matrices = np.random.default_rng(0).integers(0, 3, (2, 5, 8, 8)) * (np.arange(8) != 3)[:, None]
    together = metrics.scores(matrices)
    for place in np.ndindex(2, 5):
        alone = metrics.scores(matrices[place])
        for name, figures in together.items():
            assert figures.shape == (2, 5)
            assert figures[place] == alone[name]
    for name, figures in metrics.scores(matrices.astype(np.float32)).items():
        np.testing.assert_array_equal(figures, together[name])


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.float64, list])
def test_class_indices_of_any_kind_are_counted(kind):
    references, predictions = ([99, 0, 99], [99, 1, 98]) if kind is list else np.array([[99, 0, 99], [99, 1, 98]], kind)
    matrix = metrics.confusion(references, predictions, classes=100)
    assert {(int(row), int(column)) for row, column in np.argwhere(matrix == 1)} == {(99, 99), (0, 1), (99, 98)}
    assert matrix.sum() == 3


@pytest.mark.parametrize(("right", "uar"), [([1, 1, 0], 2 / 3), ([1, 0, 0], 1 / 3), ([1, 1, 1], 1.0)])
def test_a_class_of_one_clip_counts(right, uar):
    references = np.array([0, 1, 2])
    figures = metrics.scores(metrics.confusion(references, np.where(right, references, 7)))
    assert figures["uar"] == figures["accuracy"] == figures["weighted_f1"] == pytest.approx(uar)
    assert figures["macro_f1"] == pytest.approx(sum(right) / (3 + (sum(right) < 3)))


def test_figures_of_a_class_that_never_occurs_are_0_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = metrics.per_class(np.array([0, 0]), np.array([0, 1]))
    assert figures["calm"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert figures["neutral"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}


def test_an_area_needs_one_clip_of_the_emotion_and_one_of_another():
    probabilities = np.array([[0.9, 0.1, 0, 0, 0, 0, 0, 0], [0.4, 0.6, 0, 0, 0, 0, 0, 0], [0.5] * 2 + [0] * 6])
    areas = metrics.auroc(np.array([0, 1, 0]), probabilities)
    assert (areas["neutral"], areas["calm"], areas["happy"]) == (1.0, 1.0, None)
    assert set(metrics.auroc(np.array([0, 0, 0]), probabilities).values()) == {None}
    assert metrics.brier(np.array([0.0, 1.0, 0.0]), probabilities) == metrics.brier(np.array([0, 1, 0]), probabilities)


@pytest.mark.parametrize(
    ("score", "low", "high"),
    [
        (0.15, 2, 3),
        (1 / 8, 1, 2),
        (0.99, 14, 15),
        (1.0, 14, 15),
        (np.nextafter(1, 2), 14, 15),
        (0.0, 0, 1),
        (0.05, 0, 1),
    ],
)
def test_there_are_15_bins_of_confidence_and_each_has_its_upper_edge(score, low, high):
    (found,) = metrics.reliability(np.array([0]), np.array([[score] + [0.0] * 7]))
    assert (found["low"], found["high"]) == (low / 15, high / 15)
    assert metrics.calibration_error(np.array([0]), np.array([[score] + [0.0] * 7])) == pytest.approx(abs(1 - score))


def test_15_bins_tell_confidences_apart_that_16_do_not():
    probabilities = np.array([[0.92, 0.08], [0.935, 0.065]])  # 14/15 lies between, and no edge of 16 bins
    assert metrics.calibration_error(np.array([0, 1]), probabilities) == pytest.approx((0.08 + 0.935) / 2)


def test_confidences_in_float32_are_averaged_in_float64():
    probabilities = np.full((30_001, 2), [0.7, 0.3], dtype=np.float32)
    (found,) = metrics.reliability(np.zeros(30_001, dtype=int), probabilities)
    assert found["confidence"] == pytest.approx(float(np.float32(0.7)), abs=1e-12)
