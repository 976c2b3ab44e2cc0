"""Recordings in zip files of any origin, read in place: no member's name ever becomes a path."""

import os
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

from ser_hf.errors import UserError

MAX_MEMBER = 1 << 28  # bytes of the largest recording that is read out of an archive
MAX_RATIO = 200  # bytes of a member for each byte that it takes in the archive
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeError, OSError)
"""What zipfile raises for files that are no zip, or a damaged one."""


class ArchiveError(UserError):
    """A zip file, or a member of it, that cannot or must not be read."""


def members(archive: Path) -> list[str]:
    """The names of the files in a zip, sorted.

    Raises:
        ArchiveError: if it is no zip file, or a broken one.
    """
    return sorted(info.filename for info in _open(str(archive)).infolist() if not info.is_dir())


def read(archive: str, member: str) -> bytes:
    """The bytes of one member; safe to call from several threads.

    Raises:
        ArchiveError: if it is encrypted, damaged, or larger than it or `MAX_MEMBER` says.
    """
    zipped = _open(archive)
    return content(zipped, zipped.getinfo(member), archive)


def content(zipped: zipfile.ZipFile, member: zipfile.ZipInfo, archive: str) -> bytes:
    """The bytes of one member of an open zip, whose errors call it `archive`.

    Raises:
        ArchiveError: as `read`.
    """
    problem = _problem(member) or ("is larger than any recording" if member.file_size > MAX_MEMBER else None)
    if problem:
        raise ArchiveError(f"'{archive}': '{member.filename}' {problem}: unpack it yourself if you trust it")
    try:
        data = zipped.read(member)
        if len(data) != member.file_size:
            raise zipfile.BadZipFile("it does not unpack to the size it claims")
    except BROKEN as error:
        raise ArchiveError(
            f"'{archive}': '{member.filename}' cannot be read ({error}): download the archive again"
        ) from None
    return data


def _open(archive: str) -> zipfile.ZipFile:
    """An archive, opened once in each process and again when it changes.

    Processes that share an open file share the position in it, and read each other's bytes.
    """
    try:
        written = Path(archive).stat()
    except OSError as error:
        raise ArchiveError(f"'{archive}' cannot be read ({error.strerror}): check the path") from None
    return _opened(archive, os.getpid(), (written.st_ino, written.st_size, written.st_mtime_ns))


@lru_cache(maxsize=8)
def _opened(archive: str, process: int, version: tuple[int, int, int]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except BROKEN as error:
        raise ArchiveError(f"'{archive}' is not a zip file that can be read ({error}): download it again") from None


def _problem(member: zipfile.ZipInfo) -> str | None:
    """Why the content of a member must not be read, or None."""
    problems = {
        "is encrypted": member.flag_bits & 0x41,
        # the decompressors of the others know no bound on what they return at once
        "is not packed by deflate": member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
        "unpacks to too much": member.file_size > max(1 << 20, MAX_RATIO * member.compress_size),
    }
    return next((problem for problem, holds in problems.items() if holds), None)
