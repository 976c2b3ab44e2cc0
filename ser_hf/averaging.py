"""A running average of a model's weights: smoother than the last step's, and a little better on what is new."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

FILE = "average.safetensors"
"""In each checkpoint."""


class Average(TrainerCallback):
    """Exponential moving average of the trained parameters, in float32 (Tarvainen and Valpola 2017).

    The decay grows with the steps, `min(decay, (1 + step) / (10 + step))`: the first weights are soon forgotten.
    """

    def __init__(self, decay: float) -> None:
        """`decay` is below 1; `begin` comes before all else."""
        self.decay = decay
        self.resumed: Path | None = None
        """The checkpoint from whose average the next training goes on."""
        self._trained: dict[str, nn.Parameter] = {}
        self._mean: dict[str, torch.Tensor] = {}

    def begin(self, model: nn.Module) -> None:
        """Start from the weights of a model that is about to be trained, or from the checkpoint to resume."""
        self._trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
        self._mean = {name: one.detach().float().clone() for name, one in self._trained.items()}
        if self.resumed is not None:
            self.load(self.resumed)
            self.resumed = None

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs) -> None:  # noqa: ANN001, ANN003
        """Take in the weights after a step of the optimiser."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        means = list(self._mean.values())
        torch._foreach_lerp_(means, [one.detach().float() for one in self._trained.values()], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model answers with the average."""
        kept = {name: one.detach().clone() for name, one in self._trained.items()}
        self.put()
        try:
            yield
        finally:
            self._write(kept)

    def put(self) -> None:
        """Make the average the model's weights, for good."""
        self._write(self._mean)

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint."""
        save_file(self._mean, folder / FILE)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        for name, one in load_file(folder / FILE).items():
            self._mean[name].copy_(one)

    @torch.no_grad()
    def _write(self, values: dict[str, torch.Tensor]) -> None:
        for name, one in self._trained.items():
            one.copy_(values[name])
