"""Recordings that broke off before their length was written into the header.

A recorder writes a header first, and its length at the end. Where power or the program failed, the
length is 0, though the samples are there. They are read as if the length said so.
"""

import io
import os
from typing import IO, TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_UNKNOWN = b"\xff" * 4  # libsndfile reads up to the end of the file
_HEAD = 1 << 16  # bytes of the chunks before the samples


class _Overlaid(io.RawIOBase):
    """A file of which a few bytes are others."""

    def __init__(self, file: IO[bytes], place: int, content: bytes) -> None:
        self._file, self._place, self._content = file, place, content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: "WriteableBuffer") -> int:
        start, view = self._file.tell(), memoryview(buffer).cast("B")
        read = bytearray(self._file.read(len(view)))
        first, last = max(self._place, start), min(self._place + len(self._content), start + len(read))
        if first < last:
            read[first - start : last - start] = self._content[first - self._place : last - self._place]
        view[: len(read)] = read
        return len(read)


def completed(file: IO[bytes]) -> IO[bytes] | None:
    """Return an unfinished recording as a file with its length, or None for any other.

    WAV, RF64, AIFF, AU and CAF are known. Where chunks follow the header, the recording is finished
    and holds no samples. The position of `file` is kept.
    """
    start = file.tell()
    head = file.read(_HEAD)
    size = file.seek(0, os.SEEK_END)
    patch = _patch(head, size - start)
    if patch is not None and head[:4] == b"RIFF" and _are_chunks(file, start + patch[0] + 4, size):
        patch = None
    file.seek(start)
    return None if patch is None else io.BufferedReader(_Overlaid(file, start + patch[0], patch[1]))


def _patch(head: bytes, size: int) -> tuple[int, bytes] | None:
    """Where the header has no length, and what belongs there; None where nothing is missing."""
    kind = head[:4]
    if kind == b".snd" and head[8:12] == bytes(4) and size > int.from_bytes(head[4:8], "big"):
        return 8, _UNKNOWN
    if kind == b"caff":
        place = _chunk(head, 8, b"data", "big", 8)
        held = size - (place or size) - 8
        # all bits set stand for an unknown length; libsndfile reads neither that nor one too long
        if place is not None and not 0 < int.from_bytes(head[place : place + 8], "big") <= held:
            return place, held.to_bytes(8, "big")
    if kind == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        common, place = _chunk(head, 12, b"COMM", "big", 4), _chunk(head, 12, b"SSND", "big", 4)
        # the number of frames stands behind the length and the number of channels
        if common is not None and place is not None and head[common + 6 : common + 10] == bytes(4):
            return place, bytes(4)  # then libsndfile reads up to the end of the file
    if kind in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        place = _chunk(head, 12, b"data", "little", 4)
        if place is not None and size > place + 4:
            if head[place : place + 4] == bytes(4):
                return place, _UNKNOWN
            # RF64 has its lengths in the first chunk: of the file, of the samples, their number
            if kind == b"RF64" and head[12:16] == b"ds64" and head[28:36] == bytes(8):
                return 28, (size - place - 4).to_bytes(8, "little")
    return None


def _chunk(head: bytes, place: int, name: bytes, order: Literal["little", "big"], width: int) -> int | None:
    """Where the length of a chunk stands in a header that begins with chunks at `place`."""
    while place + 4 + width <= len(head):
        if head[place : place + 4] == name:
            return place + 4
        length = int.from_bytes(head[place + 4 : place + 4 + width], order)
        place += 4 + width + length + (length % 2 if width == 4 else 0)
    return None


def _are_chunks(file: IO[bytes], place: int, size: int) -> bool:
    """Whether chunks fill a WAV file from a place to its end."""
    while place + 8 <= size:
        file.seek(place)
        head = file.read(8)
        if not all(32 <= byte < 127 for byte in head[:4]):
            return False
        length = int.from_bytes(head[4:], "little")
        place += 8 + length + length % 2
    return place in (size, size + 1)
