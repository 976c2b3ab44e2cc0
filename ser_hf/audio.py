"""The one audio door: anything that holds a recording becomes float32 mono at 16 kHz, or an AudioError.

libsndfile decodes, so no FFmpeg is needed. Resampling uses the filter of `torchaudio.functional.resample` with its
defaults, which is what `transformers.pipeline` uses: both give the same answer for the same recording. torchaudio
builds its kernel for every phase over every input sample, 390 MB and seconds a clip at the 24,414 Hz of TESS; here only
the taps that are not zero are computed.
"""

import io
import math
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile

from ser_hf.errors import UserError

SAMPLING_RATE = 16_000
MIN_SECONDS = 0.1
"""Shorter clips do not fill one frame stack of the mel front ends and crash the convolutional ones."""

SUFFIXES: tuple[str, ...] = (".wav", ".flac", ".opus", ".ogg", ".mp3")

Source = str | PathLike | bytes | IO[bytes] | np.ndarray | dict[str, Any]
"""A path, the bytes of a file, an open file, an array, a dict with `array` and `sampling_rate`, `bytes` or `path`."""

_ZEROS = 6  # zero crossings on each side of the filter, and its roll-off: the defaults of torchaudio
_ROLLOFF = 0.99
_CHUNK = 8192  # outputs at a time, so that memory does not grow with the recording


class AudioError(UserError):
    """Not a recording that can be used; the message names it and says why."""


def load(source: Source, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Decode a recording to float32 mono at 16 kHz.

    Args:
        source: a path, the bytes of a file, an open binary file, an array of shape `(samples,)` or
            `(samples, channels)`, or a dict with `array` and `sampling_rate`, or `bytes`, or `path`.
        sampling_rate: the rate of a bare array, in Hz.

    Returns:
        An array of shape `(samples,)`; channels are averaged.

    Raises:
        AudioError: if it does not exist, cannot be decoded, is shorter than 0.1 s, or holds NaN or infinity.

    >>> load(np.zeros((48_000, 2), dtype=np.float32), sampling_rate=48_000).shape
    (16000,)
    """
    name = _name(source)
    if isinstance(source, dict) and source.get("array") is not None:
        samples, rate = np.asarray(source["array"]), source.get("sampling_rate", sampling_rate)
    elif isinstance(source, np.ndarray):
        samples, rate = source, sampling_rate
    else:
        samples, rate = _decode(source, name)
    return _prepare(samples, rate, name)


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
    if rate == new_rate:
        return samples
    divisor = math.gcd(rate, new_rate)
    old, new = rate // divisor, new_rate // divisor
    starts, taps = _filter_bank(old, new)
    length = math.ceil(len(samples) * new_rate / rate)
    pad = taps.shape[1]
    padded = np.pad(samples.astype(np.float32, copy=False), (pad, pad + old))
    windows = np.lib.stride_tricks.sliding_window_view(padded, pad)
    output = np.empty(length, dtype=np.float32)
    for begin in range(0, length, _CHUNK):
        block, phase = np.divmod(np.arange(begin, min(begin + _CHUNK, length)), new)
        # each output is the product of one row of taps with the samples around it
        np.einsum(
            "nk,nk->n", windows[block * old + starts[phase] + pad], taps[phase], out=output[begin : begin + _CHUNK]
        )
    return output


@lru_cache(maxsize=16)
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


def _name(source: Source) -> str:
    if isinstance(source, dict):
        return repr(source["path"]) if source.get("path") else "the recording"
    return repr(str(source)) if isinstance(source, str | PathLike) else "the recording"


def _decode(source: Source, name: str) -> tuple[np.ndarray, int]:
    if isinstance(source, dict):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    elif isinstance(source, str | PathLike):
        if not Path(source).is_file():
            raise AudioError(f"{name} is not a file: check the path")
        if Path(source).stat().st_size == 0:
            raise AudioError(f"{name} is empty (0 bytes): record or download it again")
    elif source is None or not hasattr(source, "read"):
        raise AudioError(f"{type(source).__name__} is not a recording: give a path, bytes, an open file or an array")
    try:
        return soundfile.read(source, dtype="float32")
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless .raw
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise AudioError(f"{name} is not audio that can be read ({reason}): convert it to WAV or FLAC") from None


def _prepare(samples: np.ndarray, rate: int, name: str) -> np.ndarray:
    if not 1_000 <= rate <= 768_000:
        raise AudioError(f"{name} claims {rate} samples a second: 1,000 to 768,000 can be read")
    if np.issubdtype(samples.dtype, np.integer):  # int16 or int32 samples, as recorders hand them over
        samples = samples / float(np.iinfo(samples.dtype).max + 1)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if samples.ndim != 1:
        raise AudioError(f"{name} has the shape {samples.shape}: (samples,) or (samples, channels) can be read")
    if len(samples) < MIN_SECONDS * rate:
        raise AudioError(f"{name} is {len(samples) / rate:.3f} s long: at least {MIN_SECONDS} s is needed")
    samples = samples.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise AudioError(f"{name} holds NaN or infinite samples: write it again as 16-bit WAV or FLAC")
    return resample(samples, int(rate))
