"""Arrays of every kind are read rightly, or refused in words."""

import numpy as np
import pytest
import torch

from ser_hf import audio
from ser_hf.audio.arrays import frames

RATE = 16_000


def tone():
    samples = (0.3 * np.sin(np.arange(RATE) / 9)).astype(np.float32)
    return samples - samples.mean()


READ = {
    "uint8": (lambda x: np.rint(x * 127 + 128).astype(np.uint8), 8e-3),
    "int8": (lambda x: np.rint(x * 127).astype(np.int8), 8e-3),
    "uint16": (lambda x: np.rint(x * 32767 + 32768).astype(np.uint16), 1e-4),
    "int16": (lambda x: np.rint(x * 32767).astype(np.int16), 1e-4),
    "big-endian int16": (lambda x: np.rint(x * 32767).astype(">i2"), 1e-4),
    "int32": (lambda x: (x * 2.0**31).astype(np.int32), 1e-6),
    "uint32": (lambda x: (x * 2.0**31 + 2.0**31).astype(np.uint32), 1e-6),
    "float16": (lambda x: x.astype(np.float16), 5e-4),
    "float64": (lambda x: x.astype(np.float64), 0),
    "big-endian float": (lambda x: x.astype(">f4"), 0),
    "channels first": (lambda x: np.stack([x, x]), 0),
    "channels last": (lambda x: np.stack([x, x], axis=1), 0),
    "one channel first": (lambda x: x[None], 0),
    "strided": (lambda x: np.repeat(x, 2)[::2], 0),
    "tensor": (torch.from_numpy, 0),
    "tensor with gradients": (lambda x: torch.from_numpy(x).requires_grad_(), 0),
    "tensor in bfloat16": (lambda x: torch.from_numpy(x).bfloat16(), 4e-3),
    "as Gradio gives it": (lambda x: (RATE, x), 0),
    "as soundfile gives it": (lambda x: (x, RATE), 0),
    "as stock pipeline takes it": (lambda x: {"raw": x, "sampling_rate": RATE}, 0),
    "a list": (lambda x: {"array": x.tolist(), "sampling_rate": np.int64(RATE)}, 0),
    "a rate that is a float": (lambda x: {"array": x, "sampling_rate": 16_000.0}, 0),
}


@pytest.mark.parametrize("kind", READ)
def test_arrays_of_every_kind_are_read_rightly(kind):
    make, error = READ[kind]
    np.testing.assert_allclose(audio.load(make(tone())), tone(), atol=error)


def test_what_is_handed_over_is_not_written_to():
    samples = tone() + np.float32(0.01)
    kept = samples.copy()
    samples.flags.writeable = False
    np.testing.assert_allclose(audio.load(samples), tone(), atol=1e-6)
    np.testing.assert_array_equal(samples, kept)


@pytest.mark.parametrize("content", [bytes, bytearray, memoryview])
def test_bytes_of_every_kind_are_read(content):
    flac = audio.to_flac(audio.to_pcm(tone()))
    np.testing.assert_allclose(audio.load(content(flac)), tone(), atol=2e-5)


class OnAnotherDevice:
    """As CuPy's arrays are."""

    shape = (RATE,)

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")


REFUSED = {
    r"\(2, 2, 2\), float64, 16000 Hz\) is no recording": lambda x: np.zeros((2, 2, 2)),
    r"shape \(\), float32, 16000 Hz\) is no recording": lambda x: np.float32(3),
    "complex64, 16000 Hz.* is no sound": lambda x: x.astype(np.complex64),
    "bool, 16000 Hz.* is no sound": lambda x: x > 0,
    "int64, 16000 Hz.* is no sound": lambda x: (x * 2.0**15).astype(np.int64),
    "<U1, 16000 Hz.* is no sound": lambda x: np.array(["a", "b"]),
    "0.000 s long": lambda x: x[:0],
    "has 0 channels": lambda x: np.zeros((RATE, 0)),
    "has 5000 channels: 1 to 32": lambda x: np.zeros((50, 5_000)),
    "NaN or infinite": lambda x: np.where(np.arange(len(x)) == 7, np.nan, x),
    "NaN or infinite ": lambda x: x.astype(np.float64) * 1e300,
    "reaches .* full scale is 1": lambda x: x * 32768,
    "ragged": lambda x: {"array": [[0.1, 0.2], [0.3]], "sampling_rate": RATE},
    "masked samples": lambda x: np.ma.masked_array(x, x > 0.1),
    r"OnAnotherDevice that gives no array \(Implicit": lambda x: OnAnotherDevice(),
    "Tensor that gives no array": lambda x: torch.from_numpy(x).to_sparse(),
    "Tensor that gives no array ": lambda x: torch.zeros(RATE, device="meta"),
    "Tensor that gives no array  ": lambda x: torch.quantize_per_tensor(torch.from_numpy(x), 0.1, 0, torch.qint8),
    "rate 1000": lambda x: (10**400, x),
    r"rate np\.complex64": lambda x: (x, np.complex64(RATE)),
    "rate None": lambda x: {"array": x, "sampling_rate": None},
    "rate '16000'": lambda x: {"raw": x, "sampling_rate": "16000"},
    r"rate 16000\.5": lambda x: (16_000.5, x),
    "rate True": lambda x: (True, x),
    "rate nan": lambda x: (x, float("nan")),
    "claims 5 samples a second": lambda x: (5, x),
    "tuple is not a recording": lambda x: (1, 2),
}


@pytest.mark.parametrize("rate", [RATE, float(RATE), np.int64(RATE), np.float32(RATE)])
def test_a_pair_is_read_in_either_order(rate):
    expected = audio.load(tone(), RATE)
    for pair in ((tone(), rate), (rate, tone())):
        np.testing.assert_array_equal(audio.load(pair), expected)


@pytest.mark.parametrize("words", REFUSED)
def test_other_arrays_are_refused_in_one_line(words):
    with pytest.raises(audio.AudioError, match=words.strip()) as caught:
        audio.load(REFUSED[words](tone()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "read"), [((20, 2), (20, 2)), ((2, 20), (2, 20)), ((2, 33), (33, 2)), ((7,), (7, 1))]
)
def test_short_chunks_keep_their_axes(shape, read):
    assert frames(np.zeros(shape)).shape == read
