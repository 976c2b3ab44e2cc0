"""What models without pretrained weights answer: classifiers on eGeMAPS or MFCC, under any split,
for comparison.

Settings are chosen on the validation side by UAR, then the model is fitted on training and
validation together; the test side is only answered.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import datasets
import joblib
import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
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
from ser_hf.errors import UserError
from ser_hf.evaluation import metrics
from ser_hf.labels import EMOTIONS

NAMES = ("egemaps-svm", "egemaps-logistic", "mfcc-cnn", "mfcc-mlp", "mfcc-svm")
"""Features and classifier."""

EPOCHS, BATCH, FILTERS = 200, 16, (64, 64, 64)
"""Of `mfcc-cnn`; a convolution for each number of filters (chosen on `random`, see
docs/evidence.md)."""

_GRIDS = {
    # gamma in parts of 1 / width, which is scikit-learn's "scale" for standardised features
    "svm": {"C": (1, 3, 10, 30, 100), "gamma": (0.25, 0.5, 1, 2, 4)},
    "logistic": {"C": (0.01, 0.1, 1, 10, 100)},
    "mlp": {"alpha": (0.01, 0.1, 1, 10)},
}

Side = tuple[np.ndarray, np.ndarray]
"""Features of shape `(clips, width)` and class indices of shape `(clips,)`."""


class BaselineError(UserError):
    """A baseline that does not exist or cannot be trained."""


def predict_baseline(
    name: str,
    rows: datasets.Dataset,
    split: protocols.Split,
    seed: int = 42,
    cache_dir: str | Path | None = None,
    epochs: int = EPOCHS,
) -> tuple[np.ndarray, dict]:
    """Train a baseline on a split and answer its test side.

    Args:
        name: one of `NAMES`.
        rows: the dataset that the split indexes.
        split: what to train, choose and test on.
        seed: of weights and batches.
        cache_dir: of the features, as for `acoustics.features`.
        epochs: of `mfcc-cnn`.

    Returns:
        Float32 probabilities of shape `(len(split.test), 8)` in the order of the split and of
        `EMOTIONS`, whose argmax is the classifier's own answer, and the settings that were chosen.
        Emotions never seen in training are at 0.

    Raises:
        BaselineError: for an unknown name, or fewer than two emotions to train on.
        AcousticsError: where features cannot be had.
    """
    if name not in NAMES:
        raise BaselineError(f"'{name}' is no baseline: choose one of {', '.join(NAMES)}")
    kind, classifier = name.split("-")
    order = [*split.train, *split.validation, *split.test]
    labels = np.array(rows.select_columns("label").select(order)["label"])
    values = acoustic_features.features(rows.select(order), kind, cache_dir)
    ends = np.cumsum([len(split.train), len(split.validation)])
    train, validation, test = zip(np.split(values, ends), np.split(labels, ends), strict=True)
    if len(np.unique(train[1])) < 2:
        raise BaselineError(f"{name} needs two emotions to train on, protocol '{split.name}' gives it one: use another")
    if classifier == "cnn":
        return _network_answers(_joined(train, validation), test[0], seed, epochs)
    return _classical_answers(classifier, train, validation, test[0], seed)


def network(width: int = 40, filters: tuple[int, ...] = FILTERS) -> nn.Sequential:
    """The kind of network of the well-known notebooks of RAVDESS and TESS: `(clips, 1, width)` ->
    logits `(clips, 8)`.

    Convolutions over the coefficients, each with ReLU and dropout, then one dense layer, with
    Keras' initial weights. With one convolution of 64 filters it is that of de Pinto's
    `emotion-classification-from-audio-files` on GitHub; it takes more of them to come near the
    published accuracy of 0.85 (see `studies/notebook_network.py`).
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
    """Train `network` as the notebooks do: batches of 16, RMSprop at Keras' defaults, the last
    epoch's weights.

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
        for _ in range(epochs):
            model.train()
            for some in torch.randperm(len(labels)).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(values[some]), labels[some]).backward()
                optimizer.step()
            model.eval()
            if after_epoch:
                after_epoch(model)
    return model


@torch.inference_mode()
def network_probabilities(model: nn.Module, values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Probabilities `(clips, 8)` of features `(clips, width)`; classes that are not among `seen`
    are at 0."""
    logits = model(torch.from_numpy(values)[:, None])
    unseen = np.setdiff1d(np.arange(len(EMOTIONS)), seen)
    logits[:, unseen] = -torch.inf
    return logits.softmax(-1).numpy()


def _network_answers(train: Side, test: np.ndarray, seed: int, epochs: int) -> tuple[np.ndarray, dict]:
    # the notebooks take the coefficients as they are, which costs accuracy (see
    # studies/notebook_network.py)
    scaler = StandardScaler().fit(train[0])
    model = train_network((scaler.transform(train[0]), train[1]), seed, epochs)
    settings = {"filters": list(FILTERS), "epochs": epochs, "batch_size": BATCH, "learning_rate": 1e-3}
    return network_probabilities(model, scaler.transform(test), np.unique(train[1])), settings


def _classical_answers(
    classifier: str, train: Side, validation: Side, test: np.ndarray, seed: int
) -> tuple[np.ndarray, dict]:
    grid = _GRIDS[classifier]
    candidates = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    with threadpool_limits(limits=1), ThreadPoolExecutor(joblib.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a candidate is judged as it is
        models = list(pool.map(lambda settings: _fitted(classifier, settings, train, seed), candidates))
        figures = list(pool.map(lambda model: _uar(model, validation), models))
        best = int(np.argmax(figures))
        model = _fitted(classifier, candidates[best], _joined(train, validation), seed)
    settings = candidates[best] | {"validation_uar": round(figures[best], 4)}
    if classifier == "svm":
        settings["temperature"] = _temperature(models[best], validation)
        found = softmax(_decisions(model, test) / settings["temperature"], axis=1)
    else:
        found = model.predict_proba(test)
    probabilities = np.zeros((len(test), len(EMOTIONS)), dtype=np.float32)
    probabilities[:, model.classes_] = found
    return probabilities, settings


def _fitted(classifier: str, settings: dict[str, float], train: Side, seed: int) -> Pipeline:
    if classifier == "svm":
        gamma = settings["gamma"] / train[0].shape[1]
        # ties broken by the decision values, so that their argmax is what the machine answers
        model = SVC(C=settings["C"], gamma=gamma, class_weight="balanced", break_ties=True)
    elif classifier == "logistic":
        model = LogisticRegression(**settings, class_weight="balanced", max_iter=2000)
    else:
        model = MLPClassifier((300,), random_state=seed, **settings)
    return make_pipeline(StandardScaler(), model).fit(*train)


def _uar(model: Pipeline, side: Side) -> float:
    return float(metrics.scores(metrics.confusion(side[1], model.predict(side[0])))["uar"])


def _decisions(model: Pipeline, values: np.ndarray) -> np.ndarray:
    """One-versus-rest decision values of shape `(clips, classes)`."""
    decisions = model.decision_function(values)
    return np.stack([-decisions, decisions], axis=1) if decisions.ndim == 1 else decisions


def _temperature(model: Pipeline, side: Side) -> float:
    """What decision values are divided by to become logits: the likeliest on a side (Guo et al.
    2017).

    A temperature leaves the answers as they are, which Platt's scaling does not.
    """
    known = np.isin(side[1], model.classes_)
    if not known.any():
        return 1.0
    decisions = _decisions(model, side[0][known])
    places = np.searchsorted(model.classes_, side[1][known])

    def loss(logarithm: float) -> float:
        return -log_softmax(decisions / np.exp(logarithm), axis=1)[np.arange(len(places)), places].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))


def _joined(one: Side, other: Side) -> Side:
    return np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])
