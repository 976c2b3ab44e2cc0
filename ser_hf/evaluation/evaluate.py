"""Model + dataset + protocol -> `Results`."""

import csv
import platform
import time
from importlib.metadata import version
from pathlib import Path

import datasets
import numpy as np
import torch
from scipy.special import softmax
from transformers import PretrainedConfig

from ser_hf import __version__, audio
from ser_hf.data.corpora import ravdess, tess
from ser_hf.evaluation import calibration, metrics
from ser_hf.evaluation.results import GROUPS, Results, score
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import EMOTIONS
from ser_hf.models import loading
from ser_hf.protocols import LeakError, Split

_CHUNK = 512  # clips decoded at a time


def evaluate(
    predictor: Predictor,
    dataset: datasets.Dataset,
    splits: list[Split],
    dataset_name: str,
    model_name: str | None = None,
    history: list[dict] | None = None,
    seconds: dict[str, float] | None = None,
) -> tuple[Results, np.ndarray, np.ndarray]:
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
        The results, the probabilities behind them, shape `(test clips, labels)`, and the clips'
        embeddings.

    Raises:
        LeakError: if the model was trained or chosen on speakers of the test side.
    """
    if predictor.labels != list(EMOTIONS):
        raise LeakError(f"'{predictor.name}' has the labels {predictor.labels}: they must be {list(EMOTIONS)}")
    for split in splits:
        refuse_seen(predictor.model.config, predictor.name, dataset, split)
    started = time.perf_counter()
    rows = dataset.select(rows_tested(splits))
    logits, embeddings = model_outputs(predictor, rows)
    probabilities = softmax(logits, axis=1)
    took = {**(seconds or {}), "evaluate": round(time.perf_counter() - started, 1)}
    results = judge(
        probabilities, dataset, splits, dataset_name, model_name or predictor.name, predictor.device, history, took
    )
    results.weights = loading.digest(predictor.model)
    known = getattr(predictor.model.config, "ser_hf", {})
    if "speakers" not in known:
        results.notes.append("The model does not say which speakers it was trained on, so a leak cannot be ruled out.")
        results.held_apart = []
    if "temperature" in known:
        results.calibration = calibrated(probabilities, np.array(rows["label"]), known)
    return results, probabilities, embeddings


def model_outputs(predictor: Predictor, rows: datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Logits `(clips, labels)` and embeddings `(clips, width)` of all rows; memory holds few of the
    clips at a time."""
    chunks = (rows[start : start + _CHUNK]["audio"] for start in range(0, len(rows), _CHUNK))
    logits, embeddings = zip(*(predictor.outputs([audio.load(one) for one in chunk]) for chunk in chunks), strict=True)
    return np.concatenate(logits), np.concatenate(embeddings)


def calibrated(probabilities: np.ndarray, references: np.ndarray, known: dict) -> dict:
    """What calibration did to the answers, and what abstaining would.

    Args:
        probabilities: of a model whose temperature is folded in, shape `(clips, labels)`.
        references: class indices, shape `(clips,)`.
        known: the model's `temperature` and, if it has one, `abstain_below`.
    """
    before = calibration.undone(probabilities, known["temperature"])
    found = {
        "temperature": known["temperature"],
        "ece_before": metrics.calibration_error(references, before),
        "reliability_before": metrics.reliability(references, before),
    }
    if known.get("abstain_below"):
        answered = probabilities.max(axis=1) >= known["abstain_below"]
        wrong = probabilities.argmax(axis=1)[answered] != references[answered]
        found |= {"abstain_below": known["abstain_below"], "answered": float(answered.mean())}
        found["error"] = float(wrong.mean()) if len(wrong) else 0.0
    return found


def rows_tested(splits: list[Split]) -> list[int]:
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
    rows = dataset.select(rows_tested(splits)).select_columns(["label", *GROUPS])
    columns = {name: np.array(rows[name]) for name in GROUPS}
    notes = list(dict.fromkeys(says for split in splits for says in (split.warning, split.note) if says))
    if dataset.info.description:
        notes.append(dataset.info.description)
    first = splits[0]
    return Results(
        protocol=first.name,
        protocol_hash="+".join(split.hash for split in splits),
        fold=first.fold if len(splits) == 1 else "all",
        model=model_name,
        dataset=dataset_name,
        **score(np.array(rows["label"]), probabilities, columns),
        labels=list(EMOTIONS),
        history=history or [],
        environment=environment(device),
        seconds=seconds or {},
        split={side: sum(len(getattr(s, side)) for s in splits) for side in ("train", "validation", "test")},
        speakers={side: _speakers(dataset, splits, side) for side in ("train", "validation", "test")},
        held_apart=[kind for kind in first.held_apart if all(kind in split.held_apart for split in splits)],
        data=_data(dataset, splits),
        notes=notes,
    )


def _speakers(dataset: datasets.Dataset, splits: list[Split], side: str) -> int:
    return len({name for split in splits for name in dataset.select(getattr(split, side))["speaker"]})


def _data(dataset: datasets.Dataset, splits: list[Split]) -> dict:
    """What the dataset says of the recordings that the splits use."""
    used = sorted({row for split in splits for row in (*split.train, *split.validation, *split.test)})
    rows = dataset.select(used).select_columns(["corpus", "speaker", "duration"])
    corpora, speakers = np.array(rows["corpus"]), np.array(rows["speaker"])
    official = {} if dataset.info.description else {"ravdess": ravdess.LICENCE, "tess": tess.LICENCE}
    return {
        "clips": len(used),
        "hours": round(sum(rows["duration"]) / 3600, 2),
        "notice": dataset.info.description or "",
        "corpora": {
            corpus: {
                "clips": int((corpora == corpus).sum()),
                "speakers": len(set(speakers[corpora == corpus].tolist())),
                "licence": official.get(corpus, ""),
            }
            for corpus in sorted(set(corpora.tolist()))
        },
    }


def write_answers(path: Path, probabilities: np.ndarray, dataset: datasets.Dataset, splits: list[Split]) -> None:
    """A line of CSV for each test clip: its file, corpus, speaker and label, the answer, and all
    probabilities."""
    rows = dataset.select(rows_tested(splits)).select_columns(["file", "corpus", "speaker", "label"])
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


def refuse_seen(
    config: PretrainedConfig, name: str, dataset: datasets.Dataset, split: Split, side: str = "test"
) -> None:
    """Refuse to test a model, or what is fine-tuned from it, on speakers that it was trained or
    chosen on.

    Fine-tuning writes the speakers and the hash of its split into the model's config; a model from
    elsewhere has none.

    Args:
        config: of the model.
        name: of the model, for the message.
        dataset: what the split indexes.
        split: the very split of its training is allowed, where the protocol leaks by design.
        side: that must be new to the model; `validation` to calibrate on it.

    Raises:
        LeakError: naming the speakers.
    """
    trained = getattr(config, "ser_hf", None)
    if trained is None or "speakers" not in trained or trained["protocol_hash"] == split.hash:
        return
    seen = sorted(set(trained["speakers"]) & set(dataset.select(getattr(split, side))["speaker"]))
    if seen:
        some = ", ".join(seen[:3]) + (" …" if len(seen) > 3 else "")
        uses = "tests" if side == "test" else "validates on"
        raise LeakError(
            f"'{name}' was trained under '{trained['protocol']}' fold {trained['fold']} on {some}, whom '{split.name}' "
            f"fold {split.fold} {uses}: use a model of that protocol and fold ({split.hash})"
        )


def environment(device: str) -> dict:
    """Versions, Python, platform and device."""
    packages = ("torch", "torchaudio", "transformers", "datasets", "accelerate")
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return {
        "python": platform.python_version(),
        "platform": platform.system(),
        "device": f"{device} ({name})",
        "ser-hf": __version__,  # not the metadata's: an interpreter may run a source tree that is not installed
        **{package: version(package) for package in packages},
    }
