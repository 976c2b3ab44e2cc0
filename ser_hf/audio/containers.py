"""What MP4, Matroska, ADTS and AMR say of themselves, read without decoding.

FFmpeg allocates what an MP4 claims before it reads on, so claims are checked here. What is too long
is refused here, since silence is small and takes long to decode.
"""

import io
import math
import struct
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import IO

import numpy as np

MP4, MATROSKA, ADTS, AMR = "MP4", "MATROSKA", "ADTS", "AMR"

ENDINGS: dict[str, tuple[str, ...]] = {
    ".wav": ("WAV", "WAVEX", "RF64"),
    ".flac": ("FLAC",),
    **dict.fromkeys((".opus", ".ogg", ".oga"), ("OGG",)),
    ".mp3": ("MP3", "MPEG"),
    **dict.fromkeys((".aif", ".aiff", ".aifc"), ("AIFF",)),
    ".au": ("AU",),
    ".caf": ("CAF",),
    ".w64": ("W64",),
    **dict.fromkeys((".m4a", ".mp4", ".m4v", ".mov", ".3gp"), (MP4,)),
    **dict.fromkeys((".webm", ".mka", ".mkv"), (MATROSKA,)),
    ".aac": (ADTS,),
    ".amr": (AMR,),
}
"""For each ending of what can be read, in lower case, the containers that it stands for."""

MAX_PACKETS = 4_000_000
"""More than two hours hold at 500 packets a second; FFmpeg takes 24 bytes for each."""

MAX_BOXES = 500_000
"""More than two hours in fragments of a quarter of a second hold."""

_FIRST = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"moof", b"styp"}
"""Boxes that an MP4 or QuickTime file begins with."""

_OUTER = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}
"""Boxes that hold those with tables of packets."""

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # RFC 8794, RFC 9559
_INFO, _CLUSTER = b"\x15\x49\xa9\x66", b"\x1f\x43\xb6\x75"
_DURATION, _TIMESTAMP_SCALE = b"\x44\x89", b"\x2a\xd7\xb1"
_HEAD = 16  # bytes that tell a container, and those of the longest header of a box
_PCM_PACKET = 512  # samples; FFmpeg makes packets of 1,024 of uncompressed sound
_TABLE = 1 << 25  # bytes read of a table
_PIECE = 1 << 18  # bytes of frames read at a time
_MOST_ELEMENTS = 1_000  # of a Matroska file that are looked at; its length stands in one of the first
_MOST_FRAMES = 1_000_000  # of ADTS and AMR that are counted; at any rate they last more than two hours
_AMR_BYTES = {  # of a frame by its mode, in RFC 4867; FFmpeg skips one byte where there is none
    b"#!AMR\n": (13, 14, 16, 18, 20, 21, 27, 32, 6, *[1] * 7),
    b"#!AMR-WB\n": (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, *[1] * 6),
}
_ADTS_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


def container_of(file: IO[bytes]) -> str | None:
    """Return the container by the first bytes, or None for what libsndfile reads.

    An ID3 tag before ADTS frames is passed over. The position of `file` is kept.

    >>> container_of(io.BytesIO(bytes(4) + b"ftypM4A "))
    'MP4'
    """
    start = file.tell()
    head = file.read(_HEAD)
    if tag := _tag_size(head):
        file.seek(start + tag)
        head = file.read(2)
    file.seek(start)
    if head[4:8] in _FIRST:
        return MP4
    if head[:4] == _EBML:
        return MATROSKA
    if head[:5] == b"#!AMR":
        return AMR
    # 12 bits of synchronisation, one of the version, and a layer of 0, which no MP3 has
    return ADTS if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 else None


def _tag_size(head: bytes) -> int:
    """Bytes of an ID3 tag that a file begins with, 0 where it begins with none."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


def counted_seconds(file: IO[bytes], container: str) -> float | None:
    """Return how long a Matroska, ADTS or AMR file is by its own header, or by those of its frames.

    Of more than a million frames the first million count. None stands for an unknown length: a
    browser's recorder writes none, and frames may be damaged.
    """
    file.seek(0)
    if container == MATROSKA:
        return _matroska_seconds(file)
    head = file.read(_HEAD)
    if container == AMR:
        kind = next((kind for kind in _AMR_BYTES if head.startswith(kind)), None)
        if kind is None:  # of several channels
            return None
        lengths = _AMR_BYTES[kind]
        return _counted(file, len(kind), 1, lambda frame: (lengths[frame[0] >> 3 & 15], 0.02))
    return _counted(file, _tag_size(head), 7, _adts_frame) if container == ADTS else None


def _counted(
    file: IO[bytes], place: int, head: int, measure: Callable[[bytes], tuple[int, float] | None]
) -> float | None:
    """The seconds of frames that follow each other; `measure` gives bytes and seconds of one."""
    seconds, content, start = 0.0, b"", place
    for _ in range(_MOST_FRAMES):
        if place + head > start + len(content):
            file.seek(place)
            content, start = file.read(_PIECE), place
            if len(content) < head:  # the end, or a frame that breaks off
                return seconds
        frame = measure(content[place - start : place - start + head])
        if frame is None:
            return None
        place, seconds = place + frame[0], seconds + frame[1]
    return seconds


def _adts_frame(head: bytes) -> tuple[int, float] | None:
    """Bytes and seconds of a frame by its header (ISO/IEC 14496-3, 1.A.2); None for another."""
    length, rate = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5, head[2] >> 2 & 15
    if head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or length < 7 or rate >= len(_ADTS_RATES):
        return None
    return length, ((head[6] & 3) + 1) * 1024 / _ADTS_RATES[rate]


def _matroska_seconds(file: IO[bytes]) -> float | None:
    """The duration that comes before the sound (RFC 9559, 5.1.2), where it is written."""
    size = _size(file)
    place, end = _segment(file, size)
    before_sound = takewhile(lambda element: element[0] != _CLUSTER, _elements(file, place, min(end, size)))
    start, stop = {name: (start, stop) for name, start, stop in before_sound}.get(_INFO, (0, 0))
    values = {}
    for name, content, end in _elements(file, start, min(stop, size)):
        if name in (_DURATION, _TIMESTAMP_SCALE):
            file.seek(content)
            values[name] = file.read(min(end - content, 8))
    kind = {4: ">f", 8: ">d"}.get(len(values.get(_DURATION, b"")))
    if kind is None:
        return None
    scale = int.from_bytes(values.get(_TIMESTAMP_SCALE, b""), "big") or 1_000_000  # nanoseconds
    seconds = struct.unpack(kind, values[_DURATION])[0] * scale / 1e9
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def _segment(file: IO[bytes], size: int) -> tuple[int, int]:
    """Where the segment of a Matroska file begins and ends; empty where there is none."""
    return next(((start, end) for name, start, end in _elements(file, 0, size) if name == _SEGMENT), (0, 0))


def _elements(file: IO[bytes], place: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin of the content, and end of each element (RFC 8794, 6); an end may lie.

    An element without a size ends where `stop` is. Only the first `_MOST_ELEMENTS` are given.
    """
    for _ in range(_MOST_ELEMENTS):
        if place >= stop:
            return
        file.seek(place)
        first = file.read(1)
        if not first or first[0] < 16:  # names have up to four bytes
            return
        name = first + file.read(8 - first[0].bit_length())
        length, content = _variable_size(file), file.tell()
        place = stop if length is None else content + length
        yield name, content, place


def counts_frames(file: IO[bytes]) -> bool:
    """Whether an MP3 says how many frames it has; players guess the length of others.

    The header is that of Xing, LAME or Fraunhofer in the first frame, behind a short ID3 tag. The
    position of `file` is kept.
    """
    start = file.tell()
    file.seek(0)
    head = file.read(4096)
    file.seek(start)
    return any(mark in head for mark in (b"Xing", b"Info", b"VBRI"))


def is_cut_off(file: IO[bytes]) -> bool:
    """Whether an MP4 or Matroska file ends before its own sizes say, as a broken download does.

    It is False for all other containers, and where a recorder wrote no size.
    """
    file.seek(0)
    container = container_of(file)
    size = _size(file)
    if container == MP4:
        return max((end for _, _, end in _boxes(file, 0, size)), default=0) > size
    if container == MATROSKA:
        return _segment(file, size)[1] > size
    return False


def lacks_index(file: IO[bytes]) -> bool:
    """Whether an MP4 is without its index, which most recorders write at the end."""
    return b"moov" not in {name for name, _, _ in _boxes(file, 0, _size(file))}


def claimed_packets(file: IO[bytes]) -> int:
    """Return how many packets the tables of an MP4 claim, those of all its tracks together.

    `MAX_PACKETS` + 1 stands for any larger number, and for more than `MAX_BOXES` boxes. The tables
    are those of ISO/IEC 14496-12: 8.6.1, 8.7 and 8.8.8.
    """
    size, boxes, total = _size(file), 0, 0
    waiting = [(0, size)]
    tables: list[dict[bytes, tuple[int, int]]] = [{}]
    while waiting:
        start, end = waiting.pop()
        for name, content, content_end in _boxes(file, start, end):
            boxes += 1
            if boxes > MAX_BOXES or total > MAX_PACKETS:
                return MAX_PACKETS + 1
            if name in _OUTER:
                waiting.append((content, min(content_end, end)))
            elif name == b"trun":
                total += _number(file, content + 4)
            elif name in (b"stsz", b"stz2", b"stts", b"stsc", b"stco", b"co64"):
                if name in tables[-1]:
                    tables.append({})
                tables[-1][name] = (content, content_end)
    total += sum(_packets_of_track(file, table) for table in tables)
    return min(total, MAX_PACKETS + 1)


def _packets_of_track(file: IO[bytes], tables: dict[bytes, tuple[int, int]]) -> int:
    """The packets of one track; of uncompressed sound FFmpeg makes them from chunks of samples."""
    count = max((_number(file, tables[name][0] + 8) for name in (b"stsz", b"stz2") if name in tables), default=0)
    times, chunks = tables.get(b"stts"), tables.get(b"stsc")
    if times is None or (_number(file, times[0] + 4), _number(file, times[0] + 12)) != (1, 1):
        return count
    places = tables.get(b"stco") or tables.get(b"co64")
    if chunks is None or places is None:
        return 0
    last = _number(file, places[0] + 4) + 1
    file.seek(chunks[0] + 8)
    content = file.read(min(12 * _number(file, chunks[0] + 4), _TABLE))
    rows = np.frombuffer(content[: len(content) // 12 * 12], dtype=">u4").reshape(-1, 3).astype(np.float64)
    lengths = np.clip(np.diff(rows[:, 0], append=last), 0, None)
    return int(min(last + (lengths * np.ceil(rows[:, 1] / _PCM_PACKET)).sum(), 1e15))


def _number(file: IO[bytes], place: int) -> int:
    file.seek(place)
    return int.from_bytes(file.read(4), "big")


def _size(file: IO[bytes]) -> int:
    return file.seek(0, io.SEEK_END)


def _boxes(file: IO[bytes], place: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin of the content, and end of each box (ISO/IEC 14496-12, 4.2); an end may lie."""
    while place + 8 <= stop:
        file.seek(place)
        head = file.read(_HEAD)
        length, content = int.from_bytes(head[:4], "big"), place + 8
        if length == 1:  # 64 bits behind the name
            length, content = int.from_bytes(head[8:16], "big"), place + 16
        place = stop if length == 0 else place + max(length, 8)  # 0: up to the end of the file
        yield head[4:8], content, place


def _variable_size(file: IO[bytes]) -> int | None:
    """A size as EBML writes it (RFC 8794, section 4); None for the unknown one."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    extra = 8 - first[0].bit_length()
    bits = int.from_bytes(first + file.read(extra), "big") & ((1 << 7 * (extra + 1)) - 1)
    return None if bits == (1 << 7 * (extra + 1)) - 1 else bits
