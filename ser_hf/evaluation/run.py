"""The commands `evaluate`, `baseline` and `calibrate`: measure, and write a folder of evidence."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ser_hf import protocols
from ser_hf.errors import UserError
from ser_hf.evaluation import (
    baselines,
    calibration,
    embedding_reference,
    evaluate,
    metrics,
    plots,
    reports,
)
from ser_hf.evaluation.diagnostics import bias_probes, robustness
from ser_hf.evaluation.results import PredictionTable, Results
from ser_hf.evaluation.settings import BaselineSettings, CalibrateSettings, EvaluateSettings
from ser_hf.inference.predictor import Predictor
from ser_hf.models import loading
from ser_hf.models.seen_speakers import SeenSpeakers
from ser_hf.utils import files


def write_evidence(
    results: Results,
    folder: Path,
    probabilities: np.ndarray,
    rows: datasets.Dataset,
    splits: list[protocols.Split],
    card: bool = False,
) -> None:
    """Write `results.json`, `predictions.csv`, the report, `plots/` and the card of one test.

    Args:
        results: of the test.
        folder: where they go; it exists.
        probabilities: behind the results, shape `(test clips, labels)`.
        rows: the dataset that the splits index.
        splits: that were tested.
        card: whether to write the model card `README.md`.
    """
    results.save(folder / "results.json")
    PredictionTable.of(probabilities, rows.select(evaluate.rows_tested(splits))).write(folder / "predictions.csv")
    (folder / "classification_report.txt").write_text(results.report())
    pictures = plots.draw_results(results, folder / "plots")
    if card:
        (folder / "README.md").write_text(reports.model_card(results, [path.name for path in pictures]))


def run_evaluation(settings: EvaluateSettings) -> Results:
    """Test a model and write the evidence with its card into a folder.

    Raises:
        UserError: for what does not fit together, before anything is written.
    """
    model, output = settings.model, Path(settings.output)
    files.refuse_existing(output)
    if settings.into_model and not Path(model).is_dir():
        raise UserError(f"--into_model: '{model}' is no folder of this machine: leave the flag out")
    if settings.measures("baselines"):
        baselines.require_packages(baselines.BASELINES)
    rows, splits = protocols.load_splits(settings)
    predictor = Predictor(model, backend=settings.backend)
    record = _training_record(Path(model), splits)
    results, probabilities, embeddings = evaluate.evaluate(predictor, rows, splits, settings.dataset, record=record)
    if settings.also:
        started = time.perf_counter()
        evidence = _further_evidence(settings, predictor, rows, splits, probabilities, embeddings)
        seconds = results.seconds | {"evidence": round(time.perf_counter() - started, 1)}
        results = dataclasses.replace(results, seconds=seconds, **evidence)
    with files.new_folder(output) as partial:
        write_evidence(results, partial, probabilities, rows, splits, card=True)
    if settings.into_model:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=model) as temporary:
            write_evidence(results, Path(temporary), probabilities, rows, splits, card=True)
            files.move_into(Path(temporary), Path(model))
    return results


def _further_evidence(
    settings: EvaluateSettings,
    predictor: Predictor,
    rows: datasets.Dataset,
    splits: list[protocols.Split],
    probabilities: np.ndarray,
    embeddings: np.ndarray,
) -> dict[str, Any]:
    """The fields of `ser_hf.evaluation.results.FurtherEvidence` that `--also` asks for."""
    evidence: dict[str, Any] = {}
    tested = evaluate.rows_tested(splits)
    if settings.measures("bias-probes"):
        columns = rows.select(tested).select_columns(["label", "corpus", "channel", "speaker", "sex", "duration"])
        arrays = {name: np.array(columns[name]) for name in columns.features}
        evidence["bias_probes"] = bias_probes.probe(embeddings, arrays)
    if settings.measures("robustness"):
        evidence["robustness"] = robustness.evaluate_robustness(predictor, rows, tested, probabilities)
    if settings.measures("baselines"):
        evidence["baselines"] = [
            _baseline_figures(name, rows, splits, settings.dataset, settings.cache_dir) for name in baselines.BASELINES
        ]
    return evidence


def run_baseline(settings: BaselineSettings) -> Results:
    """Train and test a baseline under a protocol, and write its evidence, without a card.

    Raises:
        UserError: for what does not fit together, before anything is written.
    """
    output = Path(settings.output)
    files.refuse_existing(output)
    baselines.require_packages([settings.name])
    rows, splits = protocols.load_splits(settings)
    results, probabilities = _test_baseline(
        settings.name, rows, splits, settings.dataset, settings.seed, settings.cache_dir
    )
    with files.new_folder(output) as partial:
        write_evidence(results, partial, probabilities, rows, splits)
    return results


def run_calibration(settings: CalibrateSettings) -> dict:
    """Calibrate a model on the validation side of a split, and write the calibrated model.

    Its adaptation head and its reference of embeddings are fitted to the training side.

    Returns:
        As `ser_hf.evaluation.calibration.fit_calibration`.

    Raises:
        UserError: for what does not fit together, and where the model was trained on speakers of
            the validation side.
    """
    model, output, coverage, error = settings.model, Path(settings.output), settings.coverage, settings.error
    files.refuse_existing(output)
    if settings.fold == "all":
        raise UserError("--fold is all: a model is calibrated on one fold, give its number")
    if coverage is not None or error is not None:
        metrics.check_abstention(coverage, error)
    rows, split = protocols.load_split(settings)
    predictor = Predictor(model, backend="torch")  # its weights are changed and saved
    protocols.refuse_seen(SeenSpeakers.of(predictor.config), model, rows, split, "validation")
    fitted = calibration.calibrate_model(predictor, rows, split.validation, coverage, error)
    with files.new_folder(output) as partial:
        predictor.model.save_pretrained(partial)
        predictor.extractor.save_pretrained(partial)
        loading.copy_licences(model, partial)
        embedding_reference.write_head_and_reference(predictor, rows, split, partial)
    return fitted


def _test_baseline(
    name: str,
    rows: datasets.Dataset,
    splits: list[protocols.Split],
    dataset_name: str,
    seed: int,
    cache_dir: str | None,
) -> tuple[Results, np.ndarray]:
    """Results of a baseline, and its probabilities `(test clips, labels)`."""
    started = time.perf_counter()
    predictions, chosen = zip(
        *(baselines.predict_baseline(name, rows, split, seed, cache_dir) for split in splits), strict=True
    )
    probabilities = np.concatenate(predictions)
    record = evaluate.TrainingRecord(
        training={"base_model": name, "settings": chosen[0] if len(chosen) == 1 else {"folds": list(chosen)}},
        seconds={"train": round(time.perf_counter() - started, 1)},
    )
    return evaluate.build_results(probabilities, rows, splits, dataset_name, name, record=record), probabilities


def _baseline_figures(
    name: str, rows: datasets.Dataset, splits: list[protocols.Split], dataset_name: str, cache_dir: str | None
) -> dict:
    results, _ = _test_baseline(name, rows, splits, dataset_name, 42, cache_dir)
    return {"name": name, **{figure: getattr(results, figure) for figure in ("accuracy", "uar", "macro_f1", "ci95")}}


def _training_record(model: Path, splits: list[protocols.Split]) -> evaluate.TrainingRecord | None:
    """The training as the model's own results state it, if those are of the same split."""
    results = Results.beside(model)
    if results is None or results.protocol_hash != "+".join(split.hash for split in splits):
        return None
    return evaluate.TrainingRecord.of(results)
