"""Named, hashed splits into train, validation and test, which the leak check has passed."""

import hashlib
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from ser_hf.errors import choose_one
from ser_hf.protocols import custom, leak_check
from ser_hf.protocols.base import SIDES, Columns, Protocol, ProtocolError, Sides, Split, columns_of, shared_values
from ser_hf.protocols.builtin import ALL, ALL_SPEAKERS, PROTOCOLS

_REFIT = "Trained on the validation side, too, for epochs that were fixed before; nothing was chosen."
_NO_ROWS = np.array([], dtype=int)


@dataclass(frozen=True)
class _Options:
    """What is asked of a split beyond its protocol, see `folds`."""

    near_duplicates: list[list[int]] | None
    text_disjoint: bool
    extra_train_speakers: bool
    train_on_validation: bool


def split(
    dataset: datasets.Dataset, name: str = "speaker", fold: int | str = 0, seed: int = 42, **options: Any
) -> Split:
    """Split a dataset by one fold of a protocol; everything else as for `folds`."""
    if fold == "all":
        raise ProtocolError(f"fold all of '{name}' is not one split: give the number of a fold")
    return folds(dataset, name, fold, seed, **options)[0]


def folds(
    dataset: datasets.Dataset,
    name: str = "speaker",
    fold: int | str = "all",
    seed: int = 42,
    *,
    near_duplicates: list[list[int]] | None = None,
    text_disjoint: bool = False,
    extra_train_speakers: bool = False,
    train_on_validation: bool = False,
) -> list[Split]:
    """Split a dataset by one fold of a protocol or by all of them, and refuse what leaks.

    Args:
        dataset: with the columns of `ser_hf.data.dataset.FEATURES`.
        name: a key of `PROTOCOLS`, the path of a `.yaml`, `.json` or `.csv` file, or `all`, which
            needs `train_on_validation`.
        fold: from 0, below the number of folds of the protocol, or `all`.
        seed: of what is drawn at random (`random`, and the validation words of the TESS protocols).
        near_duplicates: groups of rows that hold the same recording, trimmed, scaled or transcoded.
        text_disjoint: refuse sentences in the test that are in training or validation too.
        extra_train_speakers: also train on what the protocol leaves out, where its voices and
            recordings are not in the test, nor in a validation that has voices of its own.
            Validation and test stay the protocol's; the hash does not.
        train_on_validation: train on the validation side, too, which is empty then; nothing can be
            chosen by it.

    Raises:
        ProtocolError: for an unknown name or fold, or where the dataset lacks a corpus or leaves a
            side empty.
        LeakError: where a speaker, samples, near duplicates or, on request, sentences stand on two
            sides.
    """
    options = _Options(near_duplicates, text_disjoint, extra_train_speakers, train_on_validation)
    name, protocol = find_protocol(name)
    columns = columns_of(dataset)
    numbers = range(protocol.fold_count(columns)) if fold == "all" else [protocol.fold_number(name, fold, columns)]
    return [_split(columns, name, protocol, number, seed, options) for number in numbers]


def find_protocol(name: str) -> tuple[str, Protocol]:
    """The protocol of a name or of a user's file, and the name it has in results.

    Raises:
        ProtocolError: where there is none.
    """
    if name == ALL:
        return name, ALL_SPEAKERS
    if name in PROTOCOLS:
        return name, PROTOCOLS[name]
    if custom.is_file(name):
        return custom.read_protocol(name)
    raise ProtocolError(f"'{name}' is no protocol: {choose_one(name, PROTOCOLS)}, or a .yaml, .json or .csv file")


def _split(columns: Columns, name: str, protocol: Protocol, fold: int, seed: int, options: _Options) -> Split:
    sides = _sides(columns, name, protocol, fold, seed, options)
    # The validation side moves first: extra rows of its speakers may be trained on, too, then.
    if options.train_on_validation:
        train = np.concatenate([sides["train"], sides["validation"]])
        sides = {**sides, "train": train, "validation": _NO_ROWS}
    added = _extra_rows(columns, sides, options.near_duplicates) if options.extra_train_speakers else _NO_ROWS
    sides["train"] = np.sort(np.concatenate([sides["train"], added]))
    leaks = leak_check.find_leaks(columns, sides, protocol, options.near_duplicates)
    leak_check.refuse_leaks(leaks, name, protocol, options.text_disjoint)
    leaks_by_design = any(leaks.get(kind) for kind in protocol.leaks)
    notes = [_REFIT] * options.train_on_validation + [_note_of_extra(columns, added)] * (len(added) > 0)
    return Split(
        **{side: rows.tolist() for side, rows in sides.items()},
        name=name,
        fold=fold,
        hash=_hash(columns, sides),
        warning=leak_check.leak_warning(columns, sides, name, protocol) if leaks_by_design else None,
        held_apart=tuple(kind for kind, leak in leaks.items() if leak is None),
        crosses=leak_check.leak_lines(leaks),
        note=" ".join(notes) or None,
    )


def _sides(columns: Columns, name: str, protocol: Protocol, fold: int, seed: int, options: _Options) -> Sides:
    """What the protocol puts on each side, once the dataset is known to hold what it needs."""
    for corpus in protocol.corpora:
        if corpus not in columns["corpus"]:
            present = ", ".join(sorted(set(columns["corpus"].tolist()))) or "nothing"
            raise ProtocolError(f"protocol '{name}' needs {corpus}, the dataset holds {present}: {_usable(columns)}")
    if name == ALL and not options.train_on_validation:
        raise ProtocolError(
            f"'{ALL}' holds out nobody, for a recipe's last training: use another, or --train_on_validation true"
        )
    sides = dict(zip(SIDES, protocol.split(columns, fold, seed), strict=True))
    for side, rows in sides.items():
        if len(rows) == 0 and name != ALL:
            raise ProtocolError(f"protocol '{name}' fold {fold} leaves {side} empty: the dataset lacks its recordings")
    return sides


def _hash(columns: Columns, sides: Sides) -> str:
    """16 hex digits of the SHA-256 of each row's side, number and file name without ending."""
    lines = [f"{side} {row} {columns['file'][row].rsplit('.', 1)[0]}" for side, rows in sides.items() for row in rows]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _extra_rows(columns: Columns, sides: Sides, near_duplicates: list[list[int]] | None) -> np.ndarray:
    """Rows on no side whose speaker may be trained on, and that are no copy of what is judged."""
    free = columns["speaker"] != ""  # an unknown speaker may be one of those
    free[np.concatenate(list(sides.values()))] = False
    judged = np.concatenate([sides["validation"], sides["test"]])
    shares = shared_values(columns, "speaker", sides["train"], sides["validation"])
    free &= ~np.isin(columns["speaker"], columns["speaker"][sides["test"] if shares else judged])
    free &= ~np.isin(columns["sha256"], columns["sha256"][judged])
    held_out = set(judged.tolist())
    for group in near_duplicates or []:
        if held_out & set(group):
            free[group] = False
    return np.flatnonzero(free)


def _note_of_extra(columns: Columns, added: np.ndarray) -> str:
    corpora = ", ".join(sorted(set(columns["corpus"][added].tolist())))
    return f"Trained on {len(added):,} recordings ({corpora}) beyond the protocol's, of voices that it does not test."


def _usable(columns: Columns) -> str:
    present = set(columns["corpus"].tolist())
    usable = [
        name
        for name, protocol in PROTOCOLS.items()
        if protocol.corpora and set(protocol.corpora) <= present and not protocol.leaks
    ]
    return f"use {' or '.join(usable) or 'a file of your own'}, or build the dataset with what is missing"
