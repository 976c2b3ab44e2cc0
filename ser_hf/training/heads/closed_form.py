"""A head in closed form on a frozen backbone: the head start, and no step of training after it.

The backbone computes each clip once. All folds and protocols of a dataset then take seconds, and
the stock model holds the head.
"""

import time
from dataclasses import dataclass
from functools import partial

import datasets
import numpy as np
from transformers import FeatureExtractionMixin, PreTrainedModel, TrainingArguments

from ser_hf import audio, protocols
from ser_hf.evaluation import calibration
from ser_hf.evaluation.adaptation_head import Embedded
from ser_hf.models.features import front_end_of
from ser_hf.training.config import FinetuneConfig
from ser_hf.training.heads import head_start
from ser_hf.training.losses import training_weights
from ser_hf.training.setup import augmentation_of


@dataclass
class Fitted:
    """A model whose head is fitted, and what it gives for the clips of each side."""

    start: head_start.HeadStart
    train: Embedded
    validation: Embedded | None
    """None where nothing was left to validate on."""
    test: Embedded | None
    """None where the protocol tests nobody."""
    longer: np.ndarray
    """Whether a test clip is longer than the window of the model, of which `test` has the beginning
    alone; shape `(clips,)`."""
    seconds: dict[str, float]
    calibration: dict | None
    """What `calibration.fit_calibration` returned; its temperature is folded into the head."""


def fit(
    config: FinetuneConfig,
    args: TrainingArguments,
    rows: datasets.Dataset,
    split: protocols.Split,
    model: PreTrainedModel,
    extractor: FeatureExtractionMixin,
) -> Fitted:
    """Fit the head of a model in place, and calibrate it on the validation side.

    Raises:
        UserError: as `head_start.fit_head` and `setup.augmentation_of`.
    """
    started = time.perf_counter()
    augmentation = augmentation_of(config, rows, split, extractor)
    start, head, cache = head_start.fit_head(config, args, rows, split, model, extractor, augmentation)
    head_start.put(model, head)
    model.cpu()
    calibrated = None
    if config.calibrate and split.validation:
        features, labels = head_start.side(rows, split.validation, cache)
        measure = partial(calibration.fit_calibration, head.logits(features), labels)
        calibrated = calibration.calibrate_or_warn(measure, config.abstain_coverage, config.abstain_error)
    temperature = config.temperature if calibrated is None else calibrated["temperature"]
    if calibrated is not None:
        calibration.fold_temperature(model, temperature)
        calibration.record_calibration(model, calibrated)
    elif temperature is not None:
        calibration.apply_temperature(model, temperature)
    head = head.tempered(temperature or 1.0)

    def embedded(indices: list[int], weights: np.ndarray | None = None) -> Embedded:
        features, labels = head_start.side(rows, indices, cache)
        has_projector = getattr(model, "projector", None) is not None
        embeddings = (features - head.mean) * head.scale if has_projector else features
        speakers = np.array(rows.select(indices)["speaker"])
        return Embedded(head.logits(features), embeddings, labels, speakers, weights)

    longest = front_end_of(extractor).longest
    durations = np.array(rows.select_columns(["duration"])[split.test]["duration"])
    return Fitted(
        start,
        embedded(split.train, training_weights(rows.select(split.train), config.balance, config.group_weights)),
        embedded(split.validation) if split.validation else None,
        embedded(split.test) if split.test else None,
        np.zeros(len(durations), bool) if longest is None else durations * audio.SAMPLING_RATE > longest,
        {"train": round(time.perf_counter() - started, 3)},
        calibrated,
    )
