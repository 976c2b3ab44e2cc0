"""The folder of evidence that lies beside a model, or that `ser-hf evaluate` writes."""

from pathlib import Path

import datasets
import numpy as np

from ser_hf import dataset, evaluation, fingerprint, outputs, plots, protocols
from ser_hf.predictor import Predictor


def write(
    results: evaluation.Results,
    folder: Path,
    probabilities: np.ndarray,
    rows: datasets.Dataset,
    splits: list[protocols.Split],
    model_card: str | None = None,
) -> None:
    """`results.json`, `predictions.csv`, `classification_report.txt`, `plots/` and, for a model, its card `README.md`.

    Args:
        results: of the test.
        folder: that is there.
        probabilities: behind the results, shape `(test clips, labels)`.
        rows: of the dataset.
        splits: that were tested.
        model_card: its text, for a model folder.
    """
    results.save(folder / "results.json")
    evaluation.write_answers(folder / "predictions.csv", probabilities, rows, splits)
    (folder / "classification_report.txt").write_text(results.report())
    plots.draw(results, folder / "plots")
    if model_card is not None:
        (folder / "README.md").write_text(model_card)


def evaluate(
    model: str,
    dataset_name: str,
    protocol: str,
    fold: str,
    output: Path,
    split_seed: int = 42,
    text_disjoint: bool = False,
) -> evaluation.Results:
    """Test a model and write `results.json`, `predictions.csv`, `classification_report.txt` and `plots/` into a folder.

    Args:
        model: folder or Hub id.
        dataset_name: folder or Hub id.
        protocol: its name, or the file of one.
        fold: a number, or `all` to pool the folds.
        output: must not exist yet; it appears when it is complete.
        split_seed: of what the protocol draws at random.
        text_disjoint: refuse sentences in the test that were heard in training.

    Raises:
        UserError: for what does not fit together, before anything is written.
    """
    outputs.refuse_existing(output)
    rows = dataset.load(dataset_name)
    near = fingerprint.in_dataset(rows)
    splits = protocols.folds(rows, protocol, fold, split_seed, near=near, text_disjoint=text_disjoint)
    results, probabilities = evaluation.evaluate(Predictor(model), rows, splits, dataset_name)
    with outputs.appearing(output) as partial:
        write(results, partial, probabilities, rows, splits)
    return results
