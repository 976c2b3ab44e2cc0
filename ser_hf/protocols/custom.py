"""Protocols from a user's YAML, JSON or CSV file."""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ser_hf.labels import EMOTIONS
from ser_hf.protocols.base import SIDES, Columns, IndexArrays, Protocol, ProtocolError, shorten
from ser_hf.utils import files, tables

SUFFIXES = (".yaml", ".yml", ".json", ".csv")
_WITHOUT = {"test": "there is nothing to test", "validation": "checkpoints would be chosen on the test"}
"""What happens in a fold that lacks a side."""
LEAKS = ("speakers", "samples", "near duplicates")
"""What a file may let stand on two sides."""
_LEAKS_OF_WORDS = {
    **{word: ["speakers"] for word in ("true", "yes", "on")},
    **{word: [] for word in ("false", "no", "off")},
}


def _as_list(value: object) -> list:
    return value if isinstance(value, list) else [value]


_Value = Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)]
_Values = Annotated[list[_Value], Field(min_length=1), BeforeValidator(_as_list)]
_Column = Literal["corpus", "channel", "speaker", "sex", "intensity", "statement", "repetition", "label", "file"]
_Condition = Annotated[dict[_Column, _Values], Field(min_length=1)]
"""One matches where each of its columns has a value of the list."""
_Conditions = Annotated[list[_Condition], Field(min_length=1), BeforeValidator(_as_list)]
"""Of a side, which takes what matches any of them."""


class _Fold(BaseModel):
    """The recordings of each side of a fold; training takes all the rest where it is left out."""

    model_config = ConfigDict(extra="forbid")

    test: _Conditions
    validation: _Conditions
    train: _Conditions | None = None


class _ProtocolFile(BaseModel):
    """The keys of a user's YAML or JSON file, which has either folds or the sides of one fold."""

    model_config = ConfigDict(extra="forbid")

    name: str = ""
    needs: Annotated[list[str], BeforeValidator(_as_list)] = []
    leaks: list[str] = []
    folds: list[_Fold] | None = None
    train: _Conditions | None = None
    validation: _Conditions | None = None
    test: _Conditions | None = None
    validation_shares_speaker: bool = False

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name.isprintable() or not name.strip():
            raise ValueError(f"is {_short(name)}: one line of text is expected")
        return name

    @field_validator("leaks", mode="before")
    @classmethod
    def _name_leaks(cls, leaks: object) -> list[str]:
        """What may stand on two sides: a list, or true for speakers alone."""
        names = _LEAKS_OF_WORDS.get(str(leaks).lower(), leaks)
        if not isinstance(names, list) or not all(name in LEAKS for name in names):
            raise ValueError(f"is {_short(leaks)}: true or false is expected, or a list of {', '.join(LEAKS)}")
        return names

    @model_validator(mode="after")
    def _check_folds(self) -> "_ProtocolFile":
        sides = [side for side in SIDES if getattr(self, side) is not None]
        if self.folds is None:
            for side, consequence in _WITHOUT.items():
                if side not in sides:
                    raise ValueError(f"{side} is missing: without it {consequence}")
        elif sides:
            raise ValueError(f"{sides[0]} stands beside folds: put it into each of them")
        elif not self.folds:
            raise ValueError("folds is []: expected a list, each with test and validation")
        return self

    def each_fold(self) -> list[_Fold]:
        """The folds, one where the file has the sides alone."""
        return self.folds or [_Fold(test=self.test, validation=self.validation, train=self.train)]


def is_file(name: str) -> bool:
    """Whether the name of a protocol is a path, by its ending.

    >>> is_file("mine.yaml"), is_file("speaker")
    (True, False)
    """
    return Path(name).suffix.lower() in SUFFIXES


def read_protocol(path: str) -> tuple[str, Protocol]:
    """Read a protocol from a file.

    Returns:
        Its name, which begins with `custom:`, and the protocol.

    Raises:
        ProtocolError: naming the file, the key and what was expected.
    """
    file = Path(path)
    if not file.is_file():
        raise ProtocolError(f"'{path}' is not a file: check the path of the protocol")
    if file.suffix.lower() != ".csv":
        return _from_mapping(path, files.read_settings(file, ProtocolError))
    return f"custom:{file.stem}", _from_table(path, tables.read_table(file, ProtocolError))


def _from_mapping(path: str, content: object) -> tuple[str, Protocol]:
    settings = files.validated(_ProtocolFile, content, f"'{path}'", ProtocolError)
    folds = settings.each_fold()

    def by_condition(columns: Columns, fold: int, seed: int) -> IndexArrays:
        location = f"'{path}': folds[{fold}]." if settings.folds else f"'{path}': "
        return _select_sides(columns, location, folds[fold])

    return f"custom:{settings.name or Path(path).stem}", Protocol(
        by_condition, tuple(settings.needs), len(folds), settings.validation_shares_speaker, tuple(settings.leaks)
    )


def _short(value: object) -> str:
    return textwrap.shorten(repr(value), 60, placeholder=" …")


def _select_sides(columns: Columns, location: str, fold: _Fold) -> IndexArrays:
    conditions = {side: getattr(fold, side) for side in SIDES}
    masks = {side: _matching(columns, location + side, rows) for side, rows in conditions.items() if rows is not None}
    for first, second in (("test", "validation"), ("test", "train"), ("validation", "train")):
        shared = np.flatnonzero(masks[first] & masks[second]) if second in masks else np.array([], dtype=int)
        if len(shared):
            remedy = "" if second == "validation" else ", or leave train out to take all the rest"
            raise ProtocolError(
                f"{location}{second} takes {columns['file'][shared[0]]}, as {first} does: let one side have it{remedy}"
            )
    masks.setdefault("train", ~masks["test"] & ~masks["validation"])
    return tuple(np.flatnonzero(masks[side]) for side in SIDES)


def _matching(columns: Columns, location: str, conditions: list[dict[str, list[str]]]) -> np.ndarray:
    """Mask of the rows that any of the conditions matches."""
    matching = np.zeros(len(columns["file"]), dtype=bool)
    for condition in conditions:
        matches = np.ones_like(matching)
        for column, values in condition.items():
            matches &= _holds(columns, f"{location}.{column}", column, values)
        if not matches.any():
            expected = " and ".join(f"{column} {' or '.join(values)}" for column, values in condition.items())
            expected = textwrap.shorten(expected, 200, placeholder=" …")
            raise ProtocolError(f"{location} matches no recording: expected one with {expected}")
        matching |= matches
    return matching


def _holds(columns: Columns, location: str, column: str, values: list[str]) -> np.ndarray:
    """Mask of the rows whose column has one of the values."""
    if column not in columns:
        raise ProtocolError(f"{location}: the dataset has no column '{column}'")
    if column == "file":
        texts = columns["file"]
        rows, missing = _rows_of(columns, values)
        mask = np.isin(np.arange(len(texts)), rows)
    else:
        texts = np.array(EMOTIONS)[columns["label"]] if column == "label" else columns[column]
        mask = np.isin(texts, values)
        missing = [value for value in values if value not in texts]
    if missing:
        present = shorten(sorted(set(texts) - {""}), 8) or "none"
        raise ProtocolError(
            f"{location} {_short(missing[0])} matches no recording: expected of the dataset's {present}"
        )
    return mask


def _rows_of(columns: Columns, names: Iterable[str]) -> tuple[list[int], list[str]]:
    """The rows of files named with or without ending, and the names that the dataset has not."""
    stems = {file.rsplit(".", 1)[0]: row for row, file in enumerate(columns["file"].tolist())}
    pairs = [(name, stems.get(name, stems.get(name.rsplit(".", 1)[0]))) for name in names]
    return [row for _, row in pairs if row is not None], [name for name, row in pairs if row is None]


def _from_table(path: str, table: tables.Table) -> Protocol:
    if not {"file", "side"} <= set(table.columns) <= {"file", "side", "fold"}:
        raise ProtocolError(
            f"'{path}' has the columns {', '.join(table.columns)}: expected file, side and, if any, fold"
        )
    folds: dict[int, dict[str, list[str]]] = {}
    for row in table.rows:
        location = f"'{path}' line {row.line}"
        file, side, fold = row.cells["file"], row.cells["side"], row.cells.get("fold", "0")
        if not file:
            raise ProtocolError(f"{location} names no file: name one, or remove the line")
        if side not in SIDES:
            raise ProtocolError(f"{location}: side is '{side}': expected train, validation or test")
        if not (fold.isascii() and fold.isdigit()):
            raise ProtocolError(f"{location}: fold is '{fold}': expected a number from 0")
        folds.setdefault(int(fold), {}).setdefault(side, []).append(file)
    if sorted(folds) != list(range(len(folds))):
        numbers = ", ".join(map(str, sorted(folds)))
        raise ProtocolError(f"'{path}' lists the folds {numbers}: expected 0, 1, … without a gap")
    for number, listed in folds.items():
        for side in SIDES:
            if side not in listed:
                raise ProtocolError(
                    f"'{path}': fold {number} lists no {side}: expected all of train, validation and test"
                )

    def by_list(columns: Columns, fold: int, seed: int) -> IndexArrays:
        return _look_up(columns, f"'{path}'", folds[fold])

    return Protocol(by_list, (), len(folds))


def _look_up(columns: Columns, location: str, fold: dict[str, list[str]]) -> IndexArrays:
    rows, missing = _rows_of(columns, [name for names in fold.values() for name in names])
    if missing:
        some = shorten([repr(name) for name in missing], 3)
        raise ProtocolError(f"{location}: file {some}: {len(missing):,} not in the dataset: expected names that it has")
    twice = np.flatnonzero(np.bincount(rows) > 1)
    if len(twice):
        raise ProtocolError(f"{location}: file {columns['file'][twice[0]]} is listed twice in a fold: expected once")
    return tuple(np.sort(_rows_of(columns, fold[side])[0]) for side in SIDES)
