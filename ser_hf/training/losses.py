"""Loss and weight of each clip."""

import re
from dataclasses import dataclass
from typing import Literal

import datasets
import numpy as np
import torch
from torch.nn import functional

from ser_hf.errors import UserError

Balance = Literal["none", "label", "corpus", "both", "speaker"]
BALANCES = ("none", "label", "corpus", "both", "speaker")
GROUP_COLUMNS = ("corpus", "channel", "sex", "speaker")
"""Columns of which `--group_weights` weighs values."""
LOSSES = ("cross_entropy", "focal")


class ObjectiveError(UserError):
    """A balance that this dataset does not allow."""


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
        mixed_labels: torch.Tensor | None = None,
        share: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the losses, of shape `(batch,)`.

        Args:
            logits: shape `(batch, labels)`.
            labels: shape `(batch,)`.
            mixed_labels: labels of the clips mixed in (Zhang et al. 2018), shape `(batch,)`.
            share: share of `labels` in the mixture, shape `(batch,)`, where there is one.
        """
        classes = logits.shape[-1]
        target = functional.one_hot(labels, classes).float()
        if mixed_labels is not None and share is not None:
            mixed = functional.one_hot(mixed_labels, classes).float()
            target = share[:, None] * target + (1 - share[:, None]) * mixed
        target = (1 - self.smoothing) * target + self.smoothing / classes
        log = functional.log_softmax(logits.float(), dim=-1)
        if self.focus:
            log = (1 - log.exp()).clamp_min(1e-8) ** self.focus * log
        return -(target * log).sum(-1)


def training_weights(rows: datasets.Dataset, balance: Balance, groups: str = "") -> np.ndarray | None:
    """Weights of training clips by `--balance` and `--group_weights`; None where both weigh alike.

    Returns:
        Shape `(clips,)`, mean 1.

    Raises:
        ObjectiveError: for a balance that the clips do not allow, or a text that names no groups.
    """
    weights = None if balance == "none" else clip_weights(rows, balance)
    return group_weights(rows, groups, weights) if groups else weights


def group_weights(rows: datasets.Dataset, groups: str, weights: np.ndarray | None = None) -> np.ndarray:
    """Give groups of clips a total weight, as a share of that of the clips in no group.

    Corpora differ more than they help each other. Songs and another corpus, weighed as much as
    speech, can make a model worse on speech.

    Args:
        rows: training clips.
        groups: such as `corpus=tess:0.2,channel=song:0.2`: columns, values and shares. A clip is of
            the first group that fits. A group without clips is passed over.
        weights: of the clips before, shape `(clips,)`; alike where None.

    Returns:
        Shape `(clips,)`, mean 1.

    Raises:
        ObjectiveError: for a text that names no groups.
    """
    weights = np.ones(len(rows)) if weights is None else weights.copy()
    number = np.full(len(rows), -1)
    shares = []
    for index, (column, value, share) in enumerate(parse_groups(groups)):
        number[(number < 0) & (np.array(rows[column]) == value)] = index
        shares.append(share)
    others = weights[number < 0].sum() or 1.0  # where every clip is of a group, they share among themselves
    for index, share in enumerate(shares):
        if (members := number == index).any():
            weights[members] *= share * others / weights[members].sum()
    return weights * len(weights) / weights.sum()


def parse_groups(groups: str) -> list[tuple[str, str, float]]:
    """Columns, values and shares of a text that `group_weights` takes.

    Raises:
        ObjectiveError: for any other text.
    """
    pattern = rf"({'|'.join(GROUP_COLUMNS)})=([^:=,]+):(\d*\.?\d+)"
    parsed = []
    for part in groups.split(","):
        match = re.fullmatch(pattern, part.strip(), re.ASCII)
        if match is None or not 0 < float(match[3]) <= 1000:
            raise ObjectiveError(
                f"--group_weights '{part.strip()}' is no group: write {'|'.join(GROUP_COLUMNS)}=VALUE:SHARE, such as "
                "corpus=tess:0.2"
            )
        parsed.append((match[1], match[2], float(match[3])))
    return parsed


def clip_weights(rows: datasets.Dataset, balance: Balance) -> np.ndarray:
    """Weights of clips that balance labels, corpora, both together, or speakers.

    Labels, corpora, or the labels of each corpus (`both`) get equal total weights. The total weight
    of a speaker is proportional to the square root of their number of clips. This is sampling at a
    temperature of 2 (Arivazhagan et al. 2019, arXiv:1907.05019). Speakers of many clips then do not
    dominate, and the clips of rare speakers are not repeated too often.

    Returns:
        Shape `(clips,)`, mean 1.

    Raises:
        ObjectiveError: if all clips are in one group.
    """
    columns = ("corpus", "label") if balance == "both" else (balance,)
    keys = np.array(["\0".join(map(str, row)) for row in zip(*(rows[column] for column in columns), strict=True)])
    _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    if len(counts) == 1:
        raise ObjectiveError(f"balance '{balance}': all clips to train on are of one {columns[0]}: leave it out")
    per_clip = counts[group] ** (-0.5 if balance == "speaker" else -1.0)
    return per_clip * len(per_clip) / per_clip.sum()
