"""A model's predictions for the rows of a dataset, and `predictions.csv`."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from ser_hf import audio
from ser_hf.evaluation.results import ResultsError
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import EMOTIONS, LABEL2ID
from ser_hf.protocols import Split

_CHUNK = 512  # clips decoded at a time


def clip_chunks(rows: datasets.Dataset, size: int = _CHUNK) -> Iterator[list[np.ndarray]]:
    """Decode the clips of a dataset, `size` at a time; each is float32, 16 kHz, `(samples,)`."""
    for start in range(0, len(rows), size):
        yield [audio.load(clip) for clip in rows[start : start + size]["audio"]]


def model_outputs(predictor: Predictor, rows: datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Run a model over all rows; memory holds a few hundred clips at a time.

    Returns:
        Float32 logits `(clips, labels)` and embeddings `(clips, width)`.

    Raises:
        AudioError: for a clip that cannot be decoded.
    """
    chunks = [predictor.outputs(clips) for clips in clip_chunks(rows)] or [predictor.outputs([])]
    logits, embeddings = zip(*chunks, strict=True)
    return np.concatenate(logits), np.concatenate(embeddings)


def rows_tested(splits: list[Split]) -> list[int]:
    """Indices of the test clips of one split, or of pooled folds one after the other."""
    return np.concatenate([split.test for split in splits]).tolist()


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
    def of(cls, probabilities: np.ndarray, dataset: datasets.Dataset, splits: list[Split]) -> "PredictionTable":
        """Put probabilities `(clips, labels)`, ordered as `rows_tested`, beside their clips."""
        rows = dataset.select(rows_tested(splits)).select_columns(["file", "corpus", "speaker", "label"])
        names = (np.array(rows[name]) for name in ("file", "corpus", "speaker", "label"))
        return cls(*names, probabilities.argmax(axis=1), probabilities)

    def take(self, order: np.ndarray) -> "PredictionTable":
        """The rows of these indices, in this order."""
        return PredictionTable(*(values[order] for values in vars(self).values()))

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
            names = (np.array(columns[name]) for name in ("file", "corpus", "speaker"))
            indices = (np.array([LABEL2ID[name] for name in columns[side]]) for side in ("label", "predicted"))
            probabilities = np.array([[row[name] for name in EMOTIONS] for row in rows], dtype=np.float32)
            table = cls(*names, *indices, probabilities)
        except FileNotFoundError:
            raise ResultsError(
                f"'{path.parent}' has no {path.name}: name a folder that `ser-hf evaluate` wrote"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise ResultsError(f"'{path}' is no predictions.csv of ser_hf ({error}): run `ser-hf evaluate`") from error
        if not rows:
            raise ResultsError(f"'{path}' holds no predictions: run `ser-hf evaluate`")
        return table


_COLUMNS = ("file", "corpus", "speaker", "label", "predicted")
