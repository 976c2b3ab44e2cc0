"""One linear fine-tuning: dataset -> split -> model -> Trainer -> model, evidence and card in one folder."""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import torch
import torchinfo
import transformers
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from ser_hf import cards, dataset, evaluation, evidence, features, fingerprint, metrics, modeling, protocols
from ser_hf.arguments import FinetuneConfig
from ser_hf.errors import UserError
from ser_hf.predictor import Predictor


class TrainingError(UserError):
    """A run that cannot be started as asked, or that cannot go on."""


class SerTrainer(Trainer):
    """Trainer with length buckets and the running training accuracy beside the loss."""

    hits: torch.Tensor | None = None  # right answers and clips since the last log

    def _get_train_sampler(self, train_dataset: features.Clips | None = None) -> features.LengthBuckets:
        args = self.args
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        seed = args.seed if args.data_seed is None else args.data_seed
        return features.LengthBuckets(self.train_dataset.durations, batch, seed)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):  # noqa: ANN001, ANN003, ANN201
        """The Trainer's own loss; counts right answers on the way."""
        labels = inputs["labels"]
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if model.training:
            right = (outputs.logits.detach().argmax(-1) == labels).sum()
            counted = torch.stack([right, torch.full_like(right, len(labels))])
            self.hits = counted if self.hits is None else self.hits + counted
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: object, **kwargs: object) -> None:
        """Add the training accuracy to the Trainer's loss."""
        if "loss" in logs and self.hits is not None:
            right, clips = self.accelerator.reduce(self.hits, "sum").tolist()
            logs["accuracy"] = right / clips
            self.hits = None
        super().log(logs, *args, **kwargs)


class Console(TrainerCallback):
    """One line an epoch, and a clear end where the loss is no number."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:  # noqa: ANN001, ANN003
        """Print after each validation; stop on NaN."""
        logs = logs or {}
        for name in ("loss", "eval_loss"):
            if not np.isfinite(logs.get(name, 0.0)):
                raise TrainingError(f"{name} is {logs[name]} at step {state.global_step}: lower --learning_rate")
        if "eval_loss" not in logs or not state.is_world_process_zero:
            return
        train = next((row for row in reversed(state.log_history) if "loss" in row), {})
        print(
            f"epoch {state.epoch:5.2f}/{args.num_train_epochs:g}  loss {train.get('loss', float('nan')):.3f}  "
            f"accuracy {train.get('accuracy', float('nan')):.3f} | validation loss {logs['eval_loss']:.3f}  "
            f"UAR {logs['eval_uar']:.3f}",
            flush=True,
        )


def finetune(config: FinetuneConfig, args: TrainingArguments) -> evaluation.Results | None:
    """Fine-tune, choose the checkpoint by validation UAR, test once, and write it all into `args.output_dir`.

    The folder gets the model (safetensors, config, `preprocessor_config.json`), `results.json`, `plots/`,
    `classification_report.txt`, `model_summary.txt` and the model card `README.md`; checkpoints lie beside them.

    Returns:
        The results on the test side; None on all but the first process.

    Raises:
        UserError: for a dataset, protocol, model or flag that does not fit, before anything is written.
    """
    output = Path(args.output_dir)
    checkpoint = _starting_point(output, args)
    _set_threads(config.threads, args)
    rows = dataset.load(config.dataset)
    near = fingerprint.in_dataset(rows)
    split = protocols.split(
        rows, config.protocol, config.fold, config.split_seed, near=near, text_disjoint=config.text_disjoint
    )
    model, extractor = modeling.load_for_training(config.model, args.seed)
    evaluation.refuse_seen(model.config, config.model, rows, split)
    if checkpoint is not None:
        _refuse_other_run(checkpoint, model, split)
    trainer, padding = _trainer(config, args, rows, split, model, extractor)
    first = args.process_index == 0
    if first:
        print(_opening(config, args, split, model), flush=True)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = {"train": round(time.perf_counter() - started, 1)}
    if not first:
        return None
    history = _by_epoch(trainer.state.log_history)
    summary = {
        "base_model": config.model,
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "padding": padding,
        "training": _flags(config, args),
    }
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=output) as temporary:
        partial = Path(temporary)
        model.save_pretrained(partial)
        extractor.save_pretrained(partial)
        results = evaluation.evaluate(
            Predictor(partial), rows, [split], config.dataset, str(args.output_dir), history, seconds
        )
        results.environment["processes"] = args.world_size
        evidence.write(results, partial, model_card=cards.model_card(results, summary))
        (partial / "model_summary.txt").write_text(summarise(model, extractor))
        for item in partial.iterdir():
            target = output / item.name
            shutil.rmtree(target) if target.is_dir() else None
            item.rename(target)
    return results


def summarise(model: PreTrainedModel, extractor: transformers.FeatureExtractionMixin) -> str:
    """Layers, output shapes for one clip of two seconds, and parameters, as text."""
    clip = features.extract(extractor, np.zeros(32_000, dtype=np.float32))
    batch = features.Collator(extractor, modeling.padding_rule(model))([{"features": clip}])
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    columns = ("output_size", "num_params", "trainable")
    return str(torchinfo.summary(model.eval(), input_data=batch, depth=4, col_names=columns, verbose=0)) + "\n"


def _starting_point(output: Path, args: TrainingArguments) -> str | None:
    """The checkpoint to resume from; refuse to mix a new run into an old one's folder."""
    asked = args.resume_from_checkpoint
    saved = [path.parent for path in output.glob("checkpoint-*/trainer_state.json")]  # the last file of a checkpoint
    last = max(saved, key=lambda path: int(path.name.split("-")[-1]), default=None)
    if asked is None or str(asked).lower() in ("false", "none"):
        if last or (output / "results.json").exists():
            raise TrainingError(
                f"'{output}' holds an earlier run: go on with --resume_from_checkpoint true, or change --output_dir"
            )
        return None
    if str(asked).lower() != "true":
        if not Path(asked, "trainer_state.json").is_file():
            raise TrainingError(
                f"'{asked}' is no checkpoint: pass --resume_from_checkpoint true for the last in '{output}'"
            )
        return str(asked)
    if last is None:
        raise TrainingError(f"'{output}' holds no checkpoint to resume from: leave out --resume_from_checkpoint")
    return str(last)


def _refuse_other_run(checkpoint: str, model: PreTrainedModel, split: protocols.Split) -> None:
    """A run goes on only with the model and the split it began with; else its figure would not be what it says."""
    began = json.loads(Path(checkpoint, "config.json").read_text())
    theirs = (began["model_type"], began.get("ser_hf", {}).get("protocol_hash"))
    if theirs != (model.config.model_type, split.hash):
        raise TrainingError(
            f"'{checkpoint}' is of {theirs[0]} on the split {theirs[1]}, not of {model.config.model_type} on "
            f"{split.hash}: give its --model, --protocol and --fold, or another --output_dir"
        )


def _set_threads(threads: int | None, args: TrainingArguments) -> None:
    # `accelerate launch` starts a single CPU process with one thread unless told otherwise
    if args.device.type == "cpu":
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(threads or max(1, joblib.cpu_count() // local))


def _trainer(config, args, rows, split, model, extractor) -> tuple[SerTrainer, str]:  # noqa: ANN001
    # The heads of this task compute a mean; their **kwargs make the Trainer believe that the loss is a sum over the
    # accumulated batch, and it would multiply loss and gradients by accumulation steps and processes.
    model.accepts_loss_kwargs = False
    padding = modeling.ignore_padding(model)
    freeze = config.model != modeling.TINY if config.freeze_feature_encoder is None else config.freeze_feature_encoder
    if freeze:
        modeling.freeze_feature_encoder(model)
    durations = np.array(rows["duration"])
    by_length = sorted(split.validation, key=lambda index: durations[index])
    train = features.Clips(rows, split.train, extractor)
    shortest = features.extract(extractor, np.zeros(int(train.durations.min() * 16_000), dtype=np.float32))
    modeling.fit_masking(model, modeling.frames_of(model, len(shortest)))
    before = getattr(model.config, "ser_hf", {"speakers": []})["speakers"]
    model.config.ser_hf = {
        "protocol": split.name,
        "protocol_hash": split.hash,
        "fold": split.fold,
        "speakers": sorted({*before, *rows.select(split.train + split.validation)["speaker"]}),
    }
    args.remove_unused_columns = False
    args._n_gpu = min(args.n_gpu, 1)  # one GPU a process: nn.DataParallel copies the model out of reach of its hooks
    if padding == modeling.ALONE:
        args.per_device_eval_batch_size = 1
    patience = config.patience if args.eval_strategy != "no" and args.metric_for_best_model else 0
    args.label_names = ["labels"]
    trainer = SerTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=features.Clips(rows, by_length, extractor),
        data_collator=features.Collator(extractor, padding),
        compute_metrics=_figures,
        callbacks=[Console(), *([EarlyStoppingCallback(patience)] if patience else [])],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer, padding


def _figures(prediction: transformers.EvalPrediction) -> dict[str, float]:
    matrix = metrics.confusion(prediction.label_ids, np.argmax(prediction.predictions, axis=-1))
    return {name: float(value) for name, value in metrics.scores(matrix).items()}


def _opening(config: FinetuneConfig, args: TrainingArguments, split: protocols.Split, model: PreTrainedModel) -> str:
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    batch = args.per_device_train_batch_size
    lines = [
        f"{config.model}: {total:,} parameters, {trained:,} trained",
        f"protocol {split.name} fold {split.fold} ({split.hash}): {len(split.train):,} to train, "
        f"{len(split.validation):,} to choose the checkpoint, {len(split.test):,} to test; "
        f"held apart: {', '.join(split.held_apart) or 'nothing'}",
        f"{args.world_size} process(es) on {args.device.type}, batch {batch} × {args.gradient_accumulation_steps} "
        f"accumulated × {args.world_size} = {batch * args.gradient_accumulation_steps * args.world_size}, "
        f"{'bf16' if args.bf16 else 'fp16' if args.fp16 else 'fp32'}",
    ]
    return "\n".join(lines + ([f"WARNING: {split.warning}"] if split.warning else []))


def _by_epoch(log: list[dict]) -> list[dict]:
    """One row an epoch: training loss and accuracy with the validation figures."""
    rows: dict[float, dict] = {}
    keep = (
        "epoch",
        "step",
        "loss",
        "accuracy",
        "learning_rate",
        "eval_loss",
        "eval_accuracy",
        "eval_uar",
        "eval_macro_f1",
    )
    for entry in log:
        if "loss" in entry or "eval_loss" in entry:
            rows.setdefault(entry["step"], {}).update({key: entry[key] for key in keep if key in entry})
    return [rows[step] for step in sorted(rows)]


def _flags(config: FinetuneConfig, args: TrainingArguments) -> dict:
    names = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps")
    names += ("lr_scheduler_type", "warmup_steps", "weight_decay", "label_smoothing_factor", "bf16", "seed")
    flags = {name: getattr(args, name) for name in names}
    flags["lr_scheduler_type"] = str(flags["lr_scheduler_type"].value)
    return {"base model": config.model, **flags}
