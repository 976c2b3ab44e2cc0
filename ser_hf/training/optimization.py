"""Moving average of the weights, learning rates by layer, and settings of the optimiser tried."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, get_scheduler

from ser_hf.errors import UserError, first_line
from ser_hf.models.encoder_layers import HEAD_MODULES, LAYER_NAME, final_norm

AVERAGE_FILE = "average.safetensors"
"""File of the average in each checkpoint."""


class WeightAverage(TrainerCallback):
    """Exponential moving average of the trained parameters, in float32.

    Tarvainen and Valpola, "Mean teachers are better role models" (NeurIPS 2017). The decay grows
    with the steps, `min(decay, (1 + step) / (10 + step))`, so that the first weights soon fade.
    """

    def __init__(self, decay: float) -> None:
        """Take a decay below 1. Call `begin` before any other method."""
        self.decay = decay
        self.resumed: Path | None = None
        """Checkpoint whose average `begin` loads."""
        self._trained: dict[str, nn.Parameter] = {}
        self._mean: dict[str, torch.Tensor] = {}

    def begin(self, model: nn.Module) -> None:
        """Start from the weights of a model before its training, or from `resumed`."""
        self._trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._mean = {name: weight.detach().float().clone() for name, weight in self._trained.items()}
        if self.resumed is not None:
            self.load(self.resumed)
            self.resumed = None

    @torch.no_grad()
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Update the average after a step of the optimiser."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        means = list(self._mean.values())
        torch._foreach_lerp_(means, [weight.detach().float() for weight in self._trained.values()], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model for the length of a block."""
        weights = {name: weight.detach().clone() for name, weight in self._trained.items()}
        self.put()
        try:
            yield
        finally:
            self._copy_in(weights)

    def put(self) -> None:
        """Replace the weights of the model by the average, for good."""
        self._copy_in(self._mean)

    def save(self, folder: Path) -> None:
        """Write the average into a checkpoint."""
        save_file(self._mean, folder / AVERAGE_FILE)

    def load(self, folder: Path) -> None:
        """Read the average that `save` wrote."""
        for name, mean in load_file(folder / AVERAGE_FILE).items():
            self._mean[name].copy_(mean)

    @torch.no_grad()
    def _copy_in(self, values: dict[str, torch.Tensor]) -> None:
        for name, weight in self._trained.items():
            weight.copy_(values[name])


def layer_decayed_groups(model: nn.Module, rate: float, decay: float) -> dict[str, float]:
    """Learning rate of each trained parameter, multiplied by `decay` for each layer below the top.

    Howard and Ruder, "Universal language model fine-tuning for text classification" (ACL 2018).
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    depths = {name: int(match[1]) + 1 for name in names if (match := LAYER_NAME.search(name))}
    top = max(depths.values(), default=0) + 1
    if norm := final_norm(model):  # learns as the layer below it does
        depths |= {name: top - 1 for name in names if name.startswith(f"{norm}.")}
    for name in names:
        depths.setdefault(name, top if any(part in name.split(".") for part in HEAD_MODULES) else 0)
    return {name: rate * decay ** (top - depth) for name, depth in depths.items()}


_OF_LAYERS = ("galore", "apollo", "lomo")
"""Parts of the names of optimisers that are made of the layers of a model, not of its weights."""


def try_optimizer(args: TrainingArguments) -> None:
    """Make the optimiser and the schedule of a run for one weight, before its data are read.

    Raises:
        UserError: naming the flag whose value cannot be used.
    """
    layer = nn.Linear(1, 1)
    name = str(getattr(args.optim, "value", args.optim))
    try:
        optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(args, layer)
        if any(part in name for part in _OF_LAYERS):
            return
        optimizer = optimizer_class(layer.parameters(), **settings)
    except (ImportError, ValueError, TypeError, RuntimeError) as error:
        remedy = "check it, --optim_args and the rates"
        raise UserError(f"--optim {name} cannot be made ({first_line(error)[:160]}): {remedy}") from error
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    try:
        get_scheduler(
            args.lr_scheduler_type, optimizer, args.get_warmup_steps(2), 2, dict(args.lr_scheduler_kwargs or {})
        )
    except (ValueError, TypeError) as error:
        remedy = "check --lr_scheduler_kwargs"
        raise UserError(f"--lr_scheduler_type {kind} cannot be made ({first_line(error)[:160]}): {remedy}") from error
