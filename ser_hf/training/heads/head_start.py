"""The head of a pretrained model begins at a linear classifier on its frozen features.

Linear probing, then fine-tuning: Kumar et al., "Fine-tuning can distort pretrained features and
underperform out-of-distribution" (ICLR 2022). A random head sends large gradients into the layers
below it. A head that is fitted first does not.

The classifier is a discriminant analysis (`ser_hf.training.heads.discriminant_head`), where that
paper has a logistic regression.
"""

import math

import datasets
import numpy as np
import torch
from torch import nn
from transformers import FeatureExtractionMixin, PreTrainedModel

from ser_hf.data import references
from ser_hf.labels import EMOTIONS
from ser_hf.models import loading, padding
from ser_hf.models.features import Collator, front_end_of
from ser_hf.models.frozen_frontend import evaluation_mode
from ser_hf.training.config import FinetuneConfig, is_pretrained
from ser_hf.training.heads.discriminant_head import HeadStart, LinearHead, choose
from ser_hf.training.heads.pooled_features import PooledFeatures
from ser_hf.training.inputs import TrainingInputs


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
    start, head, pooled = fit_head(inputs)
    put(inputs.model, head)
    first = inputs.split.train[:2]
    _check(inputs.model, inputs.extractor, inputs.rows.select(first), head.logits(pooled.side(first)[0]))
    return start


def fit_head(inputs: TrainingInputs) -> tuple[HeadStart, LinearHead, PooledFeatures]:
    """Fit a classifier on the frozen features of the training side.

    Every process computes the same from the same cached features. The test side takes no part in
    the fit. Validation clips are not augmented.

    Args:
        inputs: whose model has a head of ours: its projector and classifier are reset in place.

    Returns:
        What was chosen, the classifier, and the features of all clips of the split.

    Raises:
        TrainingError: where all training clips have one label.
    """
    pooled = pooled_features(inputs)
    train, weights = pooled.training()
    speakers = np.array(inputs.rows.select(inputs.split.train)["speaker"])
    choice = choose(train, pooled.side(inputs.split.validation), weights, speakers)
    return choice.start, choice.head, pooled


def pooled_features(inputs: TrainingInputs) -> PooledFeatures:
    """Reset the head of a model in place, and compute what it reads of each clip."""
    reset_head(inputs.model)
    inputs.model.to(inputs.args.device)
    return PooledFeatures(inputs)


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


def _check(
    model: PreTrainedModel, extractor: FeatureExtractionMixin, clips: datasets.Dataset, expected: np.ndarray
) -> None:
    """Stop where the logits of the model are not those of the classifier: a fault of ours."""
    collate, front_end = Collator(extractor, padding.padding_rule(model)), front_end_of(extractor)
    with evaluation_mode(model):
        for clip, logits in zip(clips["audio"], expected, strict=True):
            batch = collate([{"features": front_end.extract(references.load_clip(clip))}])
            found = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits[0]
            error = float(np.abs(found.float().cpu().numpy() - logits).max())
            if not math.isclose(error, 0, abs_tol=0.05 * max(1, np.abs(logits).max())):
                raise RuntimeError(f"the head start is off by {error:.3g} in {type(model).__name__}")
