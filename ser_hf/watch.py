"""What is seen of a training while it runs: a line a validation, `history.json`, and the end of patience."""

import json
from pathlib import Path

from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState

from ser_hf.batches import FrameBudget


class Watch(TrainerCallback):
    """Tells the sampler its epoch, prints a line a validation, keeps `history.json`, stops when patience is over."""

    def __init__(self, sampler: FrameBudget, patience: int, metric: str = "uar", greater: bool = True) -> None:
        self.sampler, self.patience = sampler, patience
        self.metric, self.sign = f"eval_{metric.removeprefix('eval_')}", 1 if greater else -1

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:  # noqa: ANN001, ANN003
        """Also after a resume in the middle of an epoch."""
        self.sampler.epoch = int(state.epoch or 0)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:  # noqa: ANN001, ANN003
        """Print; stop after so many validations without a better one."""
        if self.over(state):
            control.should_training_stop = True
        if state.is_world_process_zero:
            _print_line(args, state, metrics)
            if not state.is_hyper_param_search:
                partial = Path(args.output_dir, ".history.json")
                partial.write_text(json.dumps(by_epoch(state.log_history), indent=1))
                partial.rename(Path(args.output_dir, "history.json"))

    def over(self, state: TrainerState) -> bool:
        """Whether as many validations as patience allows have passed since the best one."""
        values = [self.sign * row[self.metric] for row in state.log_history if self.metric in row]
        return bool(self.patience and values) and len(values) - 1 - values.index(max(values)) >= self.patience


def by_epoch(log: list[dict]) -> list[dict]:
    """One row a validation: training loss and accuracy with the validation figures."""
    rows: dict[float, dict] = {}
    keep = ("epoch", "step", "loss", "accuracy", "learning_rate", "grad_norm")
    keep += ("eval_loss", "eval_accuracy", "eval_uar", "eval_macro_f1", "objective", "perplexity", "eval_perplexity")
    for entry in log:
        if "loss" in entry or "eval_loss" in entry:
            rows.setdefault(entry["step"], {}).update({key: entry[key] for key in keep if key in entry})
    return [rows[step] for step in sorted(rows)]


def _print_line(args: TrainingArguments, state: TrainerState, metrics: dict) -> None:
    train = next((row for row in reversed(state.log_history) if "loss" in row), None)
    learnt = "" if train is None else f"  loss {train['loss']:.3f}  accuracy {train['accuracy']:.3f}"
    print(
        f"epoch {state.epoch:5.2f}/{args.num_train_epochs:g}{learnt} | validation loss {metrics['eval_loss']:.3f}  "
        f"UAR {metrics['eval_uar']:.3f}",
        flush=True,
    )
