"""Baselines without pretrained weights: classifiers on eGeMAPS or MFCC, under any split.

Settings are chosen on the validation side by UAR. Then the model is fitted on training and
validation together. The test side is only predicted.
"""

import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import datasets
import joblib
import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits
from torch import nn

from ser_hf import protocols
from ser_hf.data import acoustic_features
from ser_hf.errors import UserError, choose_one
from ser_hf.evaluation import calibration, metrics
from ser_hf.labels import EMOTIONS
from ser_hf.utils import progress

EPOCHS, BATCH, FILTERS = 200, 16, (64, 64, 64)
"""Of `mfcc-cnn`; a convolution for each number of filters (chosen on `random`, see
docs/evidence.md)."""

Side = tuple[np.ndarray, np.ndarray]
"""Features of shape `(clips, width)` and class indices of shape `(clips,)`."""


def require_packages(names: Iterable[str]) -> None:
    """Refuse baselines that are unknown, or whose package is missing, before data are read.

    Raises:
        UserError: naming the baselines that there are, or the line that installs the package.
    """
    for name in names:
        if name not in BASELINES:
            raise UserError(f"'{name}' is no baseline: {choose_one(name, BASELINES)}")
        acoustic_features.require_packages(BASELINES[name].features)


def predict_baseline(
    name: str,
    rows: datasets.Dataset,
    split: protocols.Split,
    seed: int = 42,
    cache_dir: str | Path | None = None,
) -> tuple[np.ndarray, dict]:
    """Train a baseline on a split and predict its test side.

    Args:
        name: a key of `BASELINES`.
        rows: the dataset that the split indexes.
        split: what to train, choose and test on.
        seed: of weights and batches.
        cache_dir: of the features, as for `acoustic_features.features`.

    Returns:
        Float32 probabilities of shape `(len(split.test), 8)` in the order of the split and of
        `EMOTIONS`, and the settings that were chosen. The argmax is the classifier's own
        prediction. Emotions that are not in the training data are at 0.

    Raises:
        UserError: for an unknown name, fewer than two emotions to train on, and features that
            cannot be computed.
    """
    require_packages([name])
    baseline = BASELINES[name]
    order = [*split.train, *split.validation, *split.test]
    labels = np.array(rows.select_columns("label").select(order)["label"])
    values = acoustic_features.features(rows.select(order), baseline.features, cache_dir)
    ends = np.cumsum([len(split.train), len(split.validation)])
    train, validation, test = zip(np.split(values, ends), np.split(labels, ends), strict=True)
    if len(np.unique(train[1])) < 2:
        raise UserError(f"{name} needs two emotions to train on, protocol '{split.name}' gives it one: use another")
    return baseline.predict(train, validation, test[0], seed)


def network(width: int = 40, filters: tuple[int, ...] = FILTERS) -> nn.Sequential:
    """The network of well-known notebooks on RAVDESS and TESS.

    It maps `(clips, 1, width)` to logits `(clips, 8)`: convolutions over the coefficients, each
    with ReLU and dropout, then one dense layer, with Keras' initial weights. With one convolution
    of 64 filters it is that of de Pinto's `emotion-classification-from-audio-files` on GitHub. It
    takes more filters to come near the published accuracy of 0.85 (`studies/notebook_network.py`).
    """
    layers, channels = [], 1
    for count in filters:
        layers += [nn.Conv1d(channels, count, 5, padding="same"), nn.ReLU(), nn.Dropout(0.2)]
        channels = count
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * width, len(EMOTIONS)))
    for layer in model:
        if isinstance(layer, nn.Conv1d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def train_network(
    train: Side,
    seed: int = 42,
    epochs: int = EPOCHS,
    after_epoch: Callable[[nn.Module], None] | None = None,
    filters: tuple[int, ...] = FILTERS,
) -> nn.Module:
    """Train `network` as the notebooks do.

    That is with batches of 16, RMSprop at Keras' defaults and the last epoch's weights.

    Args:
        train: features `(clips, width)` and class indices.
        seed: of weights, batches and dropout.
        epochs: all of them are run, and none is chosen.
        after_epoch: is given the network, in evaluation mode, after each epoch.
        filters: of its convolutions.

    Returns:
        The network in evaluation mode.
    """
    values, labels = torch.from_numpy(train[0])[:, None], torch.from_numpy(train[1])
    # one thread: the batches are too small to share
    with torch.random.fork_rng(devices=[]), threadpool_limits(limits=1):
        torch.manual_seed(seed)
        model = network(values.shape[-1], filters)
        optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)
        for _ in progress.each(range(epochs), "Training the network", epochs, "epochs"):
            model.train()
            for batch in torch.randperm(len(labels)).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(values[batch]), labels[batch]).backward()
                optimizer.step()
            model.eval()
            if after_epoch:
                after_epoch(model)
    return model


@torch.inference_mode()
def network_probabilities(model: nn.Module, values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Probabilities `(clips, 8)` of features `(clips, width)`; 0 for classes not in `seen`."""
    logits = model(torch.from_numpy(values)[:, None])
    unseen = np.setdiff1d(np.arange(len(EMOTIONS)), seen)
    logits[:, unseen] = -torch.inf
    return logits.softmax(-1).numpy()


def predict_network(train: Side, validation: Side, test: np.ndarray, seed: int) -> tuple[np.ndarray, dict]:
    """Train `network` on both sides and predict the test side; see `Baseline.predict`."""
    train = _joined(train, validation)
    # The notebooks do not standardise the coefficients, which costs accuracy (docs/evidence.md).
    scaler = StandardScaler().fit(train[0])
    model = train_network((scaler.transform(train[0]), train[1]), seed, EPOCHS)
    settings = {"filters": list(FILTERS), "epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 1e-3}
    return network_probabilities(model, scaler.transform(test), np.unique(train[1])), settings


def svm(settings: dict[str, float], width: int, seed: int) -> SVC:
    """A support vector machine on standardised features.

    `gamma` counts in parts of 1 / width, which is scikit-learn's "scale" for such features.
    """
    # ties broken by the decision values, so that their argmax is the machine's own prediction
    return SVC(C=settings["C"], gamma=settings["gamma"] / width, class_weight="balanced", break_ties=True)


def logistic(settings: dict[str, float], width: int, seed: int) -> LogisticRegression:
    """Logistic regression with balanced classes."""
    return LogisticRegression(**settings, class_weight="balanced", max_iter=2000)


def mlp(settings: dict[str, float], width: int, seed: int) -> MLPClassifier:
    """A network with one hidden layer."""
    return MLPClassifier((300,), random_state=seed, **settings)


@dataclass(frozen=True)
class GridSearch:
    """A scikit-learn classifier whose settings are chosen by validation UAR."""

    build: Callable[[dict[str, float], int, int], ClassifierMixin]
    """Takes settings, the width of the features and a seed."""
    grid: dict[str, tuple[float, ...]]

    def __call__(self, train: Side, validation: Side, test: np.ndarray, seed: int) -> tuple[np.ndarray, dict]:
        """Choose on the validation side, fit on both and predict; see `Baseline.predict`."""
        candidates = [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]
        with threadpool_limits(limits=1), ThreadPoolExecutor(joblib.cpu_count()) as pool, warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a candidate counts as it is
            models = list(pool.map(lambda settings: self.fit(settings, train, seed), candidates))
            figures = list(pool.map(lambda model: _uar(model, validation), models))
            best = int(np.argmax(figures))
            model = self.fit(candidates[best], _joined(train, validation), seed)
        settings = candidates[best] | {"validation_uar": round(figures[best], 4)}
        if hasattr(model, "predict_proba"):
            predicted = model.predict_proba(test)
        else:
            settings["temperature"] = decision_temperature(models[best], validation)
            predicted = softmax(_decisions(model, test) / settings["temperature"], axis=1)
        probabilities = np.zeros((len(test), len(EMOTIONS)), dtype=np.float32)
        probabilities[:, model.classes_] = predicted
        return probabilities, settings

    def fit(self, settings: dict[str, float], train: Side, seed: int) -> Pipeline:
        """The classifier of some settings on standardised features."""
        return make_pipeline(StandardScaler(), self.build(settings, train[0].shape[1], seed)).fit(*train)


@dataclass(frozen=True)
class Baseline:
    """A simple model: features and what classifies them."""

    features: str
    """Of `acoustic_features.features`."""
    predict: Callable[[Side, Side, np.ndarray, int], tuple[np.ndarray, dict]]
    """Takes the train side, the validation side, the test features `(clips, width)` and a seed.

    Returns float32 probabilities `(clips, labels)`, and the settings that it chose.
    """


_SVM = GridSearch(svm, {"C": (1, 3, 10, 30, 100), "gamma": (0.25, 0.5, 1, 2, 4)})
_LOGISTIC = GridSearch(logistic, {"C": (0.01, 0.1, 1, 10, 100)})
_MLP = GridSearch(mlp, {"alpha": (0.01, 0.1, 1, 10)})

BASELINES: dict[str, Baseline] = {
    "egemaps-svm": Baseline("egemaps", _SVM),
    "egemaps-logistic": Baseline("egemaps", _LOGISTIC),
    "mfcc-cnn": Baseline("mfcc", predict_network),
    "mfcc-mlp": Baseline("mfcc", _MLP),
    "mfcc-svm": Baseline("mfcc", _SVM),
}
"""One entry adds a baseline to `ser-hf baseline` and to `--also baselines`."""


def _uar(model: Pipeline, side: Side) -> float:
    return float(metrics.scores(metrics.confusion(side[1], model.predict(side[0])))["uar"])


def _decisions(model: Pipeline, values: np.ndarray) -> np.ndarray:
    """One-versus-rest decision values of shape `(clips, classes)`."""
    decisions = model.decision_function(values)
    return np.stack([-decisions, decisions], axis=1) if decisions.ndim == 1 else decisions


def decision_temperature(model: Pipeline, side: Side) -> float:
    """The divisor that turns decision values into logits: the likeliest on a side.

    A temperature leaves the predictions as they are, which Platt's scaling does not.
    """
    trained = np.isin(side[1], model.classes_)
    if not trained.any():
        return 1.0
    decisions = _decisions(model, side[0][trained])
    return calibration.likeliest_temperature(
        decisions, np.searchsorted(model.classes_, side[1][trained]), (-5, 5), 1e-5
    )


def _joined(first: Side, second: Side) -> Side:
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])
