"""The one audio door: anything that holds a recording becomes float32 mono at 16 kHz, or an AudioError.

libsndfile decodes, so no FFmpeg is needed. Resampling uses the filter of `torchaudio.functional.resample` with its
defaults, which is what `transformers.pipeline` uses: both give the same answer for the same recording. torchaudio
builds its kernel for every phase over every input sample, 390 MB and seconds a clip at the 24,414 Hz of TESS; here only
the taps that are not zero are computed.
"""

import io
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import soundfile

from ser_hf.errors import UserError

if TYPE_CHECKING:
    from scipy import sparse  # imported where it is used, which is rarely

SAMPLING_RATE = 16_000
MIN_SECONDS = 0.1
"""Shorter clips do not fill one frame stack of the mel front ends and crash the convolutional ones."""

MAX_SECONDS = 2 * 3600
"""Longer recordings would not fit the memory of a small machine, and headers lie."""
MAX_CHANNELS = 32
MIN_RATE, MAX_RATE = 1_000, 384_000

SUFFIXES: tuple[str, ...] = (
    *(".wav", ".flac", ".opus", ".ogg", ".oga", ".mp3"),
    *(".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"),
)
"""Endings of what libsndfile reads, in lower case."""

Source = str | PathLike | bytes | IO[bytes] | np.ndarray | dict[str, Any]
"""A path, the bytes of a file, an open file, an array, a dict with `array` and `sampling_rate`, `bytes` or `path`."""

_ZEROS = 6  # zero crossings on each side of the filter, and its roll-off: the defaults of torchaudio
_ROLLOFF = 0.99
_BLOCK = 65_536  # frames decoded at a time
_DENSE = 400_000  # elements of the largest filter matrix that is not kept sparse


class AudioError(UserError):
    """Not a recording that can be used; the message names it and says why."""


@dataclass(frozen=True)
class Reader:
    """An open recording: what its header says, and its samples block by block."""

    name: str
    rate: int  # Hz
    channels: int
    container: str  # libsndfile's name: WAV, AIFF, FLAC, OGG, MPEG, ...
    subtype: str  # PCM_16, FLOAT, OPUS, ...
    file: soundfile.SoundFile

    def blocks(self) -> Iterator[np.ndarray]:
        """Decode to float32 arrays of shape `(frames, channels)`; memory does not grow with what the header claims.

        Raises:
            AudioError: where decoding fails on the way, or the recording is longer than `MAX_SECONDS`.
        """
        frames = 0
        while True:
            with _said(self.name):
                block = self.file.read(_BLOCK, dtype="float32", always_2d=True)
            if len(block) == 0:
                return
            frames += len(block)
            if frames > MAX_SECONDS * self.rate:
                raise AudioError(f"{self.name} is longer than {MAX_SECONDS // 3600} hours: cut it into parts")
            yield block


@contextmanager
def reading(source: Source, name: str | None = None) -> Iterator[Reader]:
    """Open a recording (a path, bytes, an open file, or a dict with `bytes` or `path`) to read it block by block.

    Errors call it by `name`, where it is given.

    Raises:
        AudioError: if it does not exist, is no audio, or claims a rate or channels that no recording has.
    """
    name = name or _name(source)
    opened = _opened(source, name)
    with _said(name):
        file = soundfile.SoundFile(opened)
    with file:
        _check_rate(file.samplerate, name)
        if file.channels > MAX_CHANNELS:
            raise AudioError(f"{name} claims {file.channels} channels: at most {MAX_CHANNELS} can be read")
        yield Reader(name, file.samplerate, file.channels, file.format, file.subtype, file)


def load(source: Source, sampling_rate: int = SAMPLING_RATE, name: str | None = None) -> np.ndarray:
    """Decode a recording to float32 mono at 16 kHz.

    Args:
        source: a path, the bytes of a file, an open binary file, an array of shape `(samples,)` or
            `(samples, channels)`, or a dict with `array` and `sampling_rate`, or `bytes`, or `path`.
        sampling_rate: the rate of a bare array, in Hz.
        name: what errors call it; its path where None.

    Returns:
        An array of shape `(samples,)`; channels are averaged.

    Raises:
        AudioError: if it does not exist, cannot be decoded, is shorter than 0.1 s or longer than 2 hours, or holds NaN
            or infinity.

    >>> load(np.zeros((48_000, 2), dtype=np.float32), sampling_rate=48_000).shape
    (16000,)
    """
    name = name or _name(source)
    if isinstance(source, dict) and source.get("array") is not None:
        samples, rate = np.asarray(source["array"]), source.get("sampling_rate", sampling_rate)
    elif isinstance(source, np.ndarray):
        samples, rate = source, sampling_rate
    else:
        with reading(source, name) as reader:
            return to_mono_16k(reader.blocks(), reader.rate, name)
    _check_rate(rate, name)
    if np.issubdtype(samples.dtype, np.integer):  # int16 or int32 samples, as recorders hand them over
        samples = samples / float(np.iinfo(samples.dtype).max + 1)
    if samples.ndim not in (1, 2):
        raise AudioError(f"{name} has the shape {samples.shape}: (samples,) or (samples, channels) can be read")
    samples = samples.astype(np.float32, copy=False)
    return to_mono_16k([samples[:, None] if samples.ndim == 1 else samples], int(rate), name)


def to_mono_16k(blocks: Iterable[np.ndarray], rate: int, name: str = "the recording") -> np.ndarray:
    """Average the channels of float32 blocks of shape `(frames, channels)` and resample: shape `(samples,)` at 16 kHz.

    Raises:
        AudioError: if they are less than 0.1 s in all, or hold NaN or infinity.
    """
    frames = 0

    def mono() -> Iterator[np.ndarray]:
        nonlocal frames
        for block in blocks:
            frames += len(block)
            averaged = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
            if not np.isfinite(averaged).all():
                raise AudioError(f"{name} holds NaN or infinite samples: write it again as 16-bit WAV or FLAC")
            yield averaged

    samples = _joined(resample_blocks(mono(), rate))
    if frames < MIN_SECONDS * rate:
        raise AudioError(f"{name} is {frames / rate:.3f} s long: at least {MIN_SECONDS} s is needed")
    return samples


def duration(samples: np.ndarray) -> float:
    """Seconds of 16 kHz samples, rounded to the millisecond."""
    return round(len(samples) / SAMPLING_RATE, 3)


def to_pcm(samples: np.ndarray) -> np.ndarray:
    """The nearest 16-bit samples, shape `(samples,)`; what lies beyond full scale is clipped."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2")


def to_flac(pcm: np.ndarray) -> bytes:
    """FLAC at 16 kHz of 16-bit samples of shape `(samples,)`; decoding gives exactly `pcm / 32768`."""
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def resample(samples: np.ndarray, rate: int, new_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Windowed-sinc resampling of shape `(samples,)`, equal to `torchaudio.functional.resample` with its defaults.

    Smith, "Digital audio resampling", https://ccrma.stanford.edu/~jos/resample/; Hann window, 6 zero crossings,
    roll-off 0.99. Output length is `ceil(samples * new_rate / rate)`.
    """
    return _joined(resample_blocks([samples], rate, new_rate))


def resample_blocks(blocks: Iterable[np.ndarray], rate: int, new_rate: int = SAMPLING_RATE) -> Iterator[np.ndarray]:
    """`resample` for a recording that comes in parts: the outputs joined are those of the parts joined."""
    if rate == new_rate:
        yield from (block.astype(np.float32, copy=False) for block in blocks)
        return
    divisor = math.gcd(rate, new_rate)
    old, new = rate // divisor, new_rate // divisor
    taps = _filter_bank(old, new)[1].shape[1]
    period = max(1, 64 // new) * new  # outputs a step; a multiple of new, so that every step starts at phase 0
    waiting = np.zeros(taps, dtype=np.float32)  # silence before the recording
    received = produced = 0
    for block in blocks:
        waiting = np.concatenate([waiting, block.astype(np.float32, copy=False)])
        received += len(block)
        steps = (len(waiting) - 2 * taps) * new // old // period
        if steps > 0:
            yield _filtered(waiting, old, new, steps * period)
            waiting = waiting[steps * period // new * old :]
            produced += steps * period
    left = math.ceil(received * new_rate / rate) - produced
    if left <= 0:  # nothing came
        return
    steps = math.ceil(left / period)
    waiting = np.pad(waiting, (0, steps * period // new * old + 2 * taps))  # and after it
    yield _filtered(waiting, old, new, steps * period)[:left]


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    parts = list(parts)
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype=np.float32), *parts])


def _filtered(padded: np.ndarray, old: int, new: int, length: int) -> np.ndarray:
    """`length` outputs from phase 0 on, some multiple of a period; the input at that phase stands at `padded[taps]`."""
    starts, taps = _filter_bank(old, new)
    matrix = _filter_matrix(old, new)
    inputs, outputs = matrix.shape
    step, first = outputs // new * old, int(starts[0]) + taps.shape[1]
    rows = np.lib.stride_tricks.sliding_window_view(padded, inputs)
    return (rows[first : first + length // outputs * step : step] @ matrix).reshape(-1)


@lru_cache(maxsize=8)
def _filter_bank(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of the `new` phases: where its taps start (relative to the block) and the taps, shape `(new, taps)`."""
    base = min(old, new) * _ROLLOFF
    width = math.ceil(_ZEROS * old / base)
    position = np.arange(new) * old / new
    starts = np.floor(position).astype(np.int64) - width
    offsets = starts[:, None] + np.arange(2 * width + 2)
    time = np.clip((offsets - position[:, None]) / old * base, -_ZEROS, _ZEROS)
    taps = np.sinc(time) * np.cos(time * np.pi / _ZEROS / 2) ** 2 * base / old
    return starts, taps.astype(np.float32)


@lru_cache(maxsize=8)
def _filter_matrix(old: int, new: int) -> "np.ndarray | sparse.csc_array":
    """What a row of inputs is multiplied with to give one or several periods of outputs, shape `(inputs, outputs)`.

    Each output has its taps in its column; where periods are long, as from 24,414 Hz, hardly anything else is in it.
    """
    starts, taps = _filter_bank(old, new)
    outputs = max(1, 64 // new) * new
    output = np.arange(outputs)
    first = output // new * old + starts[output % new] - starts[0]
    rows = first[:, None] + np.arange(taps.shape[1])
    shape = (int(rows.max()) + 1, outputs)
    if shape[0] * shape[1] > _DENSE:
        from scipy import sparse

        ends = np.arange(0, rows.size + 1, taps.shape[1])
        return sparse.csc_array((taps[output % new].ravel(), rows.ravel(), ends), shape=shape)
    matrix = np.zeros(shape, dtype=np.float32)
    matrix[rows, output[:, None]] = taps[output % new]
    return matrix


def _name(source: Source) -> str:
    if isinstance(source, dict):
        return repr(source["path"]) if source.get("path") else "the recording"
    return repr(str(source)) if isinstance(source, str | PathLike) else "the recording"


def _opened(source: Source, name: str) -> bytes | IO[bytes]:
    """What soundfile can open; a path must be a file with something in it."""
    if isinstance(source, dict):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, str | PathLike):
        if not Path(source).is_file():
            raise AudioError(f"{name} is not a file: check the path")
        if Path(source).stat().st_size == 0:
            raise AudioError(f"{name} is empty (0 bytes): record or download it again")
        return os.fsencode(source)  # soundfile takes no name that is not UTF-8, unless it is bytes
    if source is None or not hasattr(source, "read"):
        raise AudioError(f"{type(source).__name__} is not a recording: give a path, bytes, an open file or an array")
    return source


@contextmanager
def _said(name: str) -> Iterator[None]:
    """What libsndfile says of a file, in one line that names it."""
    try:
        yield
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise AudioError(f"{name} is not audio that can be read ({reason}): convert it to WAV or FLAC") from None


def _check_rate(rate: int, name: str) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"{name} claims {rate} samples a second: {MIN_RATE:,} to {MAX_RATE:,} can be read")
