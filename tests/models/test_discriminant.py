"""The discriminant analysis: equal to scikit-learn's, with weights and missing labels."""

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ser_hf.models.discriminant import SHRINKAGES, discriminants


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
    for shrinkage, (coefficients, intercept) in zip(SHRINKAGES, discriminants(points, labels), strict=True):
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
    pairs = zip(discriminants(points, labels, weights), discriminants(points[repeated], labels[repeated]), strict=True)
    for weighted, again in pairs:
        np.testing.assert_allclose(weighted[0], again[0], atol=1e-9)
        np.testing.assert_allclose(weighted[1], again[1], atol=1e-9)


def test_labels_without_clips_are_never_answered():
    points, labels = clusters(80)
    chosen = np.isin(labels, [1, 6])
    for coefficients, intercept in discriminants(points[chosen], labels[chosen]):
        logits = points @ coefficients.T + intercept
        assert set(logits[chosen].argmax(1)) == {1, 6}
        assert (logits[:, [0, 2, 3, 4, 5, 7]] < logits[chosen][:, [1, 6]].min() - 1).all()


def test_fewer_clips_than_dimensions_have_a_classifier():
    points, labels = clusters(16, width=40)
    for coefficients, intercept in discriminants(points, labels):
        assert np.isfinite(coefficients).all()
        assert (points @ coefficients.T + intercept).argmax(1).tolist() == labels.tolist()
