"""What MP4 and Matroska files claim, true and false."""

import io
import struct

import numpy as np
import pytest
from helpers.media import FRAGMENTED, write_media

from ser_hf import audio
from ser_hf.audio import AudioError, containers, pyav


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A second of sound in each container, as bytes."""
    folder = tmp_path_factory.mktemp("made")
    sound = 0.3 * np.sin(np.arange(48_000) / 20)
    kinds = {
        "a.m4a": ("aac", {}),
        "front.mp4": ("aac", {"movflags": "faststart"}),
        "parts.mp4": ("aac", FRAGMENTED),
        "a.mov": ("pcm_s16le", {}),
        "a.mkv": ("flac", {}),
        "live.webm": ("libopus", {"live": "1"}),
        "a.mka": ("aac", {}),
        "a.aac": ("aac", {}),
    }
    contents = {
        name: write_media(folder / name, sound, 48_000, codec, options=options).read_bytes()
        for name, (codec, options) in kinds.items()
    }
    contents["tag.aac"] = b"ID3\4\0\0\0\0\1\5" + bytes(133) + contents["a.aac"]
    contents["a.amr"] = write_media(folder / "a.amr", sound[::6], 8_000, "libopencore_amrnb").read_bytes()
    # PyAV writes no wide band: frames of 51 bytes
    contents["wide.amr"] = b"#!AMR-WB\n" + (b"\x34" + bytes(50)) * 50
    return contents


@pytest.mark.parametrize(
    ("name", "packets"), [("a.m4a", 48), ("front.mp4", 48), ("parts.mp4", 48), ("a.mov", 96), ("a.mkv", 0)]
)
def test_the_packets_of_tables_are_counted(made, name, packets):
    """AAC packs 1,024 samples. Uncompressed sound lies in one chunk, and counts 512 a packet."""
    assert containers.claimed_packets(io.BytesIO(made[name])) == pytest.approx(packets, abs=2)


@pytest.mark.parametrize("part", [0.5, 0.7])
@pytest.mark.parametrize("name", ["front.mp4", "parts.mp4", "a.mkv"])
def test_what_ends_before_its_size_is_cut_off(made, name, part):
    assert not containers.is_cut_off(io.BytesIO(made[name]))
    assert containers.is_cut_off(io.BytesIO(made[name][: int(part * len(made[name]))]))


@pytest.mark.parametrize("content", [b"", b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa3\x00", b"\xff\xf1" * 9, b"text" * 9])
def test_without_a_size_nothing_is_cut_off(made, content):
    for bare in (content, made["live.webm"][:9_000], made["a.aac"][:9_000]):
        assert not containers.is_cut_off(io.BytesIO(bare))


def with_numbers(content, box, offset, *numbers):
    """A copy whose box claims other numbers of 32 bits, `offset` bytes behind its name."""
    changed = bytearray(content)
    struct.pack_into(f">{len(numbers)}I", changed, content.index(box) + 4 + offset, *numbers)
    return bytes(changed)


@pytest.mark.parametrize("claim", [5_000_000, 2**31, 2**32 - 1])
def test_a_number_of_packets_that_no_recording_has_is_refused(made, claim):
    """FFmpeg would take 24 bytes for each before it reads the first."""
    lies = [
        with_numbers(made["a.m4a"], b"stsz", 4, 1, claim),
        with_numbers(made["parts.mp4"], b"trun", 0, 1, claim),
        with_numbers(with_numbers(made["a.mov"], b"stsc", 8, 1, claim * 600 % 2**32), b"stco", 4, claim),
    ]
    for lie in lies:
        assert containers.claimed_packets(io.BytesIO(lie)) == containers.MAX_PACKETS + 1
        with pytest.raises(AudioError, match=r"claims more than 4,000,000 packets"):
            audio.load(lie)


@pytest.mark.parametrize("name", ["a.mkv", "a.mka", "a.aac", "tag.aac", "a.amr", "wide.amr"])
def test_the_length_is_counted_without_decoding(made, name):
    with audio.open_recording(made[name]) as reader:
        decoded = sum(map(len, reader.blocks())) / reader.rate
        assert reader.seconds == pytest.approx(decoded, abs=0.05)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made["live.webm"],
        lambda made: made["a.mkv"].replace(b"\x44\x89\x88", b"\x44\x8a\x88", 1),  # no duration
        lambda made: made["a.mkv"].replace(b"\x44\x89\x88", b"\x44\x89\x88\x7f\xf8" + bytes(6), 1),  # not a number
        lambda made: made["a.mkv"].replace(b"\x44\x89\x88", b"\x44\x89\x88" + bytes(8), 1),
        lambda made: made["a.aac"][:5_000] + b"gone" + made["a.aac"][5_000:],
        lambda made: made["a.amr"].replace(b"#!AMR\n", b"#!AMR_MC1.0\n"),
        lambda made: b"\x1a\x45\xdf\xa3" + b"\xec\x80" * 5_000,  # empty elements
    ],
)
def test_a_length_that_nobody_wrote_is_unknown(made, change):
    file = io.BytesIO(change(made))
    assert containers.counted_seconds(file, containers.container_of(file)) is None


@pytest.mark.parametrize("name", ["a.mka", "a.aac", "a.amr"])
def test_what_is_too_long_is_refused_before_it_is_decoded(made, name, monkeypatch):
    monkeypatch.setattr(pyav, "_blocks", lambda first, frames: (pytest.fail("it is decoded") for _ in "x"))
    with pytest.raises(AudioError, match=r"^the recording is longer than 0.5 s: cut it into parts$"):
        next(audio.stream(made[name], longest=0.5))


def test_many_frames_are_counted_up_to_more_than_two_hours():
    silence = io.BytesIO(b"#!AMR\n" + b"\x7c" * 1_100_000)  # frames of one byte
    assert containers.counted_seconds(silence, containers.AMR) == pytest.approx(20_000)


def test_boxes_without_end_are_refused(made, monkeypatch):
    monkeypatch.setattr(containers, "MAX_BOXES", 1_000)
    with pytest.raises(AudioError, match="claims more than"):
        audio.load(made["front.mp4"] + struct.pack(">I4s", 8, b"free") * 1_000)


def test_packets_that_hold_next_to_nothing_are_refused(made):
    """One sample in each packet takes 40 microseconds a sample."""
    single = with_numbers(made["a.mov"], b"stts", 4, 2, 24_000, 1)
    with pytest.raises(AudioError, match=r"packets hold 1,\d\d\d samples"):
        audio.load(single)
