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
