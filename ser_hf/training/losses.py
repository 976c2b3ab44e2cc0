"""The loss of each clip, its weights, and the auxiliary regression of eGeMAPS functionals."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from ser_hf.data import acoustic_features
from ser_hf.errors import UserError
from ser_hf.models import loading

Balance = Literal["none", "label", "corpus", "both", "speaker"]
BALANCES = ("none", "label", "corpus", "both", "speaker")
LOSSES = ("cross_entropy", "focal")


class ObjectiveError(UserError):
    """A balance that cannot be had of this dataset."""


@dataclass
class Objective:
    """Loss of each clip of a batch."""

    smoothing: float = 0.0
    """Share of the target spread over all labels (Szegedy et al. 2016)."""
    focus: float = 0.0
    """γ of the focal loss (Lin et al. 2017); 0 is cross-entropy."""

    def __call__(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        other: torch.Tensor | None = None,
        share: float | torch.Tensor = 1.0,
    ) -> torch.Tensor:
        """Losses of shape `(batch,)`.

        Args:
            logits: shape `(batch, labels)`.
            labels: shape `(batch,)`.
            other: labels of what is mixed in (Zhang et al. 2018), shape `(batch,)`.
            share: of `labels` in the mixture, shape `(batch,)`.
        """
        classes = logits.shape[-1]
        target = functional.one_hot(labels, classes).float()
        if other is not None:
            target = share[:, None] * target + (1 - share[:, None]) * functional.one_hot(other, classes).float()
        target = (1 - self.smoothing) * target + self.smoothing / classes
        log = functional.log_softmax(logits.float(), dim=-1)
        if self.focus:
            log = (1 - log.exp()).clamp_min(1e-8) ** self.focus * log
        return -(target * log).sum(-1)


def clip_weights(rows: datasets.Dataset, balance: Balance) -> np.ndarray:
    """Weight of each clip such that every label, every corpus, or every label of every corpus
    weighs the same.

    A speaker weighs as the square root of their clips: those of whom there are many do not drown
    out the others, and few clips are not repeated over and over (sampling by a temperature of 2, as
    for the languages of a translator: Arivazhagan et al. 2019, arXiv:1907.05019).

    Returns:
        Shape `(clips,)`, mean 1.

    Raises:
        ObjectiveError: where there is one group only, so that there is nothing to balance.
    """
    columns = ("corpus", "label") if balance == "both" else (balance,)
    keys = np.array(["\0".join(map(str, row)) for row in zip(*(rows[column] for column in columns), strict=True)])
    _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    if len(counts) == 1:
        raise ObjectiveError(f"balance '{balance}': all clips to train on are of one {columns[0]}: leave it out")
    per_clip = counts[group] ** (-0.5 if balance == "speaker" else -1.0)
    return per_clip * len(per_clip) / per_clip.sum()


OF_LEVEL = (10, *range(12, 21), 62, 63, 64, 66, 78, 79, 80, 87)
"""Columns of eGeMAPSv02 that tell how loud a recording is: loudness, spectral flux, slopes of a
spectrum, level."""

_MOST = 4.0  # standard deviations: a pitch that openSMILE misses is far off


class FunctionalRegressor(nn.Module):
    """A linear layer beside the head, on what the head reads."""

    def __init__(self, width: int, functionals: int, weight: float) -> None:
        super().__init__()
        self.linear, self.weight = nn.Linear(width, functionals), weight
        self.predicted: torch.Tensor | None = None
        """Of the last training batch, shape `(batch, functionals)`."""

    def predict(self, head: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        """Called before the head is."""
        self.predicted = self.linear(inputs[0]) if head.training else None

    def losses(self, functionals: torch.Tensor) -> torch.Tensor:
        """Weighed errors of the last batch, shape `(batch,)`: Huber's, a mean over the
        functionals."""
        errors = functional.smooth_l1_loss(self.predicted.float(), functionals, reduction="none")
        return self.weight * errors.mean(dim=1)


def targets(rows: datasets.Dataset, indices: list[int], cache_dir: str | Path | None = None) -> np.ndarray:
    """Functionals of clips but for `OF_LEVEL`, with zero mean and unit variance over them, cut at ±
    4.

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
        raise loading.ModelError(
            f"the head of a {model.config.model_type} is not linear: leave out --aux_egemaps_weight"
        )
    model.functionals = FunctionalRegressor(head.in_features, functionals, weight)
    model.functionals.hook = head.register_forward_pre_hook(model.functionals.predict)


def detach(model: PreTrainedModel) -> None:
    """Leave the stock model, if anything was attached."""
    if isinstance(getattr(model, "functionals", None), FunctionalRegressor):
        model.functionals.hook.remove()
        del model.functionals
