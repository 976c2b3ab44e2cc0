"""What phones and browsers record: MP4, WebM, ADTS and AMR, by PyAV where it is installed.

PyAV's wheels hold FFmpeg's libraries, so no FFmpeg is needed on the machine. Only the containers
and codecs that are named here are opened, and no file but the recording itself. FFmpeg therefore
gets no playlists, addresses or pictures.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

SUFFIXES: tuple[str, ...] = (
    *(".m4a", ".mp4", ".m4v", ".mov", ".3gp"),
    *(".webm", ".mka", ".mkv"),
    *(".aac", ".amr"),
)
"""Endings of what PyAV reads, in lower case."""

MP4, MATROSKA, ADTS, AMR = "MP4", "MATROSKA", "ADTS", "AMR"
_DEMUXERS = {MP4: "mov", MATROSKA: "matroska", ADTS: "aac", AMR: "amr"}
"""FFmpeg's name of the demuxer of each container. None is guessed, since some open other files."""

_CODECS = (
    *("aac", "mp3", "mp3float", "opus", "libopus", "vorbis", "flac", "alac", "ac3", "eac3"),
    *("amrnb", "amrwb", "libopencore_amrnb", "libopencore_amrwb", "pcm_alaw", "pcm_mulaw", "pcm_u8"),
    *("pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le", "pcm_f32be"),
)
"""FFmpeg's names of the decoders that may run; those of video are not among them."""

_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"moof", b"styp"}
"""Boxes that an MP4 or QuickTime file begins with, and those that hold its sound."""

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # RFC 8794, RFC 9559
_HEAD = 16  # bytes that tell a container
_BLOCK = 65_536  # frames in a block, about


class MediaError(Exception):
    """Why a recording cannot be decoded, and what its owner can do; its name is not in it."""

    def __init__(self, reason: str, remedy: str = "convert it to WAV or FLAC") -> None:
        """Both are parts of a sentence."""
        super().__init__(reason)
        self.remedy = remedy


@dataclass(frozen=True)
class Media:
    """The sound track of a recording: the fields of its first frame, and its samples."""

    rate: int  # Hz
    channels: int
    codec: str  # FFmpeg's name in upper case: AAC, OPUS, AMRNB, ...
    blocks: Iterator[np.ndarray]
    """Float32 arrays of shape `(frames, channels)`; errors are those of `open_media`."""


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
    if head[4:8] in _BOXES:
        return MP4
    if head[:4] == _EBML:
        return MATROSKA
    if head[:5] == b"#!AMR":
        return AMR
    # 12 bits of synchronisation, one of the version, and a layer of 0, which no MP3 has
    return ADTS if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 else None


@contextmanager
def open_media(file: IO[bytes], container: str) -> Iterator[Media]:
    """Open the sound track of a recording; pictures beside it are skipped undecoded.

    Of several tracks it is the one marked as default, or the first.

    Args:
        file: that can seek.
        container: `container_of` it.

    Raises:
        MediaError: if PyAV is not installed, or the recording is damaged, holds no sound, or holds
            sound of another kind.
    """
    try:
        import av
    except ImportError:
        raise MediaError(f"{container} needs PyAV", "pip install av, or convert it to WAV or FLAC") from None
    options = {"codec_whitelist": ",".join(_CODECS)}
    try:
        opened = av.open(
            file, format=_DEMUXERS[container], container_options=options, metadata_errors="replace", io_open=_refuse
        )
    except av.FFmpegError as error:
        if _lacks_index(file, container):
            raise MediaError("the recorder broke off before it wrote the index", "record it again") from None
        raise MediaError(_words(error)) from None
    with opened:
        stream = _sound_track(opened)
        frames = _frames(opened, stream)
        first = next(frames, None)
        if first is None:
            raise MediaError("its sound track is empty")
        rate, channels = first.sample_rate, first.layout.nb_channels
        yield Media(rate, channels, stream.codec_context.name.upper(), _blocks(first, frames))


def _refuse(*request: object) -> None:
    raise PermissionError("a recording must not open other files")


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def _sound_track(opened: "InputContainer") -> "AudioStream":
    """The stream to decode; all others are left out while reading."""
    import av

    tracks = opened.streams.audio
    if not tracks:
        raise MediaError("it holds no sound track", "give one with sound")
    stream = next((track for track in tracks if av.stream.Disposition.default in track.disposition), tracks[0])
    codec = stream.codec_context
    if codec is None or codec.name not in _CODECS:
        raise MediaError(f"its sound is {codec.name if codec else 'of an unknown kind'}, which is not decoded")
    codec.thread_count = 1  # a clip is decoded in the thread that asks
    for other in opened.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all
    return stream


def _frames(opened: "InputContainer", stream: "AudioStream") -> Iterator["AudioFrame"]:
    """Decode the packets of a stream.

    A recording that broke off ends within a packet, which is left out. Any other packet that cannot
    be decoded is an error.
    """
    import av

    second, broken, decoded = 0.0, None, False
    packets = opened.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None or packet.is_corrupt:  # cut off by the end of the file
                break
            frames = packet.decode()
        except av.FFmpegError as error:
            if broken is not None:
                raise broken from None
            broken = MediaError(f"it is damaged at {second:.1f} s: {_words(error)}")
            continue
        if frames and broken is not None:
            raise broken
        decoded = decoded or bool(frames)
        yield from frames
        if packet.pts is not None and packet.time_base:
            second = max(0.0, float(packet.pts * packet.time_base))
    if broken is not None and not decoded:
        raise broken


def _blocks(first: "AudioFrame", frames: Iterator["AudioFrame"]) -> Iterator[np.ndarray]:
    """Join frames to blocks; a frame alone is too short for the filters to be fast."""
    kind = (first.sample_rate, first.layout.nb_channels)
    waiting, length = [_samples(first)], first.samples
    for frame in frames:
        if (frame.sample_rate, frame.layout.nb_channels) != kind:
            raise MediaError(
                f"it changes from {kind[0]} Hz and {kind[1]} channel(s) to {frame.sample_rate} Hz and "
                f"{frame.layout.nb_channels}"
            )
        waiting.append(_samples(frame))
        length += frame.samples
        if length >= _BLOCK:
            yield np.concatenate(waiting)
            waiting, length = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _samples(frame: "AudioFrame") -> np.ndarray:
    """The samples of a frame as float32 of shape `(frames, channels)`."""
    samples = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / (float(np.iinfo(samples.dtype).max) + 1)
    return samples.astype(np.float32, copy=False)


def _lacks_index(file: IO[bytes], container: str) -> bool:
    """Whether an MP4 is without its index, which most recorders write at the end."""
    return container == MP4 and b"moov" not in {name for name, _ in _top_boxes(file)}


def is_cut_off(file: IO[bytes]) -> bool:
    """Whether an MP4 or Matroska file ends before its own sizes say, as a broken download does.

    It is False for all other containers, and where a recorder wrote no size.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    container = container_of(file)
    if container == MP4:
        return max((end for _, end in _top_boxes(file)), default=0) > size
    if container == MATROSKA:
        return (_segment_end(file) or 0) > size
    return False


def _top_boxes(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Name and end of each box of an MP4 (ISO/IEC 14496-12, 4.2); the last one may lack its end."""
    place, size = 0, file.seek(0, io.SEEK_END)
    while place + 8 <= size:
        file.seek(place)
        head = file.read(_HEAD)
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # 64 bits behind the name
            length = int.from_bytes(head[8:16], "big")
        place = size if length == 0 else place + max(length, 8)  # 0: up to the end of the file
        yield head[4:8], place


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
