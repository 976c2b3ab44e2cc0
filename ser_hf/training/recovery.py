"""Complete checkpoints, resuming, and errors that end a training."""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import Trainer, TrainingArguments

from ser_hf.errors import UserError
from ser_hf.training.optimization import AVERAGE_FILE

RUN, STATE = "ser_hf.json", "trainer_state.json"


class TrainingError(UserError):
    """A run that cannot be started as asked, or that cannot go on."""


def complete(checkpoint: Path) -> bool:
    """Whether all files of a checkpoint are there.

    A run may have been killed while it wrote them, or while it deleted an older checkpoint.
    """
    try:
        json.loads((checkpoint / STATE).read_text())  # the Trainer writes this file last
        averages = (checkpoint / RUN).is_file() and json.loads((checkpoint / RUN).read_text()).get("ema_decay")
    except (OSError, json.JSONDecodeError):
        return False
    weights = [*checkpoint.glob("*model*.safetensors"), *checkpoint.glob("pytorch_model_fsdp*")]
    needed = ["optimizer*", "scheduler.pt", "rng_state*", *([AVERAGE_FILE] if averages else [])]
    return bool(weights) and all(any(checkpoint.glob(name)) for name in needed)


def checkpoints(output: Path) -> list[Path]:
    """List the complete checkpoints of a run, oldest first."""
    folders = [path for path in output.glob("checkpoint-*") if complete(path)]
    return sorted(folders, key=lambda path: int(path.name.split("-")[-1]))


@contextmanager
def surviving(trainer: Trainer) -> Iterator[None]:
    """End a failed training in one line, which names the checkpoint to go on from.

    Args:
        trainer: its `running` describes the current batch.

    Raises:
        TrainingError: for a disk that is full, memory that is, a recording that does not decode, a
            loss that is no number.
    """
    try:
        yield
    except (UserError, OSError, RuntimeError, MemoryError, SafetensorError) as error:
        message = _user_message(error, trainer)
        if message is None:
            raise
        output = Path(trainer.args.output_dir)
        for path in output.glob("checkpoint-*"):
            if trainer.args.process_index == 0 and not complete(path):
                shutil.rmtree(path, ignore_errors=True)
        last = checkpoints(output)
        remedy = "no checkpoint had been saved"
        if last:
            remedy = f"go on from '{last[-1]}' with --resume_from_checkpoint true"
        raise TrainingError(f"{message}; {remedy}") from error


@contextmanager
def disk_guard(what: str) -> Iterator[None]:
    """End work outside of training steps in one line where memory or disk is too small.

    Args:
        what: the work, for the message.

    Raises:
        TrainingError: naming the work.
    """
    try:
        yield
    except (OSError, RuntimeError, MemoryError, SafetensorError) as error:
        if _no_memory(error):
            raise TrainingError(f"out of memory while {what}: free some, or use a smaller model") from error
        if _no_disk(error):
            raise TrainingError(f"the disk is full while {what}: free some space and start again") from error
        raise


def _no_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _no_disk(error: Exception) -> bool:
    words = ("No space left", "os error 28", "PytorchStreamWriter failed", "unexpected pos")
    return getattr(error, "errno", None) == errno.ENOSPC or any(word in str(error) for word in words)


def _user_message(error: Exception, trainer: Trainer) -> str | None:
    """Say what the user can mend; None where the error is our fault."""
    text = str(error)
    if isinstance(error, UserError):
        # A loading worker puts its traceback before the message.
        return text.strip().splitlines()[-1].split("Error: ", 1)[-1]
    if _no_memory(error):
        step = trainer.state.global_step + 1
        return (
            f"out of memory at step {step}, with a batch of {trainer.running}: lower --per_device_train_batch_size "
            "and raise --gradient_accumulation_steps"
        )
    if _no_disk(error):
        return f"the disk of '{trainer.args.output_dir}' is full at step {trainer.state.global_step}: free some space"
    return None


def starting_point(output: Path, args: TrainingArguments) -> str | None:
    """Find the checkpoint to resume from; refuse to mix a new run into an old one's folder.

    Raises:
        TrainingError: naming the folder and the flag.
    """
    requested = args.resume_from_checkpoint
    saved = checkpoints(output)
    if requested is None or str(requested).lower() in ("false", "none"):
        if saved or (output / "results.json").exists():
            raise TrainingError(
                f"'{output}' holds an earlier run: go on with --resume_from_checkpoint true, or choose another folder"
            )
        return None
    if str(requested).lower() != "true":
        if not complete(Path(requested)):
            raise TrainingError(
                f"'{requested}' is no checkpoint: pass --resume_from_checkpoint true for the last in '{output}'"
            )
        return str(requested)
    if not saved:
        raise TrainingError(f"'{output}' holds no checkpoint to resume from: leave out --resume_from_checkpoint")
    return str(saved[-1])


def refuse_other_run(checkpoint: str, run: dict) -> None:
    """Refuse to resume a run with other settings: its figure would belong to neither.

    Raises:
        TrainingError: naming the first setting that differs.
    """
    file = Path(checkpoint, RUN)
    began = json.loads(file.read_text()) if file.is_file() else {}
    for name, value in run.items():
        if began.get(name) != value:
            raise TrainingError(
                f"'{checkpoint}' has {name} {began.get(name)}, not {value}: give the flags it began with, or another "
                "folder"
            )
