"""Recordings fetched and decoded ahead, in threads, while the model works."""

import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import fsspec

from ser_hf.errors import UserError, first_line
from ser_hf.inference.bulk.containers import IN_MEMORY, Recording, spool
from ser_hf.inference.bulk.listing import STORE_ERRORS
from ser_hf.inference.recordings import ReadRecording

if TYPE_CHECKING:
    from ser_hf.inference.predictor import Predictor

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

LOST = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENODEV}
"""Errors of a file system that is gone, rather than of one file."""


class LostSource(UserError):
    """Inputs that cannot be reached any more: the run ends, and goes on when they are back."""


@dataclass(frozen=True)
class Fetched:
    """A recording that was read as far as a model needs it, or why it was not."""

    recording: Recording
    key: str | None = None
    """SHA-256 of its bytes; None where they could not be had."""
    channels: int | None = None
    read: ReadRecording | None = None
    error: str | None = None
    answered: bool = False
    """Whether its bytes have an answer, so that it was not decoded."""


def read_ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], pool: ThreadPoolExecutor, ahead: int
) -> Iterator[_Result]:
    """Results of a function for each item, in their order, of which `ahead` are computed before."""
    waiting: deque[Future[_Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def fetch(recording: Recording, predictor: "Predictor", has_answer: Callable[[str], bool]) -> Fetched:
    """Read a recording: its bytes, their key, and its samples as far as they are one clip.

    Args:
        recording: of the inputs.
        predictor: whose model is asked.
        has_answer: whether bytes of this key need not be asked again.

    Raises:
        LostSource: where the file system of the recording is gone.
    """
    spooled = recording.spooled
    try:
        try:
            content = recording.content
            if content is None and spooled is None:
                content, spooled = _content(recording.file)
            source = content if content is not None else (spooled or recording.file)
            key = _key(source)
        except FileNotFoundError:
            return Fetched(recording, error=f"'{recording.file}' is not a file: check the path")
        except STORE_ERRORS as error:
            if isinstance(error, OSError) and error.errno in LOST:
                raise LostSource(
                    f"'{recording.file}' cannot be reached ({error.strerror}): "
                    "run the command again when its file system is back"
                ) from None
            return Fetched(recording, error=f"'{recording.file}' cannot be read ({first_line(error)}): try again")
        if has_answer(key):
            return Fetched(recording, key, answered=True)
        return _decode(recording, source, key, predictor)
    finally:
        if spooled is not None:  # open files of a long recording are read on all the same
            os.unlink(spooled)


def _decode(recording: Recording, source: bytes | str, key: str, predictor: "Predictor") -> Fetched:
    channels: list[int] = []
    try:
        read = predictor.read(
            source, name=repr(recording.file), on_open=lambda reader: channels.append(reader.channels)
        )
    except UserError as error:
        return Fetched(recording, key, channels[0] if channels else None, error=str(error))
    return Fetched(recording, key, channels[0], read)


def _content(file: str) -> tuple[bytes | None, str | None]:
    """The bytes of a short file, or the temporary copy of a long one that lies elsewhere."""
    if "://" not in file:
        if os.path.getsize(file) > IN_MEMORY:
            return None, None
        with open(file, "rb") as opened_file:
            return opened_file.read(), None
    with fsspec.open(file, "rb") as remote:
        content = remote.read(IN_MEMORY + 1)
        if len(content) <= IN_MEMORY:
            return content, None
        remote.seek(0)
        return None, spool(remote, file)


def _key(source: bytes | str) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_of(recording: Recording) -> bytes | str | None:
    """The bytes or the path of a recording; None where they cannot be had."""
    if recording.content is not None or recording.spooled is not None:
        return recording.content if recording.content is not None else recording.spooled
    if "://" not in recording.file:
        return recording.file
    try:
        with fsspec.open(recording.file, "rb") as remote:
            return remote.read()
    except STORE_ERRORS:  # its row says why
        return None
