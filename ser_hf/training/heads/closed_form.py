"""A head in closed form on a frozen backbone: the head start, and no step of training after it.

The backbone computes each clip once. All folds and protocols of a dataset then take seconds, and
the stock model holds the head.
"""

import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ser_hf import audio
from ser_hf.evaluation import calibration
from ser_hf.evaluation.adaptation_head import Embedded
from ser_hf.labels import EMOTIONS
from ser_hf.models.features import front_end_of
from ser_hf.training.heads import head_start, hidden_head
from ser_hf.training.heads.discriminant_head import HeadStart, LinearHead
from ser_hf.training.heads.pooled_features import PooledFeatures
from ser_hf.training.inputs import TrainingInputs

_SAMPLED = 100  # one in so many clips is predicted by the saved model


@dataclass(frozen=True, eq=False)
class OutputHead:
    """A classifier of what the stock forward hands to the last linear layer."""

    start: HeadStart
    classifier: LinearHead
    standardises: bool
    """Whether a projector standardises the embeddings."""

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits `(clips, labels)` of pooled features."""
        return self.classifier.logits(features)

    def embeddings(self, features: np.ndarray) -> np.ndarray:
        """Inputs of the model's classifier, shape `(clips, width)`."""
        return (features - self.classifier.mean) * self.classifier.scale if self.standardises else features

    def of_training(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and embeddings of the training clips."""
        return self.logits(features), self.embeddings(features)

    def tempered(self, temperature: float) -> "OutputHead":
        """The same head with its logits divided by a temperature."""
        return replace(self, classifier=self.classifier.tempered(temperature))


@dataclass
class Fitted:
    """A model whose head is fitted, and what it gives for the clips of each side."""

    head: OutputHead | hidden_head.HiddenHead
    train: Embedded
    validation: Embedded | None
    """None where nothing was left to validate on."""
    test: Embedded | None
    """None where the protocol tests nobody."""
    longer: np.ndarray
    """Whether a clip of `test` is longer than the window of the model, and its beginning alone was
    computed; shape `(clips,)`."""
    sample: tuple[list[int], np.ndarray]
    """One in a hundred of the test clips that are not longer, or of the training clips where nobody
    is tested: their rows, and their logits."""
    seconds: dict[str, float]
    calibration: dict | None
    """What `calibration.fit_calibration` returned; its temperature is folded into the head."""

    def deviation(self, logits: np.ndarray) -> float:
        """How far the logits of the saved model for `sample` are from the fit.

        It is the root mean square of the difference as a share of that of the logits, both without
        the mean of a clip. Labels without training clips do not count: their logits are constant.
        """
        known = np.isin(np.arange(len(EMOTIONS)), self.train.labels)
        found, fitted = (
            each[:, known] - each[:, known].mean(axis=1, keepdims=True) for each in (logits, self.sample[1])
        )
        return float(np.linalg.norm(found - fitted) / max(np.linalg.norm(fitted), np.finfo(float).tiny))


def fit(inputs: TrainingInputs) -> Fitted:
    """Fit the head of a model in place, and calibrate it on the validation side.

    Raises:
        ModelError: as `hidden_head.fit`.
        TrainingError: as `head_start.fit_head`.
    """
    started = time.perf_counter()
    config, rows, split, model = inputs.config, inputs.rows, inputs.split, inputs.model
    head, pooled = hidden_head.fit(inputs) if config.hidden_units else _fit_output(inputs)
    model.cpu()
    calibrated = None
    if config.calibrate and split.validation:
        features, labels = pooled.side(split.validation)
        measure = partial(calibration.fit_calibration, head.logits(features), labels)
        calibrated = calibration.calibrate_or_warn(measure, config.abstain_coverage, config.abstain_error)
    temperature = config.temperature if calibrated is None else calibrated["temperature"]
    if calibrated is not None:
        calibration.fold_temperature(model, calibrated["temperature"])
        calibration.record_calibration(model, calibrated)
    elif temperature is not None:
        calibration.apply_temperature(model, temperature)
    head = head.tempered(temperature or 1.0)

    def embedded(indices: list[int]) -> Embedded:
        features, labels = pooled.side(indices)
        speakers = np.array(rows.select(indices)["speaker"])
        return Embedded(head.logits(features), head.embeddings(features), labels, speakers)

    features, labels = pooled.side(split.train)
    train = Embedded(
        *head.of_training(features), labels, np.array(rows.select(split.train)["speaker"]), inputs.clip_weights()
    )

    longest = front_end_of(inputs.extractor).longest or np.inf
    compared = split.test or split.train
    durations = np.array(rows.select_columns(["duration"])[compared]["duration"])
    longer = durations * audio.SAMPLING_RATE > longest
    sample = np.array(compared)[~longer][::_SAMPLED].tolist()
    return Fitted(
        head,
        train,
        embedded(split.validation) if split.validation else None,
        embedded(split.test) if split.test else None,
        longer,
        (sample, head.logits(pooled.side(sample)[0]) if sample else np.zeros((0, len(EMOTIONS)))),
        {"train": round(time.perf_counter() - started, 3)},
        calibrated,
    )


def _fit_output(inputs: TrainingInputs) -> tuple[OutputHead, PooledFeatures]:
    start, classifier, pooled = head_start.fit_head(inputs)
    head_start.put(inputs.model, classifier)
    return OutputHead(start, classifier, getattr(inputs.model, "projector", None) is not None), pooled
