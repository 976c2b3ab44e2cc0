"""Model + dataset + protocol -> `Results`, the only source of every figure in a plot, a table or a card."""

import csv
import json
import platform
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import datasets
import numpy as np
import torch
from sklearn.metrics import classification_report
from transformers import PretrainedConfig

from ser_hf import audio, metrics
from ser_hf.emotions import EMOTIONS
from ser_hf.predictor import Predictor
from ser_hf.protocols import PROTOCOLS, LeakError, Split

_CHUNK = 512  # clips decoded at a time


@dataclass
class Results:
    """What `results.json` holds."""

    protocol: str
    protocol_hash: str
    fold: int | str
    model: str
    dataset: str
    n: int
    accuracy: float
    uar: float
    macro_f1: float
    weighted_f1: float
    ece: float
    ci95: dict[str, list[float]] | None
    ci95_says: str
    per_class: dict
    per_corpus: dict
    per_speaker: dict
    per_sex: dict
    confusion_matrix: list[list[int]]
    labels: list[str]
    history: list[dict]
    environment: dict
    seconds: dict[str, float]
    split: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What every output must say: that the protocol leaks, that the voices are synthetic."""

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text()))

    def headline(self) -> str:
        """One line: the figures, the interval of UAR, the protocol."""
        interval = f" [{self.ci95['uar'][0]:.3f}, {self.ci95['uar'][1]:.3f}]" if self.ci95 else ""
        known = PROTOCOLS.get(self.protocol)  # not one of a file
        fold = f" fold {self.fold}" if self.fold == "all" or known is None or known.folds > 1 else ""
        return (
            f"{self.protocol}{fold}: UAR {self.uar:.3f}{interval}, accuracy {self.accuracy:.3f}, "
            f"macro-F1 {self.macro_f1:.3f} on {self.n:,} clips (chance UAR {1 / self.classes():.3f})"
        )

    def classes(self) -> int:
        """Emotions that occur in the test set."""
        return sum(row["support"] > 0 for row in self.per_class.values())

    def report(self) -> str:
        """The classification report as text, as scikit-learn lays it out, below the headline and the notes."""
        matrix = np.array(self.confusion_matrix)
        pairs = [(i, j) for i in range(len(matrix)) for j in range(len(matrix)) for _ in range(matrix[i, j])]
        references, predictions = zip(*pairs, strict=True)
        body = classification_report(
            references, predictions, labels=range(len(EMOTIONS)), target_names=EMOTIONS, digits=3, zero_division=0
        )
        notes = "".join(f"NOTE: {note}\n" for note in self.notes)
        return f"{self.headline()}\n{self.ci95_says}\n{notes}\n{body}"


def evaluate(
    predictor: Predictor,
    dataset: datasets.Dataset,
    splits: list[Split],
    dataset_name: str,
    model_name: str | None = None,
    history: list[dict] | None = None,
    seconds: dict[str, float] | None = None,
) -> tuple[Results, np.ndarray]:
    """Run a model over the test sides of one split, or of several folds pooled.

    Args:
        predictor: a model with the eight labels.
        dataset: what the splits index.
        splits: one, or every fold of a protocol.
        dataset_name: as it stands in the results.
        model_name: likewise; the predictor's where None.
        history: of the training that made the model.
        seconds: of that training.

    Returns:
        The results, and the probabilities behind them, shape `(test clips, labels)`.

    Raises:
        LeakError: if the model was trained or chosen on speakers of the test side.
    """
    if predictor.labels != list(EMOTIONS):
        raise LeakError(f"'{predictor.name}' has the labels {predictor.labels}: they must be {list(EMOTIONS)}")
    for split in splits:
        refuse_seen(predictor.model.config, predictor.name, dataset, split)
    started = time.perf_counter()
    rows = dataset.select(tested(splits))
    probabilities = np.concatenate([_probabilities(predictor, rows, start) for start in range(0, len(rows), _CHUNK)])
    took = {**(seconds or {}), "evaluate": round(time.perf_counter() - started, 1)}
    results = judge(
        probabilities, dataset, splits, dataset_name, model_name or predictor.name, predictor.device, history, took
    )
    if not hasattr(predictor.model.config, "ser_hf"):
        results.notes.append("The model does not say which speakers it was trained on, so a leak cannot be ruled out.")
    return results, probabilities


def tested(splits: list[Split]) -> list[int]:
    """Indices of the test clips of one split or of pooled folds, in the order of their answers."""
    return np.concatenate([split.test for split in splits]).tolist()


def judge(
    probabilities: np.ndarray,
    dataset: datasets.Dataset,
    splits: list[Split],
    dataset_name: str,
    model_name: str,
    device: str = "cpu",
    history: list[dict] | None = None,
    seconds: dict[str, float] | None = None,
) -> Results:
    """What answers are worth, whoever gave them.

    Args:
        probabilities: of the clips that `tested` names, shape `(clips, labels)`.
        dataset: what the splits index.
        splits: one, or folds to be pooled.
        dataset_name: as it stands in the results.
        model_name: likewise.
        device: that gave the answers.
        history: of the training.
        seconds: it all took.
    """
    rows = dataset.select(tested(splits))
    references, predictions = np.array(rows["label"]), probabilities.argmax(axis=1)
    matrix = metrics.confusion(references, predictions)
    ci95, says = metrics.intervals(references, predictions, np.array(rows["speaker"]))
    first = splits[0]
    notes = list(dict.fromkeys(split.warning for split in splits if split.warning))
    if dataset.info.description:
        notes.append(dataset.info.description)
    return Results(
        protocol=first.name,
        protocol_hash="+".join(split.hash for split in splits),
        fold=first.fold if len(splits) == 1 else "all",
        model=model_name,
        dataset=dataset_name,
        n=len(rows),
        **{name: float(value) for name, value in metrics.scores(matrix).items()},
        ece=metrics.calibration_error(references, probabilities),
        ci95=ci95,
        ci95_says=says,
        per_class=metrics.per_class(matrix),
        per_corpus=_grouped(rows, "corpus", references, predictions),
        per_speaker=_grouped(rows, "speaker", references, predictions),
        per_sex=_grouped(rows, "sex", references, predictions),
        confusion_matrix=matrix.tolist(),
        labels=list(EMOTIONS),
        history=history or [],
        environment=environment(device),
        seconds=seconds or {},
        split={side: sum(len(getattr(s, side)) for s in splits) for side in ("train", "validation", "test")},
        notes=notes,
    )


def write_answers(path: Path, probabilities: np.ndarray, dataset: datasets.Dataset, splits: list[Split]) -> None:
    """A line of CSV for each test clip: its file, corpus, speaker and label, the answer, and all probabilities."""
    rows = dataset.select(tested(splits)).select_columns(["file", "corpus", "speaker", "label"])
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "corpus", "speaker", "label", "predicted", *EMOTIONS])
        for row, scores in zip(rows, probabilities, strict=True):
            names = (EMOTIONS[row["label"]], EMOTIONS[int(scores.argmax())])
            writer.writerow([row["file"], row["corpus"], row["speaker"], *names, *map(float, scores)])


def read_answers(path: Path) -> np.ndarray:
    """The probabilities that `write_answers` wrote, shape `(test clips, labels)`."""
    with open(path, newline="") as file:
        return np.array([[row[name] for name in EMOTIONS] for row in csv.DictReader(file)], dtype=np.float32)


def refuse_seen(config: PretrainedConfig, name: str, dataset: datasets.Dataset, split: Split) -> None:
    """Refuse to test a model, or what is fine-tuned from it, on speakers that it was trained or chosen on.

    Fine-tuning writes the speakers and the hash of its split into the model's config; a model from elsewhere has none.

    Raises:
        LeakError: naming the speakers; the very split of its training is allowed where the protocol leaks by design.
    """
    trained = getattr(config, "ser_hf", None)
    if trained is None or trained["protocol_hash"] == split.hash:
        return
    seen = sorted(set(trained["speakers"]) & set(dataset.select(split.test)["speaker"]))
    if seen:
        some = ", ".join(seen[:3]) + (" …" if len(seen) > 3 else "")
        raise LeakError(
            f"'{name}' was trained under '{trained['protocol']}' fold {trained['fold']} on {some}, whom '{split.name}' "
            f"fold {split.fold} tests: use a model of that protocol and fold ({split.hash})"
        )


def environment(device: str) -> dict:
    """Versions, Python, platform and device."""
    packages = ("ser-hf", "torch", "torchaudio", "transformers", "datasets", "accelerate")
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return {
        "python": platform.python_version(),
        "platform": platform.system(),
        "device": f"{device} ({name})",
        **{package: version(package) for package in packages},
    }


def _probabilities(predictor: Predictor, rows: datasets.Dataset, start: int) -> np.ndarray:
    chunk = rows[start : start + _CHUNK]["audio"]
    return predictor.probabilities([audio.load(one) for one in chunk])


def _grouped(rows: datasets.Dataset, column: str, references: np.ndarray, predictions: np.ndarray) -> dict:
    values = np.array([value or "unknown" for value in rows[column]])
    groups = {}
    for value in sorted(set(values)):
        mask = values == value
        figures = metrics.scores(metrics.confusion(references[mask], predictions[mask]))
        groups[str(value)] = {
            "n": int(mask.sum()),
            "accuracy": float(figures["accuracy"]),
            "uar": float(figures["uar"]),
        }
    return groups
