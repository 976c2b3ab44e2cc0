"""Figures of a recipe from the answers of its runs: calibrated on other folds, adapted on other
clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from ser_hf.evaluation import calibration, metrics
from ser_hf.evaluation.predictions import PredictionTable
from ser_hf.inference.speaker_adaptation import _PARTS, CLUSTERED, fit

_DRAWS = 10  # of the clips that are adapted to


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a run answered for its test clips."""

    files: np.ndarray
    """Their names."""
    logits: np.ndarray
    """Float64 `(clips, labels)`, up to a constant of each clip."""
    labels: np.ndarray
    speakers: np.ndarray
    corpora: np.ndarray


def read_predictions(run: Path) -> Predictions:
    """The answers that fine-tuning wrote into a run's folder, of a model to which no temperature
    was given."""
    table = PredictionTable.read(run / "predictions.csv")
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(table.probabilities.astype(np.float64)), -50.0)
    return Predictions(table.files, logits, table.labels, table.speakers, table.corpora)


def temperature(runs: Sequence[Predictions]) -> float:
    """The one that the answers of several runs ask for together (`calibration.fit_temperature`)."""
    logits, labels = (np.concatenate([getattr(one, name) for one in runs]) for name in ("logits", "labels"))
    return calibration.fit_temperature(logits, labels)


def temperatures(folds: Sequence[Predictions]) -> list[float]:
    """Of each fold, from the others' test clips, which its model was trained on and never tested
    on."""
    return [temperature([*folds[:place], *folds[place + 1 :]]) for place in range(len(folds))]


def adapted(folds: Sequence[Predictions], degrees: Sequence[float], clips: int | None = None) -> list[float]:
    """UAR of all folds together after adapting to each speaker, one for each draw of what is
    adapted to.

    Args:
        folds: of one seed.
        degrees: a temperature for each.
        clips: of the speaker that are adapted to (`adaptation.crossed`).
    """
    truth, found = np.concatenate([one.labels for one in folds]), []
    for draw in range(_DRAWS):
        moved = [
            crossed(one.logits / t, one.speakers, np.random.default_rng([draw, place]), clips)
            for place, (one, t) in enumerate(zip(folds, degrees, strict=True))
        ]
        found.append(_uar(truth, np.concatenate(moved)))
    return found


def adaptation_figures(folds: Sequence[Predictions], degrees: Sequence[float]) -> dict[str, float]:
    """Accuracy, UAR (of each corpus, too), UAR adapted on all other clips, ECE before and after the
    temperatures."""
    truth, raw = (np.concatenate([getattr(one, name) for one in folds]) for name in ("labels", "logits"))
    warm = np.concatenate([one.logits / t for one, t in zip(folds, degrees, strict=True)])
    corpora = np.concatenate([one.corpora for one in folds])
    return {
        "accuracy": float((raw.argmax(axis=1) == truth).mean()),
        "uar": _uar(truth, raw),
        **{f"uar {name}": _uar(truth[corpora == name], raw[corpora == name]) for name in sorted(set(corpora))},
        "adapted uar": float(np.mean(adapted(folds, degrees))),
        "ece before": metrics.calibration_error(truth, softmax(raw, axis=1)),
        "ece": metrics.calibration_error(truth, softmax(warm, axis=1)),
    }


def _uar(truth: np.ndarray, logits: np.ndarray) -> float:
    return float(metrics.scores(metrics.confusion(truth, logits.argmax(axis=1)))["uar"])


def crossed(
    logits: np.ndarray,
    speakers: Sequence[str],
    rng: np.random.Generator,
    clips: int | None = None,
    clustered: float = CLUSTERED,
) -> np.ndarray:
    """Logits of test clips, each adapted on other clips of its speaker: what adapting is worth.

    A speaker's clips are cut into ten parts at random; those of a part are adapted on clips drawn
    from the other nine.

    Args:
        logits: calibrated ones, shape `(n, labels)`.
        speakers: of each clip.
        rng: of the parts and of the clips drawn.
        clips: how many are adapted to; all of the other parts if None, none for 0.
        clustered: of `fit`.

    Returns:
        Shape `(n, labels)`, float64.
    """
    names, moved = np.asarray(speakers), np.array(logits, dtype=np.float64)
    for speaker in np.unique(names):
        own = rng.permutation(np.flatnonzero(names == speaker))
        for part in np.array_split(own, min(_PARTS, len(own))):
            others = rng.permutation(np.setdiff1d(own, part))[:clips]
            if len(others):
                moved[part] = fit(logits[others], "", clustered).moved(logits[part])
    return moved
