"""Recordings of phones and browsers: MP4, WebM, ADTS and AMR, through PyAV."""

import io
import sys

import numpy as np
import pytest
import soundfile
from helpers.media import FRAGMENTED, write_media

from ser_hf import audio
from ser_hf.audio import AudioError
from ser_hf.audio import io as audio_io

KINDS = {  # name: codec, rate, what the reader says
    "phone.m4a": ("aac", 44_100, ("MP4", "AAC")),
    "lossless.m4a": ("alac", 44_100, ("MP4", "ALAC")),
    "camera.mov": ("pcm_s16le", 48_000, ("MP4", "PCM_S16LE")),
    "old phone.3gp": ("libopencore_amrnb", 8_000, ("MP4", "AMRNB")),
    "browser.webm": ("libopus", 48_000, ("MATROSKA", "OPUS")),
    "film.mkv": ("flac", 44_100, ("MATROSKA", "FLAC")),
    "radio.aac": ("aac", 22_050, ("ADTS", "AAC")),
    "note.amr": ("libopencore_amrnb", 8_000, ("AMR", "AMRNB")),
}


def sweep(rate, seconds=1.0):
    """A tone that rises from 200 Hz to 2 kHz, so that a shift in time is seen."""
    time = np.arange(int(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 * time + 900 * time**2 / seconds))).astype(np.float32)


def shift(samples, expected):
    """By how many seconds `samples` come later than `expected`, and how alike both are then."""
    length = min(len(samples), len(expected))
    product = np.fft.rfft(samples[:length], 2 * length) * np.conj(np.fft.rfft(expected[:length], 2 * length))
    correlation = np.fft.irfft(product)
    place = int(np.argmax(correlation))
    scale = np.linalg.norm(samples[:length]) * np.linalg.norm(expected[:length])
    return (place - 2 * length if place > length else place) / audio.SAMPLING_RATE, correlation[place] / scale


@pytest.mark.parametrize("name", KINDS)
def test_every_container_is_read(tmp_path, name):
    codec, rate, said = KINDS[name]
    path = write_media(tmp_path / name, sweep(rate), rate, codec)
    samples = audio.load(path)
    assert samples.dtype == np.float32
    assert abs(len(samples) - audio.SAMPLING_RATE) < 0.07 * audio.SAMPLING_RATE  # ADTS keeps the silence of the encoder
    late, alike = shift(samples, sweep(audio.SAMPLING_RATE))
    telephone = said[1] == "AMRNB"  # codes what a voice would do, and starts late
    assert abs(late) < (0.1 if telephone or said[0] == "ADTS" else 0.001)
    assert alike > (0.9 if telephone else 0.95)
    with audio.open_recording(path) as reader:
        assert (reader.rate, reader.channels, reader.container, reader.subtype) == (rate, 1, *said)
    np.testing.assert_array_equal(audio.load(path.read_bytes()), samples)
    np.testing.assert_array_equal(audio.load({"bytes": path.read_bytes(), "path": "a.wav"}), samples)  # by content
    np.testing.assert_array_equal(audio.load(io.BytesIO(path.read_bytes())), samples)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.mov", "pcm_s16le"), ("a.mkv", "flac")])
def test_pictures_change_nothing(tmp_path, name, codec):
    alone = audio.load(write_media(tmp_path / name, sweep(44_100), 44_100, codec))
    film = audio.load(write_media(tmp_path / f"film {name}", sweep(44_100), 44_100, codec, video=True))
    np.testing.assert_array_equal(film, alone)


def test_several_channels_and_blocks(tmp_path):
    both = np.stack([sweep(44_100, 4.0), np.zeros(4 * 44_100)], axis=1)
    path = write_media(tmp_path / "stereo.mkv", both, 44_100, "flac")
    with audio.open_recording(path) as reader:
        blocks = list(reader.blocks())
    assert reader.channels == 2
    assert len(blocks) > 2
    np.testing.assert_allclose(np.concatenate(blocks), both, atol=1e-4)


@pytest.mark.parametrize(("default", "level"), [(0, 1.0), (1, 0.5), (2, 0.25)])
def test_of_several_tracks_the_default_is_read(tmp_path, default, level):
    path = write_media(tmp_path / "film.mkv", sweep(44_100), 44_100, "flac", True, tracks=3, default=default)
    np.testing.assert_allclose(np.abs(audio.load(path)).max(), 0.5 * level, rtol=0.05)


@pytest.mark.parametrize("seconds", [1, 3])
def test_an_mp3_inside_an_id3_tag_is_left_to_libsndfile(tmp_path, seconds):
    write_media(tmp_path / "a.aac", sweep(44_100, seconds), 44_100, "aac")
    soundfile.write(tmp_path / "a.mp3", sweep(44_100, seconds), 44_100)
    tag = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)
    for name, container in (("a.aac", "ADTS"), ("a.mp3", "MP3")):
        content = tag + (tmp_path / name).read_bytes()
        with audio.open_recording(content) as reader:
            assert reader.container == container
        assert abs(len(audio.load(content)) / audio.SAMPLING_RATE - seconds) < 0.1


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "aac", {"movflags": "faststart"}),
        ("b.mp4", "aac", FRAGMENTED),
        ("a.webm", "libopus", {"live": "1"}),
        ("a.mkv", "flac", {}),
        ("a.aac", "aac", {}),
        ("a.amr", "libopencore_amrnb", {}),
    ],
)
def test_what_broke_off_is_read_up_to_there(tmp_path, name, codec, options):
    rate = 8_000 if codec == "libopencore_amrnb" else 48_000
    content = write_media(tmp_path / name, sweep(rate, 3.0), rate, codec, options=options).read_bytes()
    whole = audio.load(content)
    for part in (0.8, 0.9):
        samples = audio.load(content[: int(len(content) * part)])
        assert 0.4 * len(whole) < len(samples) < len(whole)
        np.testing.assert_allclose(samples[:16_000], whole[:16_000], atol=1e-3)  # their means differ


def damaged(content):
    middle = len(content) // 2
    return content[:middle] + bytes(600) + content[middle + 600 :]


def test_what_is_no_recording_is_refused_by_name(tmp_path):
    phone = write_media(tmp_path / "a.m4a", sweep(44_100), 44_100, "aac").read_bytes()
    stream = write_media(tmp_path / "a.aac", sweep(44_100, 3.0), 44_100, "aac").read_bytes()
    other = write_media(tmp_path / "a.mkv", sweep(48_000), 48_000, "mp2").read_bytes()
    silent = write_media(tmp_path / "a.mp4", sweep(44_100), 44_100, "aac", video=True, tracks=0).read_bytes()
    cases = {
        "the recorder broke off before it wrote the index): record it again": phone[: len(phone) // 2],
        "it holds no sound track): give one with sound": silent,
        "its sound is mp2, which is not decoded): convert": other,
        "it is damaged at 1.": damaged(stream),
        "Invalid data found": b"\x1a\x45\xdf\xa3" + bytes(1_000),
        "Format not recognised": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n",
        "Format not recognised ": b"ffconcat version 1.0\nfile /etc/passwd\n",
    }
    for reason, content in cases.items():
        (tmp_path / "clip.m4a").write_bytes(content)
        with pytest.raises(AudioError) as caught:
            audio.load(tmp_path / "clip.m4a")
        assert "clip.m4a' is not audio that can be read" in str(caught.value)
        assert reason.strip() in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_header_that_lies_is_not_believed(tmp_path, monkeypatch):
    path = write_media(tmp_path / "a.m4a", sweep(44_100, 2.0), 44_100, "aac")
    whole, content = audio.load(path), path.read_bytes()
    for box, offset in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):  # their durations
        place = content.index(box) + offset
        for claim in (0, 2**31 - 1):
            lying = content[:place] + claim.to_bytes(4, "big") + content[place + 4 :]
            np.testing.assert_array_equal(audio.load(lying), whole)
    entry = content.index(b"mp4a") + 4
    for place, claim in ((entry + 16, 9), (entry + 24, 7)):  # channels, and the rate: AAC has its own
        lying = content[:place] + claim.to_bytes(2, "big") + content[place + 2 :]
        with audio.open_recording(lying) as reader:
            assert (reader.rate, reader.channels) == (44_100, 1)
    with audio.open_recording(path) as reader:
        assert reader.seconds == pytest.approx(2, abs=0.1)  # by its packets
    monkeypatch.setattr(audio_io, "MAX_SECONDS", 1)
    with pytest.raises(AudioError, match="is longer than"):
        audio.load(path)
    monkeypatch.setattr(audio_io, "MAX_CHANNELS", 0)
    with pytest.raises(AudioError, match="claims 1 channels: at most 0"):
        audio.load(path)


def test_no_samples_are_no_recording(tmp_path):
    path = write_media(tmp_path / "a.webm", sweep(48_000, 0.05), 48_000, "libopus")
    with pytest.raises(AudioError, match=r"0\.05\d s long"):
        audio.load(path)


@pytest.mark.parametrize("name", ["phone.m4a", "browser.webm", "radio.aac", "note.amr"])
def test_without_pyav_the_refusal_says_how_to_get_it(tmp_path, monkeypatch, name):
    codec, rate, said = KINDS[name]
    path = write_media(tmp_path / name, sweep(rate), rate, codec)
    monkeypatch.setitem(sys.modules, "av", None)
    remedy = "pip install av, or convert it to WAV or FLAC"
    with pytest.raises(AudioError) as caught:
        audio.load(path)
    assert str(caught.value) == f"'{path}' is not audio that can be read ({said[0]} needs PyAV): {remedy}"
