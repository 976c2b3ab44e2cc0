"""What calibration and adaptation give a recipe, cross-validated over its predictions.

Each fold is calibrated on the other folds. Each clip is predicted after adaptation to other clips
of its speaker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from scipy.special import softmax

from ser_hf.evaluation import calibration, metrics
from ser_hf.evaluation.results import PredictionTable
from ser_hf.inference import adaptation_head, speaker_adaptation
from ser_hf.inference.adaptation_head import AdaptationHead

_PARTS = 10  # that the clips of a speaker are cut into
_DRAWS = 10  # of the parts, and of the clips that are adapted to
_LEAST_LOGIT = -50.0  # of a probability of 0


@dataclass(frozen=True, eq=False)
class RunPredictions:
    """The predictions of a run for its test clips."""

    files: np.ndarray
    """Names of the clips, shape `(clips,)`, as the last three."""
    logits: np.ndarray
    """Float64 `(clips, labels)`, up to a constant of each clip."""
    labels: np.ndarray
    """Class indices."""
    speakers: np.ndarray
    corpora: np.ndarray
    embeddings: np.ndarray | None = None
    """Float32 `(clips, width)`; None where the model has no adaptation head."""
    head: AdaptationHead | None = None

    def calibrated(self, temperature: float) -> "RunPredictions":
        """The same predictions, and those of the head, with logits divided by a temperature."""
        head = self.head
        if head is not None:
            head = replace(head, weight=head.weight / temperature, bias=head.bias / temperature)
        return replace(self, logits=self.logits / temperature, head=head)

    def select(self, rows: np.ndarray) -> "RunPredictions":
        """The predictions for some of the clips."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {name: value[rows] for name, value in arrays.items() if isinstance(value, np.ndarray)}
        return replace(self, **chosen)

    def adapted(self, part: np.ndarray, rest: np.ndarray, clustered: float) -> np.ndarray:
        """Logits of the clips `part` after adaptation to the clips `rest`, float64."""
        if self.head is None or self.embeddings is None:
            return speaker_adaptation.fit(self.logits[rest], "", clustered=clustered).moved(self.logits[part])
        voice = speaker_adaptation.fit_with_head(
            self.head, self.logits[rest], self.embeddings[rest], "", clustered=clustered
        )
        return voice.moved(self.logits[part], self.embeddings[part])


def read_predictions(run: Path) -> RunPredictions:
    """Read the predictions that fine-tuning wrote into a run's folder, and its adaptation head.

    The model must not be calibrated: its logits are taken from its probabilities.

    Raises:
        ResultsError: for a folder without a `predictions.csv`.
        AdaptationHeadError: for an adaptation head that cannot be read.
    """
    table = PredictionTable.read(run / "predictions.csv")
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(table.probabilities.astype(np.float64)), _LEAST_LOGIT)
    predictions = RunPredictions(table.files, logits, table.labels, table.speakers, table.corpora)
    if not (run / adaptation_head.FILE).is_file():
        return predictions
    embeddings, head = np.load(run / "embeddings.npy"), AdaptationHead.load(run / adaptation_head.FILE)
    return replace(predictions, embeddings=embeddings, head=head)


def shared_temperature(runs: Sequence[RunPredictions]) -> float:
    """Fit one temperature to the predictions of several runs together."""
    logits, labels = (np.concatenate([getattr(run, name) for run in runs]) for name in ("logits", "labels"))
    return calibration.fit_temperature(logits, labels)


def cross_fitted_temperatures(folds: Sequence[RunPredictions]) -> list[float]:
    """A temperature for each fold, fitted to the test clips of the other folds."""
    return [shared_temperature([*folds[:number], *folds[number + 1 :]]) for number in range(len(folds))]


def adapted_uar(
    folds: Sequence[RunPredictions], temperatures: Sequence[float], clips: int | None = None
) -> list[float]:
    """UAR of all folds together after adaptation to each speaker, for each of ten draws.

    Args:
        folds: of one seed.
        temperatures: one for each fold.
        clips: of the speaker that are adapted to, see `adapt_across_clips`.
    """
    labels, figures = np.concatenate([fold.labels for fold in folds]), []
    for draw in range(_DRAWS):
        adapted = [
            adapt_across_clips(fold.calibrated(temperature), np.random.default_rng([draw, number]), clips)
            for number, (fold, temperature) in enumerate(zip(folds, temperatures, strict=True))
        ]
        figures.append(_uar(labels, np.concatenate(adapted)))
    return figures


def adaptation_figures(folds: Sequence[RunPredictions], temperatures: Sequence[float]) -> dict[str, float]:
    """Figures of all folds together, before and after calibration and adaptation.

    Args:
        folds: of one seed.
        temperatures: one for each fold.

    Returns:
        `accuracy`, `uar` and `uar CORPUS` as they are; `adapted uar`, the mean over draws after
        adaptation to all other clips of the speaker; `ece before` and `ece` after calibration.
    """
    labels, logits = (np.concatenate([getattr(fold, name) for fold in folds]) for name in ("labels", "logits"))
    calibrated = np.concatenate([fold.logits / t for fold, t in zip(folds, temperatures, strict=True)])
    corpora = np.concatenate([fold.corpora for fold in folds])
    return {
        "accuracy": float((logits.argmax(axis=1) == labels).mean()),
        "uar": _uar(labels, logits),
        **{f"uar {name}": _uar(labels[corpora == name], logits[corpora == name]) for name in sorted(set(corpora))},
        "adapted uar": float(np.mean(adapted_uar(folds, temperatures))),
        "ece before": metrics.calibration_error(labels, softmax(logits, axis=1)),
        "ece": metrics.calibration_error(labels, softmax(calibrated, axis=1)),
    }


def adapt_across_clips(
    predictions: RunPredictions,
    rng: np.random.Generator,
    clips: int | None = None,
    clustered: float = speaker_adaptation.CLUSTERED,
) -> np.ndarray:
    """Adapt the logits of each test clip to other clips of its speaker.

    A speaker's clips are cut into ten parts at random. Those of a part are adapted to clips drawn
    from the other nine.

    Args:
        predictions: calibrated ones of n clips.
        rng: of the parts and of the clips drawn.
        clips: how many are adapted to; all of the other parts if None, none for 0.
        clustered: of `speaker_adaptation.fit`.

    Returns:
        Shape `(n, labels)`, float64.
    """
    names, adapted = predictions.speakers, np.array(predictions.logits, dtype=np.float64)
    for speaker in np.unique(names):
        rows = rng.permutation(np.flatnonzero(names == speaker))
        for part in np.array_split(rows, min(_PARTS, len(rows))):
            rest = rng.permutation(np.setdiff1d(rows, part))[:clips]
            if len(rest):
                adapted[part] = predictions.adapted(part, rest, clustered)
    return adapted


def _uar(labels: np.ndarray, logits: np.ndarray) -> float:
    return float(metrics.scores(metrics.confusion(labels, logits.argmax(axis=1)))["uar"])
