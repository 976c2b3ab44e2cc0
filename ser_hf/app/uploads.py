"""Uploads of visitors and their limits: every limit is a flag of `ser-hf app`."""

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ser_hf.audio import SUFFIXES
from ser_hf.errors import UserError
from ser_hf.utils import zip_reader


@dataclass(frozen=True)
class Limits:
    """Defaults for a small public machine; every refusal names the limit and the remedy."""

    file_mb: float = field(default=50.0, metadata={"help": "megabytes of one recording"})
    seconds: float = field(default=3600.0, metadata={"help": "duration of one recording"})
    files: int = field(default=100, metadata={"help": "recordings in one batch, those in a zip included"})
    zip_mb: float = field(
        default=500.0,
        metadata={"help": "megabytes of all an upload's recordings, zips unpacked"},
    )
    queue: int = field(
        default=64,
        metadata={"help": "requests that may wait; the next one is refused"},
    )
    per_minute: int = field(
        default=120,
        metadata={"help": "requests of a client in a minute; this machine is not counted"},
    )
    timeout: float = field(default=60.0, metadata={"help": "seconds that one recording may take"})
    live_seconds: float = field(default=300.0, metadata={"help": "duration of one live session"})
    keep: float = field(default=600.0, metadata={"help": "seconds after which an upload is deleted"})


class UploadError(UserError):
    """Uploads beyond a limit, which the message names, or with nothing in them to predict."""


@dataclass(frozen=True)
class UploadedFile:
    """A file as it came: a recording, or a zip of recordings."""

    name: str
    """As the visitor calls it. It never becomes a path on this machine."""

    content: Path | BinaryIO
    """Where the bytes lie, or an open file that can seek."""

    @classmethod
    def at(cls, path: str | PathLike, name: str = "") -> "UploadedFile":
        """A file in the upload folder, called `name` or, where that is empty, as on the disk."""
        return cls(Path(name).name or Path(path).name, Path(path))

    def read(self) -> bytes:
        """All bytes."""
        if isinstance(self.content, Path):
            return self.content.read_bytes()
        self.content.seek(0)
        return self.content.read()

    def size(self) -> int:
        """Bytes."""
        if isinstance(self.content, Path):
            return self.content.stat().st_size
        return self.content.seek(0, os.SEEK_END)

    def source(self) -> dict:
        """The file as `Predictor` takes it, which then knows its name and not its place."""
        return {"bytes": self.read(), "path": self.name or None}


@dataclass(frozen=True)
class UploadedRecording:
    """One recording, of its own or from a zip."""

    name: str
    """As the visitor knows it; for a member of a zip its path in there."""

    source: dict | None
    """What `Predictor` takes; None where it cannot be read."""

    error: str | None = None
    """Why it cannot be read, in one line."""


def size_refusal(limits: Limits) -> str:
    """What a visitor reads who sent too much."""
    return f"One recording may have {limits.file_mb:g} MB, all together {limits.zip_mb:g}: send less."


def count_recordings(files: list[UploadedFile], limits: Limits) -> int:
    """How many recordings uploads hold, those in zips included.

    Args:
        files: all uploads of one request.
        limits: `files` and `zip_mb` hold for all of them together.

    Raises:
        UploadError: for more than the limits allow, no recording at all, or a broken zip.
    """
    return _checked(files, limits)[0]


def recordings(files: list[UploadedFile], limits: Limits) -> Iterator[UploadedRecording]:
    """The recordings of uploads, zips opened, in their order.

    Arguments and errors are those of `count_recordings`. The limits are checked before anything is
    read.
    """
    members = _checked(files, limits)[1]
    return _recordings(files, members)


def _checked(files: list[UploadedFile], limits: Limits) -> tuple[int, list[list[zipfile.ZipInfo] | None]]:
    """The number of recordings, and the members of each file that is a zip."""
    members = [_members(file) if zipfile.is_zipfile(file.content) else None for file in files]
    count = sum(1 if infos is None else len(infos) for infos in members)
    if count > limits.files:
        raise UploadError(f"{count:,} recordings are more than {limits.files:,}: send them in parts")
    if not count:
        raise UploadError(f"there is no recording in it: {', '.join(SUFFIXES)} are read")
    size = sum(info.file_size for infos in members for info in infos or [])
    if size > limits.zip_mb * 2**20:
        raise UploadError(f"{size / 2**20:,.0f} MB are in the zip, more than {limits.zip_mb:g}: send it in parts")
    return count, members


def _recordings(files: list[UploadedFile], members: list[list[zipfile.ZipInfo] | None]) -> Iterator[UploadedRecording]:
    for file, infos in zip(files, members, strict=True):
        if infos is None:
            yield UploadedRecording(file.name, file.source())
            continue
        with zipfile.ZipFile(file.content) as archive:
            for info in infos:
                yield _member(archive, info, file.name)


def _members(file: UploadedFile) -> list[zipfile.ZipInfo]:
    """What a zip holds that may be a recording, by name."""
    try:
        with zipfile.ZipFile(file.content) as archive:
            infos = archive.infolist()
    except zip_reader.BROKEN as error:
        raise UploadError(f"'{file.name}' is not a zip file that can be read ({error})") from None
    infos = [info for info in infos if _is_recording(PurePosixPath(info.filename))]
    return sorted(infos, key=lambda info: info.filename)


def _is_recording(name: PurePosixPath) -> bool:
    hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in name.parts)
    return name.suffix.lower() in SUFFIXES and not hidden


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, archive_name: str) -> UploadedRecording:
    try:
        content = zip_reader.content(archive, info, archive_name)
    except zip_reader.ArchiveError as error:
        return UploadedRecording(info.filename, None, str(error))
    return UploadedRecording(info.filename, {"bytes": content, "path": info.filename})
