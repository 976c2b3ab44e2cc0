"""The folder of evidence that lies beside a model, or that `ser-hf evaluate` and `ser-hf baseline`
write."""

import tempfile
import time
from pathlib import Path

import datasets
import numpy as np

from ser_hf import protocols
from ser_hf.data import dataset
from ser_hf.errors import UserError
from ser_hf.evaluation import baselines, bias_probes, calibration, evaluate, metrics, plots, reports, robustness
from ser_hf.evaluation.results import Results
from ser_hf.inference.predictor import Predictor
from ser_hf.utils import files

ALSO = ("stress", "shortcuts", "baselines")
"""What can be asked for beside the test itself, and takes its time."""


class EvidenceError(UserError):
    """Evidence that cannot be put where it was asked for."""


def write_evidence(
    results: Results,
    folder: Path,
    probabilities: np.ndarray,
    rows: datasets.Dataset,
    splits: list[protocols.Split],
    card: bool = False,
) -> None:
    """`results.json`, `predictions.csv`, `classification_report.txt`, `plots/` and, for a model,
    its card `README.md`.

    Args:
        results: of the test.
        folder: that is there.
        probabilities: behind the results, shape `(test clips, labels)`.
        rows: of the dataset.
        splits: that were tested.
        card: whether to write one.
    """
    results.save(folder / "results.json")
    evaluate.write_answers(folder / "predictions.csv", probabilities, rows, splits)
    (folder / "classification_report.txt").write_text(results.report())
    pictures = plots.draw_results(results, folder / "plots")
    if card:
        (folder / "README.md").write_text(reports.model_card(results, [path.name for path in pictures]))


def run_evaluation(
    model: str,
    dataset_name: str,
    protocol: str,
    fold: str,
    output: Path,
    split_seed: int = 42,
    text_disjoint: bool = False,
    also: tuple[str, ...] = (),
    into_model: bool = False,
    cache_dir: str | None = None,
) -> Results:
    """Test a model and write `results.json`, `predictions.csv`, the report, `plots/` and a card
    into a folder.

    Args:
        model: folder or Hub id.
        dataset_name: folder or Hub id.
        protocol: its name, or the file of one.
        fold: a number, or `all` to pool the folds.
        output: must not exist yet; it appears when it is complete.
        split_seed: of what the protocol draws at random.
        text_disjoint: refuse sentences in the test that were heard in training.
        also: any of `ALSO`.
        into_model: put the evidence and the card into the model's folder, too, in place of what is
        there. cache_dir: of the baselines' features.

    Raises:
        UserError: for what does not fit together, before anything is written.
    """
    files.refuse_existing(output)
    if into_model and not Path(model).is_dir():
        raise EvidenceError(f"--into_model: '{model}' is no folder of this machine: leave the flag out")
    rows, splits = _split(dataset_name, protocol, fold, split_seed, text_disjoint)
    predictor = Predictor(model)
    results, probabilities, embeddings = evaluate.evaluate(predictor, rows, splits, dataset_name)
    _remember(results, Path(model))
    tested = evaluate.rows_tested(splits)
    started = time.perf_counter()
    if "shortcuts" in also:
        columns = rows.select(tested).select_columns(["label", "corpus", "channel", "speaker", "sex", "duration"])
        results.shortcuts = bias_probes.probe(embeddings, {name: np.array(columns[name]) for name in columns.features})
    if "stress" in also:
        results.stress = robustness.evaluate_robustness(predictor, rows, tested, probabilities)
    if "baselines" in also:
        results.baselines = [_baseline(name, rows, splits, dataset_name, cache_dir) for name in baselines.NAMES]
    if also:
        results.seconds["evidence"] = round(time.perf_counter() - started, 1)
    with files.new_folder(output) as partial:
        write_evidence(results, partial, probabilities, rows, splits, card=True)
    if into_model:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=model) as temporary:
            write_evidence(results, Path(temporary), probabilities, rows, splits, card=True)
            files.move_into(Path(temporary), Path(model))
    return results


def run_baseline(
    name: str,
    dataset_name: str,
    protocol: str,
    fold: str,
    output: Path,
    split_seed: int = 42,
    seed: int = 42,
    cache_dir: str | None = None,
) -> Results:
    """Train and test one of `baselines.NAMES` under a protocol, and write its evidence as
    `evaluate` does, less a card.

    Raises:
        UserError: for what does not fit together, before anything is written.
    """
    files.refuse_existing(output)
    rows, splits = _split(dataset_name, protocol, fold, split_seed, False)
    results, probabilities = _trained(name, rows, splits, dataset_name, seed, cache_dir)
    with files.new_folder(output) as partial:
        write_evidence(results, partial, probabilities, rows, splits)
    return results


def run_calibration(
    model: str,
    dataset_name: str,
    protocol: str,
    fold: str,
    split_seed: int,
    text_disjoint: bool,
    output: Path,
    coverage: float | None = None,
    error: float | None = None,
) -> dict:
    """Calibrate a model by the validation side of a split, and write the model that this makes.

    Args:
        model: folder or Hub id.
        dataset_name: likewise.
        protocol: and the rest up to `text_disjoint`, as for `evaluate`; one fold.
        fold: a number.
        split_seed: of what the protocol draws at random.
        text_disjoint: as for `evaluate`.
        output: must not exist yet; it appears when it is complete.
        coverage: share of validation clips to answer; no threshold where this and `error` are None.
        error: share of wrong answers to keep to.

    Returns:
        What `ser_hf.evaluation.calibration.calibrate` does.

    Raises:
        UserError: for what does not fit together, and where the model was trained on the
            validation's speakers.
    """
    files.refuse_existing(output)
    if fold == "all":
        raise EvidenceError("--fold is all: a model is calibrated on one fold, give its number")
    if coverage is not None or error is not None:
        metrics.check_abstention(coverage, error)
    rows, (split,) = _split(dataset_name, protocol, fold, split_seed, text_disjoint)
    predictor = Predictor(model)
    evaluate.refuse_seen(predictor.model.config, model, rows, split, "validation")
    found = calibration.calibrate(predictor, rows, split.validation, coverage, error)
    with files.new_folder(output) as partial:
        predictor.model.save_pretrained(partial)
        predictor.extractor.save_pretrained(partial)
    return found


def _split(
    dataset_name: str, protocol: str, fold: str, split_seed: int, text_disjoint: bool
) -> tuple[datasets.Dataset, list[protocols.Split]]:
    rows = dataset.load(dataset_name)
    near = protocols.near_duplicates_of(rows)
    return rows, protocols.folds(rows, protocol, fold, split_seed, near=near, text_disjoint=text_disjoint)


def _trained(
    name: str,
    rows: datasets.Dataset,
    splits: list[protocols.Split],
    dataset_name: str,
    seed: int,
    cache_dir: str | None,
) -> tuple[Results, np.ndarray]:
    started = time.perf_counter()
    found = [baselines.answers(name, rows, split, seed, cache_dir) for split in splits]
    probabilities = np.concatenate([answers for answers, _ in found])
    seconds = {"train": round(time.perf_counter() - started, 1)}
    results = evaluate.judge(probabilities, rows, splits, dataset_name, name, seconds=seconds)
    settings = [settings for _, settings in found]
    results.training = {"base_model": name, "settings": settings[0] if len(settings) == 1 else {"folds": settings}}
    return results, probabilities


def _baseline(
    name: str, rows: datasets.Dataset, splits: list[protocols.Split], dataset_name: str, cache_dir: str | None
) -> dict:
    results, _ = _trained(name, rows, splits, dataset_name, 42, cache_dir)
    kept = ("accuracy", "uar", "macro_f1", "ci95")
    return {"name": name, **{figure: getattr(results, figure) for figure in kept}}


def _remember(results: Results, model: Path) -> None:
    """What the model's own folder says of its training, where that was under the same split."""
    own = Results.beside(model)
    if own is not None and own.protocol_hash == results.protocol_hash:
        results.history, results.training = own.history, own.training
        results.seconds = own.seconds | results.seconds
        if results.calibration and own.calibration:
            results.calibration = own.calibration | results.calibration
