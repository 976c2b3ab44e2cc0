"""Task-adaptive pretraining: the objective of wav2vec 2.0, continued on unlabelled recordings.

Baevski et al. 2020 (arXiv:2006.11477); for emotions in speech, Chen and Rudnicky 2021
(arXiv:2110.06309).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from torch.utils.data import DataLoader
from transformers import (
    FeatureExtractionMixin,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ser_hf import protocols
from ser_hf.errors import UserError
from ser_hf.models import loading
from ser_hf.models.seen_speakers import SeenSpeakers
from ser_hf.training import cpu_kernels, recovery, setup
from ser_hf.training.pretraining import objective
from ser_hf.training.pretraining.config import PretrainConfig
from ser_hf.training.pretraining.masking import Masking, Order, Recordings
from ser_hf.training.recovery import RUN, checkpoints, disk_guard, surviving
from ser_hf.training.streaming.sampler import StreamSampler
from ser_hf.training.trainer import EpochBar, by_epoch
from ser_hf.utils import files, processor

DIVERSITY = 0.1
"""Weight of the share of unused codewords in the loss of wav2vec 2.0."""
TEMPERATURES = (2.0, 0.5)
"""Temperatures of the codebook at the first and the last step, as for wav2vec 2.0 base."""


_STREAM_THREADS = 1
"""Threads that read ahead while the model learns."""


class PretrainingError(UserError):
    """A pretraining that cannot start with its settings, or that cannot go on."""


class PretrainTrainer(Trainer):
    """Trainer of the contrastive loss, which prints one line an epoch."""

    control: TrainerControl

    def __init__(self, *args: object, run: dict, shuffle_buffer: int, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.run = run
        """Settings that a resumed run must agree on."""
        self.shuffle_buffer = shuffle_buffer
        """Clips that a stream shuffles together."""
        self.stream_sampler: StreamSampler | None = None
        """Sampler of the training clips, where they are streamed."""
        self.running = ""
        """Description of the current batch, for the message if memory runs out."""
        self._sums = np.zeros(4)

    def _get_train_sampler(self, train_dataset: Recordings | None = None) -> Order:
        batch = self.args.per_device_train_batch_size * self.args.world_size
        return Order(self.train_dataset.durations, batch, self.args.seed)

    def _get_eval_sampler(self, eval_dataset: Recordings) -> Order:
        return Order(eval_dataset.durations, 1, None)

    def get_train_dataloader(self) -> DataLoader:
        """Load the batches of this process, which a stream shares out itself."""
        data, args = self.train_dataset, self.args
        if data.stream is None:
            return super().get_train_dataloader()
        steps = -(-len(data) // (args.per_device_train_batch_size * args.world_size))
        self.stream_sampler = StreamSampler(
            lambda epoch: data.durations,
            data.stream.group_of,
            steps,
            args.seed,
            self.shuffle_buffer,
            data.stream.follow,
            processes=args.world_size,
            rank=args.process_index,
        )
        return DataLoader(
            data,
            batch_sampler=self.stream_sampler,
            collate_fn=self.data_collator,
            pin_memory=args.dataloader_pin_memory,
        )

    def _measure(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sums over the masked frames of a batch: loss, correct predictions, frames, perplexity."""
        negatives, mask = inputs["negatives"], inputs["mask_time_indices"]
        out = model(**{name: value for name, value in inputs.items() if name != "negatives"})
        temperature = getattr(self.model.config, "contrastive_logits_temperature", 0.1)
        codewords = self.model.quantizer.codewords
        losses, correct = objective.contrastive(
            out.projected_states, out.projected_quantized_states, codewords, negatives, mask, temperature
        )
        return torch.stack([losses.sum(), correct.sum(), mask.sum(), out.codevector_perplexity * mask.sum()])

    def _finite(self, sums: torch.Tensor) -> np.ndarray:
        # the sums are the same on all processes, so that none ends while others wait for it
        if not torch.isfinite(sums[0]):
            step = self.state.global_step + self.model.training
            raise PretrainingError(f"loss is {sums[0]:g} at step {step}: lower --learning_rate")
        return sums.cpu().double().numpy()

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: object
    ) -> torch.Tensor:
        """Contrastive and diversity loss, as mean over the masked frames of all processes."""
        self.running = "{} clips of {:,}".format(*inputs["attention_mask"].shape)
        sums = self._measure(model, inputs)
        totals = self.accelerator.reduce(sums.detach().clone(), "sum")
        self._sums += self._finite(totals)
        unused = sums[2] - sums[3] / (self.model.quantizer.num_groups * self.model.quantizer.num_vars)
        # times the processes, because gradients are averaged over them
        return (sums[0] + DIVERSITY * unused) / totals[2].clamp(min=1) * self.accelerator.num_processes

    def log(self, logs: dict[str, float], *args: object, **kwargs: object) -> None:
        """Log the contrastive loss as `loss`, and the Trainer's sum of losses as `objective`."""
        if "loss" in logs:
            logs |= {"objective": logs["loss"], **_means(self._sums)}
            self._sums = np.zeros(4)
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
        """Measure on the validation side, with the same masks each epoch, and print the epoch."""
        self.model.eval()
        sums = torch.zeros(4, device=self.args.device)
        with torch.no_grad():
            for batch in self.get_eval_dataloader():
                sums += self._measure(self.model, self._prepare_inputs(batch))
        means = _means(self._finite(self.accelerator.reduce(sums, "sum")))
        figures = {f"eval_{name}": value for name, value in means.items()}
        self.log(dict(figures))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        row = by_epoch(self.state.log_history)[-1]
        if self.is_world_process_zero():
            print(
                f"epoch {row['epoch']:3g}/{self.args.num_train_epochs:g}  loss {row['loss']:.3f}  "
                f"accuracy {row['accuracy']:.3f}  perplexity {row['perplexity']:.1f} | "
                f"validation loss {row['eval_loss']:.3f}  accuracy {row['eval_accuracy']:.3f}",
                flush=True,
            )
        return figures

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            Path(output_dir or self.args.output_dir, RUN).write_text(json.dumps(self.run))


class StreamEpoch(TrainerCallback):
    """Callback that tells the sampler of a stream its epoch, also after a resume."""

    def __init__(self, trainer: PretrainTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Set the epoch."""
        if self.trainer.stream_sampler is not None:
            self.trainer.stream_sampler.epoch = int(state.epoch or 0)


class Cooling(TrainerCallback):
    """Callback that lowers the temperature of the codebook geometrically over all steps."""

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: object,
    ) -> None:
        """Set the temperature of the next step."""
        first, last = TEMPERATURES
        model.quantizer.temperature = first * (last / first) ** (state.global_step / max(1, state.max_steps - 1))


def pretrain(config: PretrainConfig) -> list[dict] | None:
    """Pretrain on the unlabelled train side of a split, and write a folder to fine-tune.

    The folder `config.output` appears when all is done. It holds the model (safetensors, config,
    `preprocessor_config.json`) and `history.json`. Until then the checkpoint of the last epoch lies
    in a folder `….checkpoints` beside it. The config of the model lists the speakers of the train
    and validation sides.

    Returns:
        The history, a row an epoch; None on all but the first process.

    Raises:
        UserError: for a dataset, protocol, model or flag that does not fit, before anything is
            written, and for a training that cannot go on.
    """
    files.refuse_existing(config.output)
    output = Path(config.output)
    scratch = output.with_name(f"{output.name}.checkpoints")
    args = _arguments(config, scratch)
    checkpoint = recovery.starting_point(scratch, args)
    model, extractor, original_settings = objective.load(config.model, config.seed)
    rows, split = protocols.load_split(config)
    protocols.refuse_seen(SeenSpeakers.of(model.config), config.model, rows, split)
    setup.remember_training(model, config.model, rows, split)
    trainer = _trainer(config, args, rows, split, model, extractor)
    if checkpoint is not None:
        recovery.refuse_other_run(checkpoint, trainer.run)
    if args.process_index == 0:
        print(_opening(trainer, config.model, split), flush=True)
    try:
        with surviving(trainer):
            trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        if args.process_index == 0 and not checkpoints(scratch):
            shutil.rmtree(scratch, ignore_errors=True)
    if args.process_index != 0:
        return None
    history = by_epoch(trainer.state.log_history)
    with (
        disk_guard("the model is saved (--resume_from_checkpoint true does that again)"),
        files.new_folder(output) as partial,
    ):
        objective.save(model, original_settings, partial)
        extractor.save_pretrained(partial)
        loading.copy_licences(config.model, partial)
        (partial / "history.json").write_text(json.dumps(history, indent=2) + "\n")
    shutil.rmtree(scratch, ignore_errors=True)
    return history


def _arguments(config: PretrainConfig, scratch: Path) -> TrainingArguments:
    machine = processor.training_defaults({})
    from_checkpoint = config.model not in objective.SCRATCH
    try:
        args = TrainingArguments(
            output_dir=str(scratch),
            resume_from_checkpoint=config.resume_from_checkpoint,
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate or (5e-5 if from_checkpoint else 1e-3),
            per_device_train_batch_size=config.batch_size,
            per_device_eval_batch_size=config.batch_size,
            seed=config.seed,
            bf16=machine["bf16"] if config.bf16 is None else config.bf16,
            use_cpu=machine["use_cpu"],
            warmup_steps=0.1,  # below 1 it is a share of all steps
            adam_beta2=0.98,  # as are epsilon and weight decay, that of wav2vec 2.0
            adam_epsilon=1e-6,
            weight_decay=0.01,
            eval_strategy="epoch",
            logging_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
    except ValueError as error:  # TrainingArguments checks what the processor supports
        raise PretrainingError(str(error)) from error
    args._n_gpu = min(args.n_gpu, 1)  # one GPU a process: nn.DataParallel would copy the codebook out of reach
    setup.set_threads(config.threads, args)
    processor.warn_of_emulation(args)
    return args


def _trainer(
    config: PretrainConfig,
    args: TrainingArguments,
    rows: datasets.Dataset,
    split: protocols.Split,
    model: PreTrainedModel,
    extractor: FeatureExtractionMixin,
) -> PretrainTrainer:
    masks = (config.mask_time_prob, config.mask_time_length, config.num_negatives)
    run = {"model": config.model, "protocol_hash": split.hash, "epochs": config.epochs, "bf16": args.bf16}
    run |= {"clips a step": config.batch_size * args.world_size, "seed": config.seed, "masks": list(masks)}
    run |= {"learning_rate": args.learning_rate}
    if config.streaming:  # what the order of the clips depends on
        run |= {"streaming": True, "shuffle_buffer": config.shuffle_buffer, "processes": args.world_size}
    cpu_kernels.widen_norms(model, args)
    trainer = PretrainTrainer(
        model=model,
        args=args,
        train_dataset=Recordings(rows, split.train, extractor, _STREAM_THREADS if config.streaming else None),
        eval_dataset=Recordings(rows, split.validation, extractor),
        data_collator=Masking(model, extractor, config.seed, *masks),
        callbacks=[EpochBar(), Cooling()],
        run=run,
        shuffle_buffer=config.shuffle_buffer,
    )
    trainer.add_callback(StreamEpoch(trainer))
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _means(sums: np.ndarray) -> dict[str, float]:
    loss, correct, frames, perplexity = sums.tolist()
    frames = max(frames, 1)
    return {"loss": loss / frames, "accuracy": correct / frames, "perplexity": perplexity / frames}


def _opening(trainer: PretrainTrainer, name: str, split: protocols.Split) -> str:
    args, total = trainer.args, sum(p.numel() for p in trainer.model.parameters())
    masking, book = trainer.data_collator, trainer.model.quantizer
    lines = [
        f"{name}: {total:,} parameters, {book.num_groups} × {book.num_vars} codewords",
        f"protocol {split.name} fold {split.fold} ({split.hash}): {len(split.train):,} to train, "
        f"{len(split.validation):,} to validate, no labels; held apart: {', '.join(split.held_apart) or 'nothing'}",
        f"masks of {masking.length} frames over {masking.probability:.0%}, {masking.negatives} negatives",
        f"{args.world_size} process(es) on {args.device.type}, batch {args.per_device_train_batch_size} × "
        f"{args.world_size}, {'bf16' if args.bf16 else 'fp32'}",
    ]
    return "\n".join(lines + ([f"WARNING: {split.warning}"] if split.warning else []))
