"""A search for settings of fine-tuning with a better validation UAR."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from ser_hf import protocols
from ser_hf.training import setup
from ser_hf.training.config import FinetuneConfig, training_arguments
from ser_hf.training.recovery import TrainingError, surviving
from ser_hf.utils import packages

_ALWAYS_WRITTEN = {"dataset", "model", "protocol", "mode", "fold", "split_seed", "seed"}
"""Settings that `best.yaml` holds even where they are defaults. The split is among them: the test
of another fold may hold speakers that the search chose on."""
_NEVER_WRITTEN = {"search", "output_dir", "run_name", "resume_from_checkpoint"}


def run_search(config: FinetuneConfig, args: TrainingArguments) -> None:
    """Search by the Trainer's own hook; the test side is not touched.

    Writes `search.json` (every trial) and `best.yaml`, a config file that `ser-hf finetune` takes.

    Raises:
        UserError: without optuna, or where the folder holds a search already.
    """
    packages.require("--search", "optuna", "'ser-hf[search]'")
    import optuna

    output = Path(args.output_dir)
    if (output / "search.json").exists():
        raise TrainingError(f"'{output}' holds an earlier search: choose another --output_dir")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = _changed_settings(config, args)
    rows, split = protocols.load_split(config)
    args.save_strategy, args.load_best_model_at_end = "no", False
    prepared = setup.prepare(config, args, rows, split)
    untrained = copy.deepcopy(prepared.trained.trainable.cpu())

    def model_init() -> Any:
        model = copy.deepcopy(untrained)
        model.accepts_loss_kwargs = False
        return model

    prepared.trainer.model_init = model_init
    trials: list[dict] = []

    def best_uar(figures: dict) -> float:
        """Of the best epoch, since that is what fine-tuning keeps."""
        values = [row["eval_uar"] for row in prepared.trainer.state.log_history if "eval_uar" in row]
        trials[-1]["uar"] = max([*values, figures["eval_uar"]])
        return trials[-1]["uar"]

    with surviving(prepared.trainer):
        best = prepared.trainer.hyperparameter_search(
            hp_space=_space(args, trials),
            compute_objective=best_uar,
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
        (output / "best.yaml").write_text(yaml.safe_dump(settings | best.hyperparameters))
        print(f"best validation UAR {best.objective:.3f}: ser-hf finetune {output / 'best.yaml'}", flush=True)


def _changed_settings(config: FinetuneConfig, args: TrainingArguments) -> dict:
    """Every setting that is not a default, and those that are always written."""
    default_config = FinetuneConfig(dataset=config.dataset, model=config.model, mode=config.mode)
    settings = {}
    for current, defaults in ((config, default_config), (args, training_arguments(default_config))):
        for name in {field.name for field in dataclasses.fields(current) if field.init} - _NEVER_WRITTEN:
            value, default = (_plain(getattr(each, name)) for each in (current, defaults))
            writable = isinstance(value, bool | int | float | str | list | dict)
            if writable and (name in _ALWAYS_WRITTEN or value != default):
                settings[name] = value
    return settings


def _plain(value: object) -> object:
    """The value of a member of an enumeration, and any other value as it is."""
    return getattr(value, "value", value)


def _space(args: TrainingArguments, trials: list[dict]) -> Callable:
    """Values around the given settings; each trial is appended to `trials`."""
    rate, decay = args.learning_rate, args.weight_decay or 0.01

    def space(trial: Any) -> dict:
        values = {
            "learning_rate": trial.suggest_float("learning_rate", rate / 5, rate * 5, log=True),
            "weight_decay": trial.suggest_float("weight_decay", decay / 10, decay * 10, log=True),
        }
        if trial.number >= len(trials):  # with several processes the first is called twice
            trials.append(dict(values))
        return values

    return space
