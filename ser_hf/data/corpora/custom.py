"""Any other corpus: `folder/label/*.wav`, or a CSV of files and labels, with a label map.

A user describes it in a YAML file:

```yaml
corpus: emodb            # its name in the dataset
folder: wav              # folder/<label>/..., relative to this file; or
csv: clips.csv           # columns file, label and, if known, others of `table.COLUMNS`
columns:                 # its columns -> ours, where they are not found by name; null: not used
  Sprecher: speaker
  Datum: null
labels:                  # its labels -> ours; one of ours needs no line, null drops
  Wut: angry
  Langeweile: null
speaker: '^(\\d\\d)'       # without a column: the first group of this pattern in the file's stem
sex: {'03': male}        # by speaker, where there is no such column
```
"""

import os
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from ser_hf.audio import Stretch
from ser_hf.data.corpora import CORPORA
from ser_hf.data.corpora.base import CorpusError, File, Recording, Scan, list_files
from ser_hf.data.corpora.table import COLUMNS, OPTIONAL, SEXES, key_of, read_rows
from ser_hf.labels import EMOTIONS
from ser_hf.utils.files import read_settings, validated

_MANY = 10  # clips from which on a speaker for each is remarkable

_Text = Annotated[str, Field(min_length=1)]


class Description(BaseModel):
    """The description of a corpus, as its YAML file gives it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    corpus: _Text
    folder: _Text | None = None
    csv: _Text | None = None
    columns: dict[str, str | None] = {}
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
        path = Path(os.path.expanduser(path))
        if not os.path.isfile(path):
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

    @field_validator("columns")
    @classmethod
    def _maps_to_columns(cls, columns: dict[str, str | None]) -> dict[str, str | None]:
        ours = {name: None if column in ("", "~", "null") else column for name, column in columns.items()}
        for name, column in ours.items():
            if column is not None and column not in COLUMNS:
                raise ValueError(f"'{name}' maps to '{column}': choose of {', '.join(COLUMNS)}, or null")
        used = Counter(column for column in ours.values() if column is not None)
        if used and used.most_common(1)[0][1] > 1:
            raise ValueError(f"maps two columns to '{used.most_common(1)[0][0]}': keep one of them")
        return ours

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
        if self.columns and self.csv is None:
            raise ValueError("columns are those of a csv: leave them out, or give csv in place of folder")
        return self

    @property
    def path(self) -> Path:
        """The YAML file, which errors name."""
        return self._path

    @property
    def source(self) -> Path:
        """The folder of the recordings, or their list."""
        return self._path.parent / os.path.expanduser(self.folder or self.csv or "")

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
    other_files: list[File] = []
    notes: list[str] = []
    if description.folder:
        rows, other_files = _rows_of_folder(description)
    else:
        rows, notes = read_rows(description.source, description.columns, description.path)
    unknown = sorted(label for label in {row["label"] for row in rows} if not description.knows(label))
    if unknown:
        raise CorpusError(
            f"'{description.path}' says nothing of the label(s) {', '.join(map(repr, unknown[:5]))}: "
            f"map each to one of {', '.join(EMOTIONS)}, or to null"
        )
    _name_speakers(description, rows)
    _refuse_two_sexes(description, rows)
    result = Scan(unmatched=sorted(other_files, key=str))
    first_rows: dict[str, dict] = {}
    recordings: dict[str, Recording] = {}
    for row in rows:
        name = row["key"] + row["file"].name.suffix
        first = first_rows.setdefault(name, row)
        _refuse_contradiction(description, first, row)
        if first is not row:
            result.duplicates.append(row["file"])
        elif (recording := _recording(description, row)) is not None:
            recordings[name] = recording
    result.recordings = [recordings[key] for key in sorted(recordings)]
    if not recordings:
        raise CorpusError(f"'{description.path}' leaves no recording: every label is dropped")
    counts = Counter(row["label"] for row in first_rows.values())
    result.aliases = _aliases(description, counts)
    has_speakers = all("speaker" in row for row in rows)
    notes = [*_speaker_notes(result.recordings, has_speakers), *notes, *_overlap_notes(result.recordings)]
    result.notes = [f"{description.corpus}: {note}" for note in [*notes, *_label_notes(description, counts)]]
    return result


def _refuse_contradiction(description: Description, first: dict, second: dict) -> None:
    """Refuse two rows of one recording that say different things of it."""
    for name in ("label", *OPTIONAL):
        values: list[Any] = [row.get(name) for row in (first, second)]
        if name == "label" and description.emotion(values[0]) == description.emotion(values[1]):
            continue
        if values[0] != values[1]:
            if "line" in first:
                place = f"'{description.source}' lines {first['line']} and {second['line']}: '{second['file']}'"
            else:
                place = f"'{first['file']}' and '{second['file']}' have one name: it"
            said = " and ".join("nothing" if value is None else f"'{value}'" for value in values)
            raise CorpusError(f"{place} has the {name} {said}: keep one of them")


def _refuse_two_sexes(description: Description, rows: list[dict]) -> None:
    """Refuse a speaker who is a woman in one row of a table and a man in another."""
    first_rows: dict[str, dict] = {}
    for row in rows:
        if "sex" in row and "speaker" in row:
            first = first_rows.setdefault(row["speaker"], row)
            if first["sex"] != row["sex"]:
                raise CorpusError(
                    f"'{description.source}' lines {first['line']} and {row['line']}: the speaker '{row['speaker']}' "
                    f"has the sex '{first['sex']}' and '{row['sex']}': keep one of them"
                )


def _name_speakers(description: Description, rows: list[dict]) -> None:
    """Set the speaker of each row by the pattern; all rows must have one, or none.

    A clip without a speaker could be of any speaker that others name.
    """
    for row in rows:
        if description.speaker is not None and "speaker" not in row:
            match = re.search(description.speaker, row["file"].name.stem)
            if match is None or not match[1]:
                raise CorpusError(
                    f"'{description.path}': speaker '{description.speaker}' finds nothing in '{row['key']}'"
                )
            row["speaker"] = match[1]
    speakers = {row["speaker"] for row in rows if "speaker" in row}
    nameless = next((row["key"] for row in rows if "speaker" not in row), None)
    if speakers and nameless is not None:
        raise CorpusError(f"'{description.path}': '{nameless}' has no speaker and others have: name it, or none")
    alike: dict[str, str] = {}
    for speaker in sorted(speakers):
        other = alike.setdefault(_without_case_and_zeros(speaker), speaker)
        if other != speaker:
            raise CorpusError(
                f"'{description.source}': the speakers '{other}' and '{speaker}' would count as two: write them alike"
            )
    strangers = sorted(set(description.sex or {}) - speakers)
    if strangers:
        raise CorpusError(
            f"'{description.path}': sex names '{strangers[0]}', who is no speaker: "
            f"{', '.join(sorted(speakers)[:8])} are"
        )


def _without_case_and_zeros(speaker: str) -> str:
    """A speaker's name as a spreadsheet may change it: 01, 1 and 1.0; Anna and anna."""
    name = " ".join(unicodedata.normalize("NFKC", speaker).casefold().split())
    return re.sub(r"(?<![\d.])0+(?=\d)", "", re.sub(r"(?<=\d)\.0+$", "", name))


def _rows_of_folder(description: Description) -> tuple[list[dict], list[File]]:
    audio_files, other_files = list_files(description.source)
    rows = []
    for file in audio_files:
        inside = file.name if file.archive else file.name.relative_to(description.source)
        if len(inside.parts) < 2:
            other_files.append(file)  # lies beside the folders of the labels
        else:
            under = _place_of_zip(file.archive, description.source) if file.archive else ""
            rows.append({"file": file, "key": key_of(os.path.join(under, inside)), "label": inside.parts[0]})
    if not rows:
        raise CorpusError(f"'{description.source}' has no folders of labels: folder/<label>/*.wav is needed, or a csv")
    return rows, other_files


def _place_of_zip(archive: str, source: Path) -> str:
    """Where a zip lies in the folder, without its ending: two zips may hold the same names."""
    inside = Path(archive).name if source.is_file() else os.path.relpath(archive, source)
    return os.path.splitext(inside)[0]


def _recording(description: Description, row: dict) -> Recording | None:
    emotion = description.emotion(row["label"])
    if emotion is None:
        return None
    speaker = row.get("speaker", "unknown")
    sex = row.get("sex") or (description.sex or {}).get(speaker)
    if sex is not None:
        sex = SEXES.get(sex.casefold(), sex)
    if sex not in (None, "female", "male"):
        raise CorpusError(f"'{description.path}': sex '{sex}' of '{row['key']}': female, male or nothing is expected")
    channel = row.get("channel", "speech")
    if channel not in ("speech", "song"):
        raise CorpusError(
            f"'{description.path}': channel '{channel}' of '{row['key']}': speech or song is expected; where it is a "
            "channel of the recording, write `columns: {channel: null}`"
        )
    repetition = row.get("repetition")
    if repetition is not None and not re.fullmatch(r"[0-9]{1,9}", repetition):
        raise CorpusError(f"'{description.path}': repetition '{repetition}' of '{row['key']}' is no number")
    return Recording(
        file=row["file"],
        corpus=description.corpus,
        key=f"{description.corpus}/{row['key']}",
        channel=channel,
        emotion=emotion,
        speaker=sys.intern(f"{description.corpus}-{speaker}"),
        sex=sex,
        intensity=row.get("intensity"),
        statement=row.get("statement"),
        repetition=int(repetition) if repetition is not None else None,
        stretch=row.get("stretch"),
    )


def _aliases(description: Description, counts: Counter) -> list[dict]:
    emotions = {label: description.emotion(label) or "" for label in sorted(counts)}
    return [
        {"corpus": description.corpus, "label": label, "counted_as": emotion, "clips": counts[label]}
        for label, emotion in emotions.items()
        if label != emotion
    ]


def _speaker_notes(recordings: list[Recording], has_speakers: bool) -> Iterator[str]:
    if not has_speakers:
        yield "no speakers are named, so that all clips count as those of one"
        return
    speakers = {recording.speaker for recording in recordings}
    yield f"{len(speakers):,} speaker{'s' if len(speakers) > 1 else ''}"
    if len(speakers) == len(recordings) >= _MANY:
        yield "each clip has a speaker of its own: check how speakers are named"


def _overlap_notes(recordings: list[Recording]) -> Iterator[str]:
    """Say how many stretches share sound with an earlier one of their file."""
    by_file = defaultdict(list)
    for recording in recordings:
        stretch = recording.stretch or Stretch()
        by_file[recording.file.place].append((stretch.start, stretch.end or float("inf"), recording.speaker))
    count, speakers_differ = 0, 0
    for stretches in by_file.values():
        covered: dict[str, float] = {}  # by speaker, up to which second
        for start, end, speaker in sorted(stretches):
            others = {other for other, last in covered.items() if last > start}
            count += bool(others)
            speakers_differ += bool(others - {speaker})
            covered[speaker] = max(end, covered.get(speaker, 0.0))
    if count:
        yield (
            f"{count:,} stretches overlap an earlier one of their file, {speakers_differ:,} of them that of another "
            "speaker: what they share can stand on two sides of a split"
        )


def _label_notes(description: Description, counts: Counter) -> Iterator[str]:
    for emotion in EMOTIONS:
        labels = sorted(label for label in counts if description.emotion(label) == emotion)
        if len(labels) > 1:
            yield f"{', '.join(f'{label} ({counts[label]:,})' for label in labels)} merged into {emotion}"
        elif labels and labels[0] != emotion:
            yield f"{labels[0]} ({counts[labels[0]]:,}) is called {emotion}"
    for label, count in sorted(counts.items()):
        if description.emotion(label) is None:
            yield f"{label} ({count:,}) dropped, as the label map says"
