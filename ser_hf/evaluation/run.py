"""The folder of evidence that lies beside a model, or that `ser-hf evaluate` and `ser-hf baseline`
write."""

import tempfile
import time
from pathlib import Path

import datasets
import numpy as np

from ser_hf import protocols
from ser_hf.errors import UserError
from ser_hf.evaluation import baselines, bias_probes, calibration, evaluate, metrics, plots, reports, robustness
from ser_hf.evaluation.results import Results
from ser_hf.evaluation.settings import BaselineSettings, CalibrateSettings, EvaluateSettings
from ser_hf.inference.predictor import Predictor
from ser_hf.utils import files


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


def run_evaluation(settings: EvaluateSettings) -> Results:
    """Test a model and write `results.json`, `predictions.csv`, the report, `plots/` and a card
    into a folder.

    Raises:
        UserError: for what does not fit together, before anything is written.
    """
    model, output = settings.model, Path(settings.output)
    files.refuse_existing(output)
    if settings.into_model and not Path(model).is_dir():
        raise EvidenceError(f"--into_model: '{model}' is no folder of this machine: leave the flag out")
    rows, splits = protocols.load_splits(settings)
    predictor = Predictor(model)
    results, probabilities, embeddings = evaluate.evaluate(predictor, rows, splits, settings.dataset)
    _remember(results, Path(model))
    tested = evaluate.rows_tested(splits)
    started = time.perf_counter()
    if settings.measures("shortcuts"):
        columns = rows.select(tested).select_columns(["label", "corpus", "channel", "speaker", "sex", "duration"])
        results.shortcuts = bias_probes.probe(embeddings, {name: np.array(columns[name]) for name in columns.features})
    if settings.measures("stress"):
        results.stress = robustness.evaluate_robustness(predictor, rows, tested, probabilities)
    if settings.measures("baselines"):
        results.baselines = [
            _baseline(name, rows, splits, settings.dataset, settings.cache_dir) for name in baselines.NAMES
        ]
    if settings.also:
        results.seconds["evidence"] = round(time.perf_counter() - started, 1)
    with files.new_folder(output) as partial:
        write_evidence(results, partial, probabilities, rows, splits, card=True)
    if settings.into_model:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=model) as temporary:
            write_evidence(results, Path(temporary), probabilities, rows, splits, card=True)
            files.move_into(Path(temporary), Path(model))
    return results


def run_baseline(settings: BaselineSettings) -> Results:
    """Train and test one of `baselines.NAMES` under a protocol, and write its evidence as
    `run_evaluation` does, less a card.

    Raises:
        UserError: for what does not fit together, before anything is written.
    """
    output = Path(settings.output)
    files.refuse_existing(output)
    rows, splits = protocols.load_splits(settings)
    results, probabilities = _trained(settings.name, rows, splits, settings.dataset, settings.seed, settings.cache_dir)
    with files.new_folder(output) as partial:
        write_evidence(results, partial, probabilities, rows, splits)
    return results


def run_calibration(settings: CalibrateSettings) -> dict:
    """Calibrate a model by the validation side of a split, and write the model that this makes.

    Returns:
        What `ser_hf.evaluation.calibration.calibrate` does.

    Raises:
        UserError: for what does not fit together, and where the model was trained on the
            validation's speakers.
    """
    model, output, coverage, error = settings.model, Path(settings.output), settings.coverage, settings.error
    files.refuse_existing(output)
    if settings.fold == "all":
        raise EvidenceError("--fold is all: a model is calibrated on one fold, give its number")
    if coverage is not None or error is not None:
        metrics.check_abstention(coverage, error)
    rows, split = protocols.load_split(settings)
    predictor = Predictor(model)
    evaluate.refuse_seen(predictor.model.config, model, rows, split, "validation")
    found = calibration.calibrate(predictor, rows, split.validation, coverage, error)
    with files.new_folder(output) as partial:
        predictor.model.save_pretrained(partial)
        predictor.extractor.save_pretrained(partial)
    return found


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
