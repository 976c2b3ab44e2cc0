"""Corpora of recordings, and the result of reading one: files, recordings, a scan.

No audio is decoded here.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from os import PathLike
from pathlib import Path, PurePath

import numpy as np

from ser_hf.audio import SUFFIXES, Stretch, load
from ser_hf.errors import UserError
from ser_hf.labels import EMOTIONS
from ser_hf.utils import zip_reader


class CorpusError(UserError):
    """A folder that does not hold the recordings it should, or a wrong description of a corpus."""


@dataclass(frozen=True, slots=True)
class ZenodoRecord:
    """Where Zenodo serves the archives of a corpus."""

    number: int
    archives: Mapping[str, tuple[int, str]]
    """Size in bytes and MD5 of each archive, by its name."""
    server: str = "https://zenodo.org"


@dataclass(frozen=True, slots=True)
class DataverseRecord:
    """Where a Dataverse serves the recordings of a corpus, one file each."""

    doi: str
    folder: Callable[[str], str]
    """The folder for a recording, from its official name."""
    server: str


def _claims_nothing(folder: str) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Everything that the package knows about a corpus whose files have official names."""

    name: str
    """The flag, the value of the column `corpus` and the start of a speaker's id: a-z and 0-9."""
    title: str
    """The name as people write it."""
    parse: Callable[[PurePath], dict | None]
    """The fields of a `Recording` but `file` and `corpus`, from a path; None for another name."""
    inventory: Callable[[], dict[str, str]]
    """The channel of every official name."""
    licence: str
    """One line: authors, DOI, licence, its conditions and its address."""
    licence_id: str
    """The Hub's identifier of the licence."""
    forbids_commercial_use: bool
    forbids_changed_forms: bool
    citation: str
    """BibTeX."""
    language: str
    """ISO 639-1."""
    accent: str
    """The language in words, for cards: North American English."""
    statements: str
    """What the column `statement` holds."""
    expected_format: tuple[int, int]
    """Sampling rate in Hz and channels of the official recordings."""
    record: ZenodoRecord | DataverseRecord | None = None
    """From where `--download` fetches it; None where nothing can be fetched."""
    same_samples: frozenset[frozenset[str]] = frozenset()
    """Groups of official names that hold the same samples."""
    folder_claim: Callable[[str], tuple[str, str | None] | None] = _claims_nothing
    """The speaker, and the emotion where it is given, that the name of a folder stands for."""

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return the official names that are not among `keys`, sorted.

        Only channels count of which at least half is there. A part of a corpus lacks nothing.
        """
        keys, missing = set(keys), []
        inventory = self.inventory()
        for channel in sorted(set(inventory.values())):
            names = {name for name, name_channel in inventory.items() if name_channel == channel}
            if 2 * len(names & keys) >= len(names):
                missing += sorted(names - keys)
        return missing

    def emotions(self) -> dict[str, set[str]]:
        """Return the emotions that are acted in each channel, by the official names."""
        return {channel: set(emotions) for channel, emotions in _voices(self.parse, self.inventory)[0].items()}

    def sexes(self) -> set[str]:
        """Return the sexes of the speakers, by the official names."""
        return set(_voices(self.parse, self.inventory)[1])


@cache
def _voices(
    parse: Callable[[PurePath], dict | None], inventory: Callable[[], dict[str, str]]
) -> tuple[dict[str, set[str]], set[str]]:
    """Emotions of each channel, and sexes, by the official names, of which there are thousands."""
    emotions, sexes = defaultdict(set), set()
    for name, channel in inventory().items():
        fields = parse(PurePath(name))
        assert fields is not None, name  # a corpus parses its own names
        emotions[channel].add(fields["emotion"])
        sexes.add(fields["sex"])
    return emotions, sexes


def languages(corpora: list[Corpus]) -> str | list[str] | None:
    """The languages as a card's metadata names them: one, a list, or None without corpora."""
    codes = list(dict.fromkeys(corpus.language for corpus in corpora))
    return codes if len(codes) > 1 else next(iter(codes), None)


def confounds(corpora: list[Corpus]) -> str:
    """A sentence about what a model could learn in place of emotion where these are mixed.

    It is empty for one corpus, and for corpora that differ in nothing of that kind.
    """
    if len(corpora) < 2:
        return ""
    acted = {corpus.title: set().union(*corpus.emotions().values()) for corpus in corpora}
    reasons = []
    for emotion in EMOTIONS:
        titles = [title for title, emotions in acted.items() if emotion in emotions]
        if len(titles) == 1:
            reasons.append(f"{emotion} is acted in {titles[0]} alone")
    confounded = ["emotion", "corpus"] if reasons else []
    owners = {"female": "a woman's", "male": "a man's"}
    for corpus in corpora:
        sexes = corpus.sexes()
        if len(sexes) == 1:
            reasons.append(f"every {corpus.title} voice is {owners[sexes.pop()]}")
            confounded = [*(confounded or ["corpus"]), "sex"] if "sex" not in confounded else confounded
    if not reasons:
        return ""
    sentence = f"{join_words(reasons)}, so that {join_words(confounded)} are confounded."
    return sentence[0].upper() + sentence[1:]


def join_words(words: list[str]) -> str:
    """Words as a list in a sentence.

    >>> join_words(["emotion", "corpus", "sex"])
    'emotion, corpus and sex'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


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
        """What `ser_hf.audio.load` reads: the path, or the bytes out of the zip."""
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
    stretch: Stretch | None = None  # of the file that holds it; None for all of it

    def samples(self) -> np.ndarray:
        """Decode it to float32 samples at 16 kHz, shape `(samples,)`.

        Raises:
            AudioError: naming the file, where it cannot be decoded or lacks the stretch.
            ArchiveError: where its zip cannot be read.
        """
        return load(self.file.source(), name=repr(str(self.file)), stretch=self.stretch)


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
    aliases: list[dict] = field(default_factory=list)
    """Labels that a map renamed: `corpus`, its `label`, `counted_as` (empty: dropped), `clips`."""


def list_files(
    folder: str | PathLike, broken: dict[str, zip_reader.ArchiveError] | None = None
) -> tuple[list[File], list[File]]:
    """Return the audio files of a folder or zip, and all its other files.

    Both are sorted, those in zips last. Linked folders are followed, each folder once.

    Args:
        folder: or a zip.
        broken: gets the error of each zip that cannot be read, by its path.

    Raises:
        CorpusError: if it is missing, holds no audio, or a recording is a link to nothing.
        ArchiveError: if a zip cannot be read, and `broken` is None or nothing else holds audio.
    """
    folder = Path(os.path.expanduser(folder))
    if not os.path.exists(folder):
        raise CorpusError(f"'{folder}' does not exist: check the path")
    if folder.is_dir():
        paths = sorted(_files_below(folder))
    elif folder.suffix.lower() == ".zip":
        paths = [folder]
    else:
        raise CorpusError(f"'{folder}' is not a folder and no .zip: give the folder or zip of the recordings")
    # macOS adds to each file a twin named ._, which has the ending and nothing else
    zips = [path for path in paths if path.suffix.lower() == ".zip" and not path.name.startswith("._")]
    files = [File(str(path)) for path in paths if path not in zips]
    errors = {}
    for path in zips:
        try:
            files += [File(member, str(path)) for member in zip_reader.members(path)]
        except zip_reader.ArchiveError as error:
            errors[str(path)] = error
    audio_files: list[File] = []
    other_files: list[File] = []
    for file in files:
        is_audio = file.name.suffix.lower() in SUFFIXES and not file.name.name.startswith("._")
        (audio_files if is_audio else other_files).append(file)
    if errors and (broken is None or not audio_files):
        raise next(iter(errors.values()))
    if broken is not None:
        broken.update(errors)
    if not audio_files:
        raise CorpusError(f"'{folder}' holds no recordings ({', '.join(SUFFIXES)}): check the path")
    return audio_files, other_files


def _files_below(folder: Path) -> Iterator[Path]:
    visited = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(root))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(root, name)) not in visited]
        for path in (Path(root, name) for name in names):
            if path.is_file():
                yield path
            elif path.is_symlink() and path.suffix.lower() in SUFFIXES:
                raise CorpusError(f"'{path}' is a link to nothing: fetch the file that it stands for, or remove it")
