"""Anything that holds a recording becomes float32 mono at 16 kHz, or an AudioError.

libsndfile decodes, so no FFmpeg is needed. What it does not know, as phones and browsers record it,
goes to PyAV (`ser_hf.audio.pyav`).
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np
import soundfile

from ser_hf.audio import containers, pyav, unfinished
from ser_hf.audio.arrays import checked_rate, frames, unpacked
from ser_hf.audio.conditioning import Downmixer, without_offset
from ser_hf.audio.errors import MAX_CHANNELS, AudioError, TooLongError, check_rate
from ser_hf.audio.resampling import resample_blocks
from ser_hf.utils import zip_reader

SAMPLING_RATE = 16_000
MIN_SECONDS = 0.1
"""Shorter clips do not fill one frame stack of the mel front ends and crash the convolutional
ones."""

MAX_SECONDS = 2 * 3600
"""Longer recordings would not fit the memory of a small machine, and headers lie."""
_TOO_SHORT = 0.5  # seconds that a recording may lack at the end of a stretch: lists round

SUFFIXES: tuple[str, ...] = tuple(containers.ENDINGS)
"""Endings of what libsndfile or PyAV reads, in lower case."""

Source: TypeAlias = str | PathLike | bytes | IO[bytes] | np.ndarray | tuple[Any, Any] | dict[str, Any]
"""A path, the bytes of a file, an open file, an array or tensor, a pair of an array and its rate, a
dict with `array` or `raw` and `sampling_rate`, or one with `bytes` or `path`."""

_BLOCK = 65_536  # frames decoded at a time
_EMPTY = "is empty (0 bytes): record or download it again"
_UNKNOWN = 2**60  # frames that no recording has
_SEEKABLE = {"WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF"}
"""Formats in which libsndfile finds a frame exactly without what lies before it."""


@dataclass(frozen=True)
class Reader:
    """An open recording: the fields of its header, and its samples block by block."""

    name: str
    rate: int  # Hz
    channels: int
    container: str  # libsndfile's name: WAV, AIFF, FLAC, OGG, MP3, ...; or MP4, MATROSKA, ADTS, AMR
    subtype: str  # PCM_16, FLOAT, OPUS, ...
    decoded: Iterator[np.ndarray]
    unfinished: bool = False
    """Whether it broke off before its length was written (`ser_hf.audio.unfinished`)."""
    seconds: float | None = None
    """That the container counts; None where it counts none, or guesses."""
    file: soundfile.SoundFile | None = None
    """Where libsndfile decodes."""

    def check_length(self, longest: float | None = None) -> None:
        """Refuse a recording that is too long before anything of it is decoded.

        Raises:
            AudioError: if the container counts more than `longest` seconds, or than `MAX_SECONDS`.
        """
        _check_length(self.seconds, longest, self.name)
        _check_length(self.seconds, MAX_SECONDS, self.name)

    def skip_to(self, frame: int) -> int:
        """Go to a frame before anything is decoded, and return the frame that comes next.

        It is 0 for a format in which what lies before has to be decoded first.
        """
        if self.file is None or self.file.format not in _SEEKABLE or self.file.frames >= _UNKNOWN:
            return 0
        with _named_errors(self.name):
            return self.file.seek(min(frame, self.file.frames))

    def blocks(self) -> Iterator[np.ndarray]:
        """Decode to float32 arrays of shape `(frames, channels)`.

        Memory does not grow with the length that the header claims. `mono_16k` limits the length.

        Raises:
            AudioError: where decoding fails on the way.
        """
        while True:
            with _named_errors(self.name):
                block = next(self.decoded, None)
            if block is None:
                return
            yield block


@contextmanager
def open_recording(source: Source, name: str | None = None) -> Iterator[Reader]:
    """Open a recording to read it block by block.

    `source` is a path, bytes, an open file, or a dict with `bytes` or `path`. A file is read from
    its beginning. Errors call the recording by `name`, where it is given.

    Raises:
        AudioError: if it does not exist, is no audio, or claims a rate or channels that no
            recording has.
    """
    name = name or _name(source)
    with ExitStack() as stack:
        with _named_errors(name):
            openable = _openable(source, name)
            opened = stack.enter_context(open(openable, "rb")) if isinstance(openable, bytes) else openable
            opened.seek(0)
            _refuse_archive(opened, name)
            container = containers.container_of(opened)
            if container is None:
                completed = unfinished.completed(opened)
                file = stack.enter_context(soundfile.SoundFile(completed or openable))
                kind = (file.samplerate, file.channels, file.format, file.subtype)
                seconds = _counted_seconds(file, opened)
                reader = Reader(name, *kind, _decoded(file), completed is not None, seconds, file)
            else:
                media = stack.enter_context(pyav.open_media(opened, container))
                kind = (media.rate, media.channels, container, media.codec)
                reader = Reader(name, *kind, media.blocks, seconds=media.seconds)
        check_rate(reader.rate, name)
        if reader.channels > MAX_CHANNELS:
            raise AudioError(f"{name} claims {reader.channels} channels: at most {MAX_CHANNELS} can be read")
        yield reader


def _counted_seconds(file: soundfile.SoundFile, opened: IO[bytes]) -> float | None:
    """The length in the header; libsndfile's own for a piped FLAC is 2^63, and a guess for MP3."""
    if file.frames >= _UNKNOWN or (file.format == "MP3" and not containers.counts_frames(opened)):
        return None
    return file.frames / file.samplerate


def _decoded(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        yield block


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a recording in seconds, up to its end where `end` is None."""

    start: float = 0.0
    end: float | None = None

    def cut(
        self, blocks: Iterable[np.ndarray], rate: int, name: str = "the recording", at: int = 0
    ) -> Iterator[np.ndarray]:
        """Pass the part of blocks `(frames, channels)` on. What lies behind it is not decoded.

        The first block begins with the frame `at`.

        Raises:
            AudioError: where the recording ends before the stretch, or over 0.5 s before its end.
        """
        first = round(self.start * rate)
        last = None if self.end is None else round(self.end * rate)
        frames = at
        for block in blocks:
            part = block[max(first - frames, 0) : None if last is None else max(last - frames, 0)]
            frames += len(block)
            if len(part):
                yield part
            if last is not None and frames >= last:
                return
        if frames <= first or (last is not None and frames < last - _TOO_SHORT * rate):
            raise AudioError(
                f"{name} is {frames / rate:.3f} s long, and has no stretch from {self}: check the seconds of the list"
            )

    def __str__(self) -> str:
        return f"{self.start:.3f} s to {'its end' if self.end is None else f'{self.end:.3f} s'}"


def load(
    source: Source, sampling_rate: int = SAMPLING_RATE, name: str | None = None, stretch: Stretch | None = None
) -> np.ndarray:
    """Decode a recording to float32 mono at 16 kHz.

    Args:
        source: a path, the bytes of a file, an open binary file, an array
            (`ser_hf.audio.arrays.frames`), a pair of an array and its rate, a dict with `array` or
            `raw` and `sampling_rate`, or a dict with `bytes` or `path`.
        sampling_rate: the rate of a bare array, in Hz.
        name: what errors call it; its path where None.
        stretch: of the recording to load; all of it where None.

    Returns:
        An array of shape `(samples,)`: channels averaged, without a constant offset
        (`ser_hf.audio.conditioning`).

    Raises:
        AudioError: if it does not exist, cannot be decoded, is shorter than 0.1 s or longer than 2
            hours, or holds NaN or infinity.

    >>> load(np.zeros((48_000, 2), dtype=np.float32), sampling_rate=48_000).shape
    (16000,)
    """
    return concatenate(stream(source, sampling_rate, name, stretch))


def stream(
    source: Source,
    sampling_rate: int = SAMPLING_RATE,
    name: str | None = None,
    stretch: Stretch | None = None,
    longest: float | None = None,
    on_open: Callable[[Reader], None] | None = None,
) -> Iterator[np.ndarray]:
    """Decode a recording as `load` does, but block by block, in memory that does not grow.

    Arguments but the last two are those of `load`.

    Args:
        longest: seconds beyond which a recording is refused; before it is decoded, where its
            container counts them.
        on_open: called with the open recording before it is decoded; not for an array.

    Yields:
        What joined is the array that `load` gives.

    Raises:
        AudioError: as `load`; only at the end for a recording that is too short.
    """
    name = name or _name(source)
    yield from _limited(_stream(source, sampling_rate, name, stretch, longest, on_open), longest, name)


def _stream(
    source: Source,
    sampling_rate: int,
    name: str,
    stretch: Stretch | None,
    longest: float | None,
    on_open: Callable[[Reader], None] | None,
) -> Iterator[np.ndarray]:
    array = unpacked(source, sampling_rate)
    if array is None:
        with open_recording(source, name) as reader:
            if on_open is not None:
                on_open(reader)
            if stretch is None:
                reader.check_length(longest)
                blocks = reader.blocks()
            else:
                at = reader.skip_to(round(stretch.start * reader.rate))
                blocks = stretch.cut(reader.blocks(), reader.rate, name, at)
            yield from mono_16k(blocks, reader.rate, name)
        return
    samples, rate = array[0], checked_rate(array[1], name)
    blocks = _parts(frames(samples, name, rate))
    yield from mono_16k(stretch.cut(blocks, rate, name) if stretch else blocks, rate, name)


def mono_16k(
    blocks: Iterable[np.ndarray], rate: int, name: str = "the recording", downmixer: Downmixer | None = None
) -> Iterator[np.ndarray]:
    """Make blocks `(frames, channels)` one channel `(samples,)` at 16 kHz, without an offset.

    The order matters: channels are averaged (`Downmixer`), a constant offset is taken away
    (`without_offset`), then the samples are resampled, so that no edge of an offset rings.

    Args:
        blocks: of the recording, float32, at its own rate.
        rate: in Hz.
        name: what errors call the recording.
        downmixer: for a caller that asks it afterwards what it found.

    Raises:
        AudioError: if they are less than 0.1 s in all, longer than `MAX_SECONDS`, or hold NaN or
            infinity.
    """
    length = 0
    mixer = downmixer or Downmixer(rate)

    def averaged() -> Iterator[np.ndarray]:
        nonlocal length
        for block in blocks:
            length += len(block)
            _check_length(length / rate, MAX_SECONDS, name)
            check_finite(block, name)
            yield mixer.feed(block)
        yield mixer.finish()

    yield from resample_blocks(without_offset(averaged(), rate), rate)
    if length < MIN_SECONDS * rate:
        raise AudioError(f"{name} is {length / rate:.3f} s long: at least {MIN_SECONDS} s is needed")


def check_finite(samples: np.ndarray, name: str) -> None:
    """Raise an AudioError for samples that hold NaN or infinity."""
    if not np.isfinite(samples).all():
        raise AudioError(f"{name} holds NaN or infinite samples: write it again as 16-bit WAV or FLAC")


def _parts(samples: np.ndarray) -> Iterator[np.ndarray]:
    """An array in blocks, so that what is made of it on the way stays small."""
    for start in range(0, len(samples), _BLOCK):
        yield samples[start : start + _BLOCK]


def duration(samples: np.ndarray) -> float:
    """Return the seconds of 16 kHz samples, rounded to the millisecond."""
    return round(len(samples) / SAMPLING_RATE, 3)


SILENT = -60.0
"""Level in dB below which a recording counts as silent."""


def level(samples: np.ndarray) -> float:
    """Return the level of the loudest 25 ms in dB relative to full scale.

    `samples` are at 16 kHz, of shape `(samples,)`; at least 25 ms.
    """
    size = SAMPLING_RATE // 40
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    return round(10 * float(np.log10(np.mean(frames**2, axis=1).max() + 1e-12)), 1)


def to_pcm(samples: np.ndarray) -> np.ndarray:
    """Return the nearest 16-bit samples, shape `(samples,)`; beyond full scale they are clipped."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2")


def to_flac(pcm: np.ndarray) -> bytes:
    """Encode 16-bit samples of shape `(samples,)` as FLAC at 16 kHz.

    Decoding gives exactly `pcm / 32768`.
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _limited(blocks: Iterator[np.ndarray], longest: float | None, name: str) -> Iterator[np.ndarray]:
    """Pass blocks at 16 kHz on, as long as they are not too long together; headers lie."""
    length = 0
    for block in blocks:
        length += len(block)
        _check_length(length / SAMPLING_RATE, longest, name)
        yield block


def _check_length(seconds: float | None, longest: float | None, name: str) -> None:
    if seconds is not None and longest is not None and seconds > longest:
        raise _too_long(longest, name)


def _too_long(longest: float, name: str) -> TooLongError:
    words = f"{longest / 3600:g} hours" if longest >= 7200 else f"{longest:g} s"
    return TooLongError(f"{name} is longer than {words}: cut it into parts")


def concatenate(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Concatenate arrays of shape `(samples,)`, of which there may be none."""
    parts = list(parts)
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype=np.float32), *parts])


def _name(source: Source) -> str:
    if isinstance(source, dict):
        return repr(source["path"]) if source.get("path") else "the recording"
    return repr(str(source)) if isinstance(source, str | PathLike) else "the recording"


def _openable(source: Source, name: str) -> bytes | IO[bytes]:
    """What soundfile can open; a path must be a file with something in it."""
    if isinstance(source, dict):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, bytes | bytearray | memoryview):
        if not source:
            raise AudioError(f"{name} {_EMPTY}")
        return io.BytesIO(source)
    if isinstance(source, str | PathLike):
        source = os.path.expanduser(source)
        if os.path.isdir(source):
            raise AudioError(f"{name} is a folder, not a file: name the recordings in it")
        if not Path(source).is_file():
            raise AudioError(f"{name} is not a file: check the path")
        if Path(source).stat().st_size == 0:
            raise AudioError(f"{name} {_EMPTY}")
        return os.fsencode(source)  # soundfile takes no name that is not UTF-8, unless it is bytes
    if not hasattr(source, "read"):
        raise AudioError(f"{type(source).__name__} is not a recording: give a path, bytes, an open file or an array")
    return cast(IO[bytes], source)


def _refuse_archive(file: IO[bytes], name: str) -> None:
    head = file.read(4)
    file.seek(0)
    if head in zip_reader.SIGNATURES:
        raise AudioError(f"{name} is a zip file: unpack it, or send it as a batch")


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Raise the errors of what decodes as an AudioError that names the recording."""
    try:
        yield
    except pyav.MediaError as error:
        raise AudioError(f"{name} is not audio that can be read ({error}): {error.remedy}") from None
    except OSError as error:  # no permission, a name that is too long, a disk that fails, a pipe
        raise AudioError(
            f"{name} cannot be read ({error.strerror or error}): check the path, and that the file can seek"
        ) from None
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise AudioError(f"{name} is not audio that can be read ({reason}): convert it to WAV or FLAC") from None
