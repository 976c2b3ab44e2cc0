"""Arrays of every kind as float32 frames, or an AudioError that names shape, dtype and rate."""

from numbers import Real
from typing import Any

import numpy as np

from ser_hf.audio.errors import MAX_CHANNELS, AudioError, check_rate
from ser_hf.errors import first_line

LOUDEST = 100.0
"""Times full scale beyond which float samples are integers that nobody divided."""

_FASTEST = 1e9  # what NaN, infinity and integers beyond a float are not below


def is_array(source: object) -> bool:
    """Whether a source is an array or a tensor, of whatever library, and no bytes or file."""
    return isinstance(source, np.ndarray) or (hasattr(source, "__array__") and hasattr(source, "shape"))


def unpacked(source: object, sampling_rate: object) -> tuple[Any, object] | None:
    """The array and the rate of a source, unchecked; None for a source that holds no array.

    Args:
        source: an array or tensor; `{"array": …}` or `{"raw": …}`, with `sampling_rate`; or a pair
            of both in either order, as Gradio and soundfile give it.
        sampling_rate: the rate of a source without one.
    """
    if isinstance(source, dict):
        for key in ("array", "raw"):  # of datasets, and of stock pipeline
            if source.get(key) is not None:
                return source[key], source.get("sampling_rate", sampling_rate)
        return None
    if isinstance(source, tuple) and len(source) == 2:
        # a number of NumPy, which a rate may be, is an array of no dimension
        held = [(is_array(part) and len(part.shape) > 0) or isinstance(part, list) for part in source]
        if any(held):
            return source[::-1] if held[1] else source
    return (source, sampling_rate) if is_array(source) else None


def checked_rate(rate: Any, name: str) -> int:
    """Return a rate in Hz as an integer.

    Raises:
        AudioError: for what is no whole number, or a rate that no recording has.
    """
    number = isinstance(rate, Real | np.integer | np.floating) and not isinstance(rate, bool | np.bool_)
    if not number or not abs(rate) < _FASTEST or rate != int(rate):
        raise AudioError(f"{name} has the sampling rate {rate!r:.40}: give a whole number of samples a second")
    check_rate(int(rate), name)
    return int(rate)


def frames(samples: Any, name: str = "the recording", rate: object = None) -> np.ndarray:
    """Return float32 frames of shape `(frames, channels)` of an array of any type.

    Unsigned integers are centred. An array whose first axis holds up to 32 and whose second holds
    more is `(channels, samples)`.

    Args:
        samples: float with full scale 1, or 8-, 16- or 32-bit integers; an array or a tensor on any
            device, of shape `(samples,)`, `(samples, channels)` or `(channels, samples)`.
        name: what errors call it.
        rate: for errors.

    Raises:
        AudioError: for another shape or type, NaN or infinity, or floats beyond `LOUDEST`.
    """
    array = _numpy(samples, name)
    described = f"{name} (shape {array.shape}, {array.dtype}{f', {rate} Hz' if rate is not None else ''})"
    if array.ndim not in (1, 2):
        raise AudioError(f"{described} is no recording: (samples,) or (samples, channels) can be read")
    if array.ndim == 2 and array.shape[0] <= MAX_CHANNELS < array.shape[1]:
        array = array.T
    if array.ndim == 2 and not 1 <= array.shape[1] <= MAX_CHANNELS:
        raise AudioError(f"{described} has {array.shape[1]} channels: 1 to {MAX_CHANNELS} can be read")
    array = _scaled(array, described)
    if not np.isfinite(array).all():
        raise AudioError(f"{described} holds NaN or infinite samples: replace them, or read the recording again")
    if array.size and (peak := max(array.max(), -array.min())) > LOUDEST:
        raise AudioError(f"{described} reaches {peak:.0f}, where full scale is 1: divide 16-bit samples by 32768")
    return array[:, None] if array.ndim == 1 else array


def _numpy(samples: Any, name: str) -> np.ndarray:
    if np.ma.is_masked(samples):
        raise AudioError(f"{name} has masked samples: fill them, or cut them out")
    try:
        if hasattr(samples, "detach"):  # a tensor of torch: on a GPU, with gradients, in bfloat16
            samples = samples.detach().cpu()
            samples = samples.float() if samples.is_floating_point() else samples
        return np.asarray(samples)
    except ValueError:
        raise AudioError(f"{name} is ragged: all its channels must be of one length") from None
    except (TypeError, RuntimeError, NotImplementedError) as error:  # CuPy; sparse, quantised and meta tensors
        raise AudioError(
            f"{name} is a {type(samples).__name__} that gives no array ({first_line(error)[:120]}): "
            "give a dense NumPy array"
        ) from None


def _scaled(array: np.ndarray, described: str) -> np.ndarray:
    """Float32 of full scale 1, of the byte order of this machine."""
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    if kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite, which the caller refuses
            return array.astype(np.float32, copy=False)
    if kind not in "iu" or bits > 32:  # 64 bits: nobody can say what full scale is
        raise AudioError(f"{described} is no sound: give float samples, or integers of 8, 16 or 32 bits")
    half = 2.0 ** (bits - 1)
    return ((array.astype(np.float64) - (half if kind == "u" else 0)) / half).astype(np.float32)
