"""Any other corpus: `folder/label/*.wav`, or a CSV of files and labels, with a label map that the user gives.

A corpus is described by a YAML file:

```yaml
corpus: emodb            # its name in the dataset
folder: wav              # folder/<label>/..., relative to this file; or
csv: clips.csv           # columns file, label and, if known: speaker, sex, channel, intensity, statement, repetition
labels:                  # its labels -> ours; one of ours needs no line, null drops
  Wut: angry
  Langeweile: null
speaker: '^(\\d\\d)'       # where there is no such column: the first group of this pattern in the file's stem
sex: {'03': male}        # by speaker, where there is no such column
```
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path, PurePath
from typing import Any

import yaml

from ser_hf.corpora import CorpusError, File, Recording, Scan, files
from ser_hf.emotions import EMOTIONS

_COLUMNS = ("speaker", "sex", "channel", "intensity", "statement", "repetition")


@dataclass
class Spec:
    """What the YAML file says, checked."""

    path: Path
    corpus: str
    folder: Path | None = None
    csv: Path | None = None
    labels: dict[str, str | None] = field(default_factory=dict)
    speaker: str | None = None
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
        try:
            given: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise CorpusError(f"'{path}' is no YAML ({str(error).splitlines()[0]}): see docs/data.md") from None
        known = {"corpus", "folder", "csv", "labels", "speaker", "sex"}
        if not isinstance(given, dict) or set(given) - known:
            wrong = sorted(map(str, set(given) - known))[0] if isinstance(given, dict) else type(given).__name__
            raise CorpusError(f"'{path}' has '{wrong}': its keys are {', '.join(sorted(known))}")
        if ("folder" in given) == ("csv" in given):
            raise CorpusError(f"'{path}': give either folder or csv")
        if not re.fullmatch(r"[a-z0-9]+", str(given.get("corpus", ""))) or given["corpus"] in ("ravdess", "tess"):
            raise CorpusError(f"'{path}': corpus is '{given.get('corpus')}': a new name of a-z and 0-9 is needed")
        for place in ("folder", "csv"):
            if place in given:
                given[place] = path.parent / given[place]
        given["labels"] = {str(name): ours for name, ours in (given.get("labels") or {}).items()}
        given["sex"] = {str(name): sex for name, sex in (given.get("sex") or {}).items()}
        for name, ours in given["labels"].items():
            if ours is not None and ours not in EMOTIONS:
                raise CorpusError(
                    f"'{path}': label '{name}' maps to '{ours}': choose of {', '.join(EMOTIONS)}, or null"
                )
        return cls(path=path, **given)

    def ours(self, label: str) -> str | None:
        """Our name of one of the corpus's labels, None where it is dropped; KeyError where nothing is said of it."""
        if label in self.labels:
            return self.labels[label]
        if label.lower() in EMOTIONS:
            return label.lower()
        raise KeyError(label)


def scan(path: str | PathLike) -> Scan:
    """The recordings of the corpus that a YAML file describes, and what was merged and dropped.

    Without a speaker the recordings count as one, so that no split can stand on a speaker that nobody knows.

    Raises:
        CorpusError: for a wrong description, a missing file, or labels that the map says nothing of.
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
    result = Scan(unmatched=sorted(map(str, others)), notes=_notes(spec, counts))
    for row in rows:
        recording = _recording(spec, row)
        if recording is not None and found.setdefault(recording.key, recording) is not recording:
            if found[recording.key].emotion != recording.emotion:
                raise CorpusError(f"'{spec.path}': '{recording.key}' has two labels: keep one of them")
            result.duplicates.append(str(recording.file))
    result.recordings = [found[key] for key in sorted(found)]
    if not found:
        raise CorpusError(f"'{spec.path}' leaves no recording: every label is dropped")
    return result


def _from_folder(spec: Spec) -> tuple[list[dict], list[File]]:
    audio_files, others = files(spec.folder)
    rows = []
    for file in audio_files:
        inside = PurePath(file.path) if file.archive else PurePath(file.path).relative_to(spec.folder)
        if len(inside.parts) < 2:
            others.append(file)  # lies beside the folders of the labels
        else:
            rows.append({"file": file, "key": str(inside.with_suffix("")), "label": inside.parts[0]})
    if not rows:
        raise CorpusError(f"'{spec.folder}' has no folders of labels: folder/<label>/*.wav is needed, or a csv")
    return rows, others


def _from_csv(spec: Spec) -> tuple[list[dict], list[File]]:
    if not spec.csv.is_file():
        raise CorpusError(f"'{spec.csv}' is not a file: check csv in '{spec.path}'")
    with spec.csv.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(_csv_rows(spec, csv.DictReader(stream)))
    return rows, []


def _csv_rows(spec: Spec, reader: csv.DictReader) -> Iterator[dict]:
    missing = {"file", "label"} - set(reader.fieldnames or ())
    if missing:
        raise CorpusError(
            f"'{spec.csv}' lacks the column '{min(missing)}': it has {', '.join(reader.fieldnames or ())}"
        )
    for row in reader:
        path = spec.csv.parent / (row["file"] or "")
        if not path.is_file():
            raise CorpusError(f"'{spec.csv}' line {reader.line_num}: '{path}' is not a file")
        known = {name: row[name] for name in _COLUMNS if row.get(name)}
        key = str(PurePath(row["file"]).with_suffix(""))
        yield {"file": File(str(path)), "key": key, "label": row["label"] or "", **known}


def _recording(spec: Spec, row: dict) -> Recording | None:
    emotion = spec.ours(row["label"])
    if emotion is None:
        return None
    speaker = row.get("speaker")
    if speaker is None and spec.speaker is not None:
        match = re.search(spec.speaker, PurePath(row["key"]).name)
        if match is None or not match.groups():
            raise CorpusError(f"'{spec.path}': speaker '{spec.speaker}' finds no group in '{row['key']}'")
        speaker = match[1]
    sex = row.get("sex") or spec.sex.get(speaker or "")
    if sex not in (None, "female", "male"):
        raise CorpusError(f"'{spec.path}': sex '{sex}' of '{row['key']}': female, male or nothing is expected")
    repetition = row.get("repetition")
    if repetition is not None and not repetition.isdigit():
        raise CorpusError(f"'{spec.path}': repetition '{repetition}' of '{row['key']}' is no number")
    return Recording(
        file=row["file"],
        corpus=spec.corpus,
        key=f"{spec.corpus}/{row['key']}",
        channel=row.get("channel", "speech"),
        emotion=emotion,
        speaker=f"{spec.corpus}-{speaker or 'unknown'}",
        sex=sex,
        intensity=row.get("intensity"),
        statement=row.get("statement"),
        repetition=int(repetition) if repetition is not None else None,
    )


def _notes(spec: Spec, counts: Counter) -> list[str]:
    notes = []
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
