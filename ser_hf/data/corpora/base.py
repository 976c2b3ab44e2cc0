"""From folders and zips of files with known names to labelled `Recording`s. No audio is decoded
here."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path, PurePath

from ser_hf.audio import SUFFIXES
from ser_hf.data.corpora import ravdess, tess
from ser_hf.errors import UserError
from ser_hf.utils import zip_reader


class CorpusError(UserError):
    """A folder that does not hold the recordings it should."""


@dataclass(frozen=True, slots=True)
class File:
    """A file in a folder, or a member of a zip."""

    path: str
    archive: str | None = None

    def __str__(self) -> str:
        path = self.path if self.archive is None else f"{self.archive}/{self.path}"
        return path.encode("utf-8", "backslashreplace").decode()  # old zips leave names that are not UTF-8

    @property
    def name(self) -> PurePath:
        """The path that the name is read from; old programs write backslashes into zips."""
        return PurePath(self.path if self.archive is None else self.path.replace("\\", "/"))

    @property
    def place(self) -> tuple[str, str]:
        """The same for the same file, however its folder was spelt."""
        return (os.path.realpath(self.archive or self.path), self.path if self.archive else "")

    def source(self) -> str | bytes:
        """What `audio.load` reads: the path, or the bytes out of the zip."""
        return self.path if self.archive is None else zip_reader.read(self.archive, self.path)


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording, as its name describes it."""

    file: File
    corpus: str  # ravdess | tess | the name of another corpus
    key: str  # the official name, the same for every copy and transcode of the recording
    channel: str  # speech | song
    emotion: str
    speaker: str  # ravdess-01 | tess-oaf
    sex: str | None  # female | male
    intensity: str | None  # normal | strong; TESS has none
    statement: str | None  # RAVDESS 1 | 2; TESS: the word
    repetition: int | None


@dataclass
class Scan:
    """What some folders hold: the recordings, sorted by name, and what was left out."""

    recordings: list[Recording] = field(default_factory=list)
    duplicates: list[File] = field(default_factory=list)
    """Second copies of a recording that is there already (mirrors hold each file twice)."""
    unmatched: list[File] = field(default_factory=list)
    """Everything else: audio with other names, and files that are no audio."""
    notes: list[str] = field(default_factory=list)
    """What an importer merged or dropped, a line each."""


GRAMMARS: dict[str, Callable[[PurePath], dict | None]] = {"ravdess": ravdess.parse, "tess": tess.parse}
"""For each corpus the function from a file's path to the fields of a Recording, None where the name
is not its own."""


def scan(folders: list[str | PathLike], corpus: str) -> Scan:
    """Find the recordings of one corpus in some folders and zips, in whatever layout.

    Args:
        folders: each a folder, searched recursively for audio (`audio.SUFFIXES`, any casing) and
            zips, or a zip file.
        corpus: `ravdess` or `tess`.

    Raises:
        CorpusError: where a folder is missing, empty, or holds none of the corpus.
        ArchiveError: where a zip cannot be read.
    """
    found: dict[str, Recording] = {}
    result = Scan()
    seen = set()
    for folder in folders:
        audio_files, others = files(folder)
        matched = 0
        for file in audio_files:
            fields = GRAMMARS[corpus](file.name)
            if fields is None:
                others.append(file)
                continue
            matched += 1
            recording = Recording(file=file, corpus=corpus, **fields)
            if file.place not in seen and found.setdefault(recording.key, recording) is not recording:
                result.duplicates.append(file)
            seen.add(file.place)
        if not matched:
            raise CorpusError(_nothing(folder, audio_files, corpus))
        result.unmatched += others
    result.recordings = [found[key] for key in sorted(found)]
    result.unmatched = sorted({file.place: file for file in result.unmatched}.values(), key=str)
    return result


def files(folder: str | PathLike) -> tuple[list[File], list[File]]:
    """The audio files of a folder or zip, and all its other files; both sorted, those in zips last.

    Linked folders are followed, each folder once.

    Raises:
        CorpusError: if it is missing or holds no audio.
        ArchiveError: if a zip cannot be read.
    """
    folder = Path(folder)
    if not folder.exists():
        raise CorpusError(f"'{folder}' does not exist: check the path")
    if folder.is_dir():
        paths = sorted(_below(folder))
    elif folder.suffix.lower() == ".zip":
        paths = [folder]
    else:
        raise CorpusError(f"'{folder}' is not a folder and no .zip: give the folder or zip of the recordings")
    # macOS adds to each file a twin named ._, which has the ending and nothing else
    zips = [path for path in paths if path.suffix.lower() == ".zip" and not path.name.startswith("._")]
    every = [File(str(path)) for path in paths if path not in zips]
    every += [File(member, str(path)) for path in zips for member in zip_reader.members(path)]
    found = ([], [])
    for file in every:
        heard = file.name.suffix.lower() in SUFFIXES and not file.name.name.startswith("._")
        found[0 if heard else 1].append(file)
    if not found[0]:
        raise CorpusError(f"'{folder}' holds no recordings ({', '.join(SUFFIXES)}): check the path")
    return found


def _below(folder: Path) -> Iterator[Path]:
    visited = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(root))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(root, name)) not in visited]
        yield from (path for name in names if (path := Path(root, name)).is_file())


def parse(path: PurePath) -> tuple[str, dict] | None:
    """The corpus and the fields of a file with an official name; None for any other.

    >>> parse(PurePath("OAF_back_angry.wav"))[0]
    'tess'
    """
    return next(((corpus, fields) for corpus, grammar in GRAMMARS.items() if (fields := grammar(path))), None)


INVENTORIES: dict[str, Callable[[], dict[str, str]]] = {"ravdess": ravdess.inventory, "tess": tess.inventory}
"""For each corpus the function that gives the channel of every official name."""


def missing(corpus: str, keys: Iterable[str]) -> list[str]:
    """The official names that are not among `keys`, sorted, of each channel of which at least half
    is there.

    Of a channel that is mostly absent nothing is missing: somebody works with a part of the corpus.
    """
    keys, absent = set(keys), []
    official = INVENTORIES[corpus]()
    for channel in sorted(set(official.values())):
        names = {name for name, its in official.items() if its == channel}
        if 2 * len(names & keys) >= len(names):
            absent += sorted(names - keys)
    return absent


def _nothing(folder: str | PathLike, audio_files: Iterable[File], corpus: str) -> str:
    for other, grammar in GRAMMARS.items():
        count = sum(grammar(file.name) is not None for file in audio_files)
        if count:
            return f"'{folder}' holds {count} recordings of {other} and none of {corpus}: pass it as --{other}"
    first = PurePath(str(next(iter(audio_files)))).name
    return f"'{folder}' holds no file with an official {corpus} name (first: '{first}'): check the folder"
