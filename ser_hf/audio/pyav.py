"""What phones and browsers record: MP4, WebM, ADTS and AMR, by PyAV where it is installed.

PyAV's wheels hold FFmpeg's libraries, so no FFmpeg is needed on the machine. Only the containers
and codecs that are named here are opened, and no file but the recording itself. FFmpeg therefore
gets no playlists, addresses or pictures.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import IO, TYPE_CHECKING

import numpy as np

from ser_hf.audio.containers import ADTS, AMR, MATROSKA, MAX_PACKETS, MP4, claimed_packets, counted_seconds, lacks_index

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

_DEMUXERS = {MP4: "mov", MATROSKA: "matroska", ADTS: "aac", AMR: "amr"}
"""FFmpeg's name of the demuxer of each container. None is guessed, since some open other files."""

_CODECS = (
    *("aac", "mp3", "mp3float", "opus", "libopus", "vorbis", "flac", "alac", "ac3", "eac3"),
    *("amrnb", "amrwb", "libopencore_amrnb", "libopencore_amrwb", "pcm_alaw", "pcm_mulaw", "pcm_u8"),
    *("pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le", "pcm_f32be"),
)
"""FFmpeg's names of the decoders that may run; those of video are not among them."""

_BLOCK = 65_536  # frames in a block, about
_SHORT = 16  # samples of a packet; no codec packs fewer, and each packet takes 40 microseconds


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

    seconds: float | None
    """That the container counts; None where it counts none."""


@contextmanager
def open_media(file: IO[bytes], container: str) -> Iterator[Media]:
    """Open the sound track of a recording; pictures beside it are skipped undecoded.

    Of several tracks it is the one marked as default, or the first.

    Args:
        file: that can seek.
        container: `ser_hf.audio.containers.container_of` it.

    Raises:
        MediaError: if PyAV is not installed, or the recording is damaged, holds no sound, or holds
            sound of another kind.
    """
    try:
        import av
    except ImportError:
        raise MediaError(f"{container} needs PyAV", "pip install av, or convert it to WAV or FLAC") from None
    if container == MP4 and claimed_packets(file) > MAX_PACKETS:
        raise MediaError(f"it claims more than {MAX_PACKETS:,} packets")
    counted = counted_seconds(file, container)
    file.seek(0)
    options = {"codec_whitelist": ",".join(_CODECS)}
    try:
        opened = av.open(
            file, format=_DEMUXERS[container], container_options=options, metadata_errors="replace", io_open=_refuse
        )
    except av.FFmpegError as error:
        if container == MP4 and lacks_index(file):
            raise MediaError("the recorder broke off before it wrote the index", "record it again") from None
        raise MediaError(_words(error)) from None
    with opened:
        stream = _sound_track(opened)
        frames = _frames(opened, stream)
        first = next(frames, None)
        if first is None:
            raise MediaError("its sound track is empty")
        rate, channels = first.sample_rate, first.layout.nb_channels
        # The durations of an MP4 may lie, its table of packets is what is decoded. Uncompressed
        # sound is packed anew.
        packed = container == MP4 and not stream.codec_context.name.startswith("pcm")
        seconds = stream.frames * first.samples / rate if packed else counted
        yield Media(rate, channels, stream.codec_context.name.upper(), _blocks(first, frames), seconds)


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

    second, broken, decoded = 0.0, None, 0
    packets = opened.demux(stream)
    for number in count():
        if number > 1_000 + decoded // _SHORT:
            raise MediaError(f"{number:,} packets hold {decoded:,} samples")
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
        decoded += sum(frame.samples for frame in frames)
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
