"""What MP4, Matroska, ADTS and AMR say of themselves, read without decoding.

FFmpeg allocates what an MP4 claims before it reads on, so claims are checked here.
"""

import io
from collections.abc import Iterator
from typing import IO

import numpy as np

MP4, MATROSKA, ADTS, AMR = "MP4", "MATROSKA", "ADTS", "AMR"

MAX_PACKETS = 4_000_000
"""More than two hours hold at 500 packets a second; FFmpeg takes 24 bytes for each."""

MAX_BOXES = 500_000
"""More than two hours in fragments of a quarter of a second hold."""

_FIRST = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"moof", b"styp"}
"""Boxes that an MP4 or QuickTime file begins with."""

_OUTER = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}
"""Boxes that hold those with tables of packets."""

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # RFC 8794, RFC 9559
_HEAD = 16  # bytes that tell a container, and those of the longest header of a box
_PCM_PACKET = 512  # samples; FFmpeg makes packets of 1,024 of uncompressed sound
_TABLE = 1 << 25  # bytes read of a table


def container_of(file: IO[bytes]) -> str | None:
    """Return the container by the first bytes, or None for what libsndfile reads.

    An ID3 tag before ADTS frames is passed over. The position of `file` is kept.

    >>> container_of(io.BytesIO(bytes(4) + b"ftypM4A "))
    'MP4'
    """
    start = file.tell()
    head = file.read(_HEAD)
    if head[:3] == b"ID3" and len(head) >= 10:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        file.seek(start + 10 + size)
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
        return (_segment_end(file) or 0) > size
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


def _segment_end(file: IO[bytes]) -> int | None:
    """Where the segment of a Matroska file ends by its own size; None where it has none."""
    file.seek(4)
    header = _variable_size(file)
    if header is None:
        return None
    file.seek(header, io.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return None
    segment = _variable_size(file)
    return None if segment is None else file.tell() + segment


def _variable_size(file: IO[bytes]) -> int | None:
    """A size as EBML writes it (RFC 8794, section 4); None for the unknown one."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    extra = 8 - first[0].bit_length()
    bits = int.from_bytes(first + file.read(extra), "big") & ((1 << 7 * (extra + 1)) - 1)
    return None if bits == (1 << 7 * (extra + 1)) - 1 else bits
