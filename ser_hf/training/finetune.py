"""Fine-tuning in one line of steps: dataset, split, model, Trainer, calibration, test, evidence."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torchinfo
from scipy.special import softmax
from transformers import AutoModelForAudioClassification, FeatureExtractionMixin, PreTrainedModel, TrainingArguments
from transformers.trainer_callback import TrainerState

from ser_hf import protocols
from ser_hf.data.dataset import decoded_clips
from ser_hf.errors import UserError
from ser_hf.evaluation import adaptation_head, calibration, embedding_reference, evaluate
from ser_hf.evaluation.results import Results
from ser_hf.evaluation.run import write_evidence
from ser_hf.inference.adaptation_head import FILE as HEAD_FILE
from ser_hf.inference.predictor import Predictor
from ser_hf.models import loading
from ser_hf.models.cutting import window_of
from ser_hf.models.features import Collator, front_end_of
from ser_hf.models.padding import ignore_padding, padding_rule
from ser_hf.models.seen_speakers import SeenSpeakers
from ser_hf.training import modes, setup
from ser_hf.training.config import FinetuneConfig
from ser_hf.training.heads import closed_form, probe
from ser_hf.training.heads.hidden_head import HiddenHead
from ser_hf.training.inputs import TrainingInputs, load
from ser_hf.training.recovery import TrainingError, disk_guard, refuse_other_run, starting_point, surviving
from ser_hf.training.trainer import by_epoch
from ser_hf.utils import files

_SAME, _LIKE, _OTHER = 0.01, 0.05, 0.5
"""How far the saved model may be from the fit of its head (`closed_form.Fitted.deviation`): without
hidden units, with them, and with them if all test clips are predicted by the saved model."""


def finetune(config: FinetuneConfig, args: TrainingArguments) -> Results | None:
    """Fine-tune, choose the checkpoint by validation UAR, test once, and write all of it.

    `args.output_dir` gets the model (safetensors, config, `preprocessor_config.json`), its
    adaptation head, its reference of embeddings, `results.json`, `predictions.csv`,
    `embeddings.npy` of the test clips, `plots/`, `classification_report.txt`,
    `model_summary.txt`, `history.json` and the model card `README.md`. Checkpoints and
    TensorBoard's events lie beside them.

    Returns:
        The results on the test side; None on all but the first process.

    Raises:
        UserError: for a dataset, protocol, model or flag that does not fit, before anything is
            written; for a training that cannot go on (`ser_hf.training.recovery.surviving`).
    """
    if config.mode == "probe":
        return _finetune_head(config, args)
    checkpoint = starting_point(Path(args.output_dir), args)
    rows, split = protocols.load_split(config)
    with disk_guard("what is frozen is computed"):
        prepared = setup.prepare(config, args, rows, split)
    if checkpoint is not None:
        refuse_other_run(checkpoint, prepared.trainer.recipe.run)
    if args.process_index == 0:
        print(_opening(config, args, prepared), flush=True)
    started = time.perf_counter()
    with surviving(prepared.trainer):
        _train(prepared, checkpoint)
    seconds = {"train": round(time.perf_counter() - started, 1)}
    model = _trained_model(config, args, prepared)
    if model is None:
        return None
    if not split.test:
        _write_untested(config, args, model, prepared)
        return None
    with disk_guard("the model is saved and tested (--resume_from_checkpoint true goes on from its last checkpoint)"):
        return _write_tested(config, args, model, prepared, seconds)


def _train(prepared: setup.Prepared, checkpoint: str | None) -> None:
    trainer = prepared.trainer
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint, "trainer_state.json")))
        if prepared.watch.over(state):
            # The run had stopped for want of patience: another step would change its result.
            trainer.state = state
            trainer._load_best_model()
            return
    trainer.train(resume_from_checkpoint=checkpoint)
    start = prepared.head_start()
    if start and start["kept"] and trainer.args.process_index == 0:
        print(f"no epoch was better than the head start, which is kept: validation UAR {start['uar']:.3f}")


def _trained_model(config: FinetuneConfig, args: TrainingArguments, prepared: setup.Prepared) -> PreTrainedModel | None:
    """Return the stock model with what was learnt, on the first process; None on the others."""
    weights = None
    if prepared.trainer.is_fsdp_enabled:
        # Every process has to take part in gathering the weights, so it comes before they part.
        weights = prepared.trainer.accelerator.get_state_dict(prepared.trainer.model_wrapped)
    if args.process_index:
        return None
    if weights is None:
        return prepared.trained.finished()
    # Under FSDP each process holds a part of every tensor: load the whole ones into a new model.
    model = AutoModelForAudioClassification.from_config(prepared.trained.model.config)
    gathered = modes.TrainableModel(model, None)
    if config.mode == "lora":
        gathered.adapt(config.lora_rank)
    gathered.trainable.load_state_dict(weights)
    return gathered.finished()


def _write_tested(
    config: FinetuneConfig,
    args: TrainingArguments,
    model: PreTrainedModel,
    prepared: setup.Prepared,
    seconds: dict[str, float],
) -> Results:
    """Save, calibrate and test a model, and write its evidence beside it."""
    rows, split = prepared.rows, prepared.split
    with _appearing_in(args.output_dir) as folder:
        _save(model, prepared.extractor, folder)
        (folder / "model_summary.txt").write_text(model_summary(model, prepared.extractor))
        # What is tested is what was saved, read back as a user reads it.
        predictor = Predictor(folder, backend="torch")
        calibrated = _calibrate(config, predictor, rows, split)
        if calibrated is not None or config.temperature is not None:
            predictor.model.save_pretrained(folder)
        history = by_epoch(prepared.trainer.state.log_history)
        record = _record(config, args, model, prepared.padding, history, seconds, calibrated)
        record.training["head_start"] = prepared.head_start()
        results, probabilities, embeddings = evaluate.evaluate(
            predictor, rows, [split], config.dataset, str(args.output_dir), record
        )
        write_evidence(results, folder, probabilities, rows, [split], card=True)
        if config.adaptation_head:
            embedding_reference.write_head_and_reference(predictor, rows, split, folder)
            np.save(folder / "embeddings.npy", embeddings)  # for studies of adaptation
    return results


def _calibrate(
    config: FinetuneConfig, predictor: Predictor, rows: datasets.Dataset, split: protocols.Split
) -> dict | None:
    """Fold a temperature into the model; return what was fitted on validation, if anything was."""
    if config.temperature is not None:
        calibration.apply_temperature(predictor.model, config.temperature)
        return None
    if not (config.calibrate and split.validation):
        return None
    fit = partial(calibration.calibrate_model, predictor, rows, split.validation)
    return calibration.calibrate_or_warn(fit, config.abstain_coverage, config.abstain_error)


def _write_untested(
    config: FinetuneConfig, args: TrainingArguments, model: PreTrainedModel, prepared: setup.Prepared
) -> None:
    """Write a model that was trained on all speakers: nobody is left to test it on."""
    if config.temperature is not None:
        calibration.apply_temperature(model, config.temperature)
    with disk_guard("the model is saved"), _appearing_in(args.output_dir) as folder:
        _save(model, prepared.extractor, folder)
        if config.adaptation_head:
            predictor = Predictor(folder, backend="torch")
            embedding_reference.write_head_and_reference(predictor, prepared.rows, prepared.split, folder)
    print(f"trained on everybody, tested on nobody: {args.output_dir}", flush=True)


def _finetune_head(config: FinetuneConfig, args: TrainingArguments) -> Results | None:
    """Make a head on a frozen backbone, which is hardly called where its outputs are cached."""
    # there are no checkpoints to go on from
    if any(Path(args.output_dir, name).exists() for name in ("results.json", *loading.WEIGHTS)):
        raise UserError(f"'{args.output_dir}' holds an earlier run: choose another --output_dir")
    rows, split = protocols.load_split(config)
    setup.set_threads(config.threads, args)
    inputs = load(config, args, rows, split)
    fits = config.head == "closed_form"
    if not fits:
        probe.check(config, inputs.model)
    if args.process_index:
        return None  # a head takes seconds, in one process
    padding = ignore_padding(inputs.model)
    setup.remember_training(inputs.model, config.model, rows, split)
    return (_fit_closed_form if fits else _train_probe)(inputs, padding)


def _train_probe(inputs: TrainingInputs, padding: str) -> Results:
    """Train a head on frozen embeddings, and write the model or the figures alone."""
    config, model = inputs.config, inputs.model
    with disk_guard("the backbone's embeddings are computed"):
        probed = probe.probe(inputs)
    if probed.calibration is not None:
        calibration.record_calibration(model, probed.calibration)
    with disk_guard("the probe is saved"), _appearing_in(inputs.args.output_dir) as folder:
        if config.figures_only:
            probe.save_head(probed.head, str(folder / "head.safetensors"))
            weights = ""
        else:
            probe.put_into(model, probed.head)
            _save(model, inputs.extractor, folder)
            weights = loading.digest(model)
        (folder / "history.json").write_text(json.dumps(probed.history, indent=1))
        record = _record(config, inputs.args, model, padding, probed.history, probed.seconds, probed.calibration)
        return _write_results(inputs, folder, probed.probabilities, record, weights)


def _fit_closed_form(inputs: TrainingInputs, padding: str) -> Results | None:
    """Fit a head in closed form, and write the model; None where nobody is left to test it on."""
    config, args, model = inputs.config, inputs.args, inputs.model
    with disk_guard("the backbone's features are computed"):
        fitted = closed_form.fit(inputs)
    print(fitted.head.start, flush=True)
    with disk_guard("the model is saved"), _appearing_in(args.output_dir) as folder:
        _save(model, inputs.extractor, folder)
        predictor = Predictor(folder, backend="torch")
        deviation = _deviation(fitted, predictor, inputs)
        if config.adaptation_head:
            digest = loading.digest(model)
            adaptation_head.fit_head(fitted.train, fitted.validation, digest).save(folder / HEAD_FILE)
            embedding_reference.write_reference(fitted.train, fitted.validation, digest, folder)
        if fitted.test is None:
            print(f"trained on everybody, tested on nobody: {args.output_dir}", flush=True)
            return None
        record = _record(config, args, model, padding, [], fitted.seconds, fitted.calibration)
        record.training["head_start"] = {**asdict(fitted.head.start), "kept": True}
        logits, embeddings = fitted.test.logits.copy(), fitted.test.embeddings.copy()
        predicted = fitted.longer | (deviation > _LIKE)
        if predicted.any():
            chosen = inputs.rows.select(np.array(inputs.split.test)[predicted])
            logits[predicted], embeddings[predicted] = predictor.outputs(decoded_clips(chosen, "Predicting the test"))
        results = _write_results(inputs, folder, softmax(logits, axis=1), record, loading.digest(model))
        np.save(folder / "embeddings.npy", embeddings.astype(np.float16))
    return results


def _deviation(fitted: closed_form.Fitted, predictor: Predictor, inputs: TrainingInputs) -> float:
    """How far the saved model is from the fit, on a sample of clips.

    Raises:
        RuntimeError: where it says anything else, without hidden units: a fault of ours.
        TrainingError: where hidden units cannot be folded into the model.
    """
    if not fitted.sample[0]:
        return 0.0  # all clips are longer, so that none of the figures is of the fit
    found, _ = predictor.outputs(decoded_clips(inputs.rows.select(fitted.sample[0])))
    deviation = fitted.deviation(found)
    if not isinstance(fitted.head, HiddenHead):
        if not deviation < _SAME:  # or it is NaN
            raise RuntimeError(f"the saved model is off by {deviation:.3g} of what was fitted")
        return deviation
    if not deviation < _OTHER:
        raise TrainingError(
            f"hidden units change this model: its logits are off by {deviation:.0%}, leave out --hidden_units"
        )
    told = "all test clips are predicted by it" if deviation > _LIKE else "figures are of the fit"
    print(f"the saved model differs from the fit by {deviation:.1%} of its logits: {told}", flush=True)
    return deviation


def _write_results(
    inputs: TrainingInputs, folder: Path, probabilities: np.ndarray, record: evaluate.TrainingRecord, weights: str
) -> Results:
    """Write the evidence of a head.

    Args:
        inputs: of the run.
        folder: gets the evidence.
        probabilities: of the test side, shape `(clips, labels)`.
        record: of the training.
        weights: digest of the saved model; empty where none was saved, which has no card.
    """
    split = inputs.split
    results = evaluate.build_results(
        probabilities,
        inputs.rows,
        [split],
        inputs.config.dataset,
        str(inputs.args.output_dir),
        device=str(inputs.args.device),
        seen=SeenSpeakers.of(inputs.model.config),
        weights=weights,
        record=record,
    )
    write_evidence(results, folder, probabilities, inputs.rows, [split], card=bool(weights))
    return results


@contextmanager
def _appearing_in(output_dir: str) -> Iterator[Path]:
    """Give a temporary folder; all that is in it moves into `output_dir` when the block ends well.

    The output folder exists already: checkpoints and TensorBoard's events lie in it.
    """
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=output) as temporary:
        yield Path(temporary)
        files.move_into(Path(temporary), output)


def _save(model: PreTrainedModel, extractor: FeatureExtractionMixin, folder: Path) -> None:
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    loading.copy_licences(model.name_or_path, folder)


def _record(
    config: FinetuneConfig,
    args: TrainingArguments,
    model: PreTrainedModel,
    padding: str,
    history: list[dict],
    seconds: dict[str, float],
    calibrated: dict | None,
) -> evaluate.TrainingRecord:
    """Collect what the results state about this training."""
    training = {
        "base_model": config.model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "padding": padding,
        "settings": _settings(config, args, window_of(model.config)),
    }
    return evaluate.TrainingRecord(training, history, seconds, calibrated, args.world_size)


def model_summary(model: PreTrainedModel, extractor: FeatureExtractionMixin) -> str:
    """List layers, output shapes for one clip of two seconds, and parameters, as text."""
    clip = front_end_of(extractor).extract(np.zeros(32_000, dtype=np.float32))
    batch = Collator(extractor, padding_rule(model))([{"features": clip}])
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    columns = ("output_size", "num_params", "trainable")
    return str(torchinfo.summary(model.eval(), input_data=batch, depth=4, col_names=columns, verbose=0)) + "\n"


def _opening(config: FinetuneConfig, args: TrainingArguments, prepared: setup.Prepared) -> str:
    """Describe the run in the lines that are printed before its first step."""
    model, split, train = prepared.trained.trainable, prepared.split, prepared.trainer.train_dataset
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    sampler = prepared.trainer.recipe.sampler
    clips, seconds = len(train) / sampler.steps, train.unvaried_lengths().sum() / sampler.steps
    micro = args.gradient_accumulation_steps * args.world_size
    lines = [
        f"{config.model}, mode {config.mode}: {total:,} parameters, {trained:,} trained",
        f"protocol {split.name} fold {split.fold} ({split.hash}): {len(split.train):,} to train, "
        f"{len(split.validation):,} to choose the checkpoint, {len(split.test):,} to test; "
        f"held apart: {', '.join(split.held_apart) or 'nothing'}",
        f"{args.world_size} process(es) on {args.device.type}, {sampler.steps:,} steps an epoch of {clips:.1f} clips "
        f"({seconds:.0f} s) in {micro} batch(es), {'bf16' if args.bf16 else 'fp16' if args.fp16 else 'fp32'}",
    ]
    if train.stream is not None:
        sources = len({group.file for group in train.stream.groups})
        lines.append(
            f"streaming: {len(train.stream.groups):,} row groups of {sources:,} file(s), a buffer of "
            f"{config.shuffle_buffer:,} clips"
        )
    lines += [str(prepared.start)] * (prepared.start is not None)
    lines += [f"NOTE: {split.note}"] * bool(split.note) + [f"WARNING: {split.warning}"] * bool(split.warning)
    return "\n".join(lines)


_PROBE_ARGUMENTS: tuple[str, ...] = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "weight_decay")
_PROBE_ARGUMENTS += ("label_smoothing_factor", "bf16", "seed")
_ARGUMENTS: tuple[str, ...] = (
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)
_ARGUMENTS += ("lr_scheduler_type", "warmup_steps", "weight_decay", "label_smoothing_factor", "bf16", "seed")
_CLOSED_FORM_CONFIG = (
    "mode",
    "head",
    "hidden_units",
    "augment",
    "augmented_copies",
    "augmented_weight",
    "balance",
    "group_weights",
)
_PROBE_CONFIG = ("mode", "balance", "group_weights", "loss")
_CONFIG: tuple[str, ...] = (
    "mode",
    "silence",
    "augment",
    "augmented_copies",
    "mixup",
    "balance",
    "group_weights",
    "loss",
)
_CONFIG += ("layer_decay", "ema_decay")


def _settings(config: FinetuneConfig, args: TrainingArguments, window: int | None) -> dict:
    """Collect the settings that the card shows; of a probe only those that it uses."""
    names: tuple[tuple[str, ...], tuple[str, ...]] = (_CONFIG, _ARGUMENTS)
    if config.mode == "probe":
        closed_form = config.head == "closed_form"
        names = (_CLOSED_FORM_CONFIG, ("seed",)) if closed_form else (_PROBE_CONFIG, _PROBE_ARGUMENTS)
    ours, theirs = (
        {name: getattr(settings, name) for name in of_settings}
        for settings, of_settings in zip((config, args), names, strict=True)
    )
    ours |= {"window": window, "keep_layers": config.keep_layers}
    theirs = {name: str(value.value) if isinstance(value, Enum) else value for name, value in theirs.items()}
    return {"base model": config.model, **{name: value for name, value in ours.items() if value}, **theirs}
