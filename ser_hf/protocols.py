"""Named, hashed splits into train, validation and test, and the gate that no leak passes."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import datasets
import numpy as np
from sklearn.model_selection import train_test_split

from ser_hf import custom_protocols
from ser_hf.custom_protocols import SIDES, Columns, IndexArrays, Protocol, ProtocolError, columns_of
from ser_hf.emotions import EMOTIONS
from ser_hf.errors import UserError

EMOBOX_FOLDS = ((1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23), (3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22))
"""Test actors of the six RAVDESS folds of EmoBox (Ma et al. 2024, arXiv:2406.07162)."""

LUNA_FOLDS = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))
"""Test actors of the five subject-wise RAVDESS folds of Luna-Jiménez et al. (2022, Applied Sciences 12(1):327)."""

ALL = "all"
"""The protocol that trains on everybody and tests nobody."""

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
    """A split in which speakers, samples, near duplicates or, on request, sentences stand on two sides."""


@dataclass(frozen=True)
class Split:
    """Index lists into a dataset, where they come from, and the hash that names them in results and cards."""

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
    more_voices: bool = False,
    refit: bool = False,
) -> Split:
    """Split a dataset by a protocol and refuse what leaks.

    Args:
        dataset: with the columns of `ser_hf.dataset.FEATURES`.
        name: a key of `PROTOCOLS`, the path of a `.yaml`, `.json` or `.csv` file, or `all`, which needs `refit`.
        fold: from 0, below the number of folds of the protocol.
        seed: of what is drawn at random (`random`, and the validation words of the TESS protocols).
        near: groups of rows that hold the same recording, trimmed, scaled or transcoded.
        text_disjoint: refuse sentences in the test that are in training or validation too.
        more_voices: also train on what the protocol leaves out, where its voices and recordings are not in the test,
            nor in a validation that has voices of its own. Validation and test stay the protocol's; the hash does not.
        refit: train on the validation side, too, which is empty then; nothing can be chosen by it.

    Raises:
        ProtocolError: for an unknown name or fold, or where the dataset lacks a corpus or leaves a side empty.
        LeakError: where a speaker, samples, near duplicates or, on request, sentences stand on two sides.
    """
    name, protocol = _find(name)
    number = protocol.number(name, fold)
    return _split(columns_of(dataset), name, protocol, number, seed, near, text_disjoint, more_voices, refit)


def folds(
    dataset: datasets.Dataset,
    name: str = "speaker",
    fold: int | str = "all",
    seed: int = 42,
    *,
    near: list[list[int]] | None = None,
    text_disjoint: bool = False,
    more_voices: bool = False,
    refit: bool = False,
) -> list[Split]:
    """One fold of a protocol by its number, or `all` of them; the rest as for `split`."""
    name, protocol = _find(name)
    numbers = range(protocol.folds) if fold == "all" else [protocol.number(name, fold)]
    columns = columns_of(dataset)
    return [
        _split(columns, name, protocol, number, seed, near, text_disjoint, more_voices, refit) for number in numbers
    ]


def describe(dataset: datasets.Dataset, split: Split) -> str:
    """A split as text: name and hash, labels by corpus and sex on each side, what is held apart and what crosses."""
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
        return name, Protocol(_all, (), 1)
    if name in PROTOCOLS:
        return name, PROTOCOLS[name]
    if custom_protocols.is_file(name):
        return custom_protocols.read(name)
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
    more_voices: bool,
    refit: bool,
) -> Split:
    for corpus in protocol.corpora:
        if corpus not in columns["corpus"]:
            present = ", ".join(sorted(set(columns["corpus"].tolist()))) or "nothing"
            raise ProtocolError(f"protocol '{name}' needs {corpus}, the dataset holds {present}: {_usable(columns)}")
    if name == ALL and not refit:
        raise ProtocolError(f"'{ALL}' holds out nobody, for a recipe's last training: use another, or --refit true")
    sides = dict(zip(SIDES, protocol.split(columns, fold, seed), strict=True))
    for side, rows in sides.items():
        if len(rows) == 0 and name != ALL:
            raise ProtocolError(f"protocol '{name}' fold {fold} leaves {side} empty: the dataset lacks its recordings")
    if refit:
        sides = {**sides, "train": np.concatenate([sides["train"], sides["validation"]]), "validation": _NOBODY}
    added = _others(columns, sides, near) if more_voices else _NOBODY
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
        note=" ".join([_REFIT] * refit + [_beyond(columns, added)] * (len(added) > 0)) or None,
    )


def _others(columns: Columns, sides: dict[str, np.ndarray], near: list[list[int]] | None) -> np.ndarray:
    """Rows on no side whose voice is on none of those that it must be new to, nor a copy of the recording."""
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


def _actors(columns: Columns, *actors: int) -> np.ndarray:
    return np.isin(columns["speaker"], [f"ravdess-{actor:02d}" for actor in actors])


def _rows(*masks: np.ndarray) -> IndexArrays:
    return tuple(np.flatnonzero(mask) for mask in masks)


def _speaker(columns: Columns, fold: int, seed: int) -> IndexArrays:
    test = _actors(columns, 21, 22, 23, 24) | (columns["speaker"] == "tess-yaf")
    validation = _actors(columns, *_VALIDATION)
    return _rows(~test & ~validation, validation, test)


def _random(columns: Columns, fold: int, seed: int) -> IndexArrays:
    if len(columns["speaker"]) < 4:
        raise ProtocolError(f"'random' needs at least 4 recordings: the dataset holds {len(columns['speaker'])}")
    rest, test = train_test_split(np.arange(len(columns["speaker"])), test_size=0.33, random_state=seed)
    train, validation = train_test_split(rest, test_size=0.1, random_state=seed)
    return np.sort(train), np.sort(validation), np.sort(test)


def _ravdess_folds(
    columns: Columns, fold: int, seed: int, folds: tuple[tuple[int, ...], ...], validation_folds: int = 1
) -> IndexArrays:
    speech = (columns["corpus"] == "ravdess") & (columns["channel"] == "speech")
    after = [folds[(fold + step) % len(folds)] for step in range(1, validation_folds + 1)]
    test, validation = (speech & _actors(columns, *actors) for actors in (folds[fold], np.concatenate(after)))
    return _rows(speech & ~test & ~validation, validation, test)


def _tess(columns: Columns, fold: int, seed: int, train: str, test: str) -> IndexArrays:
    own = columns["speaker"] == train
    words = np.unique(columns["statement"][own])
    if "" in words:  # copies under other names have lost theirs
        raise ProtocolError(f"some words of {train} are unknown, so that none can be kept apart: use 'speaker'")
    held = np.random.default_rng(seed).permutation(words)[: max(1, len(words) // 5)]
    validation = own & np.isin(columns["statement"], held)
    return _rows(own & ~validation, validation, columns["speaker"] == test)


def _sentence(columns: Columns, fold: int, seed: int) -> IndexArrays:
    first, second = ((columns["corpus"] == "ravdess") & (columns["statement"] == one) for one in "12")
    validation = first & _actors(columns, *_VALIDATION)
    return _rows(first & ~validation, validation, second)


def _other_corpus(columns: Columns, fold: int, seed: int, train: str) -> IndexArrays:
    ravdess, tess = (columns["corpus"] == corpus for corpus in _BOTH)
    shared = np.isin(columns["label"], np.intersect1d(columns["label"][ravdess], columns["label"][tess]))
    own, test = (ravdess, tess) if train == "ravdess" else (tess, ravdess)
    validation = own & (_actors(columns, *_VALIDATION) | (columns["speaker"] == "tess-yaf"))
    return _rows(shared & own & ~validation, shared & validation, shared & test)


def _all(columns: Columns, fold: int, seed: int) -> IndexArrays:
    return np.arange(len(columns["speaker"])), _NOBODY, _NOBODY


_BOTH = ("ravdess", "tess")
_VALIDATION = (17, 18, 19, 20)
_ONE_BY_ONE = tuple((actor,) for actor in range(1, 25))
_SAME_VOICES = "were heard in training or validation; only the sentence is new, the voices are not."
PROTOCOLS: dict[str, Protocol] = {
    "speaker": Protocol(_speaker, _BOTH, 1),
    "random": Protocol(_random, (), 1, leaks=("speakers", "samples", "near duplicates")),
    "emobox-ravdess": Protocol(partial(_ravdess_folds, folds=EMOBOX_FOLDS), ("ravdess",), 6),
    "luna-ravdess": Protocol(partial(_ravdess_folds, folds=LUNA_FOLDS), ("ravdess",), 5),
    "loso-ravdess": Protocol(partial(_ravdess_folds, folds=_ONE_BY_ONE, validation_folds=2), ("ravdess",), 24),
    "tess-oaf-yaf": Protocol(partial(_tess, train="tess-oaf", test="tess-yaf"), ("tess",), 1, True),
    "tess-yaf-oaf": Protocol(partial(_tess, train="tess-yaf", test="tess-oaf"), ("tess",), 1, True),
    "sentence": Protocol(_sentence, ("ravdess",), 1, leaks=("speakers",), says=_SAME_VOICES),
    "ravdess-tess": Protocol(partial(_other_corpus, train="ravdess"), _BOTH, 1),
    "tess-ravdess": Protocol(partial(_other_corpus, train="tess"), _BOTH, 1),
}
"""Every protocol by name. Folds validate on the next fold's actors (or next two), tess-… on a fifth of the words."""
