"""Recordings inside zip files, read in place: nothing is unpacked, so no member's name ever becomes a path."""

import zipfile
from functools import lru_cache
from pathlib import Path

from ser_hf.errors import UserError

MAX_MEMBER = 1 << 30
"""Bytes of the largest recording that is read out of an archive."""


class ArchiveError(UserError):
    """A zip file, or a recording in it, that cannot be read."""


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
    claimed = zipped.getinfo(member).file_size
    if claimed > MAX_MEMBER:
        raise ArchiveError(f"'{archive}': '{member}' claims {claimed:,} bytes: no recording is so large")
    try:
        with zipped.open(member) as stream:
            content = stream.read(claimed + 1)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError, zipfile.zlib.error) as error:
        # RuntimeError: encrypted; NotImplementedError: a compression that Python lacks
        raise ArchiveError(f"'{archive}': '{member}' cannot be read ({error}): download the archive again") from None
    if len(content) != claimed:
        raise ArchiveError(f"'{archive}': '{member}' is not as large as it claims: download the archive again")
    return content


@lru_cache(maxsize=8)
def _opened(archive: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ArchiveError(f"'{archive}' is not a zip file that can be read ({error}): download it again") from None
