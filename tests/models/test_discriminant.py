"""The discriminant analysis: equal to scikit-learn's, with weights and missing labels."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ser_hf.models.discriminant import SHRINKAGES, Moments, discriminants


def clusters(clips, width=12):
    """Points around a centre for each label."""
    rng = np.random.default_rng(3)
    labels = np.arange(clips) % 8
    return rng.normal(size=(8, width))[labels] + rng.normal(size=(clips, width)), labels


class FixedCovariance:
    """An estimator of scikit-learn that knows its covariance."""

    def __init__(self, covariance):
        self.covariance_ = covariance

    def fit(self, points):
        return self


def test_it_is_that_of_scikit_learn():
    points, labels = clusters(161)  # one clip more of the first label: priors are equal all the same
    centres = np.array([points[labels == label].mean(0) for label in range(8)])
    covariance = np.cov((points - centres[labels]).T, bias=True)
    for shrinkage, (coefficients, intercept) in zip(SHRINKAGES, discriminants(Moments.of(points, labels)), strict=True):
        shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / 12 * np.eye(12)
        reference = LinearDiscriminantAnalysis(
            "lsqr", priors=[1 / 8] * 8, covariance_estimator=FixedCovariance(shrunk)
        ).fit(points, labels)
        expected, found = reference.decision_function(points), points @ coefficients.T + intercept
        np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-8)


def test_weights_are_those_of_repeated_clips():
    points, labels = clusters(80)
    weights = 1.0 + (labels == 3)
    repeated = np.repeat(np.arange(80), weights.astype(int))
    pairs = zip(
        discriminants(Moments.of(points, labels, weights)),
        discriminants(Moments.of(points[repeated], labels[repeated])),
        strict=True,
    )
    for weighted, again in pairs:
        np.testing.assert_allclose(weighted[0], again[0], atol=1e-9)
        np.testing.assert_allclose(weighted[1], again[1], atol=1e-9)


def test_labels_without_clips_are_never_answered():
    points, labels = clusters(80)
    chosen = np.isin(labels, [1, 6])
    for coefficients, intercept in discriminants(Moments.of(points[chosen], labels[chosen])):
        logits = points @ coefficients.T + intercept
        assert set(logits[chosen].argmax(1)) == {1, 6}
        assert (logits[:, [0, 2, 3, 4, 5, 7]] < logits[chosen][:, [1, 6]].min() - 1).all()


def test_fewer_clips_than_dimensions_have_a_classifier():
    points, labels = clusters(16, width=40)
    for coefficients, intercept in discriminants(Moments.of(points, labels)):
        assert np.isfinite(coefficients).all()
        assert (points @ coefficients.T + intercept).argmax(1).tolist() == labels.tolist()


def test_moments_are_added_up_taken_away_and_scaled():
    points, labels = clusters(96)
    points[:, 2] = points[:, 2] * 1e-3 + 7
    weights = np.linspace(0.5, 2, 96)
    part = slice(0, 40)
    whole, first = Moments.of(points, labels, weights), Moments.of(points[part], labels[part], weights[part])
    rest = Moments.of(points[40:], labels[40:], weights[40:])
    mean, deviation = whole.mean_and_deviation()
    np.testing.assert_allclose(mean, np.average(points, axis=0, weights=weights))
    np.testing.assert_allclose(deviation**2, np.average((points - mean) ** 2, axis=0, weights=weights), rtol=1e-6)
    expected = Moments.of((points[40:] - mean) / deviation, labels[40:], weights[40:])
    for found in ((whole - first).scaled(mean, 1 / deviation), rest.scaled(mean, 1 / deviation)):
        np.testing.assert_allclose(found.weight, expected.weight)
        np.testing.assert_allclose(found.sums, expected.sums, atol=1e-6)
        np.testing.assert_allclose(found.squares, expected.squares, atol=1e-4)
    np.testing.assert_allclose((first + rest).squares, whole.squares)


@pytest.mark.parametrize("seed", range(12))
def test_points_that_are_alike_within_their_labels_have_a_classifier(seed):
    points = np.random.default_rng(seed).normal(size=(8, 12)) * 3
    labels = np.tile(np.arange(8), 2)
    for coefficients, intercept in discriminants(Moments.of(points[labels], labels)):
        assert (points @ coefficients.T + intercept).argmax(1).tolist() == list(range(8))
