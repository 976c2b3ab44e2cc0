"""A user's table of recordings: which of its columns is which of ours, and its rows."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ser_hf.audio import MIN_SECONDS, Stretch
from ser_hf.data.corpora.base import CorpusError, File, join_words
from ser_hf.utils.tables import Row, Table, read_table

COLUMNS: tuple[str, ...] = ("file", "label", "speaker", "sex", "start", "end", "duration")
COLUMNS += ("channel", "intensity", "statement", "repetition")
"""What a column of a table can be. `duration` gives the end of a row that has a start alone."""

OPTIONAL = ("speaker", "sex", "channel", "intensity", "statement", "repetition")
_UNNAMED = ("nan", "n/a", "na", "null", "none", "unknown", "?", "-")
"""What tables write where a speaker or a sex is not known."""
SEXES = {"f": "female", "female": "female", "woman": "female", "m": "male", "male": "male", "man": "male"}
_SYNONYMS = {
    "file": "path filename filepath audio audiofile audiopath audiofilepath wav wavfile wavpath clip clippath",
    "label": "emotion emotionlabel emo class category",
    "speaker": "speakerid spk spkid spkr actor actorid subject subjectid participant participantid talker clientid",
    "sex": "gender speakersex speakergender",
    "start": "starttime startsec startseconds starts startms begin begintime onset",
    "end": "endtime endsec endseconds ends endms stop stoptime",
    "duration": "dur durationsec durationseconds durations durationms",
    "channel": "",
    "intensity": "emotionintensity emotionalintensity",
    "statement": "sentence text transcript transcription",
    "repetition": "rep take",
}
"""Names of each column in other people's tables, in small letters and without what is no letter."""

_LOOKS_LIKE = {
    "sex": "sex|gender|male|female",
    "speaker": "speakers?|spkr?|actors?|actress|subject|participant|talker|client|person|performer|singer|patient|user",
    "time": (
        "start|end|begin|stop|from|to|t|onset|offset|time|(?:start|end)?timecode|timestamp|duration|dur|length|"
        "[xt]m(?:in|ax)|seconds?|secs?|m?s"
    ),
}
"""What a column may be one of whose words is one of these, with `id` or a unit behind it or not."""
_ASKED = {
    name: re.compile(rf"(?:{words})(?:id|no|num|nr|name|code|time|s|sec|ms|samples?|frames?)?")
    for name, words in _LOOKS_LIKE.items()
}
_MILLISECONDS = re.compile(r"m(?:illi)?s(?:ecs?|econds?)?|(?:start|end|duration)ms")

_TIME = re.compile(r"(?:(?:(\d{1,3}):)?(\d{1,3}):)?(\d{1,12}(?:\.\d*)?|\.\d+)(?: ?s)?")


def read_rows(path: Path, mapping: Mapping[str, str | None], description: Path) -> tuple[list[dict], list[str]]:
    """Read the recordings that a table lists.

    Args:
        path: of the CSV file; files are named relative to it.
        mapping: from its columns to ours, or None for one that is not used.
        description: the YAML file with the mapping, which errors name.

    Returns:
        A dict a row with `file`, `key`, `label` and `line`, those of `OPTIONAL` that have a text,
        and `stretch` where the row is a part of its file; and notes on the columns.

    Raises:
        CorpusError: for what is no table, a column (`assign`), a missing file, or a wrong time.
    """
    if not os.path.isfile(path):
        raise CorpusError(f"'{path}' is not a file: check csv in '{description}'")
    table = read_table(path, CorpusError)
    assignment = assign(table, mapping, description)
    return [_parsed(row, assignment, path) for row in table.rows], assignment.notes()


@dataclass(frozen=True)
class Assignment:
    """Which column of a table is which of `COLUMNS`, and the columns that are not used."""

    of: dict[str, str]
    """The name in the table by our name, in the order of `COLUMNS`."""
    unused: tuple[str, ...]

    def in_milliseconds(self, name: str) -> bool:
        """Whether a column of times holds milliseconds, by its name in the table."""
        return any(_MILLISECONDS.fullmatch(word) for word in _words(self.of[name]))

    def notes(self) -> list[str]:
        """What the build says of the columns."""
        renamed = []
        for name, theirs in self.of.items():
            unit = " in milliseconds" if name in ("start", "end", "duration") and self.in_milliseconds(name) else ""
            if theirs != name or unit:
                renamed.append(f"{theirs} as {name}{unit}")
        notes = [f"columns read: {', '.join(renamed)}"] if renamed else []
        return notes + ([f"columns not used: {', '.join(self.unused)}"] if self.unused else [])


def assign(table: Table, mapping: Mapping[str, str | None], description: Path) -> Assignment:
    """Find out which column of a table is which of ours.

    The description stands before our own names, and these before synonyms. A duration is used where
    it is mapped, or where there is a start and no end.

    Args:
        table: of the user.
        mapping: from its columns to ours, or None for one that is not used.
        description: the YAML file with the mapping, which errors name.

    Raises:
        CorpusError: for a mapping of a column that is not there; where two columns could be one of
            ours; where the file or label is missing; and for a column that looks like a speaker, a
            sex or a time, and is none of ours.
    """
    present = ", ".join(map(repr, table.columns))
    for theirs in mapping:
        if theirs not in table.columns:
            raise CorpusError(f"'{description}': columns names '{theirs}', and '{table.path}' has {present}")
    of = {ours: theirs for theirs, ours in mapping.items() if ours is not None}
    free = [name for name in table.columns if name not in mapping]
    for ours in COLUMNS:
        if ours not in of:
            names = _named(ours, free)
            if len(names) > 1:
                raise CorpusError(
                    f"'{table.path}': {join_words([repr(name) for name in names])} could each be the {ours}: "
                    f"write `columns: {{{names[0]}: {ours}, {names[1]}: null}}` into '{description}'"
                )
            if names:
                of[ours] = names[0]
    for ours in ("file", "label"):
        if ours not in of:
            raise CorpusError(
                f"'{table.path}' lacks the column '{ours}', it has {present}: name it so, or under columns "
                f"in '{description}'"
            )
    if "duration" not in mapping.values() and ("start" not in of or "end" in of):
        of.pop("duration", None)
    left = [name for name in free if name not in of.values()]
    # beside a start and an end a duration says nothing that is not known
    known = set(_named("duration", left)) if "start" in of else set()
    asked = [f"'{name}' looks like a {kind}" for name in left if name not in known and (kind := _looks_like(name))]
    if asked:
        raise CorpusError(
            f"'{table.path}': {join_words(asked)}: under columns in '{description}' map each to one of "
            "speaker, sex, start, end and duration, or to null if it is not used"
        )
    return Assignment({name: of[name] for name in COLUMNS if name in of}, tuple(left))


def _named(ours: str, names: list[str]) -> list[str]:
    """The names that stand for a column: ours, however it is written, or else synonyms."""
    if ours in names:
        return [ours]
    synonyms = _SYNONYMS[ours].split()
    return [name for name in names if _letters(name) == ours] or [name for name in names if _letters(name) in synonyms]


def _looks_like(name: str) -> str | None:
    return next((kind for kind, words in _ASKED.items() if any(map(words.fullmatch, _words(name)))), None)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _words(name: str) -> list[str]:
    """The words of a name in small letters.

    >>> _words("StartTime_MS (spk)")
    ['start', 'time', 'ms', 'spk']
    """
    return [word.casefold() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def seconds(text: str, milliseconds: bool = False) -> float:
    """Return the seconds of a cell to the millisecond: a number, or hours, minutes and seconds.

    Raises:
        ValueError: a sentence about the cell, which is none of them.

    >>> seconds("12,5"), seconds("00:01:02,250"), seconds("1500", milliseconds=True)
    (12.5, 62.25, 1.5)
    """
    match = _TIME.fullmatch(text.replace(",", "."))
    if match is None:
        raise ValueError(f"is '{text}': a number from 0, or hours:minutes:seconds, is expected")
    hours, minutes, rest = (float(part or 0) for part in match.groups())
    return round((hours * 3600 + minutes * 60 + rest) / (1000 if milliseconds else 1), 3)


def _parsed(row: Row, assignment: Assignment, csv_path: Path) -> dict:
    """The fields of a row, by our names: `file`, `key`, `label`, `line`, and those that it has."""
    cells = {ours: row.cells[theirs] for ours, theirs in assignment.of.items()}
    place = f"'{csv_path}' line {row.line}"
    for name in ("file", "label"):
        if not cells[name]:
            raise CorpusError(f"{place} names no {name}: name it, or remove the line")
    path = _existing(cells["file"], csv_path.parent)
    if path is None:
        remedy = "CSV knows no comments, remove the line" if cells["file"].startswith("#") else "check the path"
        raise CorpusError(f"{place}: '{csv_path.parent / cells['file']}' is not a file: {remedy}")
    parsed: dict[str, Any] = {name: cells[name] for name in ("label", *OPTIONAL) if cells.get(name)}
    for name in ("speaker", "sex"):
        if parsed.get(name, "").casefold() in _UNNAMED:
            del parsed[name]
    if "sex" in parsed:
        parsed["sex"] = SEXES.get(parsed["sex"].casefold(), parsed["sex"])
    # relative to the list, so that the dataset is the same on every machine
    parsed |= {"file": File(str(path)), "key": key_of(os.path.relpath(path, csv_path.parent)), "line": row.line}
    stretch = _stretch(cells, assignment, place)
    if stretch is not None:
        end = "end" if stretch.end is None else f"{stretch.end:08.3f}"
        parsed["key"] += f"_{stretch.start:08.3f}-{end}"
        parsed["stretch"] = stretch
    return parsed


def _existing(cell: str, folder: Path) -> Path | None:
    """The file that a cell names, which Windows may have written; None where there is none."""
    paths = (folder / os.path.expanduser(name) for name in (cell, cell.replace("\\", "/")))
    return next((path for path in paths if os.path.isfile(path)), None)


def _stretch(cells: dict[str, str], assignment: Assignment, place: str) -> Stretch | None:
    """The stretch of a row to cut out, None for all of its file."""
    times = {}
    for name in ("start", "end", "duration"):
        if cells.get(name):
            try:
                times[name] = seconds(cells[name], assignment.in_milliseconds(name))
            except ValueError as error:
                raise CorpusError(f"{place}: the {name} {error}") from None
    if not times:
        return None
    start, end = times.get("start", 0.0), times.get("end")
    if end is None and "duration" in times:
        end = round(start + times["duration"], 3)
    if end is not None and end - start < MIN_SECONDS:
        raise CorpusError(
            f"{place}: from {start:g} s to {end:g} s are less than {MIN_SECONDS:g} s: check start and end"
        )
    return Stretch(start, end)


def key_of(path: str) -> str:
    """The name of a recording in the dataset, without its corpus: its path without the ending."""
    text = os.path.splitext(path)[0].replace(os.sep, "/")
    return text.encode("utf-8", "backslashreplace").decode()
