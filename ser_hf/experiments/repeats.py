"""More than one training: every fold of a protocol, and several seeds."""

import copy
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainingArguments

from ser_hf import protocols
from ser_hf.evaluation import evaluate
from ser_hf.evaluation.results import PredictionTable, Results
from ser_hf.evaluation.run import write_evidence
from ser_hf.experiments.search import run_search
from ser_hf.training import finetune, recovery, setup
from ser_hf.training.config import FinetuneConfig
from ser_hf.training.recovery import RUN, TrainingError
from ser_hf.utils import files

FIGURES = ("uar", "accuracy", "macro_f1")
"""The figures of `repeats.json`."""


def run_repeats(config: FinetuneConfig, args: TrainingArguments) -> Results | None:
    """Run one training, or all that `fold`, `seeds` and `search` ask for.

    Each fold and seed is trained in a folder of its own below `args.output_dir`, such as
    `seed-42/fold-0`. Finished ones are not trained again. With `--resume_from_checkpoint true` one
    that was cut off goes on.

    The folder itself gets `results.json` and evidence of the first seed, its folds pooled. It gets
    `repeats.json`, too, with the figures of each run, their mean and standard deviation.

    Returns:
        The results of the one training, or those of the first seed. None after a search, and on all
        but the first process.

    Raises:
        UserError: for settings that do not fit, and for a training that cannot go on.
    """
    if config.search:
        run_search(config, args)
        return None
    if config.fold != "all" and config.seeds == 1:
        return finetune.finetune(config, args)
    return _run_all(config, args)


def _run_all(config: FinetuneConfig, args: TrainingArguments) -> Results | None:
    output = Path(args.output_dir)
    resumes = str(args.resume_from_checkpoint).lower() == "true"
    if (output / "repeats.json").exists() or (output.exists() and any(output.iterdir()) and not resumes):
        raise TrainingError(
            f"'{output}' holds an earlier run: go on with --resume_from_checkpoint true, or choose another folder"
        )
    rows, splits = protocols.load_splits(config)
    if len(splits) == config.seeds == 1:  # all folds of a protocol that has one
        return finetune.finetune(dataclasses.replace(config, fold=str(splits[0].fold)), args)
    _claim_folder(config, args, output, splits)
    pooled: list[tuple[Results, np.ndarray]] = []
    runs: list[Results] = []
    folders: list[str] = []
    for seed in range(args.seed, args.seed + config.seeds):
        fold_probabilities = []
        for split in splits:
            folder = output / f"seed-{seed}" if config.seeds > 1 else output
            folder = folder / f"fold-{split.fold}" if len(splits) > 1 else folder
            folders.append(folder.relative_to(output).as_posix())
            run = _run_one(config, args, folder, seed, split.fold, resumes)
            if run is not None and args.process_index == 0:
                runs.append(run)
                fold_probabilities.append(PredictionTable.read(folder / "predictions.csv").probabilities)
        if args.process_index == 0:
            probabilities = np.concatenate(fold_probabilities)
            results = evaluate.build_results(
                probabilities, rows, splits, config.dataset, str(output), device=str(args.device)
            )
            pooled.append((results, probabilities))
    if args.process_index:
        return None
    report = _report([results for results, _ in pooled], runs, folders, args.seed)
    results, probabilities = pooled[0]
    results = dataclasses.replace(results, notes=[*results.notes, report["says"]], repeats=report)
    write_evidence(results, output, probabilities, rows, splits)
    # last: it says that all runs are done
    with files.replacing(output / "repeats.json") as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{report['says']}", flush=True)
    return results


def _claim_folder(config: FinetuneConfig, args: TrainingArguments, output: Path, splits: list[protocols.Split]) -> None:
    """Note in the folder with which settings its runs began, or refuse others than it notes."""
    hashes = "+".join(split.hash for split in splits)
    run = {"protocol_hash": hashes, "seed": args.seed, **setup.recipe_of(config, args)}
    resumed = (output / RUN).exists()
    args.distributed_state.wait_for_everyone()  # all have looked before one writes
    if resumed:
        recovery.refuse_other_run(str(output), run)
    elif args.process_index == 0:
        output.mkdir(parents=True, exist_ok=True)
        (output / RUN).write_text(json.dumps(run))


def _run_one(
    config: FinetuneConfig, args: TrainingArguments, folder: Path, seed: int, fold: int, resumes: bool
) -> Results | None:
    if (folder / "results.json").exists():
        return Results.load(folder / "results.json")
    if args.process_index == 0:
        print(f"\n== {folder}", flush=True)
    run_args = copy.copy(args)
    run_args.output_dir, run_args.seed = str(folder), seed
    checkpoints = recovery.checkpoints(folder)
    run_args.resume_from_checkpoint = "true" if resumes and checkpoints else None
    results = finetune.finetune(dataclasses.replace(config, fold=str(fold), seeds=1), run_args)
    run_args.distributed_state.wait_for_everyone()  # no process may start the next folder early
    return results


def _report(pooled: list[Results], runs: list[Results], folders: list[str], seed: int) -> dict:
    """Report the figures of each run, and their mean and standard deviation (n - 1)."""
    report: dict[str, Any] = {
        "seeds": [seed + number for number in range(len(pooled))],
        "pooled": [_figures(results) for results in pooled],
        "runs": [
            {"folder": folder, "fold": run.fold, **_figures(run)} for folder, run in zip(folders, runs, strict=True)
        ],
        "over_seeds": _spread(pooled),
        "over_runs": _spread(runs),
    }
    lines = []
    for title, key, count in (("seeds", "over_seeds", len(pooled)), ("runs", "over_runs", len(runs))):
        if count > 1:
            figures = ", ".join(f"{name} {row['mean']:.3f} ± {row['sd']:.3f}" for name, row in report[key].items())
            lines.append(f"mean ± sd over {count} {title}: {figures}")
    return {**report, "says": "; ".join(lines) + "."}


def _figures(results: Results) -> dict[str, float]:
    return {name: getattr(results, name) for name in FIGURES}


def _spread(runs: list[Results]) -> dict[str, dict]:
    """Mean and standard deviation of each figure; the latter is None of a single run."""
    values = {name: [getattr(run, name) for run in runs] for name in FIGURES}
    return {
        name: {"mean": statistics.fmean(figures), "sd": statistics.stdev(figures) if len(figures) > 1 else None}
        for name, figures in values.items()
    }
