"""The Trainer of fine-tuning: planned steps, a loss for each clip, early stopping, history."""

import json
from collections.abc import Sized
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import EvalPrediction, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_utils import TrainOutput

from ser_hf.evaluation import metrics
from ser_hf.models.padding import ALONE
from ser_hf.training import optimization
from ser_hf.training.dataset import TRAINING_KEYS, SpeechDataset, TrainingCollator
from ser_hf.training.losses import Objective
from ser_hf.training.optimization import WeightAverage
from ser_hf.training.recovery import RUN, TrainingError
from ser_hf.training.sampler import PaddedLengthBatchSampler
from ser_hf.utils import progress
from ser_hf.utils.files import replacing


class ValidationWatch(TrainerCallback):
    """Sets the sampler's epoch, prints a line a validation, writes `history.json`, stops early.

    transformers' `EarlyStoppingCallback` does not fit. Its `CallbackHandler` resets
    `should_training_stop` when training begins, so a run that had stopped would train another epoch
    when it is resumed. Patience is counted from the Trainer's state, which every checkpoint holds.
    """

    def __init__(
        self, sampler: PaddedLengthBatchSampler, patience: int, metric: str = "uar", greater: bool = True
    ) -> None:
        self.sampler, self.patience = sampler, patience
        self.metric, self.sign = f"eval_{metric.removeprefix('eval_')}", 1 if greater else -1

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Set the sampler's epoch, also after a resume in the middle of an epoch."""
        self.sampler.epoch = int(state.epoch or 0)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Print and write the history; stop after so many validations without a better one."""
        if self.over(state):
            control.should_training_stop = True
        if state.is_world_process_zero:
            _print_line(args, state, metrics or {})
            if not state.is_hyper_param_search:
                with replacing(Path(args.output_dir, "history.json")) as partial:
                    partial.write_text(json.dumps(by_epoch(state.log_history), indent=1))

    def over(self, state: TrainerState) -> bool:
        """Whether as many validations as patience allows have passed since the best one."""
        values = [self.sign * row[self.metric] for row in state.log_history if self.metric in row]
        return bool(self.patience and values) and len(values) - 1 - values.index(max(values)) >= self.patience


def by_epoch(log: list[dict]) -> list[dict]:
    """Merge the Trainer's log into a row for each validation: training and validation figures."""
    rows: dict[float, dict] = {}
    keep: tuple[str, ...] = ("epoch", "step", "loss", "accuracy", "learning_rate", "grad_norm")
    keep += ("eval_loss", "eval_accuracy", "eval_uar", "eval_macro_f1", "objective", "perplexity", "eval_perplexity")
    for entry in log:
        if "loss" in entry or "eval_loss" in entry:
            rows.setdefault(entry["step"], {}).update({key: entry[key] for key in keep if key in entry})
    return [rows[step] for step in sorted(rows)]


class EpochBar(TrainerCallback):
    """A bar over the steps of an epoch, and one over a validation; each goes when its work ends."""

    def __init__(self) -> None:
        self._epoch: tqdm | None = None
        self._validation: tqdm | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Begin to count steps."""
        if state.is_world_process_zero:
            steps = -(-state.max_steps // max(1, state.num_train_epochs))
            what = f"Epoch {int(state.epoch or 0) + 1} of {state.num_train_epochs}"
            self._epoch = progress.bar(what, steps, "steps", leave=False)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Count a step."""
        if self._epoch is not None:
            self._epoch.update()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Take the bar of the epoch away."""
        if self._epoch is not None:
            self._epoch.close()

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Sized = (),
        **kwargs: object,
    ) -> None:
        """Count a batch of a validation."""
        if self._validation is None and state.is_world_process_zero:
            self._validation = progress.bar("Validating", len(eval_dataloader), "batches", leave=False)
        if self._validation is not None:
            self._validation.update()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Take the bar of the validation away."""
        if self._validation is not None:
            self._validation.close()
            self._validation = None


def _print_line(args: TrainingArguments, state: TrainerState, metrics: dict) -> None:
    train = next((row for row in reversed(state.log_history) if "loss" in row), None)
    training = "" if train is None else f"  loss {train['loss']:.3f}  accuracy {train['accuracy']:.3f}"
    print(
        f"epoch {state.epoch:5.2f}/{args.num_train_epochs:g}{training} | validation loss {metrics['eval_loss']:.3f}  "
        f"UAR {metrics['eval_uar']:.3f}",
        flush=True,
    )


_LOOK_EVERY = 20  # steps between looks at the loss on a GPU, where a look waits for it


@dataclass
class Recipe:
    """What the Trainer needs beyond its arguments."""

    sampler: PaddedLengthBatchSampler
    objective: Objective = field(default_factory=Objective)
    layer_decay: float = 1.0
    ema_decay: float = 0.0
    """Decay of the running average of the weights, which is validated and saved; 0: none."""
    run: dict = field(default_factory=dict)
    """What a resumed run must agree on; kept in each checkpoint."""
    judge_start: bool = False
    """Whether the weights before the first step are validated, and can be the best checkpoint."""


class SerTrainer(Trainer):
    """Trainer whose loss is a mean over the clips of a step of `PaddedLengthBatchSampler`.

    A step is divided into micro-batches of unequal numbers of clips, over accumulation or
    processes. Its gradient is the same however it is divided.
    """

    optimizer: torch.optim.Optimizer | None

    def __init__(self, *args: object, recipe: Recipe, **kwargs: object) -> None:
        # With a loss function the Trainer counts the clips of a whole step and leaves the division
        # to `compute_loss`.
        super().__init__(*args, compute_loss_func=recipe.objective, **kwargs)
        self.recipe = recipe
        self.average = WeightAverage(recipe.ema_decay) if recipe.ema_decay else None
        if self.average:
            self.add_callback(self.average)
        self.hits: torch.Tensor | None = None  # correct predictions and clips since the last log
        self.running = ""  # the current batch, for messages
        self._finite: torch.Tensor | None = None

    def get_train_dataloader(self) -> DataLoader:
        """Load batches of this process: the sampler shares out, accelerate must not do so again."""
        args = self.args
        # a stream is read by threads of this process: each other one would read all of it
        workers = 0 if self.train_dataset.stream is not None else args.dataloader_num_workers
        return DataLoader(
            self.train_dataset,
            batch_sampler=self.recipe.sampler,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=workers > 0,
            prefetch_factor=args.dataloader_prefetch_factor if workers else None,
        )

    def _prepare_for_training(self, *args: object, **kwargs: object) -> tuple:
        if self.average:
            self.average.begin(self.model)  # not earlier: each trial of a search has a model of its own
        if not self.is_fsdp_enabled:
            return super()._prepare_for_training(*args, **kwargs)
        # accelerate's FSDP2 looks for the parts of a language model. Speech models raise for input
        # embeddings, and an encoder called `…StableLayerNorm` would be taken for the final norm.
        model = self.model
        model.get_input_embeddings = model.get_output_embeddings = lambda: None
        prefix, model.base_model_prefix = model.base_model_prefix, ""
        try:
            return super()._prepare_for_training(*args, **kwargs)
        finally:
            model.base_model_prefix = prefix

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Make AdamW, or what `optim` says, with a rate for each layer where the rate decays."""
        if self.recipe.layer_decay == 1 or self.optimizer is not None:
            return super().create_optimizer(model)
        model = self.model if model is None else model
        decays = set(self.get_decay_parameter_names(model))
        parameters = dict(model.named_parameters())
        groups: dict[tuple[float, bool], list] = {}
        for name, rate in optimization.layer_decayed_groups(
            model, self.args.learning_rate, self.recipe.layer_decay
        ).items():
            groups.setdefault((rate, name in decays), []).append(parameters[name])
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
        self.optimizer = kind(
            [
                {"params": group, "lr": rate, "weight_decay": self.args.weight_decay if decay else 0.0}
                for (rate, decay), group in groups.items()
            ],
            **settings,
        )
        return self.optimizer

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Compute the training objective, or plain cross-entropy in validation.

        The objective is summed over the clips and divided by the clips of the whole step.
        """
        extras = {name: inputs.pop(name) for name in TRAINING_KEYS if name in inputs}
        outputs = model(**inputs)
        labels = extras["labels"]
        if not model.training:
            loss = functional.cross_entropy(outputs.logits.float(), labels)
            return (loss, outputs) if return_outputs else loss
        losses = self.recipe.objective(outputs.logits, labels, extras.get("other"), extras.get("share", 1.0))
        losses = losses * extras.get("weight", 1.0)
        correct = (outputs.logits.detach().argmax(-1) == labels).sum()
        counted = torch.stack([correct, torch.full_like(correct, len(labels))])
        self.hits = counted if self.hits is None else self.hits + counted
        # Processes average their gradients, which have to be added.
        loss = losses.sum() / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run a step; stop where the loss is no number."""
        features = inputs[self.data_collator.input_name]
        self.running = (
            f"{features.shape[0]} clips of {features.shape[1]:,} {'samples' if features.ndim == 2 else 'frames'}"
        )
        loss = super().training_step(model, inputs, num_items_in_batch)
        finite = torch.isfinite(loss)
        self._finite = finite if self._finite is None else self._finite & finite
        if loss.device.type == "cpu" or self.state.global_step % _LOOK_EVERY == 0:
            self._refuse_nan()
        return loss

    def log(self, logs: dict[str, float], *args: object, **kwargs: object) -> None:
        """Add the training accuracy to the Trainer's loss."""
        if "loss" in logs and self.hits is not None:
            correct, clips = self.accelerator.reduce(self.hits, "sum").tolist()
            logs["accuracy"] = correct / clips
            self.hits = None
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
        """Validate the averaged weights where there are any."""
        with self.average.in_place() if self.average else nullcontext():
            return super().evaluate(*args, **kwargs)

    def train(self, *args: object, **kwargs: object) -> TrainOutput:
        """Train; the model ends with the averaged weights where there are any."""
        output = super().train(*args, **kwargs)
        if self.average:
            self.average.put()  # of the last step, or of the best checkpoint, which has been loaded
        return output

    def _evaluate(self, trial: object, ignore_keys_for_eval: list[str] | None, skip_scheduler: bool = False) -> dict:
        # Private in transformers: `eval_on_start` validates the start, and never keeps it.
        starts = skip_scheduler and self.recipe.judge_start
        if not starts:
            return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        if any("eval_loss" in row for row in self.state.log_history):
            return {}  # a resumed run
        self.state.epoch = 0.0
        figures = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        self._determine_best_metric(figures, trial)
        # set here: step 0 counts as none where the Trainer saves
        self.state.best_model_checkpoint = str(Path(self._get_output_dir(trial), "checkpoint-0"))
        self._save_checkpoint(self.model, trial)
        return figures

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        # Private in transformers: the one place that knows from which checkpoint a run goes on.
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average:
            self.average.resumed = Path(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        # Private in transformers: the average of the best checkpoint belongs to its weights.
        super()._load_best_model()
        if self.average:
            self.average.resumed = Path(self.state.best_model_checkpoint)
            self.average.begin(self.model)
            self.average.put()

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        # Private in transformers: weights that are no numbers must not replace a good checkpoint.
        self._refuse_nan()
        if not all(bool(torch.isfinite(p).all()) for p in model.parameters() if p.requires_grad):
            raise TrainingError(
                f"the weights are no numbers after step {self.state.global_step}: lower --learning_rate"
            )
        super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # Private in transformers: what a resumed run must agree on lies in each checkpoint.
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            (folder / RUN).write_text(json.dumps(self.recipe.run))
            if self.average:
                self.average.save(folder)

    def _refuse_nan(self) -> None:
        if self._finite is not None and not bool(self._finite):
            raise TrainingError(f"loss is no number at step {self.state.global_step + 1}: lower --learning_rate")


def make_trainer(
    args: TrainingArguments,
    model: torch.nn.Module,
    clips: tuple[SpeechDataset, SpeechDataset | None],
    collator: TrainingCollator,
    recipe: Recipe,
    patience: int,
    padding: str,
) -> tuple[SerTrainer, ValidationWatch]:
    """Make the Trainer for a model that is ready to be trained, and its `ValidationWatch`.

    Args:
        args: what `TrainingArguments` says; what does not fit our models is set in place.
        model: what is trained.
        clips: of the training and of the validation side, None where nothing is chosen.
        collator: of the clips.
        recipe: of ours.
        patience: epochs without a better validation.
        padding: the model's rule.
    """
    # The heads take **kwargs, from which the Trainer would conclude that they divide their loss by
    # the clips of a step; it would then multiply loss and gradients by the micro-batches.
    model.accepts_loss_kwargs = False
    args.remove_unused_columns = False
    args._n_gpu = min(args.n_gpu, 1)  # one GPU a process: nn.DataParallel copies the model out of reach of its hooks
    if padding == ALONE:
        args.per_device_eval_batch_size = 1
    args.label_names = ["labels"]
    args.eval_on_start = args.eval_on_start or recipe.judge_start
    judged = args.eval_strategy != "no" and args.metric_for_best_model
    metric = (args.metric_for_best_model or "uar", args.greater_is_better is not False)
    watch = ValidationWatch(recipe.sampler, patience if judged else 0, *metric)
    smoothing, args.label_smoothing_factor = args.label_smoothing_factor, 0.0  # ours smooths, in training only
    trainer = SerTrainer(
        recipe=recipe,
        model=model,
        args=args,
        train_dataset=clips[0],
        eval_dataset=clips[1],
        data_collator=collator,
        compute_metrics=_validation_metrics,
        callbacks=[EpochBar(), watch],
    )
    args.label_smoothing_factor = smoothing
    trainer.remove_callback(PrinterCallback)
    _log_into(trainer, Path(args.output_dir))
    return trainer, watch


def _log_into(trainer: SerTrainer, output: Path) -> None:
    """Write TensorBoard's events into one folder of the run."""
    from transformers.integrations import TensorBoardCallback

    if trainer.pop_callback(TensorBoardCallback) is not None and trainer.args.process_index == 0:
        from torch.utils.tensorboard import SummaryWriter

        trainer.add_callback(TensorBoardCallback(SummaryWriter(str(output / "tensorboard"))))


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    matrix = metrics.confusion(prediction.label_ids, np.argmax(prediction.predictions, axis=-1))
    return {name: float(value) for name, value in metrics.scores(matrix).items()}
