"""A head in closed form on a frozen backbone: the head start, and no step of training after it.

The backbone computes each clip once. All folds and protocols of a dataset then take seconds, and
the stock model holds the head.
"""

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from ser_hf import audio
from ser_hf.evaluation import calibration
from ser_hf.evaluation.adaptation_head import Embedded
from ser_hf.models.features import front_end_of
from ser_hf.training.heads import head_start
from ser_hf.training.inputs import TrainingInputs


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


def fit(inputs: TrainingInputs) -> Fitted:
    """Fit the head of a model in place, and calibrate it on the validation side.

    Raises:
        TrainingError: as `head_start.fit_head`.
    """
    started = time.perf_counter()
    config, rows, split, model = inputs.config, inputs.rows, inputs.split, inputs.model
    start, head, cache = head_start.fit_head(inputs)
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

    longest = front_end_of(inputs.extractor).longest
    durations = np.array(rows.select_columns(["duration"])[split.test]["duration"])
    return Fitted(
        start,
        embedded(split.train, inputs.clip_weights()),
        embedded(split.validation) if split.validation else None,
        embedded(split.test) if split.test else None,
        np.zeros(len(durations), bool) if longest is None else durations * audio.SAMPLING_RATE > longest,
        {"train": round(time.perf_counter() - started, 3)},
        calibrated,
    )
