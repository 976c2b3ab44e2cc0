"""One linear fine-tuning: dataset -> split -> model -> Trainer -> model, evidence and card in one
folder."""

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial as partial_of
from pathlib import Path

import datasets
import numpy as np
import torchinfo
import transformers
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_callback import TrainerState

from ser_hf import protocols
from ser_hf.evaluation import calibration, evaluate
from ser_hf.evaluation.results import Results
from ser_hf.evaluation.run import write_evidence
from ser_hf.inference.predictor import Predictor
from ser_hf.models import loading
from ser_hf.models.features import Collator, front_end_of
from ser_hf.models.padding import ignore_padding, padding_rule
from ser_hf.models.seen_speakers import SeenSpeakers
from ser_hf.training import modes, probe, setup
from ser_hf.training.config import FinetuneConfig
from ser_hf.training.recovery import TrainingError, disk_guard, refuse_other_run, starting_point, surviving
from ser_hf.training.trainer import by_epoch
from ser_hf.utils import files


def finetune(config: FinetuneConfig, args: TrainingArguments) -> Results | None:
    """Fine-tune, choose the checkpoint by validation UAR, test once, and write it all into
    `args.output_dir`.

    The folder gets the model (safetensors, config, `preprocessor_config.json`), `results.json`,
    `predictions.csv`, `plots/`, `classification_report.txt`, `model_summary.txt`, `history.json`
    and the model card `README.md`; checkpoints and TensorBoard's events lie beside them.

    Returns:
        The results on the test side; None on all but the first process.

    Raises:
        UserError: for a dataset, protocol, model or flag that does not fit, before anything is
            written; for a training that cannot go on (`ser_hf.training.recovery.surviving`).
    """
    if config.mode == "probe":
        return _probe(config, args)
    checkpoint = starting_point(Path(args.output_dir), args)
    rows, split = protocols.load_split(config)
    with disk_guard("what is frozen is computed"):
        made = setup.prepare(config, args, rows, split)
    if checkpoint is not None:
        refuse_other_run(checkpoint, made.trainer.recipe.run)
    if args.process_index == 0:
        print(_opening(config, args, made), flush=True)
    started = time.perf_counter()
    with surviving(made.trainer):
        _train(made, checkpoint)
    seconds = {"train": round(time.perf_counter() - started, 1)}
    whole = (
        made.trainer.accelerator.get_state_dict(made.trainer.model_wrapped) if made.trainer.is_fsdp_enabled else None
    )
    if args.process_index:
        return None
    model = made.trained.finished() if whole is None else _gathered(config, args, made.trained, whole)
    history = by_epoch(made.trainer.state.log_history)

    def test(partial: Path) -> tuple[Results, np.ndarray]:
        model.save_pretrained(partial)
        made.extractor.save_pretrained(partial)
        (partial / "model_summary.txt").write_text(model_summary(model, made.extractor))
        predictor = Predictor(partial)
        fitted = None
        if config.temperature is not None:
            calibration.apply_temperature(predictor.model, config.temperature)
            predictor.model.save_pretrained(partial)
        elif config.calibrate and split.validation:
            calibrate = partial_of(calibration.calibrate_model, predictor, rows, split.validation)
            fitted = calibration.calibrate_or_warn(calibrate, config.abstain_coverage, config.abstain_error)
        if fitted is not None:
            predictor.model.save_pretrained(partial)
        record = _record(config, args, model, made.padding, history, seconds, fitted)
        results, probabilities, _ = evaluate.evaluate(
            predictor, rows, [split], config.dataset, str(args.output_dir), record
        )
        return results, probabilities

    if not split.test:
        return _untested(config, args, model, made)
    with disk_guard("the model is saved and tested (--resume_from_checkpoint true goes on from its last checkpoint)"):
        return _written(config, args, rows, split, test)


def _untested(config: FinetuneConfig, args: TrainingArguments, model: PreTrainedModel, made: setup.Prepared) -> None:
    """Write a model that was trained on everybody, of whom nobody is left to test it on: no
    figures, no card."""
    output = Path(args.output_dir)
    if config.temperature is not None:
        calibration.apply_temperature(model, config.temperature)
    with disk_guard("the model is saved"), tempfile.TemporaryDirectory(prefix=".partial-", dir=output) as temporary:
        model.save_pretrained(temporary)
        made.extractor.save_pretrained(temporary)
        files.move_into(Path(temporary), output)
    print(f"trained on everybody, tested on nobody: {output}", flush=True)


def _probe(config: FinetuneConfig, args: TrainingArguments) -> Results | None:
    """A probe answers from its embeddings: where these are cached, the backbone is never called."""
    output = Path(args.output_dir)
    if (output / "results.json").exists():
        raise TrainingError(f"'{output}' holds an earlier run: choose another --output_dir")
    rows, split = protocols.load_split(config)
    model, extractor = loading.load_for_training(config.model, args.seed)
    protocols.refuse_seen(SeenSpeakers.of(model.config), config.model, rows, split)
    probe.check(config, model)
    if args.process_index:
        return None  # a head is trained in seconds, by one process
    setup.set_threads(config.threads, args)
    padding = ignore_padding(model)
    setup.remember_speakers(model, rows, split)
    with disk_guard("the backbone's embeddings are computed"):
        probed = probe.probe(config, args, rows, split, model, extractor)
    if probed.calibration is not None:
        calibration.record_calibration(model, probed.calibration)

    def test(partial: Path) -> tuple[Results, np.ndarray]:
        if config.figures_only:
            probe.save_head(probed.head, str(partial / "head.safetensors"))
        else:
            put = probe.put_into(model, probed.head)
            put.save_pretrained(partial)
            extractor.save_pretrained(partial)
        (partial / "history.json").write_text(json.dumps(probed.history, indent=1))
        results = evaluate.build_results(
            probed.probabilities,
            rows,
            [split],
            config.dataset,
            str(args.output_dir),
            device=str(args.device),
            seen=SeenSpeakers.of(model.config),
            weights="" if config.figures_only else loading.digest(put),
            record=_record(config, args, model, padding, probed.history, probed.seconds, probed.calibration),
        )
        return results, probed.probabilities

    with disk_guard("the probe is saved"):
        return _written(config, args, rows, split, test)


def _gathered(
    config: FinetuneConfig, args: TrainingArguments, trained: modes.TrainableModel, weights: dict
) -> PreTrainedModel:
    """A whole model on this process out of the one whose parts FSDP had shared out."""
    model, _ = loading.load_for_training(config.model, args.seed)
    model.config = trained.model.config
    whole = modes.TrainableModel(model, None)
    if config.mode == "lora":
        whole.adapt(config.lora_rank)
    whole.trainable.load_state_dict(weights)
    return whole.finished()


def _record(
    config: FinetuneConfig,
    args: TrainingArguments,
    model: PreTrainedModel,
    padding: str,
    history: list[dict],
    seconds: dict[str, float],
    fitted: dict | None,
) -> evaluate.TrainingRecord:
    """What the results state about this training; `fitted` is what calibration returned."""
    training = {
        "base_model": config.model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "padding": padding,
        "settings": _flags(config, args),
    }
    return evaluate.TrainingRecord(training, history, seconds, fitted, args.world_size)


def _written(
    config: FinetuneConfig,
    args: TrainingArguments,
    rows: datasets.Dataset,
    split: protocols.Split,
    test: Callable[[Path], tuple[Results, np.ndarray]],
) -> Results:
    """Results, evidence and card beside what `test` saves into a folder and answers, moved into
    place all at once."""
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=output) as temporary:
        partial = Path(temporary)
        results, probabilities = test(partial)
        write_evidence(results, partial, probabilities, rows, [split], card=not config.figures_only)
        files.move_into(partial, output)
    return results


def model_summary(model: PreTrainedModel, extractor: transformers.FeatureExtractionMixin) -> str:
    """Layers, output shapes for one clip of two seconds, and parameters, as text."""
    clip = front_end_of(extractor).extract(np.zeros(32_000, dtype=np.float32))
    batch = Collator(extractor, padding_rule(model))([{"features": clip}])
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    columns = ("output_size", "num_params", "trainable")
    return str(torchinfo.summary(model.eval(), input_data=batch, depth=4, col_names=columns, verbose=0)) + "\n"


def _train(made: setup.Prepared, checkpoint: str | None) -> None:
    trainer = made.trainer
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint, "trainer_state.json")))
        if made.watch.over(state):  # it had stopped for want of patience: another step would change what it came to
            trainer.state = state
            trainer._load_best_model()
            return
    trainer.train(resume_from_checkpoint=checkpoint)


def _opening(config: FinetuneConfig, args: TrainingArguments, made: setup.Prepared) -> str:
    model, split, train = made.trained.trainable, made.split, made.trainer.train_dataset
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    sampler = made.trainer.recipe.sampler
    clips, seconds = len(train) / sampler.steps, train.durations.sum() / sampler.steps
    micro = args.gradient_accumulation_steps * args.world_size
    lines = [
        f"{config.model}, mode {config.mode}: {total:,} parameters, {trained:,} trained",
        f"protocol {split.name} fold {split.fold} ({split.hash}): {len(split.train):,} to train, "
        f"{len(split.validation):,} to choose the checkpoint, {len(split.test):,} to test; "
        f"held apart: {', '.join(split.held_apart) or 'nothing'}",
        f"{args.world_size} process(es) on {args.device.type}, {sampler.steps:,} steps an epoch of {clips:.1f} clips "
        f"({seconds:.0f} s) in {micro} batch(es), {'bf16' if args.bf16 else 'fp16' if args.fp16 else 'fp32'}",
    ]
    lines += [f"NOTE: {split.note}"] * bool(split.note) + [f"WARNING: {split.warning}"] * bool(split.warning)
    return "\n".join(lines)


def _flags(config: FinetuneConfig, args: TrainingArguments) -> dict:
    names = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps")
    names += ("lr_scheduler_type", "warmup_steps", "weight_decay", "label_smoothing_factor", "bf16", "seed")
    flags = {name: getattr(args, name) for name in names}
    flags["lr_scheduler_type"] = str(flags["lr_scheduler_type"].value)
    names = (
        "mode",
        "silence",
        "augment",
        "mixup",
        "balance",
        "loss",
        "layer_decay",
        "ema_decay",
        "sam_rho",
        "aux_egemaps_weight",
    )
    ours = {name: getattr(config, name) for name in names}
    if config.mode == "probe":  # what it does not use would be no news of it
        ours = {name: ours[name] for name in ("mode", "balance", "loss")}
        used = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "weight_decay")
        flags = {name: flags[name] for name in (*used, "label_smoothing_factor", "bf16", "seed")}
    return {"base model": config.model, **{name: value for name, value in ours.items() if value}, **flags}
