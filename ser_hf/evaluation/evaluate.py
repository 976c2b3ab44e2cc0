"""Model + dataset + protocol -> `Results`."""

import platform
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version

import datasets
import numpy as np
import torch
from scipy.special import softmax

from ser_hf import __version__
from ser_hf.data.corpora import CORPORA
from ser_hf.data.dataset import decoded_clips, label_aliases
from ser_hf.evaluation import calibration, metrics
from ser_hf.evaluation.results import GROUPS, Results, score
from ser_hf.inference.backends.onnx_runtime import GRAPH_FILES
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import EMOTIONS
from ser_hf.models import loading
from ser_hf.models.backbones import describe_pretraining
from ser_hf.models.seen_speakers import SeenSpeakers
from ser_hf.protocols import PROTOCOLS, SIDES, LeakError, Split, refuse_seen


@dataclass(frozen=True)
class TrainingRecord:
    """The record of a model's training; empty for a model from elsewhere."""

    training: dict = field(default_factory=dict)
    """As in `Results`, and so are the next two."""
    history: list[dict] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    calibration: dict | None = None
    """What `calibration.fit_calibration` returned."""
    processes: int | None = None
    """That trained together."""

    @classmethod
    def of(cls, results: Results) -> "TrainingRecord":
        """The record that the results in a model's folder hold."""
        return cls(results.training, results.history, results.seconds, results.calibration)


def evaluate(
    predictor: Predictor,
    dataset: datasets.Dataset,
    splits: list[Split],
    dataset_name: str,
    model_name: str | None = None,
    record: TrainingRecord | None = None,
) -> tuple[Results, np.ndarray, np.ndarray]:
    """Run a model over the test sides of one split, or of several folds pooled.

    Args:
        predictor: a model with the eight labels.
        dataset: what the splits index.
        splits: one, or every fold of a protocol.
        dataset_name: as it stands in the results.
        model_name: as it stands in the results; the predictor's name where None.
        record: of the training that made the model.

    Returns:
        The results, the probabilities behind them, shape `(test clips, labels)`, and the clips'
        embeddings `(test clips, width)`.

    Raises:
        LeakError: if the model was trained or chosen on speakers of the test side.
    """
    if predictor.labels != list(EMOTIONS):
        raise LeakError(f"'{predictor.name}' has the labels {predictor.labels}: they must be {list(EMOTIONS)}")
    seen = SeenSpeakers.of(predictor.config)
    for split in splits:
        refuse_seen(seen, predictor.name, dataset, split)
    started = time.perf_counter()
    logits, embeddings = predictor.outputs(decoded_clips(dataset.select(rows_tested(splits)), "Predicting the test"))
    probabilities = softmax(logits, axis=1)
    results = build_results(
        probabilities,
        dataset,
        splits,
        dataset_name,
        model_name or predictor.name,
        device=predictor.device,
        backend=predictor.backend,
        seen=seen,
        weights=loading.digest(predictor.model),
        record=record,
        seconds={"evaluate": round(time.perf_counter() - started, 1)},
    )
    return results, probabilities, embeddings


def rows_tested(splits: list[Split]) -> list[int]:
    """Indices of the test clips of one split, or of pooled folds one after the other."""
    return np.concatenate([split.test for split in splits]).tolist()


def build_results(
    probabilities: np.ndarray,
    dataset: datasets.Dataset,
    splits: list[Split],
    dataset_name: str,
    model_name: str,
    *,
    device: str = "cpu",
    backend: str | None = None,
    seen: SeenSpeakers | None = None,
    weights: str = "",
    record: TrainingRecord | None = None,
    seconds: dict[str, float] | None = None,
) -> Results:
    """Score predictions, whatever made them, and put the figures beside all that explains them.

    Args:
        probabilities: of the clips of `rows_tested`, shape `(clips, labels)`.
        dataset: what the splits index.
        splits: one, or folds to be pooled.
        dataset_name: as it stands in the results; a folder's `audit.json` gives renamed labels.
        model_name: as it stands in the results.
        device: that the predictions were computed on.
        backend: of the predictor that computed them.
        seen: what the model's config remembers: its training speakers, temperature and threshold.
            None for predictions of a model that is known to be trained under these splits.
        weights: digest of the model.
        record: of the training that made the model.
        seconds: of the evaluation.
    """
    record = record or TrainingRecord()
    rows = dataset.select(rows_tested(splits)).select_columns(["label", *GROUPS])
    columns = {name: np.array(rows[name]) for name in GROUPS}
    references = np.array(rows["label"])
    figures = score(references, probabilities, columns)
    first, builtin = splits[0], PROTOCOLS.get(splits[0].name)
    notes = list(dict.fromkeys(note for split in splits for note in (split.warning, split.note) if note))
    notes += [dataset.info.description] * bool(dataset.info.description)
    held_apart = [kind for kind in first.held_apart if all(kind in split.held_apart for split in splits)]
    if seen is not None and seen.speakers is None:
        notes.append("The model does not say which speakers it was trained on, so a leak cannot be ruled out.")
        held_apart = []
    return Results(
        protocol=first.name,
        protocol_hash="+".join(split.hash for split in splits),
        fold=first.fold if len(splits) == 1 else "all",
        folds=None if builtin is None else builtin.folds,
        model=model_name,
        weights=weights,
        dataset=dataset_name,
        data=_describe_data(dataset, splits, dataset_name),
        labels=list(EMOTIONS),
        split={side: sum(len(getattr(split, side)) for split in splits) for side in SIDES},
        speakers={side: _count_speakers(dataset, splits, side) for side in SIDES},
        held_apart=held_apart,
        notes=notes,
        **figures,
        chance=1 / max(1, sum(row["support"] > 0 for row in figures["per_class"].values())),
        training=record.training,
        history=record.history,
        environment=describe_environment(device, record.processes, backend),
        seconds=record.seconds | (seconds or {}),
        backbone=_describe_backbone(seen),
        calibration=_calibration_figures(probabilities, references, seen, record),
    )


def _describe_backbone(seen: SeenSpeakers | None) -> dict[str, str]:
    if seen is None or seen.speakers is None:
        return {}
    return {"name": seen.backbone or "unknown", "pretrained_on": describe_pretraining(seen.backbone)}


def _calibration_figures(
    probabilities: np.ndarray, references: np.ndarray, seen: SeenSpeakers | None, record: TrainingRecord
) -> dict | None:
    """Calibration and abstaining on the test side, and what was fitted on the validation side.

    Args:
        probabilities: of a model whose temperature is folded in, shape `(clips, labels)`.
        references: class indices, shape `(clips,)`.
        seen: with the model's temperature and, if it has one, its threshold.
        record: with the figures of the validation side, if they are known.
    """
    if seen is None or seen.temperature is None:
        return None
    before = calibration.undo_temperature(probabilities, seen.temperature)
    figures = {
        "temperature": seen.temperature,
        "ece_before": metrics.calibration_error(references, before),
        "reliability_before": metrics.reliability(references, before),
    }
    if seen.abstain_below:
        answered = probabilities.max(axis=1) >= seen.abstain_below
        figures |= {"abstain_below": seen.abstain_below, "answered": float(answered.mean())}
        figures |= _abstention_figures(probabilities.argmax(axis=1), references, answered)
    fitted = record.calibration or {}
    return figures | {name: fitted[name] for name in ("validation", "abstain") if name in fitted}


def _abstention_figures(predictions: np.ndarray, references: np.ndarray, answered: np.ndarray) -> dict:
    """Refusals counted: the figures of what is answered, and UAR with each refusal counted wrong.

    Args:
        predictions: class indices, shape `(clips,)`, as `references`.
        references: class indices of the clips.
        answered: mask of the clips that the model does not abstain on.
    """
    errors = predictions[answered] != references[answered]
    right = answered & (predictions == references)
    recalls = [right[references == label].mean() for label in np.unique(references)]
    matrix = metrics.confusion(references[answered], predictions[answered])
    return {
        "asked_n": len(references),
        "answered_n": int(answered.sum()),
        "error": float(errors.mean()) if len(errors) else 0.0,
        "uar_answered": float(metrics.scores(matrix)["uar"]) if len(errors) else 0.0,
        "uar_refusals_wrong": float(np.mean(recalls)),
    }


def _count_speakers(dataset: datasets.Dataset, splits: list[Split], side: str) -> int:
    return len({name for split in splits for name in dataset.select(getattr(split, side))["speaker"]})


def _describe_data(dataset: datasets.Dataset, splits: list[Split], dataset_name: str) -> dict:
    """Corpora, hours, licences and renamed labels of the recordings that the splits use."""
    used = sorted({row for split in splits for row in (*split.train, *split.validation, *split.test)})
    rows = dataset.select(used).select_columns(["corpus", "speaker", "duration"])
    corpora, speakers = np.array(rows["corpus"]), np.array(rows["speaker"])
    every = np.array(dataset["corpus"])
    tested: Counter = Counter()
    new: Counter = Counter()
    for split in splits:
        known = set(every[split.train + split.validation].tolist())
        counts = Counter(every[split.test].tolist())
        tested += counts
        new += Counter({corpus: count for corpus, count in counts.items() if corpus not in known})
    official = {} if dataset.info.description else {name: corpus.licence for name, corpus in CORPORA.items()}
    return {
        "clips": len(used),
        "hours": round(sum(rows["duration"]) / 3600, 2),
        "notice": dataset.info.description or "",
        "aliases": [alias for alias in label_aliases(dataset_name) if alias["corpus"] in corpora],
        "corpora": {
            corpus: {
                "clips": int((corpora == corpus).sum()),
                "speakers": len(set(speakers[corpora == corpus].tolist())),
                "licence": official.get(corpus, ""),
                "test_clips": tested[corpus],
                "test_clips_of_new_corpus": new[corpus],
            }
            for corpus in sorted(set(corpora.tolist()))
        },
    }


def describe_environment(device: str, processes: int | None = None, backend: str | None = None) -> dict:
    """Versions, Python, platform, device; the backend, and how many processes trained, if known."""
    packages = ["torch", "torchaudio", "transformers", "datasets", "accelerate"]
    packages += ["onnxruntime"] if backend in GRAPH_FILES else []
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return {
        "python": platform.python_version(),
        "platform": platform.system(),
        "device": f"{device} ({name})",
        "ser-hf": __version__,  # not the metadata's: an interpreter may run a source tree that is not installed
        **{package: version(package) for package in packages},
        **({"processes": processes} if processes else {}),
        **({"backend": backend} if backend else {}),
    }
