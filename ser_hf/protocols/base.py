"""The parts of every protocol: the columns it reads, the sides it returns, its errors."""

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
Sides = dict[str, np.ndarray]
"""Index array of each of `SIDES`."""


class ProtocolError(UserError):
    """A protocol or fold that does not exist, or a dataset that lacks what the protocol needs."""


@dataclass(frozen=True)
class Protocol:
    """How to split a dataset.

    An entry of `ser_hf.protocols.builtin.PROTOCOLS` adds one: every command knows it then.
    """

    split: Callable[[Columns, int, int], IndexArrays]
    """`split(columns, fold, seed)` gives index arrays of train, validation and test."""
    corpora: tuple[str, ...]
    """The corpora that a dataset must hold."""
    folds: int | None
    """None where each corpus of the dataset is a fold."""
    validation_shares_speaker: bool = False
    """Whether the validation side is drawn from the speakers of training."""
    leaks: tuple[str, ...] = ()
    """What may stand on two sides: speakers, samples, near duplicates."""
    warning: str = "are also in training or validation; the figure flatters and says nothing about new voices."
    """How the warning of a leak goes on after "N of M test speakers"."""

    def fold_count(self, columns: Columns) -> int:
        """How many folds a dataset has under the protocol."""
        return len(set(columns["corpus"].tolist())) if self.folds is None else self.folds

    def fold_number(self, name: str, fold: int | str, columns: Columns) -> int:
        """The number of a fold.

        Raises:
            ProtocolError: where the protocol, which has this name, has no such fold.
        """
        text, count = str(fold), self.fold_count(columns)
        if not (text.isascii() and text.isdigit()) or int(text) >= max(count, 1):
            raise ProtocolError(f"fold {fold} is not in '{name}': its folds are 0 to {count - 1}")
        return int(text)


@dataclass(frozen=True)
class Split:
    """Index lists into a dataset, with their protocol and the hash that identifies them."""

    train: list[int]
    validation: list[int]
    test: list[int]
    name: str
    fold: int
    hash: str
    warning: str | None = None
    """What every output must say of a split that leaks by design."""
    held_apart: tuple[str, ...] = ()
    """What was checked and holds, of: speakers, samples, near duplicates, sentences."""
    crosses: tuple[str, ...] = ()
    """What was checked and does not hold, a line each."""
    note: str | None = None
    """What every output must say of training data beyond the protocol's."""

    @property
    def sides(self) -> Sides:
        """Index array of each side."""
        return {side: np.array(getattr(self, side), dtype=int) for side in SIDES}


def columns_of(dataset: datasets.Dataset) -> Columns:
    """What protocols look at, without the audio."""
    columns = {}
    for key in (*COLUMNS, "sha256", "duration"):
        if key in dataset.column_names:
            values = dataset[key][:]
            kind = {"label": int, "duration": float}.get(key, str)
            columns[key] = np.array(["" if value is None else value for value in values], dtype=kind)
    return columns


def shared_values(columns: Columns, key: str, first: np.ndarray, second: np.ndarray) -> list[str]:
    """The values of a column that stand in both of two sets of rows, sorted."""
    return sorted(set(columns[key][first].tolist()) & set(columns[key][second].tolist()))


def shorten(values: list[str], count: int = 5) -> str:
    """The first values of a list as text, with an ellipsis where there are more.

    >>> shorten(list("abcde")), shorten(list("abcdef")), shorten(["a", "b"], 1)
    ('a, b, c, d, e', 'a, b, c, d, e …', 'a …')
    """
    return ", ".join(values[:count]) + (" …" if len(values) > count else "")
