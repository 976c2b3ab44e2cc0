"""`results.json` and `predictions.csv` of one test, and a metric for the library `evaluate`."""

import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import classification_report

from ser_hf.errors import UserError
from ser_hf.evaluation import bootstrap, metrics
from ser_hf.labels import EMOTIONS, LABEL2ID


class ResultsError(UserError):
    """A `results.json` or `predictions.csv` that is missing, broken, or not of ser_hf."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSetup:
    """The model, the dataset and the split of a test."""

    protocol: str
    protocol_hash: str
    """Of the split; those of pooled folds are joined by `+`."""
    fold: int | str
    """A number, or `all` where folds are pooled."""
    folds: int | None
    """How many the protocol has; None for a user's file, and where each corpus is a fold."""
    model: str
    weights: str
    """Digest of the model (`ser_hf.models.loading.digest`); empty where no model was saved."""
    dataset: str
    data: dict
    """Corpora with clips (also of the test), speakers and licence; all clips, hours; the notice."""
    labels: list[str]
    split: dict[str, int]
    """Clips on each side."""
    speakers: dict[str, int]
    """Speakers on each side."""
    held_apart: list[str]
    """What does not cross from training to test: speakers, samples, near duplicates, sentences."""
    notes: list[str]
    """What every output must state: that the protocol leaks, that the voices are synthetic."""


@dataclass(frozen=True, kw_only=True)
class EvaluationFigures:
    """The figures of a test."""

    n: int
    accuracy: float
    uar: float
    macro_f1: float
    weighted_f1: float
    further_metrics: dict[str, float]
    """Those of `metrics.METRICS` that have no field of their own."""
    ece: float
    brier: float | None
    auroc: float | None
    """Mean over the emotions that occur, one against the rest."""
    chance: float
    """UAR of always predicting the same label."""
    ci95: dict[str, list[float]] | None
    ci95_says: str
    """How `ci95` was computed, or why there is none."""
    per_class: dict
    per_corpus: dict
    per_channel: dict
    per_speaker: dict
    per_sex: dict
    per_intensity: dict
    confusion_matrix: list[list[int]]
    reliability: list[dict]
    risk_coverage: dict


@dataclass(frozen=True, kw_only=True)
class EvaluationOrigin:
    """Where the model and the figures come from."""

    training: dict
    """Base model, parameters, padding rule, settings; empty for a model trained elsewhere."""
    history: list[dict]
    """A row for each epoch of that training."""
    environment: dict
    seconds: dict[str, float]
    backbone: dict[str, str] = field(default_factory=dict)
    """`name` and `pretrained_on`; empty where the model does not say how it was trained."""


@dataclass(frozen=True, kw_only=True)
class FurtherEvidence:
    """Figures that are measured on request; None where they were not."""

    calibration: dict | None = None
    robustness: dict | None = None
    bias_probes: dict | None = None
    baselines: list[dict] | None = None
    repeats: dict | None = None
    """Several folds or seeds: each run, mean and standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Results(FurtherEvidence, EvaluationOrigin, EvaluationFigures, EvaluationSetup):
    """One test, and all that a reader needs to trust it.

    `ser_hf.evaluation.evaluate.build_results` builds it. Nothing changes it afterwards;
    `dataclasses.replace` makes a copy with further evidence.
    """

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name."""
        return asdict(self)

    def to_json(self) -> str:
        """The text of `results.json`."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def save(self, path: Path) -> None:
        """Write `results.json`."""
        path.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read what `save` wrote.

        Raises:
            ResultsError: for a file that is missing, cut off, or no `results.json`.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ResultsError(
                f"'{path.parent}' has no {path.name}: name a folder that `ser-hf evaluate` wrote"
            ) from None
        except (OSError, ValueError, TypeError) as error:
            raise ResultsError(f"'{path}' is no results.json of ser_hf ({error}): run `ser-hf evaluate`") from error

    @classmethod
    def beside(cls, model: Path | None) -> "Results | None":
        """The results in a model's folder; None without them.

        A `results.json` of another program counts as none.
        """
        path = model / "results.json" if model else None
        try:
            return cls.load(path) if path and path.is_file() else None
        except ResultsError:
            return None

    @property
    def distribution(self) -> str:
        """How far the test lies from what the model was trained on."""
        if self.leaks:
            return "speakers seen"
        rows = [row for row in self.data["corpora"].values() if "test_clips" in row]
        tested, new = (sum(row[name] for row in rows) for name in ("test_clips", "test_clips_of_new_corpus"))
        if tested == 0:  # results of before this was recorded
            return "new speakers"
        if new == tested:
            return "new speakers of a new corpus"
        return "new speakers, some of a new corpus" if new else "new speakers of a corpus that was trained on"

    @property
    def leaks(self) -> bool:
        """Whether the model was, or may have been, trained on test speakers."""
        return "speakers" not in self.held_apart

    def headline(self) -> str:
        """One line: the figures, the interval of UAR, the protocol."""
        further = "".join(f", {name} {value:.3f}" for name, value in self.further_metrics.items())
        text = (
            f"{self.under()}: UAR {self.uar:.3f}{_between(self.ci95)}, accuracy {self.accuracy:.3f}, "
            f"macro-F1 {self.macro_f1:.3f}{further} on {self.n:,} clips (chance UAR {self.chance:.3f})"
        )
        if self.ci95 is None:  # a corpus of many like speakers may have one where all together have not
            parts = [(corpus, row) for corpus, row in self.per_corpus.items() if row.get("ci95")]
            text += "".join(f"; {corpus} UAR {row['uar']:.3f}{_between(row['ci95'])}" for corpus, row in parts)
        return text

    def under(self) -> str:
        """The protocol, with its fold where it has several."""
        return self.protocol if self.folds == 1 else f"{self.protocol} fold {self.fold}"

    def report(self) -> str:
        """The headline and the notes, and below them scikit-learn's classification report."""
        matrix = np.array(self.confusion_matrix)
        pairs = [(i, j) for i in range(len(matrix)) for j in range(len(matrix)) for _ in range(matrix[i, j])]
        references, predictions = zip(*pairs, strict=True)
        body = classification_report(
            references, predictions, labels=range(len(EMOTIONS)), target_names=EMOTIONS, digits=3, zero_division=0
        )
        notes = "".join(f"NOTE: {note}\n" for note in self.notes)
        return f"{self.headline()}\n{self.ci95_says}\n{notes}\n{body}"


def find_results(folder: Path) -> tuple[dict[Path, Results], list[ResultsError]]:
    """Load every `results.json` below a folder, at any depth, but for hidden folders.

    Returns:
        The results by their folders, in the order of the paths, and the errors of those that cannot
        be read.

    Raises:
        ResultsError: for a folder without results.
    """
    paths = sorted(folder.rglob("results.json"))
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not paths:
        raise ResultsError(f"'{folder}' holds no results.json: give the folder of a model or an evaluation")
    found, errors = {}, []
    for path in paths:
        try:
            found[path.parent] = Results.load(path)
        except ResultsError as error:
            errors.append(error)
    return found, errors


def _between(ci95: dict[str, list[float]] | None) -> str:
    return " [{:.3f}, {:.3f}]".format(*ci95["uar"]) if ci95 else ""


_COLUMNS = ("file", "corpus", "speaker", "label", "predicted")


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """The predictions for test clips: `predictions.csv`."""

    files: np.ndarray
    """Names, shape `(clips,)`, as the next two."""
    corpora: np.ndarray
    speakers: np.ndarray
    labels: np.ndarray
    """Class indices, shape `(clips,)`."""
    predicted: np.ndarray
    """Class indices, shape `(clips,)`."""
    probabilities: np.ndarray
    """Shape `(clips, labels)`."""

    @classmethod
    def of(cls, probabilities: np.ndarray, rows: datasets.Dataset) -> "PredictionTable":
        """Put probabilities `(clips, labels)` beside the clips, in their order."""
        rows = rows.select_columns(["file", "corpus", "speaker", "label"])
        files, corpora, speakers, labels = (np.array(rows[name]) for name in ("file", "corpus", "speaker", "label"))
        return cls(files, corpora, speakers, labels, probabilities.argmax(axis=1), probabilities)

    def take(self, order: np.ndarray) -> "PredictionTable":
        """The rows of these indices, in this order."""
        return PredictionTable(*(values[order] for values in vars(self).values()))

    def sorted(self) -> "PredictionTable":
        """The rows in the order of corpus and file."""
        return self.take(np.lexsort((self.files, self.corpora)))

    @classmethod
    def joined(cls, tables: "list[PredictionTable]") -> "PredictionTable":
        """The rows of several tables, one after the other."""
        columns = zip(*(vars(table).values() for table in tables), strict=True)
        return cls(*map(np.concatenate, columns))

    def write(self, path: Path) -> None:
        """Write a row for each clip: its names, label, prediction and all probabilities."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*_COLUMNS, *EMOTIONS])
            for *names, label, predicted, scores in zip(*vars(self).values(), strict=True):
                writer.writerow([*names, EMOTIONS[label], EMOTIONS[predicted], *map(float, scores)])

    @classmethod
    def read(cls, path: Path) -> "PredictionTable":
        """Read what `write` wrote; probabilities are float32.

        Raises:
            ResultsError: for a file that is missing, empty, or no `predictions.csv`.
        """
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            columns = {name: [row[name] for row in rows] for name in _COLUMNS}
            files, corpora, speakers = (np.array(columns[name]) for name in ("file", "corpus", "speaker"))
            labels, predicted = (
                np.array([LABEL2ID[name] for name in columns[side]]) for side in ("label", "predicted")
            )
            probabilities = np.array([[row[name] for name in EMOTIONS] for row in rows], dtype=np.float32)
            table = cls(files, corpora, speakers, labels, predicted, probabilities)
        except FileNotFoundError:
            raise ResultsError(
                f"'{path.parent}' has no {path.name}: name a folder that `ser-hf evaluate` wrote"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise ResultsError(f"'{path}' is no predictions.csv of ser_hf ({error}): run `ser-hf evaluate`") from error
        if not rows:
            raise ResultsError(f"'{path}' holds no predictions: run `ser-hf evaluate`")
        return table


CONTRACT_METRICS = ("accuracy", "uar", "macro_f1", "weighted_f1")
"""Those of `metrics.METRICS` that have a key of their own in `results.json`."""

GROUPS = ("corpus", "channel", "speaker", "sex", "intensity")
"""Columns by which figures are broken down; each becomes `per_<column>`."""


def score(references: np.ndarray, probabilities: np.ndarray, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """Figures, intervals and groups.

    Args:
        references: class indices, shape `(n,)`.
        probabilities: shape `(n, labels)`, the labels in the order of `EMOTIONS`.
        columns: what `GROUPS` names, each of shape `(n,)`; `speaker` is needed, the others may be
            missing.

    Returns:
        The fields of `EvaluationFigures`, less `chance` and each `per_<column>` whose column is
        missing; `ci95` is None below three speakers.
    """
    predictions = probabilities.argmax(axis=1)
    matrix = metrics.confusion(references, predictions)
    scores = {name: float(value) for name, value in metrics.scores(matrix).items()}
    ci95, ci95_says = bootstrap.speaker_intervals(references, predictions, columns["speaker"])
    auroc = metrics.auroc(references, probabilities)
    per_class = metrics.per_class(references, predictions)
    areas = [area for area in auroc.values() if area is not None]
    return {
        "n": len(references),
        **{name: scores.pop(name) for name in CONTRACT_METRICS},
        "further_metrics": scores,
        "ece": metrics.calibration_error(references, probabilities),
        "brier": metrics.brier(references, probabilities),
        "auroc": float(np.mean(areas)) if areas else None,
        "ci95": ci95,
        "ci95_says": ci95_says,
        "per_class": {emotion: row | {"auroc": auroc[emotion]} for emotion, row in per_class.items()},
        "confusion_matrix": matrix.tolist(),
        "reliability": metrics.reliability(references, probabilities),
        "risk_coverage": metrics.risk_coverage(references, probabilities),
        **{
            f"per_{name}": _grouped(columns[name], references, predictions, columns["speaker"])
            for name in GROUPS
            if name in columns
        },
    }


class SpeechEmotion(evaluate.Metric):
    """The figures of `score` as an `evaluate.Metric` that downloads nothing.

    From predictions and references alone: `accuracy`, `uar`, `macro_f1`, `weighted_f1`, `per_class`
    and `confusion_matrix`. With `speakers=`, `ci95` and `ci95_says` too. With `probabilities=` and
    `speakers=`, everything.

    >>> SpeechEmotion().compute(predictions=[0, 1, 1], references=[0, 1, 2])["accuracy"]
    0.6666666666666666
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Figures of speech emotion recognition over the eight emotions of ser_hf.",
            citation="",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(
        self,
        predictions: list[int],
        references: list[int],
        probabilities: np.ndarray | None = None,
        speakers: list[str] | None = None,
        **groups: list[str],
    ) -> dict[str, Any]:
        references, predictions = np.array(references), np.array(predictions)
        if probabilities is not None and speakers is not None:
            columns = {name: np.array(values) for name, values in groups.items()}
            return score(references, np.asarray(probabilities), {**columns, "speaker": np.array(speakers)})
        matrix = metrics.confusion(references, predictions)
        figures: dict[str, Any] = {name: float(value) for name, value in metrics.scores(matrix).items()}
        figures |= {"per_class": metrics.per_class(references, predictions), "confusion_matrix": matrix.tolist()}
        if speakers is not None:
            figures["ci95"], figures["ci95_says"] = bootstrap.speaker_intervals(
                references, predictions, np.array(speakers)
            )
        return figures


def _grouped(values: np.ndarray, references: np.ndarray, predictions: np.ndarray, speakers: np.ndarray) -> dict:
    """Accuracy, UAR and their intervals for each value of a column; empty ones are `unknown`."""
    values = np.array([value or "unknown" for value in values])
    groups = {}
    for value in sorted(set(values.tolist())):
        mask = values == value
        figures = metrics.scores(metrics.confusion(references[mask], predictions[mask]))
        ci95, _ = bootstrap.speaker_intervals(references[mask], predictions[mask], speakers[mask])
        groups[value] = {
            "n": int(mask.sum()),
            "speakers": len(set(speakers[mask].tolist())),
            "accuracy": float(figures["accuracy"]),
            "uar": float(figures["uar"]),
            "ci95": ci95 and {name: ci95[name] for name in ("accuracy", "uar")},
        }
    return groups
