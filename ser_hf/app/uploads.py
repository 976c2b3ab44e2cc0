"""How much one visitor of a running app may ask for; each is a flag of `ser-hf app`."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path, PurePosixPath

from ser_hf.audio import SUFFIXES
from ser_hf.errors import UserError
from ser_hf.utils import zip_reader


@dataclass(frozen=True)
class Limits:
    """Sane for a small public machine; every refusal names the limit and what mends it."""

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
    """Uploads beyond a limit; the message names it."""


@dataclass(frozen=True)
class Upload:
    """One recording."""

    name: str
    """As the visitor knows it; of a zip's member its path in there. It never becomes a path."""

    source: dict | None
    """What `Predictor` takes; None where it cannot be read."""

    error: str | None = None
    """Why not, in words."""


def recording(path: str | PathLike, name: str = "") -> dict:
    """An uploaded recording as `Predictor` takes it, which so knows its name, or the one given, and
    not its place."""
    return {"bytes": Path(path).read_bytes(), "path": Path(name).name or Path(path).name}


def count(paths: list[Path], limits: Limits) -> int:
    """How many recordings uploads hold, zips opened.

    Args:
        paths: of uploads, in the upload folder.
        limits: `files` and `zip_mb` of which hold for all of them together.

    Raises:
        UploadError: for more than the limits allow, or nothing at all.
    """
    return _checked(paths, limits)[0]


def recordings(paths: list[Path], limits: Limits) -> Iterator[Upload]:
    """The recordings of uploads, zips opened; arguments and errors are those of `count`, before
    anything is read."""
    members = _checked(paths, limits)[1]
    return _each(paths, members)


def _checked(paths: list[Path], limits: Limits) -> tuple[int, dict[Path, list[zipfile.ZipInfo]]]:
    members = {path: _members(path) for path in paths if zipfile.is_zipfile(path)}
    found = len(paths) - len(members) + sum(map(len, members.values()))
    if found > limits.files:
        raise UploadError(f"{found:,} recordings are more than {limits.files:,}: send them in parts")
    if not found:
        raise UploadError(f"there is no recording in it: {', '.join(SUFFIXES)} are read")
    size = sum(info.file_size for infos in members.values() for info in infos)
    if size > limits.zip_mb * 2**20:
        raise UploadError(f"{size / 2**20:,.0f} MB are in the zip, more than {limits.zip_mb:g}: send it in parts")
    return found, members


def _each(paths: list[Path], members: dict[Path, list[zipfile.ZipInfo]]) -> Iterator[Upload]:
    for path in paths:
        if path not in members:
            yield Upload(path.name, recording(path))
            continue
        with zipfile.ZipFile(path) as opened:
            for info in members[path]:
                yield _member(opened, info, path.name)


def _members(path: Path) -> list[zipfile.ZipInfo]:
    """What a zip holds that may be a recording, by name."""
    try:
        with zipfile.ZipFile(path) as opened:
            infos = opened.infolist()
    except zip_reader.BROKEN as error:
        raise UploadError(f"'{path.name}' is not a zip file that can be read ({error})") from None
    found = [info for info in infos if _is_recording(PurePosixPath(info.filename))]
    return sorted(found, key=lambda info: info.filename)


def _is_recording(name: PurePosixPath) -> bool:
    hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in name.parts)
    return name.suffix.lower() in SUFFIXES and not hidden


def _member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, archive: str) -> Upload:
    try:
        content = zip_reader.content(opened, info, archive)
    except zip_reader.ArchiveError as error:
        return Upload(info.filename, None, str(error))
    return Upload(info.filename, {"bytes": content, "path": info.filename})
