"""The head of a pretrained model begins at a linear classifier on its frozen features.

Linear probing, then fine-tuning: Kumar et al., "Fine-tuning can distort pretrained features and
underperform out-of-distribution" (ICLR 2022). A random head sends large gradients into the layers
below it. A head that is fitted first does not.

The classifier is a linear discriminant analysis with a shrunken covariance. On frozen features of
Whisper it does better on unseen voices than the logistic regression of that paper, and it takes no
iterations (studies/bundled_model.md).
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import datasets
import numpy as np
import torch
from sklearn.model_selection import GroupKFold
from torch import nn
from transformers import FeatureExtractionMixin, PreTrainedModel

from ser_hf import audio
from ser_hf.evaluation import calibration
from ser_hf.labels import EMOTIONS
from ser_hf.models import loading, padding
from ser_hf.models.discriminant import SHRINKAGES, discriminants
from ser_hf.models.features import Collator, front_end_of
from ser_hf.models.frozen_frontend import evaluation_mode
from ser_hf.training import feature_cache
from ser_hf.training.config import FinetuneConfig, is_pretrained
from ser_hf.training.inputs import TrainingInputs
from ser_hf.training.recovery import TrainingError

_FOLDS = 5
_CONSTANT = 1e-4
"""A feature whose deviation is a smaller share of its mean is rounding, and is left out."""
_TEMPERATURES = (0.3, 100.0)
"""Bounds of the temperature: where all clips are answered rightly, no temperature is the best."""


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier on standardised features."""

    shrinkage: float
    """Of the covariance (`ser_hf.models.discriminant`)."""
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

    def tempered(self, temperature: float) -> "LinearHead":
        """The same classifier with its logits divided by a temperature."""
        return replace(self, coefficients=self.coefficients / temperature, intercept=self.intercept / temperature)


@dataclass(frozen=True)
class HeadStart:
    """What the head of a model begins with."""

    shrinkage: float
    """Of the covariance of the discriminant analysis."""
    uar: float
    """UAR of the classifier on the clips that chose it."""
    chosen_on: Literal["validation", "held-out training speakers", "held-out training clips"]

    def __str__(self) -> str:
        """The line that is printed before training."""
        side = "validation UAR" if self.chosen_on == "validation" else f"UAR on {self.chosen_on}"
        return f"head start: discriminant analysis, shrinkage {self.shrinkage:g}, {side} {self.uar:.3f} before training"


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


def begin(inputs: TrainingInputs) -> HeadStart:
    """Fit a classifier as `fit_head` does, and put it into the head of the model."""
    start, head, cache = fit_head(inputs)
    put(inputs.model, head)
    rows, first = inputs.rows, inputs.split.train[:2]
    _check(inputs.model, inputs.extractor, rows.select(first), head.logits(side(rows, first, cache)[0]))
    return start


def fit_head(inputs: TrainingInputs) -> tuple[HeadStart, LinearHead, feature_cache.FeatureCache]:
    """Fit a classifier on the frozen features of the training side.

    Every process computes the same from the same cached features. The test side is computed with
    the others and takes no part in the fit. `clip_weights` weigh the clips. `augmented_copies` of
    each training clip are fitted beside it. Validation clips are not augmented.

    Args:
        inputs: whose model has a head of ours: its projector and classifier are reset in place.

    Returns:
        What was chosen, the classifier, and the features of all clips of the split.

    Raises:
        TrainingError: where all training clips have one label.
    """
    config, args, rows, split, model = inputs.config, inputs.args, inputs.rows, inputs.split, inputs.model
    reset_head(model)
    model.to(args.device)
    used = inputs.split_rows()
    name = "head start" + " of all layers" * bool(getattr(model.config, "use_weighted_layer_sum", False))
    caches = []
    for copy in range(config.augmented_copies + 1):
        kind = f"{name}, {_augmented_name(inputs, copy)}" if copy else name
        features = _augmented_features(inputs, copy) if copy else None
        with args.main_process_first(desc="features of the head start"):
            cache, computed = feature_cache.feature_cache(
                used, kind, model, inputs.extractor, lambda batch: _pooled(model, batch), config.cache_dir, features
            )
        caches.append(cache)
        if args.process_index == 0:
            clips = f"{len(cache):,} clips" + f", augmented copy {copy}" * bool(copy)
            print(f"pooled features of {clips}: {'computed' if computed else 'from the cache'}", flush=True)
    sides = [side(rows, split.train, cache) for cache in caches]
    train = tuple(np.concatenate(parts) for parts in zip(*sides, strict=True))
    validation = side(rows, split.validation, caches[0])
    weights = inputs.clip_weights()
    if config.augmented_copies:
        whole = np.ones(len(split.train)) if weights is None else weights
        each = config.augmented_weight / config.augmented_copies
        weights = np.concatenate([whole, *[whole * each] * config.augmented_copies])
    speakers = np.array(rows.select(split.train)["speaker"])
    return *choose(train, validation, weights, speakers), caches[0]


def choose(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    weights: np.ndarray | None,
    speakers: np.ndarray,
) -> tuple[HeadStart, LinearHead]:
    """Fit all candidates, and choose the one of the best UAR.

    Where there is no validation side, it is chosen by cross-validation over the training speakers,
    or over clips where there is one speaker; clips count by their weights there. The one that is
    returned is of all training clips. Its logits have the temperature that fits the clips that
    chose it.

    Args:
        train: features `(rows, width)` and labels `(rows,)`. The first rows are the clips, and
            those that follow augmented copies of them, once or several times in the same order.
        validation: the same; without clips where there is no such side.
        weights: of the rows, `(rows,)`; alike where None.
        speakers: of the clips, `(clips,)`.

    Raises:
        TrainingError: where all training clips have one label.
    """
    heads = list(fit(*train, weights))
    if len(validation[1]):
        chosen_on, labels, counts = "validation", validation[1], None
        logits = np.stack([head.logits(validation[0]) for head in heads])
    else:
        several, labels = len(np.unique(speakers)) > 1, train[1][: len(speakers)]
        chosen_on = "held-out training speakers" if several else "held-out training clips"
        counts = None if weights is None else weights[: len(speakers)]
        logits = _held_out_logits(train, weights, speakers if several else np.arange(len(speakers)))
    scores = [_uar(each, labels, counts) for each in logits]
    best = int(np.argmax(scores))  # the first of equal ones
    start = HeadStart(heads[best].shrinkage, scores[best], chosen_on)
    bounds = tuple(map(math.log, _TEMPERATURES))
    return start, heads[best].tempered(calibration.likeliest_temperature(logits[best], labels, bounds, 1e-4, counts))


def _held_out_logits(
    train: tuple[np.ndarray, np.ndarray], weights: np.ndarray | None, groups: np.ndarray
) -> np.ndarray:
    """Logits `(candidates, clips, labels)` of each group by classifiers of the other groups."""
    logits = np.zeros((len(SHRINKAGES), len(groups), len(EMOTIONS)))
    copies = len(train[1]) // len(groups)
    for kept, held_out in GroupKFold(min(_FOLDS, len(np.unique(groups)))).split(groups, groups=groups):
        rows = np.concatenate([kept + copy * len(groups) for copy in range(copies)])
        part = fit(train[0][rows], train[1][rows], None if weights is None else weights[rows])
        for number, head in enumerate(part):
            logits[number, held_out] = head.logits(train[0][held_out])
    return logits


def fit(features: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Iterator[LinearHead]:
    """Fit a discriminant analysis of each of `discriminant.SHRINKAGES` on standardised features.

    Args:
        features: shape `(clips, width)`.
        labels: numbers of emotions, shape `(clips,)`.
        weights: of the clips, shape `(clips,)`; alike where None.

    Raises:
        TrainingError: where all clips have one label.
    """
    if len(set(labels.tolist())) == 1:
        raise TrainingError(
            f"all clips to train on are '{EMOTIONS[labels[0]]}': a head start needs two labels, --head_start false"
        )
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    varies = deviation > _CONSTANT * np.abs(mean)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
    classifiers = discriminants((features - mean) * scale, labels, weights, SHRINKAGES)
    for shrinkage, (coefficients, intercept) in zip(SHRINKAGES, classifiers, strict=True):
        yield LinearHead(shrinkage, mean, scale, coefficients, intercept)


def put(model: PreTrainedModel, head: LinearHead) -> None:
    """Fold a classifier into the head of a model, after `reset_head`.

    The projector standardises: its weight is a diagonal. The classifier has the coefficients. In a
    head without a projector the classifier does both.
    """
    mean, scale = head.mean, head.scale
    coefficients, intercept = head.coefficients, head.intercept
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


def _augmented_name(inputs: TrainingInputs, copy: int) -> str:
    """What tells the features of an augmented copy from all others."""
    config, seed = inputs.config, inputs.args.seed
    noises = hashlib.sha256(b"".join(clip.tobytes() for clip in inputs.augmentation.noises)).hexdigest()[:8]
    return f"copy {copy} of seed {seed} by {config.augment} at {config.augment_probability} with noises {noises}"


def _augmented_features(inputs: TrainingInputs, copy: int) -> feature_cache.Features:
    """Features of an augmented clip; what is drawn depends on its sound, so that folds share it."""
    augmentation, front_end, seed = inputs.augmentation, front_end_of(inputs.extractor), inputs.args.seed

    def features(samples: np.ndarray, sha256: str) -> np.ndarray:
        rng = np.random.default_rng([seed, copy, int(sha256[:12], 16)])
        samples = augmentation(samples, rng)[: front_end.longest]
        if not augmentation.names(of_frames=True):
            return front_end.extract(samples)
        mel = augmentation.of_frames(front_end.prepare(samples), rng, audio.SAMPLING_RATE / front_end.hop)
        return front_end.finish(mel)

    return features


def side(
    rows: datasets.Dataset, indices: list[int], cache: feature_cache.FeatureCache
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pooled features `(clips, width)` and labels `(clips,)` of a side."""
    chosen = rows.select(indices).select_columns(["sha256", "label"])
    features = [cache[sha256][0].astype(np.float64).sum(axis=0) for sha256 in chosen["sha256"]]
    return np.array(features), np.array(chosen["label"], dtype=int)


def _uar(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean over labels of the share of clips, or of their weight, that is answered rightly."""
    weights = np.ones(len(labels)) if weights is None else weights
    right = np.bincount(labels, weights * (logits.argmax(axis=1) == labels), len(EMOTIONS))
    all_of = np.bincount(labels, weights, len(EMOTIONS))
    return float((right[all_of > 0] / all_of[all_of > 0]).mean())


def _check(
    model: PreTrainedModel, extractor: FeatureExtractionMixin, clips: datasets.Dataset, expected: np.ndarray
) -> None:
    """Stop where the logits of the model are not those of the classifier: a fault of ours."""
    collate, front_end = Collator(extractor, padding.padding_rule(model)), front_end_of(extractor)
    with evaluation_mode(model):
        for clip, logits in zip(clips["audio"], expected, strict=True):
            batch = collate([{"features": front_end.extract(audio.load(clip))}])
            found = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits[0]
            error = float(np.abs(found.float().cpu().numpy() - logits).max())
            if not math.isclose(error, 0, abs_tol=0.05 * max(1, np.abs(logits).max())):
                raise RuntimeError(f"the head start is off by {error:.3g} in {type(model).__name__}")
