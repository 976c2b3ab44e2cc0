"""What every protocol is made of: the columns it reads, the sides it returns, its errors."""

from collections.abc import Callable
from dataclasses import dataclass

import datasets
import numpy as np

from ser_hf.errors import UserError

SIDES = ("train", "validation", "test")
COLUMNS = ("corpus", "channel", "speaker", "sex", "intensity", "statement", "repetition", "label", "file")
"""What a condition may name; labels by name, files with or without ending."""

Columns = dict[str, np.ndarray]
"""Columns of a dataset as arrays: `label` integers, `duration` seconds, all others text, empty
where unknown."""
IndexArrays = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Index arrays of train, validation and test."""


class ProtocolError(UserError):
    """A protocol or fold that does not exist, or a dataset that lacks what the protocol needs."""


@dataclass(frozen=True)
class Protocol:
    """How to split: `split(columns, fold, seed)` gives index arrays of train, validation and
    test."""

    split: Callable[[Columns, int, int], IndexArrays]
    corpora: tuple[str, ...]
    folds: int
    validation_shares_speaker: bool = False
    leaks: tuple[str, ...] = ()
    """What may stand on two sides: speakers, samples, near duplicates."""
    says: str = "are also in training or validation; the figure flatters and says nothing about new voices."
    """How the warning goes on after "N of M test speakers"."""

    def number(self, name: str, fold: int | str) -> int:
        """The number of a fold, `ProtocolError` where the protocol of this name has none such."""
        text = str(fold)
        if not (text.isascii() and text.isdigit()) or int(text) >= self.folds:
            raise ProtocolError(f"fold {fold} is not in '{name}': its folds are 0 to {self.folds - 1}")
        return int(text)


def columns_of(dataset: datasets.Dataset) -> Columns:
    """What protocols look at, without the audio."""
    columns = {}
    for key in (*COLUMNS, "sha256", "duration"):
        if key in dataset.column_names:
            values = dataset[key][:]
            kind = {"label": int, "duration": float}.get(key, str)
            columns[key] = np.array(["" if value is None else value for value in values], dtype=kind)
    return columns
