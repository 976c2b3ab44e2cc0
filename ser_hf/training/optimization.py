"""An exponential moving average of the weights, sharpness-aware minimisation, and rates by
layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from ser_hf.training.modes import _HEAD, _LAYER

AVERAGE_FILE = "average.safetensors"
"""In each checkpoint."""


class WeightAverage(TrainerCallback):
    """Exponential moving average of the trained parameters, in float32 (Tarvainen and Valpola
    2017).

    The decay grows with the steps, `min(decay, (1 + step) / (10 + step))`: the first weights are
    soon forgotten.
    """

    def __init__(self, decay: float) -> None:
        """`decay` is below 1; `begin` comes before all else."""
        self.decay = decay
        self.resumed: Path | None = None
        """The checkpoint from whose average the next training goes on."""
        self._trained: dict[str, nn.Parameter] = {}
        self._mean: dict[str, torch.Tensor] = {}

    def begin(self, model: nn.Module) -> None:
        """Start from the weights of a model that is about to be trained, or from the checkpoint to
        resume."""
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
        save_file(self._mean, folder / AVERAGE_FILE)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        for name, one in load_file(folder / AVERAGE_FILE).items():
            self._mean[name].copy_(one)

    @torch.no_grad()
    def _write(self, values: dict[str, torch.Tensor]) -> None:
        for name, one in self._trained.items():
            one.copy_(values[name])


@contextmanager
def sam_ascent(model: nn.Module, radius: float) -> Iterator[None]:
    """The weights moved `radius` along their gradient, which is emptied; as they were again at the
    end.

    The gradient of the loss that is computed within is the one to descend along.

    Args:
        model: with the gradient of the step's loss in its parameters.
        radius: Euclidean length of the move, ρ of the paper; 0.05 to 0.2 are usual.
    """
    moved = [one for one in model.parameters() if one.grad is not None]
    length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm([one.grad for one in moved])))
    kept = [one.detach().clone() for one in moved]
    with torch.no_grad():
        torch._foreach_add_(moved, torch._foreach_mul([one.grad for one in moved], radius / (length + 1e-12)))
    for one in moved:
        one.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moved, kept)


def layer_decayed_groups(model: nn.Module, rate: float, decay: float) -> dict[str, float]:
    """Learning rate of each trained parameter: from the top, `decay` times less a layer (Howard and
    Ruder 2018)."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    depths = {name: int(found[1]) + 1 for name in names if (found := _LAYER.search(name))}
    top = max(depths.values(), default=0) + 1
    if getattr(model.config, "do_stable_layer_norm", False):  # the last norm follows the layers
        depths |= {name: top - 1 for name in names if ".encoder.layer_norm." in name}
    for name in names:
        depths.setdefault(name, top if any(part in name.split(".") for part in _HEAD) else 0)
    return {name: rate * decay ** (top - depth) for name, depth in depths.items()}
