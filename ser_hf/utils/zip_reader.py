"""Zip files that nobody vouches for: recordings read in place, where no member's name becomes a
path, or unpacked."""

import copy
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path, PureWindowsPath

from ser_hf.errors import UserError

MAX_MEMBER = 1 << 28  # bytes of the largest recording that is read out of an archive
MAX_MEMBERS, MAX_BYTES, MAX_RATIO = 20_000, 8 << 30, 200
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeError, OSError)
"""What zipfile raises for files that are no zip, or a damaged one."""


class ArchiveError(UserError):
    """A zip file, or something in it, that cannot be read or must not be unpacked."""


def members(archive: Path) -> list[str]:
    """The names of the files in a zip, sorted.

    Raises:
        ArchiveError: if it is no zip file, or a broken one.
    """
    return sorted(info.filename for info in _opened(str(archive)).infolist() if not info.is_dir())


def read(archive: str, member: str) -> bytes:
    """The bytes of one member; safe to call from several threads.

    Raises:
        ArchiveError: if it is encrypted, damaged, or larger than it or `MAX_MEMBER` says.
    """
    zipped = _opened(archive)
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
        found = zipped.read(member)
        if len(found) != member.file_size:
            raise zipfile.BadZipFile("it does not unpack to the size it claims")
    except BROKEN as error:
        raise ArchiveError(
            f"'{archive}': '{member.filename}' cannot be read ({error}): download the archive again"
        ) from None
    return found


@lru_cache(maxsize=8)
def _opened(archive: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except BROKEN as error:
        raise ArchiveError(f"'{archive}' is not a zip file that can be read ({error}): download it again") from None


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip archive that may have been made to do harm.

    Args:
        archive: the zip file.
        folder: must not exist yet; it appears when all is unpacked.

    Returns:
        The folder.

    Raises:
        ArchiveError: if the folder exists, or the archive is broken, would write outside the
            folder, holds links, encrypted or repeated members, or unpacks to more than it claims or
            than is sound.
    """
    if os.path.lexists(folder):
        raise ArchiveError(f"'{folder}' exists: remove it or name another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    name = ""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        inside = Path(temporary, folder.name)
        inside.mkdir()
        try:
            with zipfile.ZipFile(archive) as opened:
                members = opened.infolist()
                _check(members)
                need, free = sum(member.file_size for member in members), shutil.disk_usage(folder.parent).free
                if need > free:
                    raise ArchiveError(f"'{folder.parent}' has {free:,} bytes free and {need:,} are needed: make room")
                for member in members:
                    name = f"{member.filename!r}: "
                    _extract(opened, member, inside)
            inside.rename(folder)
        except BROKEN as error:
            reason = str(error) or type(error).__name__
            raise ArchiveError(f"'{archive}' is not unpacked ({name}{reason}): download it again") from None
    return folder


def _check(members: list[zipfile.ZipInfo]) -> None:
    size = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or size > MAX_BYTES:
        raise zipfile.BadZipFile(
            f"{len(members):,} members, {size:,} bytes: more than {MAX_MEMBERS:,} and {MAX_BYTES:,}"
        )
    seen = set()
    for member in members:
        name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
        same = name.rstrip("/").casefold()
        # what the archive says itself: zipfile ends a name at a NUL, and on Windows turns
        # backslashes
        odd = PureWindowsPath(name).drive or re.search(r"[\\\0]", member.orig_filename)
        leaves = any(part in ("", ".", "..") for part in name.removesuffix("/").split("/"))
        problems = {
            "leads out of the folder": leaves or odd,
            "is neither file nor folder": kind not in (0, stat.S_IFREG, stat.S_IFDIR),
            "is there twice": same in seen,
        }
        problem = next((problem for problem, found in problems.items() if found), _problem(member))
        if problem:
            raise zipfile.BadZipFile(f"{member.orig_filename!r} {problem}")
        seen.add(same)


def _problem(member: zipfile.ZipInfo) -> str | None:
    """Why the content of a member is not to be read, whether or not it is written anywhere."""
    problems = {
        "is encrypted": member.flag_bits & 0x41,
        # the decompressors of the others know no bound on what they return at once
        "is not packed by deflate": member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
        "unpacks to too much": member.file_size > max(1 << 20, MAX_RATIO * member.compress_size),
    }
    return next((problem for problem, found in problems.items() if found), None)


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    target = folder / member.filename
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # zipfile drops without a word what exceeds the claimed size; with one byte more the excess
    # shows
    claim = copy.copy(member)
    claim.file_size += 1
    with archive.open(claim) as source, target.open("xb") as output:
        shutil.copyfileobj(source, output)
    if target.stat().st_size != member.file_size:
        raise zipfile.BadZipFile("it does not unpack to the size it claims")
