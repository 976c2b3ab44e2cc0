"""The head of a pretrained model begins at a logistic regression on its frozen features.

Linear probing, then fine-tuning: Kumar et al., "Fine-tuning can distort pretrained features and
underperform out-of-distribution" (ICLR 2022). A random head sends large gradients into the layers
below it. A head that is fitted first does not.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import datasets
import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from torch import nn
from transformers import FeatureExtractionMixin, PreTrainedModel, TrainingArguments

from ser_hf import audio, protocols
from ser_hf.evaluation import metrics
from ser_hf.labels import EMOTIONS
from ser_hf.models import loading, padding
from ser_hf.models.features import Collator, front_end_of
from ser_hf.models.frozen_frontend import evaluation_mode
from ser_hf.training import feature_cache, losses
from ser_hf.training.config import FinetuneConfig, is_pretrained
from ser_hf.training.recovery import TrainingError

PENALTIES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
"""Values of C, the inverse of the L2 penalty, from which the best by UAR is taken."""

_FOLDS = 5
_CONSTANT = 1e-4
"""A feature whose deviation is a smaller share of its mean is rounding, and is left out."""
_UNSEEN = 5.0
"""Nats by which a label without training clips lies below all others."""


@dataclass(frozen=True)
class Regression:
    """A multinomial logistic regression on standardised features."""

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


@dataclass(frozen=True)
class HeadStart:
    """What the head of a model begins with."""

    penalty: float
    """The value of C."""
    uar: float
    """UAR of the regression on the clips that chose the penalty."""
    chosen_on: Literal["validation", "held-out training speakers", "held-out training clips"]

    def __str__(self) -> str:
        """The line that is printed before training."""
        side = "validation UAR" if self.chosen_on == "validation" else f"UAR on {self.chosen_on}"
        return f"head start: logistic regression, C {self.penalty:g}, {side} {self.uar:.3f} before training"


def wanted(config: FinetuneConfig, model: PreTrainedModel) -> bool:
    """Whether a run has a head start: by its flag, or for a new head on pretrained layers."""
    if config.head_start is not None:
        return config.head_start
    # the head of a whole encoder knows nothing of what a lower layer gives
    return is_pretrained(config) and (loading.head_is_new(model) or config.keep_layers is not None)


def reset_head(model: PreTrainedModel) -> None:
    """Make the projector of a head hand its input on, and set the classifier to zero, in place.

    The input of the classifier then is what the stock forward pools, whatever the architecture. A
    projector narrower than the encoder is replaced by one of its width: only such a projector can
    standardise the features exactly.

    Raises:
        ModelError: for an architecture that does not end in a linear layer.
    """
    classifier = loading.last_linear(model)
    projector = getattr(model, "projector", None)
    if projector is not None:
        width = projector.in_features
        if projector.out_features != width:
            model.config.classifier_proj_size = width
            model.projector = projector = nn.Linear(width, width)
            model.classifier = classifier = nn.Linear(width, len(EMOTIONS))
        nn.init.eye_(projector.weight)
        nn.init.zeros_(projector.bias)
    # The weights of a Whisper's head are part of the cache's key: zeros do not depend on the seed.
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)


def begin(
    config: FinetuneConfig,
    args: TrainingArguments,
    rows: datasets.Dataset,
    split: protocols.Split,
    model: PreTrainedModel,
    extractor: FeatureExtractionMixin,
) -> HeadStart:
    """Fit a regression on the frozen features of the training side, and put it into the head.

    Every process computes the same from the same cached features. The test side is computed with
    the others, so that other folds find its features, and takes no part in the fit.

    Args:
        config: its `balance` weighs the clips of the fit.
        args: the device, and which process computes.
        rows: all recordings.
        split: the clips of each side.
        model: model with a head of ours, whose projector and classifier are replaced in place.
        extractor: feature extractor of the model.

    Raises:
        TrainingError: where all training clips have one label.
    """
    reset_head(model)
    model.to(args.device)
    used = rows.select(sorted(split.train + split.validation + split.test))
    name = "head start" + " of all layers" * bool(getattr(model.config, "use_weighted_layer_sum", False))
    with args.main_process_first(desc="features of the head start"):
        cache, computed = feature_cache.feature_cache(
            used, name, model, extractor, lambda batch: _pooled(model, batch), config.cache_dir
        )
    if args.process_index == 0:
        print(f"pooled features of {len(cache):,} clips: {'computed' if computed else 'from the cache'}", flush=True)
    train, validation = _side(rows, split.train, cache), _side(rows, split.validation, cache)
    weights = None if config.balance == "none" else losses.clip_weights(rows.select(split.train), config.balance)
    speakers = np.array(rows.select(split.train)["speaker"])
    start, regression = choose(train, validation, weights, speakers)
    put(model, regression)
    _check(model, extractor, rows.select(split.train[:2]), regression.logits(train[0][:2]))
    return start


def choose(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    weights: np.ndarray | None,
    speakers: np.ndarray,
) -> tuple[HeadStart, Regression]:
    """Fit regressions of all `PENALTIES`, and choose the one of the best UAR.

    Where there is no validation side, the penalty is chosen by cross-validation over the training
    speakers, or over clips where there is one speaker. The regression is of all training clips.

    Args:
        train: features `(clips, width)` and labels `(clips,)`.
        validation: the same; without clips where there is no such side.
        weights: of the training clips, `(clips,)`; alike where None.
        speakers: of the training clips, `(clips,)`.

    Raises:
        TrainingError: where all training clips have one label.
    """
    if len(validation[1]):
        regressions = list(fit(*train, weights))
        scores = [_uar(regression.logits(validation[0]), validation[1]) for regression in regressions]
        best = int(np.argmax(scores))  # the first, so the strongest penalty, of equal ones
        return HeadStart(PENALTIES[best], scores[best], "validation"), regressions[best]
    several = len(np.unique(speakers)) > 1
    groups = speakers if several else np.arange(len(speakers))
    logits = np.zeros((len(PENALTIES), len(train[1]), len(EMOTIONS)))
    for kept, held_out in GroupKFold(min(_FOLDS, len(np.unique(groups)))).split(*train, groups):
        part = fit(train[0][kept], train[1][kept], None if weights is None else weights[kept])
        for number, regression in enumerate(part):
            logits[number, held_out] = regression.logits(train[0][held_out])
    scores = [_uar(each, train[1]) for each in logits]
    best = int(np.argmax(scores))
    regression = list(fit(*train, weights))[best]
    chosen_on = "held-out training speakers" if several else "held-out training clips"
    return HeadStart(PENALTIES[best], scores[best], chosen_on), regression


def fit(features: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Iterator[Regression]:
    """Fit a regression for each of `PENALTIES`.

    Args:
        features: shape `(clips, width)`.
        labels: numbers of emotions, shape `(clips,)`.
        weights: of the clips, shape `(clips,)`; alike where None.

    Raises:
        TrainingError: where all clips have one label.
    """
    present = np.unique(labels)
    if len(present) == 1:
        raise TrainingError(
            f"all clips to train on are '{EMOTIONS[present[0]]}': a head start needs two labels, --head_start false"
        )
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    varies = deviation > _CONSTANT * np.abs(mean)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
    standardised = (features - mean) * scale
    # Each fit goes on from the one of the next stronger penalty.
    regression = LogisticRegression(max_iter=500, warm_start=True)
    for penalty in PENALTIES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 500 iterations are close enough to begin with
            regression.set_params(C=penalty).fit(standardised, labels, sample_weight=weights)
        found, offset = regression.coef_, regression.intercept_
        if len(present) == 2:  # scikit-learn gives the difference of two labels
            found, offset = np.concatenate([-found, found]) / 2, np.concatenate([-offset, offset]) / 2
        coefficients = np.zeros((len(EMOTIONS), features.shape[1]))
        intercept = np.full(len(EMOTIONS), offset.min() - _UNSEEN)
        coefficients[present], intercept[present] = found, offset
        yield Regression(mean, scale, coefficients, intercept)


def put(model: PreTrainedModel, regression: Regression) -> None:
    """Fold a regression into the head of a model, after `reset_head`.

    The projector standardises: its weight is a diagonal. The classifier has the coefficients. In a
    head without a projector the classifier does both.
    """
    mean, scale = regression.mean, regression.scale
    coefficients, intercept = regression.coefficients, regression.intercept
    if getattr(model, "projector", None) is not None:
        _set(model.projector, np.diag(scale), -mean * scale)
    else:
        coefficients = coefficients * scale
        intercept = intercept - coefficients @ mean
    _set(loading.last_linear(model), coefficients, intercept)


def _set(layer: nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))


def _pooled(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Inputs of the classifier, each as two rows of half precision that add up: `(2, width)`."""
    pooled: list[torch.Tensor] = []
    hook = loading.last_linear(model).register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0].float()))
    try:
        model(**batch)
    finally:
        hook.remove()
    # One half has steps of 1/2,048, a twentieth of the deviation of some features.
    upper = pooled[0].half().float()
    return list(torch.stack([upper, pooled[0] - upper], dim=1))


def _side(
    rows: datasets.Dataset, indices: list[int], cache: feature_cache.FeatureCache
) -> tuple[np.ndarray, np.ndarray]:
    """Return the features `(clips, width)` and labels `(clips,)` of a side."""
    chosen = rows.select(indices).select_columns(["sha256", "label"])
    features = [cache[sha256][0].astype(np.float64).sum(axis=0) for sha256 in chosen["sha256"]]
    return np.array(features), np.array(chosen["label"], dtype=int)


def _uar(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(metrics.scores(metrics.confusion(labels, logits.argmax(axis=1)))["uar"])


def _check(
    model: PreTrainedModel, extractor: FeatureExtractionMixin, clips: datasets.Dataset, expected: np.ndarray
) -> None:
    """Stop where the logits of the model are not those of the regression: a fault of ours."""
    collate, front_end = Collator(extractor, padding.padding_rule(model)), front_end_of(extractor)
    with evaluation_mode(model):
        for clip, logits in zip(clips["audio"], expected, strict=True):
            batch = collate([{"features": front_end.extract(audio.load(clip))}])
            found = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits[0]
            error = float(np.abs(found.float().cpu().numpy() - logits).max())
            if not math.isclose(error, 0, abs_tol=0.05 * max(1, np.abs(logits).max())):
                raise RuntimeError(f"the head start is off by {error:.3g} in {type(model).__name__}")
