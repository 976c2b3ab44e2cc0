"""Recordings in zip files of any origin, read in place: no member's name ever becomes a path."""

import os
import zipfile
import zlib
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from ser_hf.errors import UserError

MAX_MEMBER = 1 << 28  # bytes of the largest recording that is read out of an archive
MAX_RATIO = 200  # bytes of a member for each byte that it takes in the archive
MAX_LISTED = 20_000  # entries of an archive of unknown origin: a list of more takes long to read
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeError, OSError)
"""What zipfile raises for files that are no zip, or a damaged one."""


SIGNATURES = (b"PK\3\4", b"PK\5\6")
"""First bytes of a zip, and of one without members."""

_UTF8 = 0x800  # flag of a name in UTF-8; without it, it is in the code page 437 of old PCs
_FOLDER = 0x10  # attribute of a folder in DOS


class ArchiveError(UserError):
    """A zip file, or a member of it, that cannot or must not be read."""


def members(archive: Path) -> list[str]:
    """The names of the files in a zip, sorted.

    Raises:
        ArchiveError: if it is no zip file, a broken one, or one that holds a name twice.
    """
    names = sorted(info.filename for info in _open(str(archive)).infolist() if not _is_folder(info))
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ArchiveError(f"'{archive}' holds '{twice[0]}' twice: unpack it, and keep the one that is right")
    return names


def is_zip(file: IO[bytes]) -> bool:
    """Whether a file is a zip, or was one before it was cut off."""
    file.seek(0)
    return file.read(4) in SIGNATURES or zipfile.is_zipfile(file)


def listed(file: IO[bytes], name: str) -> list[tuple[str, zipfile.ZipInfo]]:
    """The members of a zip of unknown origin by their names, folders and hidden files left out.

    Args:
        file: open, and able to seek.
        name: what errors call it.

    Raises:
        ArchiveError: if it cannot be read, lists more than `MAX_LISTED` members, or has none.
    """
    if (count := _signatures(file)) > MAX_LISTED:
        raise ArchiveError(f"'{name}' lists {count:,} files, more than {MAX_LISTED:,}: send it in parts")
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except BROKEN as error:
        raise ArchiveError(f"'{name}' is not a zip file that can be read ({error}): pack it again") from None
    members = [(_decoded(info), info) for info in infos if not _is_folder(info) and not _is_hidden(info)]
    if not members:
        raise ArchiveError(f"'{name}' is a zip with no file in it: pack the recordings again")
    return sorted(members, key=lambda member: member[0])


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
    name = f"'{archive}': '{_decoded(member)}'"
    problem = _problem(member) or ("is larger than any recording" if member.file_size > MAX_MEMBER else None)
    if problem:
        raise ArchiveError(f"{name} {problem}: unpack it yourself if you trust it")
    try:
        data = zipped.read(member)
        if len(data) != member.file_size:
            raise zipfile.BadZipFile("it does not unpack to the size it claims")
    except BROKEN as error:
        raise ArchiveError(f"{name} cannot be read ({error}): download the archive again") from None
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


def _is_folder(member: zipfile.ZipInfo) -> bool:
    """Whether an entry is a folder, as old programs for Windows write it, too."""
    name = member.filename
    return member.is_dir() or (member.file_size == 0 and (name.endswith("\\") or bool(member.external_attr & _FOLDER)))


def _is_hidden(member: zipfile.ZipInfo) -> bool:
    """Whether a member is what systems add to an archive, or lies in a hidden folder."""
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)


def _decoded(member: zipfile.ZipInfo) -> str:
    """The name of a member as it is shown, in one line.

    macOS and others write UTF-8 and do not say so.
    """
    name = member.filename
    if not member.flag_bits & _UTF8:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return "".join(character if character.isprintable() else "�" for character in name)


def _signatures(file: IO[bytes]) -> int:
    """How many entries the directory of a zip has at most; what it says itself may be a lie."""
    file.seek(0)
    count, before = 0, b""
    while block := file.read(1 << 20):
        count += (before + block).count(b"PK\1\2")
        before = block[-3:]
    return count
