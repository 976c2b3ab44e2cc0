import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from ser_hf import audio
from ser_hf.audio import AudioError, resampling
from ser_hf.audio import io as audio_io


def tone(rate, seconds=0.5, hertz=440.0):
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_414, 44_100, 48_000, 96_000])
def test_resampling_keeps_a_tone(rate):
    output = resampling.resample(tone(rate), rate)
    assert len(output) == len(tone(16_000)) or abs(len(output) - 8_000) <= 1
    middle = slice(500, -500)
    np.testing.assert_allclose(output[middle], tone(16_000, 0.6)[: len(output)][middle], atol=5e-3)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_equals_torchaudio(rate):
    noise = np.random.default_rng(0).normal(size=rate).astype(np.float32) * 0.2
    stock = torchaudio.functional.resample(torch.from_numpy(noise), rate, 16_000).numpy()
    # torchaudio computes its taps in single precision
    np.testing.assert_allclose(resampling.resample(noise, rate), stock, atol=3e-5)


@pytest.mark.parametrize("rate", [8_000, 24_414, 44_100, 48_000])
def test_resampling_in_parts_equals_resampling_at_once(rate):
    noise = np.random.default_rng(0).normal(size=2 * rate + 17).astype(np.float32) * 0.2
    parts = np.split(noise, [1, 100, 5_000, 5_001, 14_000])
    np.testing.assert_allclose(
        np.concatenate(list(resampling.resample_blocks(parts, rate))), resampling.resample(noise, rate), atol=1e-6
    )


def test_a_recording_longer_than_a_block_is_read_whole(tmp_path):
    samples = np.random.default_rng(0).integers(-9_000, 9_000, 3 * audio_io._BLOCK + 6).astype(np.int16)
    samples[1::2] = -samples[::2]  # which leaves no offset
    soundfile.write(tmp_path / "long.wav", samples, 16_000)
    np.testing.assert_array_equal(audio.load(tmp_path / "long.wav"), samples / np.float32(32768))


def test_the_reader_says_what_the_header_says(tmp_path):
    soundfile.write(tmp_path / "odd.wav", np.zeros((9_600, 2)), 96_000, format="AIFF", subtype="PCM_24")
    with audio.open_recording(tmp_path / "odd.wav") as reader:
        assert (reader.rate, reader.channels, reader.container, reader.subtype) == (96_000, 2, "AIFF", "PCM_24")
        assert [block.shape for block in reader.blocks()] == [(9_600, 2)]


@pytest.mark.parametrize(
    ("suffix", "tolerance"), [(".wav", 1e-4), (".flac", 1e-4), (".ogg", 0.1), (".opus", 0.15), (".mp3", 0.1)]
)
def test_every_format_is_read(tmp_path, suffix, tolerance):
    file = tmp_path / f"clip{suffix}"
    kind = {"format": "OGG", "subtype": "OPUS"} if suffix == ".opus" else {}
    soundfile.write(file, tone(48_000) * 0.5, 48_000, **kind)
    samples = audio.load(file)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 8_000) < 1_200  # MP3 pads its frames
    assert abs(np.sqrt(np.mean(samples[2000:6000] ** 2)) - 0.5 / np.sqrt(2)) < tolerance


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone(16_000) * 0.8, np.zeros(8_000)], axis=1), 16_000)
    np.testing.assert_allclose(audio.load(tmp_path / "stereo.wav"), tone(16_000) * 0.4, atol=1e-4)


def test_every_source_gives_the_same(tmp_path):
    file = tmp_path / "a.wav"
    soundfile.write(file, tone(16_000), 16_000, subtype="FLOAT")
    content = file.read_bytes()
    for source in (
        file,
        str(file),
        content,
        io.BytesIO(content),
        {"bytes": content},
        {"path": str(file), "bytes": None},
    ):
        np.testing.assert_array_equal(audio.load(source), tone(16_000))
    np.testing.assert_array_equal(audio.load(tone(16_000)), tone(16_000))
    integers = (tone(16_000) * 2**30).astype(np.int32)
    np.testing.assert_allclose(audio.load({"array": integers, "sampling_rate": 16_000}), tone(16_000) / 2, atol=1e-6)


def test_flac_keeps_16_bit_samples():
    pcm = np.random.default_rng(0).integers(-32768, 32768, 16_000).astype(np.int16)
    pcm[1::2] = ~pcm[::2]  # which leaves no offset
    np.testing.assert_array_equal(audio.load(audio.to_flac(pcm)), pcm / np.float32(32768))
    np.testing.assert_array_equal(audio.to_pcm(pcm / np.float32(32768)), pcm)


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_414, 44_100, 48_000])
def test_no_samples_are_no_recording(tmp_path, rate):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), rate)
    with pytest.raises(AudioError, match=r"0\.000 s long"):
        audio.load(tmp_path / "none.wav")
    assert resampling.resample(np.zeros(0, dtype=np.float32), rate).shape == (0,)


def bad_sources(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan, dtype=np.float32), 16_000, subtype="FLOAT")
    return {
        "is not a file": tmp_path / "missing.wav",
        "0 bytes": write(tmp_path / "empty.wav", b""),
        "the recording is empty": b"",
        "not audio that can be read": write(tmp_path / "text.wav", b"I am a text\n" * 50),
        "at least 0.1 s": tmp_path / "none.wav",
        "NaN": tmp_path / "nan.wav",
        "claims 0 samples": {"array": tone(16_000), "sampling_rate": 0},
        "(2, 2, 2)": np.zeros((2, 2, 2), dtype=np.float32),
        "NoneType is not a recording": {"bytes": None, "path": None},
    }


@pytest.mark.parametrize("name", ["x" * 300 + ".wav", "a folder/" * 600 + "clip.wav", "."])
def test_a_path_that_cannot_be_opened_is_refused(tmp_path, name):
    with pytest.raises(AudioError, match=r"check the path|is a folder, not a file"):
        audio.load(tmp_path / name)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_disk_that_fails_is_named(tmp_path, monkeypatch, error):
    soundfile.write(tmp_path / "a.wav", tone(16_000), 16_000)

    def fail(*arguments):
        raise error

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(AudioError, match=rf"a\.wav' cannot be read \({error.strerror}\): check the path"):
        audio.load(tmp_path / "a.wav")


def test_what_no_machine_should_hold_is_refused(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "wide.wav", np.zeros((1_600, 33)), 16_000)
    with pytest.raises(AudioError, match="claims 33 channels: at most 32"):
        audio.load(tmp_path / "wide.wav")
    soundfile.write(tmp_path / "fast.wav", np.zeros(40_000), 400_000)
    with pytest.raises(AudioError, match="claims 400000 samples a second"):
        audio.load(tmp_path / "fast.wav")
    monkeypatch.setattr(audio_io, "MAX_SECONDS", 1)
    soundfile.write(tmp_path / "long.wav", np.zeros(16_001), 16_000)
    with pytest.raises(AudioError, match="longer than"):
        audio.load(tmp_path / "long.wav")


def test_what_is_no_audio_is_refused_by_name(tmp_path):
    for reason, source in bad_sources(tmp_path).items():
        with pytest.raises(AudioError) as caught:
            audio.load(source)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
        if hasattr(source, "name"):
            assert source.name in str(caught.value)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize(("start", "end"), [(1.5, 2.25), (0.0, 0.5), (2.75, None), (0.125, 3.0), (2.5, 3.4)])
def test_a_stretch_is_what_lies_between(tmp_path, suffix, start, end):
    ramp = np.linspace(-0.5, 0.5, 3 * 16_000)
    soundfile.write(tmp_path / f"ramp{suffix}", ramp, 16_000)
    whole = audio.load(tmp_path / f"ramp{suffix}")
    part = audio.load(tmp_path / f"ramp{suffix}", stretch=audio.Stretch(start, end))
    expected = whole[round(start * 16_000) : None if end is None else round(end * 16_000)]
    assert len(part) == len(expected)
    np.testing.assert_allclose(part - part.mean(), expected - expected.mean(), atol=2e-3)


def test_a_stretch_beyond_the_end_is_refused():
    clip = {"array": tone(16_000, 2.0), "sampling_rate": 16_000}
    for start, end in ((2.0, None), (12.0, 15.0), (1.0, 2.6)):
        with pytest.raises(AudioError, match=rf"is 2.000 s long, and has no stretch from {start:.3f} s to "):
            audio.load(clip, stretch=audio.Stretch(start, end))
    assert len(audio.load(clip, stretch=audio.Stretch(1.0, 2.4))) == 16_000


LONG = [
    ("FLAC", "PCM_16"),
    ("WAV", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
]


@pytest.mark.parametrize(("container", "subtype"), [*LONG, ("MP3", "MPEG_LAYER_III")])
def test_what_the_container_counts_is_refused_before_it_is_decoded(container, subtype, monkeypatch):
    written = io.BytesIO()
    soundfile.write(written, tone(16_000, 2.5), 16_000, format=container, subtype=subtype)
    content = written.getvalue()
    with audio.open_recording(content) as reader:
        assert reader.seconds == pytest.approx(2.5)
    monkeypatch.setattr(audio_io, "_decoded", lambda file: (pytest.fail("it is decoded") for _ in "x"))
    with pytest.raises(AudioError, match=r"^the recording is longer than 2 s: cut it into parts$"):
        next(audio.stream(content, longest=2))
    monkeypatch.setattr(audio_io, "MAX_SECONDS", 1)
    with pytest.raises(AudioError, match="is longer than 1 s"):
        audio.load(content)


def claiming(content, frames):
    """A FLAC whose header counts other frames: 36 bits in its STREAMINFO (RFC 9639)."""
    head = content[21] & 0xF0 | frames >> 32
    return content[:21] + bytes([head]) + (frames & 0xFFFFFFFF).to_bytes(4, "big") + content[26:]


def test_what_a_flac_counts_is_believed_and_a_piped_one_counts_nothing():
    content = audio.to_flac(audio.to_pcm(tone(16_000, 2.5)))
    with audio.open_recording(claiming(content, 3 * 3600 * 16_000)) as reader:
        assert reader.seconds == 3 * 3600
    with pytest.raises(AudioError, match=r"^'a\.flac' is longer than 2 hours: cut it into parts$"):
        audio.load({"bytes": claiming(content, 3 * 3600 * 16_000), "path": "a.flac"})
    with audio.open_recording(claiming(content, 0)) as reader:
        assert reader.seconds is None


def test_a_stretch_of_a_recording_that_is_too_long_is_read(monkeypatch):
    content = audio.to_flac(audio.to_pcm(tone(16_000, 10)))
    monkeypatch.setattr(audio_io, "MAX_SECONDS", 5)
    assert len(audio.load(content, stretch=audio.Stretch(0.5, 1.5))) == 16_000
    assert len(audio.load(content, stretch=audio.Stretch(7.5, 9.5))) == 32_000
    with pytest.raises(AudioError, match="is longer than 5 s"):
        audio.load(content, stretch=audio.Stretch(1.0, None))


@pytest.mark.parametrize("rate", [1_000, 16_000, 48_000])
def test_an_array_is_no_longer_than_a_file_may_be(rate, monkeypatch):
    monkeypatch.setattr(audio_io, "MAX_SECONDS", 5)
    assert len(audio.load(tone(rate, 5.0), rate)) == 80_000
    with pytest.raises(AudioError, match=r"^the recording is longer than 5 s: cut it into parts$"):
        audio.load(tone(rate, 5.1), rate)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF", "OGG", "MP3"])
def test_a_file_is_read_from_its_beginning(container):
    file = io.BytesIO()
    soundfile.write(file, tone(16_000, 1.0), 16_000, format=container)
    assert file.tell() > 0
    np.testing.assert_array_equal(audio.load(file), audio.load(file.getvalue()))


@pytest.mark.parametrize(("container", "next_frame"), [("WAV", 9_000), ("FLAC", 9_000), ("AIFF", 9_000), ("MP3", 0)])
def test_what_lies_before_a_stretch_is_not_decoded_where_frames_are_found_exactly(container, next_frame):
    written, samples = io.BytesIO(), tone(16_000, 1.0)
    soundfile.write(written, samples, 16_000, format=container)
    with audio.open_recording(written) as reader:
        assert reader.skip_to(9_000) == next_frame
        decoded = np.concatenate(list(reader.blocks()))[:, 0]
    if next_frame:
        np.testing.assert_allclose(decoded, samples[9_000:], atol=1e-4)
    with audio.open_recording(written) as reader:
        assert reader.skip_to(90_000) in (0, 16_000)


def test_the_length_of_an_mp3_is_believed_where_it_is_counted():
    written = io.BytesIO()
    soundfile.write(written, tone(16_000, 2.5), 16_000, format="MP3")
    content = written.getvalue().replace(b"Info", b"None").replace(b"Xing", b"None")
    with audio.open_recording(content) as reader:
        assert reader.seconds is None


@pytest.mark.parametrize("path", ["~/a.wav", "~/recordings/b.flac", Path("~/a.wav")])
def test_a_path_may_begin_at_home(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recordings").mkdir()
    for name in ("a.wav", "recordings/b.flac"):
        soundfile.write(tmp_path / name, tone(16_000, 0.5), 16_000)
    assert len(audio.load(path)) == 8_000
    with pytest.raises(AudioError, match=r"'~/none\.wav' is not a file"):
        audio.load("~/none.wav")


def zipped():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.wav", b"sound" * 1_000)
    return content  # its position is the end


@pytest.mark.parametrize("kind", ["bytes", "an open file at its end", "a file"])
def test_a_zip_is_no_recording(tmp_path, kind):
    (tmp_path / "a.wav").write_bytes(zipped().getvalue())
    source = {"bytes": zipped().getvalue(), "a file": tmp_path / "a.wav"}.get(kind) or zipped()
    with pytest.raises(AudioError, match=r"is a zip file: unpack it, or send it as a batch$"):
        audio.load(source)


@pytest.mark.parametrize(("name", "called"), [("clip 7", "clip 7"), (None, "the recording"), ("", "the recording")])
def test_errors_call_a_recording_as_they_are_told(name, called):
    content = io.BytesIO()
    soundfile.write(content, np.zeros((1_600, 33)), 16_000, format="WAV")
    with pytest.raises(AudioError, match=f"^{called} claims 33 channels"), audio.open_recording(content, name):
        pass
    with pytest.raises(AudioError, match=f"^{called} claims 33 channels"):
        audio.load(content, name=name)


def test_as_many_channels_as_may_be_are_read_in_float32():
    content = io.BytesIO()
    soundfile.write(content, np.full((1_600, 32), 0.25), 16_000, format="WAV", subtype="FLOAT")
    with audio.open_recording(content) as reader:
        (block,) = reader.blocks()
    assert (reader.channels, block.dtype, block.shape) == (32, np.float32, (1_600, 32))


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.5, 1.0), (0.25, 0.75)])
def test_nothing_behind_a_stretch_is_decoded(start, end):
    def blocks(until):
        for first in range(0, until, 4_000):
            yield np.arange(first, first + 4_000, dtype=np.float32)[:, None]
        pytest.fail("more is decoded")

    cut = np.concatenate(list(audio.Stretch(start, end).cut(blocks(round(end * 16_000)), 16_000)))[:, 0]
    np.testing.assert_array_equal(cut, np.arange(start * 16_000, end * 16_000))


def test_a_stretch_may_lack_half_a_second():
    whole = [np.zeros((32_000, 1), dtype=np.float32)]
    (part,) = audio.Stretch(1.0, 2.5).cut(whole, 16_000)
    assert len(part) == 16_000
    with pytest.raises(AudioError, match=r"is 2\.000 s long"):
        list(audio.Stretch(1.0, 2.5 + 1 / 16_000).cut(whole, 16_000))


@pytest.mark.parametrize(("samples", "seconds"), [(16_000, 1.0), (24_001, 1.5), (20_009, 1.251), (0, 0)])
def test_a_duration_is_given_to_the_millisecond(samples, seconds):
    assert audio.duration(np.zeros(samples)) == seconds


@pytest.mark.parametrize(("amplitude", "level"), [(1.0, -3.0), (0.1, -23.0), (0.5, -9.0), (0.3, -13.5), (0.0, -120.0)])
def test_a_level_is_that_of_the_loudest_25_ms(amplitude, level):
    quiet, loud = 0.001 * tone(16_000, 0.5), amplitude * tone(16_000, 0.025, 400.0)
    samples = loud if amplitude == 0 else np.concatenate([quiet, loud, quiet])
    assert audio.level(samples) == level
    rest = np.ones(399, dtype=np.float32)  # no whole 25 ms
    assert audio.level(np.concatenate([samples, rest])) == level


@pytest.mark.parametrize(
    ("value", "pcm"),
    [(1.0, 32_767), (1.5, 32_767), (-1.0, -32_768), (-1.5, -32_768), (0.5, 16_384), (1e-5, 0)],
)
def test_what_is_beyond_full_scale_is_clipped(value, pcm):
    assert audio.to_pcm(np.array([value])).tolist() == [pcm]
    assert soundfile.info(io.BytesIO(audio.to_flac(np.array([pcm] * 100, dtype=np.int16)))).subtype == "PCM_16"


@pytest.mark.parametrize(("longest", "words"), [(7_199, "7199 s"), (7_200, "2 hours"), (9_000, "2.5 hours")])
def test_limits_are_written_in_hours_from_two_hours_on(longest, words):
    content = claiming(audio.to_flac(audio.to_pcm(tone(16_000, 2.5))), 3 * 3600 * 16_000)
    with pytest.raises(AudioError, match=rf"^the recording is longer than {words}: cut it into parts$"):
        next(audio.stream(content, longest=longest))


@pytest.mark.parametrize("name", [".", "recordings", "recordings.wav"])
def test_a_folder_is_no_recording(tmp_path, name):
    (tmp_path / name).mkdir(exist_ok=True)
    with pytest.raises(AudioError, match=r"is a folder, not a file: name the recordings in it$"):
        audio.load(tmp_path / name)
