"""A second task in training: what the head reads must tell a clip's eGeMAPS functionals, too.

Multi-task learning (Caruana, "Multitask learning", Machine Learning 1997): pitch, voice quality and spectrum are known
of every clip, and who has to hear them remembers voices less. Nothing of it is left in the model that is saved.
"""

from pathlib import Path

import datasets
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from ser_hf.data import acoustic_features
from ser_hf.models import loading

OF_LEVEL = (10, *range(12, 21), 62, 63, 64, 66, 78, 79, 80, 87)
"""Columns of eGeMAPSv02 that tell how loud a recording is: loudness, spectral flux, slopes of a spectrum, level."""

_MOST = 4.0  # standard deviations: a pitch that openSMILE misses is far off


class Teller(nn.Module):
    """A linear layer beside the head, on what the head reads."""

    def __init__(self, width: int, functionals: int, weight: float) -> None:
        super().__init__()
        self.linear, self.weight = nn.Linear(width, functionals), weight
        self.told: torch.Tensor | None = None
        """Of the last training batch, shape `(batch, functionals)`."""

    def hear(self, head: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        """Called before the head is."""
        self.told = self.linear(inputs[0]) if head.training else None

    def losses(self, functionals: torch.Tensor) -> torch.Tensor:
        """Weighed errors of the last batch, shape `(batch,)`: Huber's, a mean over the functionals."""
        errors = functional.smooth_l1_loss(self.told.float(), functionals, reduction="none")
        return self.weight * errors.mean(dim=1)


def targets(rows: datasets.Dataset, indices: list[int], cache_dir: str | Path | None = None) -> np.ndarray:
    """Functionals of clips but for `OF_LEVEL`, with zero mean and unit variance over them, cut at ± 4.

    Returns:
        Float32 of shape `(len(indices), 70)`.

    Raises:
        AcousticsError: where the package opensmile is missing.
    """
    values = np.delete(acoustic_features.features(rows.select(indices), "egemaps", cache_dir), OF_LEVEL, axis=1)
    spread = np.maximum(values.std(axis=0), 1e-6)
    return np.clip((values - values.mean(axis=0)) / spread, -_MOST, _MOST)


def attach(model: PreTrainedModel, functionals: int, weight: float) -> None:
    """Let a model tell so many functionals while it is trained.

    Raises:
        ModelError: for a head that is not one linear layer.
    """
    head = getattr(model, "classifier", None)
    if not isinstance(head, nn.Linear):
        raise loading.ModelError(f"the head of a {model.config.model_type} is not linear: leave out --egemaps")
    model.functionals = Teller(head.in_features, functionals, weight)
    model.functionals.hook = head.register_forward_pre_hook(model.functionals.hear)


def detach(model: PreTrainedModel) -> None:
    """Leave the stock model, if anything was attached."""
    if isinstance(getattr(model, "functionals", None), Teller):
        model.functionals.hook.remove()
        del model.functionals
