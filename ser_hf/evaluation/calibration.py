"""Calibration: a temperature that is folded into the weights, and a score below which to abstain.

Dividing all logits by one number changes a model's confidence and none of its labels (Guo et al.
2017). Folded into the last layer, it also calibrates the stock `transformers.pipeline`.
"""

import math
from collections.abc import Callable, Iterable

import datasets
import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from transformers import PreTrainedModel

from ser_hf.data.dataset import decoded_clips
from ser_hf.evaluation import metrics
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import EMOTIONS
from ser_hf.models import loading
from ser_hf.models.seen_speakers import SeenSpeakers

BOUNDS = (0.05, 20.0)
"""Temperatures that are looked for, as far from 1 either way."""


class CalibrationError(metrics.ConfidenceError):
    """Clips that allow no temperature, or not the requested threshold."""


def fit_temperature(logits: np.ndarray, references: np.ndarray) -> float:
    """The T that minimises the negative log likelihood of `softmax(logits / T)`.

    The method is that of Guo et al. 2017, section 4.2.

    Args:
        logits: of clips that the model was not trained on, shape `(n, classes)`.
        references: class indices, shape `(n,)`.

    Returns:
        T within `BOUNDS`; the upper bound where the answers are no better than chance.

    Raises:
        CalibrationError: without clips, and where all are answered rightly: the lower T then, the
            better.
    """
    logits, references = np.asarray(logits, dtype=np.float64), np.asarray(references, dtype=np.int64)
    if len(logits) == 0:
        raise CalibrationError("0 clips to calibrate on: give validation clips")
    if (logits[np.arange(len(logits)), references] == logits.max(axis=1)).all():
        raise CalibrationError(
            f"no temperature fits: all {len(logits):,} clips are answered rightly, so that no doubt seems due; "
            "calibrate on more clips, of speakers that the model was not trained on"
        )
    return likeliest_temperature(logits, references, (math.log(BOUNDS[0]), math.log(BOUNDS[1])), 1e-8)


def likeliest_temperature(
    logits: np.ndarray,
    references: np.ndarray,
    log_bounds: tuple[float, float],
    tolerance: float,
    weights: np.ndarray | None = None,
) -> float:
    """The T between bounds that minimises the negative log likelihood of `softmax(logits / T)`.

    Args:
        logits: float64, shape `(n, classes)`.
        references: indices of the columns, shape `(n,)`.
        log_bounds: of log T. The likelihood is convex in 1 / T, hence has one minimum in log T,
            where 0.5 and 2 are as far from 1.
        tolerance: of log T.
        weights: of the clips, shape `(n,)`; alike where None.
    """
    minimum = minimize_scalar(
        lambda log_t: _nll(logits / math.exp(log_t), references, weights),
        bounds=log_bounds,
        method="bounded",
        options={"xatol": tolerance},
    )
    return math.exp(minimum.x)


def fold_temperature(model: PreTrainedModel, temperature: float) -> None:
    """Divide the weight and the bias of a model's last layer by a temperature, in place.

    Raises:
        CalibrationError: for a temperature that is not positive and finite.
        ModelError: for a model that does not end in a linear layer.
    """
    if not 0 < temperature < math.inf:
        raise CalibrationError(f"temperature {temperature} cannot be folded: give a positive number")
    with torch.no_grad():
        for parameter in loading.last_linear(model).parameters():
            parameter.div_(temperature)


def apply_temperature(model: PreTrainedModel, temperature: float) -> None:
    """Fold a temperature of other models of the recipe into this one, and note it in its config."""
    fold_temperature(model, temperature)
    record_calibration(model, {"temperature": temperature, "abstain": None}, set())


def undo_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities before `temperature` was folded in, float64, of the same shape.

    `softmax(T log p)`: the logarithm gives the divided logits back, but for a constant that softmax
    does not see. A probability of 0 stays 0.
    """
    with np.errstate(divide="ignore"):
        return softmax(temperature * np.log(np.asarray(probabilities, dtype=np.float64)), axis=1)


def calibrate_model(
    predictor: Predictor,
    dataset: datasets.Dataset,
    indices: list[int],
    coverage: float | None = None,
    error: float | None = None,
) -> dict:
    """Calibrate a loaded model in place, so that it can be saved; on an error it stays as it was.

    The model's config gets `temperature`, the product of all that were ever folded in, and
    `abstain_below` where a threshold is asked for; one of an earlier call is dropped, as its scores
    are no more. Speakers it is calibrated on are added to those that the config says it was chosen
    on.

    Args:
        predictor: on the backend `torch`, with the eight labels, in the order of
            `ser_hf.labels.EMOTIONS`.
        dataset: with the columns of `ser_hf.data.dataset.FEATURES`.
        indices: of the validation clips; memory does not grow with them.
        coverage: share of clips to be answered (`metrics.abstention_threshold`); no threshold where
            neither is given.
        error: share of wrong answers among those given.

    Returns:
        As `fit_calibration`.

    Raises:
        CalibrationError: for other labels or another backend, and as `fit_temperature` does.
        ConfidenceError: as `metrics.abstention_threshold` does.
        AudioError: for a clip that cannot be decoded.
    """
    if predictor.labels != list(EMOTIONS):
        raise CalibrationError(f"'{predictor.name}' has the labels {predictor.labels}: they must be {list(EMOTIONS)}")
    if predictor.backend != "torch":
        raise CalibrationError(f"'{predictor.name}' runs on {predictor.backend}: load it with backend='torch'")
    rows = dataset.select(indices)
    fitted = fit_calibration(
        predictor.logits(decoded_clips(rows, "Calibrating")), np.array(rows["label"], dtype=np.int64), coverage, error
    )
    speakers = set(rows["speaker"])
    fold_temperature(predictor.model, fitted["temperature"])
    record_calibration(predictor.model, fitted, speakers)
    predictor.abstain_below = fitted["abstain"]["abstain_below"] if fitted["abstain"] else 0.0
    return fitted


def fit_calibration(
    logits: np.ndarray, references: np.ndarray, coverage: float | None = None, error: float | None = None
) -> dict:
    """Fit a temperature, and a threshold on request, to a model's logits for validation clips.

    Returns:
        `temperature`, `validation` (`n`, `ece_before`, `ece`, `nll_before`, `nll`), and `abstain`:
        what `metrics.abstention_threshold` gives and the targets `asked`, or None. Fit for JSON.

    Raises:
        CalibrationError: as `fit_temperature` does.
        ConfidenceError: as `metrics.abstention_threshold` does.
    """
    targets = {name: share for name, share in (("coverage", coverage), ("error", error)) if share is not None}
    if targets:
        metrics.check_abstention(coverage, error)
    logits = np.asarray(logits, dtype=np.float64)
    degrees = fit_temperature(logits, references)
    after = logits / degrees
    probabilities = softmax(after, axis=1)
    return {
        "temperature": degrees,
        "validation": {
            "n": len(references),
            "ece_before": metrics.calibration_error(references, softmax(logits, axis=1)),
            "ece": metrics.calibration_error(references, probabilities),
            "nll_before": _nll(logits, references),
            "nll": _nll(after, references),
        },
        "abstain": {**metrics.abstention_threshold(probabilities, references, **targets), "asked": targets}
        if targets
        else None,
    }


def calibrate_or_warn(calibrate: Callable[..., dict], coverage: float | None, error: float | None) -> dict | None:
    """The result of `calibrate(coverage=, error=)`, or of one without a threshold.

    Returns None where nothing fits, and prints why: at the end of a training, a model without a
    threshold is better than none.
    """
    for threshold in ({"coverage": coverage, "error": error}, {}):
        try:
            return calibrate(**threshold)
        except metrics.ConfidenceError as problem:
            print(f"WARNING: not calibrated as asked: {problem}", flush=True)
    return None


def record_calibration(model: PreTrainedModel, fitted: dict, speakers: Iterable[str] = ()) -> None:
    """Write a result of `fit_calibration` and the speakers of its clips into a model's config."""
    threshold = fitted["abstain"]["abstain_below"] if fitted["abstain"] else None
    SeenSpeakers.of(model.config).calibrated(fitted["temperature"], threshold, speakers).remember(model.config)


def _nll(logits: np.ndarray, references: np.ndarray, weights: np.ndarray | None = None) -> float:
    losses = -log_softmax(logits, axis=1)[np.arange(len(logits)), references]
    return float(np.average(losses, weights=weights))
