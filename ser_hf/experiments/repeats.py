"""More than one training: every fold of a protocol, several seeds, or a search for better
settings."""

import copy
import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import TrainingArguments

from ser_hf import protocols
from ser_hf.evaluation import evaluate
from ser_hf.evaluation.predictions import PredictionTable
from ser_hf.evaluation.results import Results
from ser_hf.evaluation.run import write_evidence
from ser_hf.training import finetune, recovery, setup
from ser_hf.training.config import FinetuneConfig, training_arguments
from ser_hf.training.recovery import RUN, TrainingError, surviving

FIGURES = ("uar", "accuracy", "macro_f1")


def run_repeats(config: FinetuneConfig, args: TrainingArguments) -> Results | None:
    """One training, or all that `fold`, `seeds` and `search` ask for.

    Folds and seeds are trained in folders of their own below `args.output_dir` (`seed-42/fold-0`,
    and so on); those that are finished are not trained again, and one that was cut off goes on with
    `--resume_from_checkpoint true`. The folder itself gets `results.json` and evidence of the folds
    pooled (of the first seed), and `repeats.json` with each run's figures, their mean and standard
    deviation.

    Raises:
        UserError: for what does not fit, and for a training that cannot go on.
    """
    if config.search:
        return search(config, args)
    if config.fold != "all" and config.seeds == 1:
        return finetune.finetune(config, args)
    return _repeated(config, args)


def _repeated(config: FinetuneConfig, args: TrainingArguments) -> Results | None:
    output = Path(args.output_dir)
    resumes = str(args.resume_from_checkpoint).lower() == "true"
    if (output / "repeats.json").exists() or (output.exists() and any(output.iterdir()) and not resumes):
        raise TrainingError(
            f"'{output}' holds an earlier run: go on with --resume_from_checkpoint true, or choose another folder"
        )
    rows, splits = protocols.load_splits(config)
    if len(splits) == config.seeds == 1:  # all folds of a protocol that has one
        return finetune.finetune(dataclasses.replace(config, fold=str(splits[0].fold)), args)
    hashes = "+".join(split.hash for split in splits)
    began = {"protocol_hash": hashes, "seed": args.seed, **setup.recipe_of(config, args)}
    resumed = (output / RUN).exists()
    args.distributed_state.wait_for_everyone()  # all have looked before one writes
    if resumed:
        recovery.refuse_other_run(str(output), began)
    elif args.process_index == 0:
        output.mkdir(parents=True, exist_ok=True)
        (output / RUN).write_text(json.dumps(began))
    pooled, singles, places = [], [], []
    for seed in range(args.seed, args.seed + config.seeds):
        answers = []
        for split in splits:
            folder = output / f"seed-{seed}" if config.seeds > 1 else output
            folder = folder / f"fold-{split.fold}" if len(splits) > 1 else folder
            places.append(folder.relative_to(output).as_posix())
            singles.append(_single(config, args, folder, seed, split.fold, resumes))
            if args.process_index == 0:
                answers.append(PredictionTable.read(folder / "predictions.csv").probabilities)
        if args.process_index == 0:
            probabilities = np.concatenate(answers)
            results = evaluate.build_results(
                probabilities, rows, splits, config.dataset, str(output), device=str(args.device)
            )
            pooled.append((results, probabilities))
    if args.process_index:
        return None
    report = _report([results for results, _ in pooled], singles, places, args.seed)
    first, probabilities = pooled[0]
    first = dataclasses.replace(first, notes=[*first.notes, report["says"]], repeats=report)
    write_evidence(first, output, probabilities, rows, splits)
    (output / "repeats.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{report['says']}", flush=True)
    return first


def _single(
    config: FinetuneConfig, args: TrainingArguments, folder: Path, seed: int, fold: int, resumes: bool
) -> Results | None:
    if (folder / "results.json").exists():
        return Results.load(folder / "results.json")
    print(f"\n== {folder}", flush=True) if args.process_index == 0 else None
    own = copy.copy(args)
    own.output_dir, own.seed = str(folder), seed
    saved = recovery.checkpoints(folder)
    own.resume_from_checkpoint = "true" if resumes and saved else None
    results = finetune.finetune(dataclasses.replace(config, fold=str(fold), seeds=1), own)
    own.distributed_state.wait_for_everyone()  # the others must not start the next one's folder early
    return results


def _report(pooled: list[Results], singles: list[Results], places: list[str], seed: int) -> dict:
    """Figures of each run, pooled over folds for each seed, and their mean and standard deviation
    (n - 1)."""

    def spread(runs: list[Results]) -> dict:
        values = {name: [getattr(one, name) for one in runs] for name in FIGURES}
        return {
            name: {"mean": statistics.fmean(found), "sd": statistics.stdev(found) if len(found) > 1 else None}
            for name, found in values.items()
        }

    report = {
        "seeds": [seed + place for place in range(len(pooled))],
        "pooled": [{name: getattr(one, name) for name in FIGURES} for one in pooled],
        "runs": [
            {"folder": place, "fold": one.fold, **{n: getattr(one, n) for n in FIGURES}}
            for place, one in zip(places, singles, strict=True)
        ],
        "over_seeds": spread(pooled),
        "over_runs": spread(singles),
    }
    lines = []
    for title, key, count in (("seeds", "over_seeds", len(pooled)), ("runs", "over_runs", len(singles))):
        if count > 1:
            figures = ", ".join(f"{n} {row['mean']:.3f} ± {row['sd']:.3f}" for n, row in report[key].items())
            lines.append(f"mean ± sd over {count} {title}: {figures}")
    report["says"] = "; ".join(lines) + "."
    return report


def search(config: FinetuneConfig, args: TrainingArguments) -> None:
    """Look for settings with a better validation UAR through the Trainer's own hook; the test side
    is not touched.

    Writes `search.json` (every trial) and `best.yaml`, a config file that `ser-hf finetune` takes.

    Raises:
        TrainingError: without optuna, or where the folder holds a search already.
    """
    try:
        import optuna
    except ImportError as error:
        raise TrainingError("--search needs optuna: pip install 'ser-hf[search]'") from error
    output = Path(args.output_dir)
    if (output / "search.json").exists():
        raise TrainingError(f"'{output}' holds an earlier search: choose another --output_dir")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given = _given(config, args)
    rows, split = protocols.load_split(config)
    args.save_strategy, args.load_best_model_at_end = "no", False
    made = setup.prepare(config, args, rows, split)
    fresh = copy.deepcopy(made.trained.trainable.cpu())

    def model_init() -> Any:
        model = copy.deepcopy(fresh)
        model.accepts_loss_kwargs = False
        return model

    made.trainer.model_init = model_init
    trials: list[dict] = []

    def reached(figures: dict) -> float:
        """By the best epoch, since that is what fine-tuning keeps."""
        seen = [row["eval_uar"] for row in made.trainer.state.log_history if "eval_uar" in row]
        trials[-1]["uar"] = max([*seen, figures["eval_uar"]])
        return trials[-1]["uar"]

    with surviving(made.trainer):
        best = made.trainer.hyperparameter_search(
            hp_space=_space(args, trials),
            compute_objective=reached,
            n_trials=config.search,
            direction="maximize",
            backend="optuna",
            sampler=optuna.samplers.TPESampler(seed=args.seed),
            pruner=optuna.pruners.NopPruner(),  # it would end one process of several, and judge by an early dip
        )
    if args.process_index == 0:
        report = {"best": {"uar": best.objective, **best.hyperparameters}, "trials": trials}
        output.mkdir(parents=True, exist_ok=True)
        (output / "search.json").write_text(json.dumps(report, indent=2) + "\n")
        (output / "best.yaml").write_text(yaml.safe_dump(given | best.hyperparameters))
        print(f"best validation UAR {best.objective:.3f}: ser-hf finetune {output / 'best.yaml'}", flush=True)


def _given(config: FinetuneConfig, args: TrainingArguments) -> dict:
    """Every setting that is not a default, and the split's anyway: another fold may test whom this
    one chose on."""
    plain_config = FinetuneConfig(dataset=config.dataset, model=config.model, mode=config.mode)
    plain = (plain_config, training_arguments(plain_config))
    always = {"dataset", "model", "protocol", "mode", "fold", "split_seed", "seed"}
    never = {"search", "output_dir", "run_name", "resume_from_checkpoint"}
    found = {}
    for ours, default in zip((config, args), plain, strict=True):
        for name in {field.name for field in dataclasses.fields(ours) if field.init} - never:
            value, usual = (getattr(value, "value", value) for value in (getattr(ours, name), getattr(default, name)))
            if isinstance(value, bool | int | float | str | list | dict) and (name in always or value != usual):
                found[name] = value
    return found


def _space(args: TrainingArguments, trials: list[dict]) -> Callable:
    """Around the settings given; each trial is noted in `trials`."""
    rate, decay = args.learning_rate, args.weight_decay or 0.01

    def space(trial: Any) -> dict:
        found = {
            "learning_rate": trial.suggest_float("learning_rate", rate / 5, rate * 5, log=True),
            "weight_decay": trial.suggest_float("weight_decay", decay / 10, decay * 10, log=True),
        }
        if trial.number >= len(trials):  # with several processes the first one is asked twice
            trials.append(dict(found))
        return found

    return space
