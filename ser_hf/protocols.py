"""Named, hashed splits into train, validation and test, and the gate that no leak passes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import datasets
import numpy as np
from sklearn.model_selection import train_test_split

from ser_hf.errors import UserError

EMOBOX_FOLDS = ((1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23), (3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22))
"""Test actors of the six RAVDESS folds of EmoBox (Ma et al. 2024, arXiv:2406.07162)."""

LUNA_FOLDS = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))
"""Test actors of the five subject-wise RAVDESS folds of Luna-Jiménez et al. (2022, Applied Sciences 12(1):327)."""


class ProtocolError(UserError):
    """A protocol or fold that does not exist, or a dataset that lacks what the protocol needs."""


class LeakError(UserError):
    """A split in which speakers or samples stand on both sides."""


@dataclass(frozen=True)
class Split:
    """Index lists into a dataset, where they come from, and the hash that names them in results and cards."""

    train: list[int]
    validation: list[int]
    test: list[int]
    name: str
    fold: int
    hash: str
    warning: str | None = field(default=None)
    """What every output must say of a split that leaks by design."""


@dataclass(frozen=True)
class Protocol:
    """How to split: `split(columns, fold, seed)` gives index arrays of train, validation and test."""

    split: Callable[[dict[str, np.ndarray], int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
    corpora: tuple[str, ...]
    folds: int
    validation_shares_speaker: bool = False
    leaks: bool = False


def split(dataset: datasets.Dataset, name: str = "speaker", fold: int = 0, seed: int = 42) -> Split:
    """Split a dataset by a named protocol and refuse what leaks.

    Args:
        dataset: with the columns of `ser_hf.dataset.FEATURES`.
        name: a key of `PROTOCOLS`.
        fold: from 0, below the number of folds of the protocol.
        seed: of what is drawn at random (`random`, and the validation words of the TESS protocols).

    Raises:
        ProtocolError: for an unknown name or fold, or where the dataset lacks a corpus or leaves a side empty.
        LeakError: where a speaker, or the same samples under two names, stand on two sides.
    """
    if name not in PROTOCOLS:
        raise ProtocolError(f"'{name}' is no protocol: choose one of {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if not 0 <= fold < protocol.folds:
        raise ProtocolError(f"fold {fold} is not in '{name}': its folds are 0 to {protocol.folds - 1}")
    columns = {key: np.array(dataset[key]) for key in ("corpus", "channel", "speaker", "statement", "file", "sha256")}
    for corpus in protocol.corpora:
        if corpus not in columns["corpus"]:
            present = ", ".join(sorted(set(columns["corpus"]))) or "nothing"
            raise ProtocolError(
                f"protocol '{name}' needs {corpus}, the dataset holds {present}: {_alternatives(columns)}"
            )
    sides = dict(zip(("train", "validation", "test"), protocol.split(columns, fold, seed), strict=True))
    for side, indices in sides.items():
        if len(indices) == 0:
            raise ProtocolError(f"protocol '{name}' fold {fold} leaves {side} empty: the dataset lacks its speakers")
    if not protocol.leaks:
        _refuse_leak(columns, sides, protocol, name)
    lines = [f"{side} {i} {columns['file'][i].rsplit('.', 1)[0]}" for side, indices in sides.items() for i in indices]
    return Split(
        **{side: [int(i) for i in indices] for side, indices in sides.items()},
        name=name,
        fold=fold,
        hash=hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
        warning=_warning(columns, sides, name) if protocol.leaks else None,
    )


def crossing(columns: dict[str, np.ndarray], key: str, one: np.ndarray, other: np.ndarray) -> list[str]:
    """The values of a column that stand on both of two sides, sorted."""
    return sorted(set(columns[key][one]) & set(columns[key][other]))


def _refuse_leak(columns: dict[str, np.ndarray], sides: dict[str, np.ndarray], protocol: Protocol, name: str) -> None:
    for one, other in (("train", "test"), ("validation", "test"), ("train", "validation")):
        if not (protocol.validation_shares_speaker and "test" not in (one, other)):
            speakers = crossing(columns, "speaker", sides[one], sides[other])
            if speakers:
                raise LeakError(f"protocol '{name}' leaks: {', '.join(speakers[:5])} in {one} and in {other}")
        samples = crossing(columns, "sha256", sides[one], sides[other])
        if samples:
            files = columns["file"][np.isin(columns["sha256"], samples[:1])]
            raise LeakError(
                f"protocol '{name}' leaks: {' and '.join(files[:2])} hold the same samples, in {one} and in {other}; "
                "remove one of the two recordings"
            )


def _warning(columns: dict[str, np.ndarray], sides: dict[str, np.ndarray], name: str) -> str:
    seen = crossing(columns, "speaker", np.concatenate([sides["train"], sides["validation"]]), sides["test"])
    total = len(set(columns["speaker"][sides["test"]]))
    return (
        f"protocol '{name}' leaks: {len(seen)} of {total} test speakers are also in training; "
        "the figure flatters and says nothing about new voices."
    )


def _alternatives(columns: dict[str, np.ndarray]) -> str:
    present = set(columns["corpus"])
    usable = [name for name, protocol in PROTOCOLS.items() if set(protocol.corpora) <= present and not protocol.leaks]
    return f"use {' or '.join(usable)}, or build the dataset with both corpora"


def _actors(columns: dict[str, np.ndarray], actors: tuple[int, ...]) -> np.ndarray:
    return np.isin(columns["speaker"], [f"ravdess-{actor:02d}" for actor in actors])


def _speaker(columns: dict[str, np.ndarray], fold: int, seed: int) -> tuple[np.ndarray, ...]:
    test = _actors(columns, (21, 22, 23, 24)) | (columns["speaker"] == "tess-yaf")
    validation = _actors(columns, (17, 18, 19, 20))
    return tuple(np.flatnonzero(mask) for mask in (~test & ~validation, validation, test))


def _random(columns: dict[str, np.ndarray], fold: int, seed: int) -> tuple[np.ndarray, ...]:
    rest, test = train_test_split(np.arange(len(columns["speaker"])), test_size=0.33, random_state=seed)
    train, validation = train_test_split(rest, test_size=0.1, random_state=seed)
    return np.sort(train), np.sort(validation), np.sort(test)


def _ravdess_folds(folds: tuple[tuple[int, ...], ...]) -> Callable:
    def by_fold(columns: dict[str, np.ndarray], fold: int, seed: int) -> tuple[np.ndarray, ...]:
        speech = (columns["corpus"] == "ravdess") & (columns["channel"] == "speech")
        test = speech & _actors(columns, folds[fold])
        validation = speech & _actors(columns, folds[(fold + 1) % len(folds)])
        return tuple(np.flatnonzero(mask) for mask in (speech & ~test & ~validation, validation, test))

    return by_fold


def _tess(train_speaker: str, test_speaker: str) -> Callable:
    def by_actress(columns: dict[str, np.ndarray], fold: int, seed: int) -> tuple[np.ndarray, ...]:
        test = columns["speaker"] == test_speaker
        own = columns["speaker"] == train_speaker
        words = np.unique(columns["statement"][own])
        held = np.random.default_rng(seed).permutation(words)[: max(1, len(words) // 5)]
        validation = own & np.isin(columns["statement"], held)
        return tuple(np.flatnonzero(mask) for mask in (own & ~validation, validation, test))

    return by_actress


_BOTH = ("ravdess", "tess")
PROTOCOLS: dict[str, Protocol] = {
    "speaker": Protocol(_speaker, _BOTH, 1),
    "random": Protocol(_random, (), 1, leaks=True),
    "emobox-ravdess": Protocol(_ravdess_folds(EMOBOX_FOLDS), ("ravdess",), 6),
    "luna-ravdess": Protocol(_ravdess_folds(LUNA_FOLDS), ("ravdess",), 5),
    "tess-oaf-yaf": Protocol(_tess("tess-oaf", "tess-yaf"), ("tess",), 1, validation_shares_speaker=True),
    "tess-yaf-oaf": Protocol(_tess("tess-yaf", "tess-oaf"), ("tess",), 1, validation_shares_speaker=True),
}
"""Every protocol by name. The fold ones validate on the next fold's actors, the TESS ones on a fifth of the words."""
