"""Uploads of visitors and their limits: every limit is a flag of `ser-hf app`."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import IO

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

    content: Path | IO[bytes]
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

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The content as an open file, at its beginning."""
        if isinstance(self.content, Path):
            with self.content.open("rb") as content:
                yield content
        else:
            self.content.seek(0)
            yield self.content

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


@dataclass(frozen=True)
class _Entry:
    """An upload, or a member of one that is a zip."""

    name: str
    member: zipfile.ZipInfo | None = None
    error: str | None = None


class Recordings:
    """The recordings of uploads, zips opened, in their order; may be iterated more than once.

    Every member of a zip is one, whatever its name, but folders and hidden files. One that must not
    be read, and a zip that cannot be, have an `error`.
    """

    def __init__(self, files: list[UploadedFile], limits: Limits) -> None:
        """Look into the uploads, once, before any recording is read.

        Args:
            files: all uploads of one request.
            limits: `files` and `zip_mb` hold for all of them together.

        Raises:
            UploadError: for more than the limits allow, or nothing at all.
        """
        self._files, self._entries = files, _checked(files, limits)

    def __len__(self) -> int:
        """How many they are, readable or not."""
        return sum(map(len, self._entries))

    def __iter__(self) -> Iterator[UploadedRecording]:
        for file, found in zip(self._files, self._entries, strict=True):
            if not found:
                continue
            if found[0].member is None:
                error = found[0].error
                yield UploadedRecording(file.name, None if error else file.source(), error)
                continue
            with file.opened() as content, zipfile.ZipFile(content) as archive:
                for entry in found:
                    yield _unpacked(archive, entry, file.name)


def _checked(files: list[UploadedFile], limits: Limits) -> list[list[_Entry]]:
    """What each file holds."""
    entries = [_entries(file, limits) for file in files]
    count = sum(map(len, entries))
    if count > limits.files:
        raise UploadError(f"{count:,} recordings are more than {limits.files:,}: send them in parts")
    if not count:
        raise UploadError("there is no recording in it: send recordings, or zips of them")
    size = sum(entry.member.file_size for found in entries for entry in found if entry.member)
    if size > limits.zip_mb * 2**20:
        raise UploadError(f"{size / 2**20:,.0f} MB are in the zip, more than {limits.zip_mb:g}: send it in parts")
    return entries


def _entries(file: UploadedFile, limits: Limits) -> list[_Entry]:
    """A file itself; of a zip the members, by name."""
    with file.opened() as content:
        if not zip_reader.is_zip(content):
            return [_Entry(file.name)]
        try:
            members = zip_reader.listed(content, file.name)
        except zip_reader.ArchiveError as error:
            return [_Entry(file.name, error=str(error))]
    largest = limits.file_mb * 2**20
    refusal = f"has more than {limits.file_mb:g} MB: cut it into parts"
    return [
        _Entry(name, member, f"'{file.name}': '{name}' {refusal}" if member.file_size > largest else None)
        for name, member in members
    ]


def _unpacked(archive: zipfile.ZipFile, entry: _Entry, archive_name: str) -> UploadedRecording:
    if entry.error is not None or entry.member is None:
        return UploadedRecording(entry.name, None, entry.error)
    try:
        content = zip_reader.content(archive, entry.member, archive_name)
    except zip_reader.ArchiveError as error:
        return UploadedRecording(entry.name, None, str(error))
    return UploadedRecording(entry.name, {"bytes": content, "path": entry.name})
