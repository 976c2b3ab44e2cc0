"""Named, hashed splits into train, validation and test, and the gate that no leak passes."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import datasets
import numpy as np

from ser_hf.errors import UserError
from ser_hf.labels import EMOTIONS
from ser_hf.protocols import custom
from ser_hf.protocols.base import SIDES, Columns, Protocol, ProtocolError, columns_of
from ser_hf.protocols.builtin import ALL, EVERYBODY, PROTOCOLS

_PAIRS = (("train", "test"), ("validation", "test"), ("train", "validation"))
_REFIT = "Trained on the validation side, too, for epochs that were fixed before; nothing was chosen."
_NOBODY = np.array([], dtype=int)
_UNKNOWN = "the statement of"
_REMEDIES = {
    "speakers": "put each speaker on one side, or write `leaks: true` into a YAML protocol of your own",
    "samples": "remove one of the two recordings",
    "near duplicates": "remove one of the two recordings",
    "sentences": "use ravdess-tess, tess-ravdess or sentence, or do not ask for new sentences",
}


class LeakError(UserError):
    """A split in which speakers, samples, near duplicates or, on request, sentences stand on two
    sides."""


@dataclass(frozen=True)
class Split:
    """Index lists into a dataset, where they come from, and the hash that names them in results and
    cards."""

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


def split(
    dataset: datasets.Dataset,
    name: str = "speaker",
    fold: int = 0,
    seed: int = 42,
    *,
    near: list[list[int]] | None = None,
    text_disjoint: bool = False,
    extra_train_speakers: bool = False,
    train_on_validation: bool = False,
) -> Split:
    """Split a dataset by a protocol and refuse what leaks.

    Args:
        dataset: with the columns of `ser_hf.data.dataset.FEATURES`.
        name: a key of `PROTOCOLS`, the path of a `.yaml`, `.json` or `.csv` file, or `all`, which
            needs `train_on_validation`.
        fold: from 0, below the number of folds of the protocol.
        seed: of what is drawn at random (`random`, and the validation words of the TESS protocols).
        near: groups of rows that hold the same recording, trimmed, scaled or transcoded.
        text_disjoint: refuse sentences in the test that are in training or validation too.
        extra_train_speakers: also train on what the protocol leaves out, where its voices and
            recordings are not in the test, nor in a validation that has voices of its own.
            Validation and test stay the protocol's; the hash does not.
        train_on_validation: train on the validation side, too, which is empty then; nothing can be
            chosen by it.

    Raises:
        ProtocolError: for an unknown name or fold, or where the dataset lacks a corpus or leaves a
        side empty. LeakError: where a speaker, samples, near duplicates or, on request, sentences
        stand on two sides.
    """
    name, protocol = _find(name)
    number = protocol.number(name, fold)
    return _split(
        columns_of(dataset),
        name,
        protocol,
        number,
        seed,
        near,
        text_disjoint,
        extra_train_speakers,
        train_on_validation,
    )


def folds(
    dataset: datasets.Dataset,
    name: str = "speaker",
    fold: int | str = "all",
    seed: int = 42,
    *,
    near: list[list[int]] | None = None,
    text_disjoint: bool = False,
    extra_train_speakers: bool = False,
    train_on_validation: bool = False,
) -> list[Split]:
    """One fold of a protocol by its number, or `all` of them; the rest as for `split`."""
    name, protocol = _find(name)
    numbers = range(protocol.folds) if fold == "all" else [protocol.number(name, fold)]
    columns = columns_of(dataset)
    return [
        _split(columns, name, protocol, number, seed, near, text_disjoint, extra_train_speakers, train_on_validation)
        for number in numbers
    ]


def describe(dataset: datasets.Dataset, split: Split) -> str:
    """A split as text: name and hash, labels by corpus and sex on each side, what is held apart and
    what crosses."""
    columns = columns_of(dataset)
    sides = {side: np.array(getattr(split, side), dtype=int) for side in SIDES}
    lines = [f"protocol {split.name} fold {split.fold} ({split.hash})", *_tables(columns, sides), ""]
    lines += [f"held apart: {', '.join(split.held_apart) or 'nothing'}", *split.crosses]
    if shared := crossing(columns, "speaker", sides["train"], sides["validation"]):
        lines.append(f"training and validation share {_some(shared)}")
    lines += [f"NOTE: {split.note}"] * bool(split.note) + [f"WARNING: {split.warning}"] * bool(split.warning)
    return "\n".join(lines)


def crossing(columns: Columns, key: str, one: np.ndarray, other: np.ndarray) -> list[str]:
    """The values of a column that stand on both of two sides, sorted."""
    return sorted(set(columns[key][one].tolist()) & set(columns[key][other].tolist()))


def _find(name: str) -> tuple[str, Protocol]:
    if name == ALL:
        return name, EVERYBODY
    if name in PROTOCOLS:
        return name, PROTOCOLS[name]
    if custom.is_file(name):
        return custom.read_protocol(name)
    raise ProtocolError(
        f"'{name}' is no protocol: choose one of {', '.join(PROTOCOLS)}, or a .yaml, .json or .csv file"
    )


def _split(
    columns: Columns,
    name: str,
    protocol: Protocol,
    fold: int,
    seed: int,
    near: list[list[int]] | None,
    new_text: bool,
    extra_train_speakers: bool,
    train_on_validation: bool,
) -> Split:
    for corpus in protocol.corpora:
        if corpus not in columns["corpus"]:
            present = ", ".join(sorted(set(columns["corpus"].tolist()))) or "nothing"
            raise ProtocolError(f"protocol '{name}' needs {corpus}, the dataset holds {present}: {_usable(columns)}")
    if name == ALL and not train_on_validation:
        raise ProtocolError(
            f"'{ALL}' holds out nobody, for a recipe's last training: use another, or --train_on_validation true"
        )
    sides = dict(zip(SIDES, protocol.split(columns, fold, seed), strict=True))
    for side, rows in sides.items():
        if len(rows) == 0 and name != ALL:
            raise ProtocolError(f"protocol '{name}' fold {fold} leaves {side} empty: the dataset lacks its recordings")
    if train_on_validation:
        sides = {**sides, "train": np.concatenate([sides["train"], sides["validation"]]), "validation": _NOBODY}
    added = _others(columns, sides, near) if extra_train_speakers else _NOBODY
    sides["train"] = np.sort(np.concatenate([sides["train"], added]))
    found = _crossings(columns, sides, protocol, near)
    for kind, leak in found.items():
        if leak and (new_text if kind == "sentences" else kind not in protocol.leaks):
            raise LeakError(f"protocol '{name}' leaks: {leak}; {_REMEDIES[kind]}")
    lines = [f"{side} {row} {columns['file'][row].rsplit('.', 1)[0]}" for side, rows in sides.items() for row in rows]
    return Split(
        **{side: rows.tolist() for side, rows in sides.items()},
        name=name,
        fold=fold,
        hash=hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
        warning=_warning(columns, sides, protocol, name) if any(found.get(kind) for kind in protocol.leaks) else None,
        held_apart=tuple(kind for kind, leak in found.items() if leak is None),
        crosses=tuple(
            f"{kind} {'may ' * leak.startswith(_UNKNOWN)}cross: {leak}" for kind, leak in found.items() if leak
        ),
        note=" ".join([_REFIT] * train_on_validation + [_beyond(columns, added)] * (len(added) > 0)) or None,
    )


def _others(columns: Columns, sides: dict[str, np.ndarray], near: list[list[int]] | None) -> np.ndarray:
    """Rows on no side whose voice is on none of those that it must be new to, nor a copy of the
    recording."""
    free = columns["speaker"] != ""  # a voice that nobody knows may be one of those
    free[np.concatenate(list(sides.values()))] = False
    judged = np.concatenate([sides["validation"], sides["test"]])
    shares = crossing(columns, "speaker", sides["train"], sides["validation"])
    free &= ~np.isin(columns["speaker"], columns["speaker"][sides["test"] if shares else judged])
    free &= ~np.isin(columns["sha256"], columns["sha256"][judged])
    held = set(judged.tolist())
    for group in near or []:
        if held & set(group):
            free[group] = False
    return np.flatnonzero(free)


def _beyond(columns: Columns, added: np.ndarray) -> str:
    corpora = ", ".join(sorted(set(columns["corpus"][added].tolist())))
    return f"Trained on {len(added):,} recordings ({corpora}) beyond the protocol's, of voices that it does not test."


def _crossings(
    columns: Columns, sides: dict[str, np.ndarray], protocol: Protocol, near: list[list[int]] | None
) -> dict[str, str | None]:
    """For each kind of leak that can be looked for, the first one in words, or None."""
    found: dict[str, str | None] = {"speakers": None}
    only_test = protocol.validation_shares_speaker or "speakers" in protocol.leaks
    for one, other in _PAIRS[:2] if only_test else _PAIRS:
        if found["speakers"] is None and (both := crossing(columns, "speaker", sides[one], sides[other])):
            found["speakers"] = f"{_some(both)} in {one} and in {other}"
    same = defaultdict(list)
    for row, digest in enumerate(columns["sha256"].tolist()):
        same[digest].append(row)
    found["samples"] = _on_two_sides(columns, sides, list(same.values()), "hold the same samples")
    if near is not None:
        found["near duplicates"] = _on_two_sides(columns, sides, near, "are the same recording (near duplicates)")
    return found | {"sentences": _said_before(columns, sides)}


def _on_two_sides(columns: Columns, sides: dict[str, np.ndarray], groups: list[list[int]], says: str) -> str | None:
    side_of = {row: side for side, rows in sides.items() for row in rows.tolist()}
    members = [{side_of[row]: row for row in reversed(group) if row in side_of} for group in groups]
    for one, other in _PAIRS:
        for rows in members:
            if one in rows and other in rows:
                files = f"{columns['file'][rows[one]]} and {columns['file'][rows[other]]}"
                return f"{files} {says}, in {one} and in {other}"
    return None


def _said_before(columns: Columns, sides: dict[str, np.ndarray]) -> str | None:
    heard = np.concatenate([sides["train"], sides["validation"]])
    pairs = list(zip(columns["corpus"].tolist(), columns["statement"].tolist(), strict=True))
    shared = {pairs[row] for row in heard} & {pairs[row] for row in sides["test"]}
    if counts := Counter(corpus for corpus, statement in sorted(shared) if statement):
        said = ", ".join(f"{number:,} statement{'s' * (number != 1)} of {corpus}" for corpus, number in counts.items())
        return f"{said} in training or validation and in test"
    corpora = crossing(columns, "corpus", heard, sides["test"])
    rows = np.concatenate([heard, sides["test"]])
    unknown = rows[(columns["statement"][rows] == "") & np.isin(columns["corpus"][rows], corpora)]
    if len(unknown):
        return f"{_UNKNOWN} {columns['file'][unknown[0]]} is unknown and cannot be shown to be new"
    return None


def _warning(columns: Columns, sides: dict[str, np.ndarray], protocol: Protocol, name: str) -> str:
    seen = crossing(columns, "speaker", np.concatenate([sides["train"], sides["validation"]]), sides["test"])
    total = len(set(columns["speaker"][sides["test"]].tolist()))
    return f"protocol '{name}' leaks: {len(seen)} of {total} test speakers {protocol.says}"


def _usable(columns: Columns) -> str:
    present = set(columns["corpus"].tolist())
    usable = [name for name, its in PROTOCOLS.items() if its.corpora and set(its.corpora) <= present and not its.leaks]
    return f"use {' or '.join(usable) or 'a file of your own'}, or build the dataset with what is missing"


def _tables(columns: Columns, sides: dict[str, np.ndarray]) -> Iterator[str]:
    groups = np.array([f"{c} {s or 'unknown'}" for c, s in zip(columns["corpus"], columns["sex"], strict=True)])
    used = np.concatenate(list(sides.values()))
    heads, labels = np.unique(groups[used]), np.unique(columns["label"][used])
    width = max(map(len, heads)) + 3
    for side, rows in sides.items():
        counts = (columns["label"][rows] == labels[:, None]).astype(int) @ (groups[rows] == heads[:, None]).T
        counts = np.block([[counts, counts.sum(axis=1, keepdims=True)], [counts.sum(axis=0), counts.sum()]])
        yield f"\n{side:12}" + "".join(f"{head:>{width}}" for head in [*heads, "all"])
        for name, line in zip([*(EMOTIONS[label] for label in labels), "all"], counts.tolist(), strict=True):
            yield f"{name:12}" + "".join(f"{number:{width},}" for number in line)
        speakers = len(set(columns["speaker"][rows].tolist()))
        hours = f", {columns['duration'][rows].sum() / 3600:.3f} hours" if "duration" in columns else ""
        yield f"{len(rows):,} recordings, {speakers:,} speaker{'s' * (speakers != 1)}{hours}"


def _some(values: list[str]) -> str:
    return ", ".join(values[:5]) + (" …" if len(values) > 5 else "")
