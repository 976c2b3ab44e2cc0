"""Any other corpus: `folder/label/*.wav`, or a CSV of files and labels, with a label map.

A user describes it in a YAML file:

```yaml
corpus: emodb            # its name in the dataset
folder: wav              # folder/<label>/..., relative to this file; or
csv: clips.csv           # columns file, label and, if known, those of _COLUMNS
labels:                  # its labels -> ours; one of ours needs no line, null drops
  Wut: angry
  Langeweile: null
speaker: '^(\\d\\d)'       # without a column: the first group of this pattern in the file's stem
sex: {'03': male}        # by speaker, where there is no such column
```
"""

import csv
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from os import PathLike
from pathlib import Path, PurePath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from ser_hf.data.corpora import CORPORA
from ser_hf.data.corpora.base import CorpusError, File, Recording, Scan, list_files
from ser_hf.labels import EMOTIONS
from ser_hf.utils.files import read_settings, validated

_COLUMNS = ("speaker", "sex", "channel", "intensity", "statement", "repetition")

_Text = Annotated[str, Field(min_length=1)]


class Description(BaseModel):
    """The description of a corpus, as its YAML file gives it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    corpus: _Text
    folder: _Text | None = None
    csv: _Text | None = None
    labels: Annotated[dict[str, str | None], Field(min_length=1)] | None = None
    speaker: _Text | None = None
    sex: Annotated[dict[str, str], Field(min_length=1)] | None = None
    _path: Path = PrivateAttr(default=Path())

    @classmethod
    def read(cls, path: str | PathLike) -> "Description":
        """Read and check a description.

        Raises:
            CorpusError: naming the file, the key and what was expected.
        """
        path = Path(path)
        if not path.is_file():
            raise CorpusError(f"'{path}' is not a file: give the YAML file that describes the corpus")
        description = validated(cls, read_settings(path, CorpusError), f"'{path}'", CorpusError)
        description._path = path
        return description

    @field_validator("corpus")
    @classmethod
    def _is_new_name(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z0-9]+", name) or name in CORPORA:
            raise ValueError(f"is '{name}': a new name of a-z and 0-9 is needed")
        return name

    @field_validator("labels")
    @classmethod
    def _maps_to_emotions(cls, labels: dict[str, str | None]) -> dict[str, str | None]:
        emotions = {label: None if emotion in ("", "~", "null") else emotion for label, emotion in labels.items()}
        for label, emotion in emotions.items():
            if emotion is not None and emotion not in EMOTIONS:
                raise ValueError(f"'{label}' maps to '{emotion}': choose of {', '.join(EMOTIONS)}, or null")
        return emotions

    @field_validator("speaker")
    @classmethod
    def _is_pattern_with_group(cls, speaker: str) -> str:
        try:
            pattern = re.compile(speaker)
        except re.error as error:
            raise ValueError(f"'{speaker}' is no pattern ({error})") from None
        if not pattern.groups:
            raise ValueError(f"'{speaker}' has no group: put the speaker's part in parentheses")
        return speaker

    @model_validator(mode="after")
    def _has_one_source(self) -> "Description":
        if (self.folder is None) == (self.csv is None):
            raise ValueError("give either folder or csv")
        return self

    @property
    def path(self) -> Path:
        """The YAML file, which errors name."""
        return self._path

    @property
    def source(self) -> Path:
        """The folder of the recordings, or their list."""
        return self._path.parent / (self.folder or self.csv)

    def emotion(self, label: str) -> str | None:
        """Return our name of one of the corpus's labels, None where it is dropped.

        Raises:
            KeyError: for a label that the map lacks.
        """
        if self.labels and label in self.labels:
            return self.labels[label]
        if label.lower() in EMOTIONS:
            return label.lower()
        raise KeyError(label)

    def knows(self, label: str) -> bool:
        """Whether the map has a label, or it is one of ours."""
        return label in (self.labels or {}) or label.lower() in EMOTIONS


def scan(description: Description) -> Scan:
    """Return the recordings of a described corpus, and what was merged and dropped.

    Without a speaker the recordings count as one speaker's, so that no split relies on unknown
    speakers.

    Raises:
        CorpusError: for a missing file, a wrong list, or labels that the map lacks.
    """
    rows, other_files = _rows_of_folder(description) if description.folder else _rows_of_csv(description)
    counts = Counter(row["label"] for row in rows)
    unknown = [label for label in counts if not description.knows(label)]
    if unknown:
        raise CorpusError(
            f"'{description.path}' says nothing of the label(s) {', '.join(map(repr, sorted(unknown)[:5]))}: "
            f"map each to one of {', '.join(EMOTIONS)}, or to null"
        )
    _name_speakers(description, rows)
    has_speakers = all("speaker" in row for row in rows)
    result = Scan(
        unmatched=sorted(other_files, key=str),
        notes=_notes(description, counts, has_speakers),
        aliases=_aliases(description, counts),
    )
    recordings: dict[str, Recording] = {}
    for row in rows:
        recording = _recording(description, row)
        if recording is not None:
            first = recordings.setdefault(recording.key + recording.file.name.suffix, recording)
            if first.emotion != recording.emotion:
                raise CorpusError(f"'{description.path}': '{recording.file}' has two labels: keep one of them")
            if first is not recording:
                result.duplicates.append(recording.file)
    result.recordings = [recordings[key] for key in sorted(recordings)]
    if not recordings:
        raise CorpusError(f"'{description.path}' leaves no recording: every label is dropped")
    return result


def _name_speakers(description: Description, rows: list[dict]) -> None:
    """Set the speaker of each row by the pattern; all rows must have one, or none.

    A clip without a speaker could be of any speaker that others name.
    """
    for row in rows:
        if description.speaker is not None and "speaker" not in row:
            match = re.search(description.speaker, PurePath(row["key"]).name)
            if match is None or not match[1]:
                raise CorpusError(
                    f"'{description.path}': speaker '{description.speaker}' finds nothing in '{row['key']}'"
                )
            row["speaker"] = match[1]
    speakers = {row["speaker"] for row in rows if "speaker" in row}
    nameless = next((row["key"] for row in rows if "speaker" not in row), None)
    if speakers and nameless is not None:
        raise CorpusError(f"'{description.path}': '{nameless}' has no speaker and others have: name it, or none")
    strangers = sorted(set(description.sex or {}) - speakers)
    if strangers:
        raise CorpusError(
            f"'{description.path}': sex names '{strangers[0]}', who is no speaker: "
            f"{', '.join(sorted(speakers)[:8])} are"
        )


def _rows_of_folder(description: Description) -> tuple[list[dict], list[File]]:
    audio_files, other_files = list_files(description.source)
    rows = []
    for file in audio_files:
        inside = file.name if file.archive else file.name.relative_to(description.source)
        if len(inside.parts) < 2:
            other_files.append(file)  # lies beside the folders of the labels
        else:
            under = PurePath(file.archive).stem if file.archive else ""  # two zips may hold the same names
            rows.append({"file": file, "key": _key(os.path.join(under, inside)), "label": inside.parts[0]})
    if not rows:
        raise CorpusError(f"'{description.source}' has no folders of labels: folder/<label>/*.wav is needed, or a csv")
    return rows, other_files


def _rows_of_csv(description: Description) -> tuple[list[dict], list[File]]:
    path = description.source
    if not path.is_file():
        raise CorpusError(f"'{path}' is not a file: check csv in '{description.path}'")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return list(_parsed_rows(path, csv.DictReader(stream, strict=True))), []
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"'{path}' is no CSV in UTF-8 ({error}): save it as that") from None


def _parsed_rows(csv_path: Path, reader: csv.DictReader) -> Iterator[dict]:
    missing = {"file", "label"} - set(reader.fieldnames or ())
    if missing:
        present = ", ".join(reader.fieldnames or ())
        raise CorpusError(f"'{csv_path}' lacks the column '{min(missing)}': it has {present or 'none'}")
    for row in reader:
        cells = {name: (row[name] or "").strip() for name in ("file", "label", *_COLUMNS) if name in row}
        path = csv_path.parent / cells["file"]
        if not path.is_file():
            raise CorpusError(f"'{csv_path}' line {reader.line_num}: '{path}' is not a file")
        # relative to the list, so that the dataset is the same on every machine
        key = _key(os.path.relpath(path, csv_path.parent))
        optional = {name: cells[name] for name in _COLUMNS if cells.get(name)}
        yield {"file": File(str(path)), "key": key, "label": cells["label"], **optional}


def _key(path: str) -> str:
    text = os.path.splitext(path)[0].replace(os.sep, "/")
    return text.encode("utf-8", "backslashreplace").decode()


def _recording(description: Description, row: dict) -> Recording | None:
    emotion = description.emotion(row["label"])
    if emotion is None:
        return None
    speaker = row.get("speaker", "unknown")
    sex = row.get("sex") or (description.sex or {}).get(speaker)
    if sex not in (None, "female", "male"):
        raise CorpusError(f"'{description.path}': sex '{sex}' of '{row['key']}': female, male or nothing is expected")
    repetition = row.get("repetition")
    if repetition is not None and not re.fullmatch(r"[0-9]{1,9}", repetition):
        raise CorpusError(f"'{description.path}': repetition '{repetition}' of '{row['key']}' is no number")
    return Recording(
        file=row["file"],
        corpus=description.corpus,
        key=f"{description.corpus}/{row['key']}",
        channel=row.get("channel", "speech"),
        emotion=emotion,
        speaker=sys.intern(f"{description.corpus}-{speaker}"),
        sex=sex,
        intensity=row.get("intensity"),
        statement=row.get("statement"),
        repetition=int(repetition) if repetition is not None else None,
    )


def _aliases(description: Description, counts: Counter) -> list[dict]:
    emotions = {label: description.emotion(label) or "" for label in sorted(counts)}
    return [
        {"corpus": description.corpus, "label": label, "counted_as": emotion, "clips": counts[label]}
        for label, emotion in emotions.items()
        if label != emotion
    ]


def _notes(description: Description, counts: Counter, has_speakers: bool) -> list[str]:
    name = description.corpus
    notes = [] if has_speakers else [f"{name}: no speakers are named, so that all clips count as those of one"]
    for emotion in EMOTIONS:
        labels = sorted(label for label in counts if description.emotion(label) == emotion)
        if len(labels) > 1:
            with_counts = ", ".join(f"{label} ({counts[label]:,})" for label in labels)
            notes.append(f"{name}: {with_counts} merged into {emotion}")
        elif labels and labels[0] != emotion:
            notes.append(f"{name}: {labels[0]} ({counts[labels[0]]:,}) is called {emotion}")
    notes += [
        f"{name}: {label} ({count:,}) dropped, as the label map says"
        for label, count in sorted(counts.items())
        if description.emotion(label) is None
    ]
    return notes
