"""From a folder of files with the official names to labelled `Recording`s. No audio is decoded here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from ser_hf.audio import SUFFIXES
from ser_hf.corpora import ravdess, tess
from ser_hf.errors import UserError


class CorpusError(UserError):
    """A folder that does not hold the recordings it should."""


@dataclass(frozen=True)
class Recording:
    """One recording, as its name describes it."""

    path: str
    corpus: str  # ravdess | tess
    key: str  # the official name, the same for every copy and transcode of the recording
    channel: str  # speech | song
    emotion: str
    speaker: str  # ravdess-01 | tess-oaf
    sex: str  # female | male
    intensity: str | None  # normal | strong; TESS has none
    statement: str  # RAVDESS 1 | 2; TESS: the word
    repetition: int | None


@dataclass
class Scan:
    """What a folder holds: the recordings, sorted by name, and what was left out."""

    recordings: list[Recording] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    """Paths of second copies of a recording that is there already (mirrors hold each file twice)."""
    unmatched: list[str] = field(default_factory=list)
    """Paths of audio files whose name is not of this corpus."""


GRAMMARS: dict[str, Callable[[str], dict | None]] = {"ravdess": ravdess.parse, "tess": tess.parse}
"""For each corpus the function from a file's stem to the fields of a Recording, None where the name is not its own."""


def scan(folders: list[str | PathLike], corpus: str) -> Scan:
    """Find the recordings of one corpus below some folders, in whatever layout.

    Args:
        folders: searched recursively for `.wav`, `.flac`, `.opus`, `.ogg` and `.mp3`, any casing.
        corpus: `ravdess` or `tess`.

    Raises:
        CorpusError: where a folder is missing, empty, or holds none of the corpus.
    """
    found: dict[str, Recording] = {}
    result = Scan()
    for folder in folders:
        files = _audio_files(Path(folder))
        matched = 0
        for file in files:
            fields = GRAMMARS[corpus](file.stem)
            if fields is None:
                result.unmatched.append(str(file))
                continue
            matched += 1
            recording = Recording(path=str(file), corpus=corpus, **fields)
            if recording.key in found:
                result.duplicates.append(str(file))
            else:
                found[recording.key] = recording
        if not matched:
            raise CorpusError(_nothing(folder, files, corpus))
    result.recordings = [found[key] for key in sorted(found)]
    return result


def _audio_files(folder: Path) -> list[Path]:
    if not folder.exists():
        raise CorpusError(f"'{folder}' does not exist: check the path")
    if not folder.is_dir():
        raise CorpusError(f"'{folder}' is not a folder: unpack it and give the folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise CorpusError(f"'{folder}' holds no recordings ({', '.join(SUFFIXES)}): check the path")
    return files


def _nothing(folder: str | PathLike, files: list[Path], corpus: str) -> str:
    for other, parse in GRAMMARS.items():
        count = sum(parse(file.stem) is not None for file in files)
        if count:
            return f"'{folder}' holds {count} recordings of {other} and none of {corpus}: pass it as --{other}"
    return f"'{folder}' holds no file with an official {corpus} name (first: '{files[0].name}'): check the folder"
