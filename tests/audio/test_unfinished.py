"""Recordings whose header was never completed are read up to where they broke off."""

import io
import struct

import numpy as np
import pytest
import soundfile

from ser_hf import audio
from ser_hf.audio import unfinished

RATE = 16_000


def tone():
    return (0.3 * np.sin(np.arange(RATE) / 9)).astype(np.float32)


def recorded(form="WAV", subtype="PCM_16"):
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(), RATE, format=form, subtype=subtype)
    return bytearray(buffer.getvalue())


def patched(content, *patches):
    for place, part in patches:
        content[place : place + len(part)] = part
    return content


def wav(riff, data, subtype="PCM_16", form="WAV", extra=b""):
    content = recorded(form, subtype)
    place = content.find(b"data")
    content = patched(content, (4, struct.pack("<I", riff)), (place + 4, struct.pack("<I", data)))
    return content[:place] + extra + content[place:]


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content


TAG = chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"recorder"))


def other(form, *fields):
    """A recording in another container, with bytes behind a name or at a place replaced."""
    content = recorded(form)
    return patched(
        content, *((content.find(at) + by if isinstance(at, bytes) else by, part) for at, by, part in fields)
    )


BROKEN_OFF = {
    "no lengths": lambda: wav(0, 0),
    "no length of the data": lambda: wav(128_036, 0),
    "the length of the header": lambda: wav(36, 0),
    "unknown and none": lambda: wav(2**32 - 1, 0),
    "8 bits": lambda: wav(0, 0, "PCM_U8"),
    "24 bits": lambda: wav(0, 0, "PCM_24"),
    "float": lambda: wav(0, 0, "FLOAT"),
    "extensible": lambda: wav(0, 0, form="WAVEX"),
    "after tags": lambda: wav(0, 0, extra=TAG),
    "RF64": lambda: other("RF64", (b"ds64", 8, bytes(24))),
    "AIFF": lambda: other("AIFF", (b"COMM", 10, bytes(4)), (b"SSND", 4, struct.pack(">I", 8)), (None, 4, bytes(4))),
    "AU": lambda: other("AU", (None, 8, bytes(4))),
    "CAF, unknown": lambda: other("CAF", (b"data", 4, b"\xff" * 8)),
    "CAF, none": lambda: other("CAF", (b"data", 4, bytes(8))),
}
STREAMED = {
    "all bits": lambda: wav(2**32 - 1, 2**32 - 1),
    "the largest": lambda: wav(2**31 - 1, 2**31 - 37),
    "of arecord": lambda: wav(2**31 + 36, 2**31),
    "AU": lambda: other("AU", (None, 8, b"\xff" * 4)),
}


@pytest.mark.parametrize("kind", BROKEN_OFF)
@pytest.mark.parametrize("part", [1.0, 0.6])
def test_what_broke_off_is_read_up_to_there(tmp_path, kind, part):
    content = BROKEN_OFF[kind]()
    content = bytes(content[: int(len(content) * part)])
    (tmp_path / "a.wav").write_bytes(content)
    for source in (content, tmp_path / "a.wav", io.BytesIO(content)):
        with audio.open_recording(source) as reader:
            samples = np.concatenate(list(reader.blocks()))[:, 0]
            assert reader.unfinished
        assert len(samples) == pytest.approx(RATE * part, abs=RATE * 0.1)
        expected = tone()[: len(samples)]
        np.testing.assert_allclose(samples[: len(expected)], expected[: len(samples)], atol=1e-2)


@pytest.mark.parametrize("kind", STREAMED)
def test_what_was_written_to_a_pipe_is_read_to_its_end(kind):
    for part in (1.0, 0.6):
        content = STREAMED[kind]()
        assert audio.load(bytes(content[: int(len(content) * part)])).shape == pytest.approx((RATE * part,), abs=50)


@pytest.mark.parametrize("chunks", [b"", TAG, TAG + chunk(b"junk", bytes(6))])
def test_a_finished_recording_without_samples_holds_none(chunks):
    empty = wav(0, 0)[:44] + chunks
    with pytest.raises(audio.AudioError, match=r"0\.000 s long"):
        audio.load(bytes(empty))


@pytest.mark.parametrize("form", ["WAV", "RF64", "AIFF", "AU", "CAF", "W64", "FLAC", "OGG"])
def test_what_is_finished_is_left_alone(form):
    content = recorded(form, "VORBIS" if form == "OGG" else "PCM_16")
    assert unfinished.completed(io.BytesIO(content)) is None
