"""What training minimises: cross-entropy or focal loss, smoothed, weighted, mixed; and the balance of what it sees."""

from dataclasses import dataclass
from typing import Literal

import datasets
import numpy as np
import torch
from torch.nn import functional

from ser_hf.errors import UserError

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


def weights(rows: datasets.Dataset, balance: Balance) -> np.ndarray:
    """Weight of each clip such that every label, every corpus, or every label of every corpus weighs the same.

    A speaker weighs as the square root of their clips: those of whom there are many do not drown out the others, and
    few clips are not heard over and over (sampling by a temperature of 2, as for the languages of a translator:
    Arivazhagan et al. 2019, arXiv:1907.05019).

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
