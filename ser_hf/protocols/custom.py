"""Protocols from a user's YAML, JSON or CSV file."""

import csv
import textwrap
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ser_hf.labels import EMOTIONS
from ser_hf.protocols.base import COLUMNS, SIDES, Columns, IndexArrays, Protocol, ProtocolError
from ser_hf.utils import files

SUFFIXES = (".yaml", ".yml", ".json", ".csv")
_Conditions = list[dict[str, list[str]]]


def is_file(name: str) -> bool:
    """Whether the name of a protocol is a path, by its ending.

    >>> is_file("mine.yaml"), is_file("speaker")
    (True, False)
    """
    return Path(name).suffix.lower() in SUFFIXES


def read_protocol(path: str) -> tuple[str, Protocol]:
    """The name, `custom:` before it, and the protocol of a file.

    Raises:
        ProtocolError: naming the file, the key and what was expected.
    """
    file = Path(path)
    if not file.is_file():
        raise ProtocolError(f"'{path}' is not a file: check the path of the protocol")
    if file.suffix.lower() != ".csv":
        return _from_mapping(path, files.read_settings(file, ProtocolError))
    try:
        text = file.read_text(encoding="utf-8-sig")
        return f"custom:{file.stem}", _from_list(path, csv.DictReader(text.splitlines(), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ProtocolError(f"'{path}' cannot be read: {' '.join(str(error).split())}") from error


def _from_mapping(path: str, written: object) -> tuple[str, Protocol]:
    keys = ("name", "needs", "leaks", "folds", "train", "validation", "test")
    _check_keys(f"'{path}'", written, keys)
    name, needs, leaks = written.get("name", Path(path).stem), written.get("needs", []), written.get("leaks", False)
    if not isinstance(name, str) or not name.isprintable() or not name.strip():
        raise ProtocolError(f"'{path}': name is {_short(name)}: expected one line of text")
    needs = [needs] if isinstance(needs, str) else needs
    if not isinstance(needs, list) or not all(isinstance(corpus, str) for corpus in needs):
        raise ProtocolError(f"'{path}': needs is {_short(needs)}: expected corpora, such as [ravdess]")
    if str(leaks).lower() not in ("true", "false"):
        raise ProtocolError(f"'{path}': leaks is {_short(leaks)}: expected true or false")
    if "folds" not in written:
        folds = [_fold(f"'{path}': ", {side: written[side] for side in keys[-3:] if side in written})]
    elif both := [side for side in keys[-3:] if side in written]:
        raise ProtocolError(f"'{path}': {both[0]} stands beside folds: put it into each of them")
    elif not isinstance(written["folds"], list) or not written["folds"]:
        raise ProtocolError(
            f"'{path}': folds is {_short(written['folds'])}: expected a list, each with test and validation"
        )
    else:
        folds = [_fold(f"'{path}': folds[{number}].", fold) for number, fold in enumerate(written["folds"])]

    def by_condition(columns: Columns, fold: int, seed: int) -> IndexArrays:
        return _take(columns, f"'{path}': " + (f"folds[{fold}]." if "folds" in written else ""), folds[fold])

    allowed = ("speakers",) if str(leaks).lower() == "true" else ()
    return f"custom:{name}", Protocol(by_condition, tuple(needs), len(folds), leaks=allowed)


def _short(value: object) -> str:
    return textwrap.shorten(repr(value), 60, placeholder=" …")


def _check_keys(where: str, written: object, keys: Iterable[str]) -> None:
    if not isinstance(written, dict):
        raise ProtocolError(f"{where} holds no mapping: expected the keys {', '.join(keys)}")
    for key in written:
        if key not in keys:
            raise ProtocolError(f"{where} has the unknown key {_short(key)}: expected {', '.join(keys)}")


def _fold(where: str, written: object) -> dict[str, _Conditions]:
    _check_keys(where.rstrip(".: "), written, ("test", "validation", "train"))
    for side, reason in (
        ("test", "there is nothing to test"),
        ("validation", "checkpoints would be chosen on the test"),
    ):
        if side not in written:
            raise ProtocolError(f"{where}{side} is missing: without it {reason}")
    return {side: _conditions(where + side, conditions) for side, conditions in written.items()}


def _conditions(where: str, written: object) -> _Conditions:
    listed = written if isinstance(written, list) else [written]
    if not listed or not all(isinstance(one, dict) and one for one in listed):
        raise ProtocolError(
            f"{where} is {_short(written)}: expected columns with values, such as {{speaker: [ravdess-01]}}"
        )
    return [{column: _values(f"{where}.{column}", column, values) for column, values in one.items()} for one in listed]


def _values(where: str, column: str, written: object) -> list[str]:
    if column not in COLUMNS:
        raise ProtocolError(f"{where} names no column: expected one of {', '.join(COLUMNS)}")
    values = written if isinstance(written, list) else [written]
    if not values or any(isinstance(one, bool) or not isinstance(one, str | int) or one == "" for one in values):
        raise ProtocolError(f"{where} is {_short(written)}: expected a text, a whole number or a list of them")
    return [str(one) for one in values]


def _take(columns: Columns, where: str, fold: dict[str, _Conditions]) -> IndexArrays:
    masks = {side: _matching(columns, where + side, conditions) for side, conditions in fold.items()}
    for one, other in (("test", "validation"), ("test", "train"), ("validation", "train")):
        both = np.flatnonzero(masks[one] & masks[other]) if other in masks else ()
        if len(both):
            rest = "" if other == "validation" else ", or leave train out to take all the rest"
            raise ProtocolError(
                f"{where}{other} takes {columns['file'][both[0]]}, as {one} does: let one side have it{rest}"
            )
    train = masks.get("train", ~masks["test"] & ~masks["validation"])
    return tuple(np.flatnonzero(mask) for mask in (train, masks["validation"], masks["test"]))


def _matching(columns: Columns, where: str, conditions: _Conditions) -> np.ndarray:
    found = np.zeros(len(columns["file"]), dtype=bool)
    for condition in conditions:
        every = np.ones_like(found)
        for column, values in condition.items():
            every &= _holds(columns, f"{where}.{column}", column, values)
        if not every.any():
            asked = " and ".join(f"{column} {' or '.join(values)}" for column, values in condition.items())
            asked = textwrap.shorten(asked, 200, placeholder=" …")
            raise ProtocolError(f"{where} matches no recording: expected one with {asked}")
        found |= every
    return found


def _holds(columns: Columns, where: str, column: str, values: list[str]) -> np.ndarray:
    if column not in columns:
        raise ProtocolError(f"{where}: the dataset has no column '{column}'")
    if column == "file":
        rows, missing = _rows_of(columns, values)
        held = np.isin(np.arange(len(columns["file"])), rows)
    else:
        texts = np.array(EMOTIONS)[columns["label"]] if column == "label" else columns[column]
        held = np.isin(texts, values)
        missing = [value for value in values if value not in texts]
    if missing:
        known = sorted(set(columns["file"] if column == "file" else texts) - {""})
        some = ", ".join(known[:8]) + (" …" if len(known) > 8 else "")
        raise ProtocolError(
            f"{where} {_short(missing[0])} matches no recording: expected of the dataset's {some or 'none'}"
        )
    return held


def _rows_of(columns: Columns, names: Iterable[str]) -> tuple[list[int], list[str]]:
    """The rows of files named with or without ending, and the names that the dataset has not."""
    stems = {file.rsplit(".", 1)[0]: row for row, file in enumerate(columns["file"].tolist())}
    rows, missing = [], []
    for name in names:
        row = stems.get(name, stems.get(name.rsplit(".", 1)[0]))
        if row is None:
            missing.append(name)
        else:
            rows.append(row)
    return rows, missing


def _from_list(path: str, reader: csv.DictReader) -> Protocol:
    header = reader.fieldnames or []
    if not {"file", "side"} <= set(header) <= {"file", "side", "fold"}:
        raise ProtocolError(
            f"'{path}' has the columns {', '.join(header) or 'none'}: expected file, side and, if any, fold"
        )
    folds: dict[int, dict[str, list[str]]] = {}
    for row in reader:
        where = f"'{path}' line {reader.line_num}"
        if None in row or None in row.values():  # a cell too many, or too few
            raise ProtocolError(f"{where} does not fit the columns: expected {', '.join(header)}")
        side, fold = row["side"].strip(), row.get("fold", "0").strip()
        if side not in SIDES:
            raise ProtocolError(f"{where}: side is '{side}': expected train, validation or test")
        if not (fold.isascii() and fold.isdigit()):
            raise ProtocolError(f"{where}: fold is '{fold}': expected a number from 0")
        folds.setdefault(int(fold), {}).setdefault(side, []).append(row["file"].strip())
    if sorted(folds) != list(range(len(folds))) or not folds:
        numbers = ", ".join(map(str, sorted(folds))) or "none"
        raise ProtocolError(f"'{path}' lists the folds {numbers}: expected 0, 1, … without a gap")
    for number, fold in folds.items():
        for side in SIDES:
            if side not in fold:
                raise ProtocolError(
                    f"'{path}': fold {number} lists no {side}: expected all of train, validation and test"
                )

    def by_list(columns: Columns, fold: int, seed: int) -> IndexArrays:
        return _look_up(columns, f"'{path}'", folds[fold])

    return Protocol(by_list, (), len(folds))


def _look_up(columns: Columns, where: str, fold: dict[str, list[str]]) -> IndexArrays:
    rows, missing = _rows_of(columns, [name for names in fold.values() for name in names])
    if missing:
        some = ", ".join(map(repr, missing[:3])) + (" …" if len(missing) > 3 else "")
        raise ProtocolError(f"{where}: file {some}: {len(missing):,} not in the dataset: expected names that it has")
    twice = np.flatnonzero(np.bincount(rows) > 1)
    if len(twice):
        raise ProtocolError(f"{where}: file {columns['file'][twice[0]]} is listed twice in a fold: expected once")
    return tuple(np.sort(_rows_of(columns, fold[side])[0]) for side in SIDES)
