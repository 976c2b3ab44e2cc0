"""Any other corpus: `folder/label/*.wav`, or a CSV of files and labels, with a label map that the
user gives.

A corpus is described by a YAML file:

```yaml
corpus: emodb            # its name in the dataset
folder: wav              # folder/<label>/..., relative to this file; or
csv: clips.csv           # columns file, label and, if known: speaker, sex, channel, intensity,
statement, repetition labels:                  # its labels -> ours; one of ours needs no line, null
drops
  Wut: angry
  Langeweile: null
speaker: '^(\\d\\d)'       # where there is no such column: the first group of this pattern in the
file's stem sex: {'03': male}        # by speaker, where there is no such column ```
"""

import csv
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path, PurePath

from ser_hf.data.corpora.base import CorpusError, File, Recording, Scan, files
from ser_hf.labels import EMOTIONS
from ser_hf.utils.files import read_settings

_KEYS = ("corpus", "folder", "csv", "labels", "speaker", "sex")
_COLUMNS = ("speaker", "sex", "channel", "intensity", "statement", "repetition")


@dataclass
class Spec:
    """What the YAML file says, checked."""

    path: Path
    corpus: str
    folder: Path | None = None
    csv: Path | None = None
    labels: dict[str, str | None] = field(default_factory=dict)
    speaker: re.Pattern | None = None
    sex: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | PathLike) -> "Spec":
        """Read and check a description.

        Raises:
            CorpusError: naming the file, the key and what was expected.
        """
        path = Path(path)
        if not path.is_file():
            raise CorpusError(f"'{path}' is not a file: give the YAML file that describes the corpus")
        given = read_settings(path, CorpusError)
        if not isinstance(given, dict) or set(given) - set(_KEYS):
            wrong = f"'{min(set(given) - set(_KEYS))}'" if isinstance(given, dict) else "no keys"
            raise CorpusError(f"'{path}' has {wrong}: its keys are {', '.join(_KEYS)}")
        for key, value in given.items():
            kind = dict if key in ("labels", "sex") else str
            values = value.values() if isinstance(value, dict) else [value]
            if not isinstance(value, kind) or not value or not all(isinstance(one, str) for one in values):
                raise CorpusError(
                    f"'{path}': {key} is {value!r}: {'a mapping' if kind is dict else 'a text'} is expected"
                )
        if ("folder" in given) == ("csv" in given):
            raise CorpusError(f"'{path}': give either folder or csv")
        if not re.fullmatch(r"[a-z0-9]+", given.get("corpus", "")) or given["corpus"] in ("ravdess", "tess"):
            raise CorpusError(f"'{path}': corpus is '{given.get('corpus')}': a new name of a-z and 0-9 is needed")
        labels = {name: None if ours in ("", "~", "null") else ours for name, ours in given.get("labels", {}).items()}
        for name, ours in labels.items():
            if ours is not None and ours not in EMOTIONS:
                raise CorpusError(f"'{path}': '{name}' maps to '{ours}': choose of {', '.join(EMOTIONS)}, or null")
        places = {place: path.parent / given[place] for place in ("folder", "csv") if place in given}
        speaker = _pattern(path, given["speaker"]) if "speaker" in given else None
        return cls(path, given["corpus"], **places, labels=labels, speaker=speaker, sex=given.get("sex", {}))

    def ours(self, label: str) -> str | None:
        """Our name of one of the corpus's labels, None where it is dropped; KeyError where nothing
        is said of it."""
        if label in self.labels:
            return self.labels[label]
        if label.lower() in EMOTIONS:
            return label.lower()
        raise KeyError(label)


def scan(path: str | PathLike) -> Scan:
    """The recordings of the corpus that a YAML file describes, and what was merged and dropped.

    Without a speaker the recordings count as one, so that no split can stand on a speaker that
    nobody knows.

    Raises:
        CorpusError: for a wrong description, a missing file, or labels that the map says nothing
            of.
    """
    spec = Spec.read(path)
    rows, others = _from_folder(spec) if spec.folder is not None else _from_csv(spec)
    counts = Counter(row["label"] for row in rows)
    unknown = [label for label in counts if label not in spec.labels and label.lower() not in EMOTIONS]
    if unknown:
        raise CorpusError(
            f"'{spec.path}' says nothing of the label(s) {', '.join(map(repr, sorted(unknown)[:5]))}: "
            f"map each to one of {', '.join(EMOTIONS)}, or to null"
        )
    found: dict[str, Recording] = {}
    _check_speakers(spec, rows)
    named = all("speaker" in row for row in rows)
    result = Scan(unmatched=sorted(others, key=str), notes=_notes(spec, counts, named))
    for row in rows:
        recording = _recording(spec, row)
        if recording is not None:
            first = found.setdefault(recording.key + recording.file.name.suffix, recording)
            if first.emotion != recording.emotion:
                raise CorpusError(f"'{spec.path}': '{recording.file}' has two labels: keep one of them")
            if first is not recording:
                result.duplicates.append(recording.file)
    result.recordings = [found[key] for key in sorted(found)]
    if not found:
        raise CorpusError(f"'{spec.path}' leaves no recording: every label is dropped")
    return result


def _pattern(path: Path, text: str) -> re.Pattern:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise CorpusError(f"'{path}': speaker '{text}' is no pattern ({error})") from None
    if not pattern.groups:
        raise CorpusError(f"'{path}': speaker '{text}' has no group: put the speaker's part in parentheses")
    return pattern


def _check_speakers(spec: Spec, rows: list[dict]) -> None:
    """Known for all or for none: whoever is not named could be any of those who are."""
    for row in rows:
        if spec.speaker is not None and "speaker" not in row:
            match = spec.speaker.search(PurePath(row["key"]).name)
            if match is None or not match[1]:
                raise CorpusError(f"'{spec.path}': speaker '{spec.speaker.pattern}' finds nothing in '{row['key']}'")
            row["speaker"] = match[1]
    known = {row["speaker"] for row in rows if "speaker" in row}
    nameless = next((row["key"] for row in rows if "speaker" not in row), None)
    if known and nameless is not None:
        raise CorpusError(f"'{spec.path}': '{nameless}' has no speaker and others have: name it, or none")
    strangers = sorted(set(spec.sex) - known)
    if strangers:
        raise CorpusError(
            f"'{spec.path}': sex names '{strangers[0]}', who is no speaker: {', '.join(sorted(known)[:8])} are"
        )


def _from_folder(spec: Spec) -> tuple[list[dict], list[File]]:
    audio_files, others = files(spec.folder)
    rows = []
    for file in audio_files:
        inside = file.name if file.archive else file.name.relative_to(spec.folder)
        if len(inside.parts) < 2:
            others.append(file)  # lies beside the folders of the labels
        else:
            under = PurePath(file.archive).stem if file.archive else ""  # two zips may hold the same names
            rows.append({"file": file, "key": _key(os.path.join(under, inside)), "label": inside.parts[0]})
    if not rows:
        raise CorpusError(f"'{spec.folder}' has no folders of labels: folder/<label>/*.wav is needed, or a csv")
    return rows, others


def _from_csv(spec: Spec) -> tuple[list[dict], list[File]]:
    if not spec.csv.is_file():
        raise CorpusError(f"'{spec.csv}' is not a file: check csv in '{spec.path}'")
    try:
        with spec.csv.open(newline="", encoding="utf-8-sig") as stream:
            return list(_csv_rows(spec, csv.DictReader(stream, strict=True))), []
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"'{spec.csv}' is no CSV in UTF-8 ({error}): save it as that") from None


def _csv_rows(spec: Spec, reader: csv.DictReader) -> Iterator[dict]:
    missing = {"file", "label"} - set(reader.fieldnames or ())
    if missing:
        present = ", ".join(reader.fieldnames or ())
        raise CorpusError(f"'{spec.csv}' lacks the column '{min(missing)}': it has {present or 'none'}")
    for row in reader:
        cells = {name: (row[name] or "").strip() for name in ("file", "label", *_COLUMNS) if name in row}
        path = spec.csv.parent / cells["file"]
        if not path.is_file():
            raise CorpusError(f"'{spec.csv}' line {reader.line_num}: '{path}' is not a file")
        # relative to the list, so that the dataset is the same on every machine
        key = _key(os.path.relpath(path, spec.csv.parent))
        known = {name: cells[name] for name in _COLUMNS if cells.get(name)}
        yield {"file": File(str(path)), "key": key, "label": cells["label"], **known}


def _key(path: str) -> str:
    text = os.path.splitext(path)[0].replace(os.sep, "/")
    return text.encode("utf-8", "backslashreplace").decode()


def _recording(spec: Spec, row: dict) -> Recording | None:
    emotion = spec.ours(row["label"])
    if emotion is None:
        return None
    speaker = row.get("speaker", "unknown")
    sex = row.get("sex") or spec.sex.get(speaker)
    if sex not in (None, "female", "male"):
        raise CorpusError(f"'{spec.path}': sex '{sex}' of '{row['key']}': female, male or nothing is expected")
    repetition = row.get("repetition")
    if repetition is not None and not re.fullmatch(r"[0-9]{1,9}", repetition):
        raise CorpusError(f"'{spec.path}': repetition '{repetition}' of '{row['key']}' is no number")
    return Recording(
        file=row["file"],
        corpus=spec.corpus,
        key=f"{spec.corpus}/{row['key']}",
        channel=row.get("channel", "speech"),
        emotion=emotion,
        speaker=sys.intern(f"{spec.corpus}-{speaker}"),
        sex=sex,
        intensity=row.get("intensity"),
        statement=row.get("statement"),
        repetition=int(repetition) if repetition is not None else None,
    )


def _notes(spec: Spec, counts: Counter, named: bool) -> list[str]:
    notes = [] if named else [f"{spec.corpus}: no speakers are named, so that all clips count as those of one"]
    for emotion in EMOTIONS:
        sources = sorted(label for label in counts if spec.ours(label) == emotion)
        if len(sources) > 1:
            said = ", ".join(f"{label} ({counts[label]:,})" for label in sources)
            notes.append(f"{spec.corpus}: {said} merged into {emotion}")
        elif sources and sources[0] != emotion:
            notes.append(f"{spec.corpus}: {sources[0]} ({counts[sources[0]]:,}) is called {emotion}")
    notes += [
        f"{spec.corpus}: {label} ({count:,}) dropped, as the label map says"
        for label, count in sorted(counts.items())
        if spec.ours(label) is None
    ]
    return notes
