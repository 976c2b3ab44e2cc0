import io

import numpy as np
import pytest
import soundfile

from ser_hf import audio
from ser_hf.audio.conditioning import Downmixer, offset, without_offset
from ser_hf.errors import UserError

RATES = [8_000, 16_000, 24_414, 48_000]


def voice(rate, seconds=1.5, seed=0):
    """Noise without a constant, as a microphone gives it."""
    samples = 0.1 * np.random.default_rng(seed).normal(size=round(rate * seconds)).astype(np.float32)
    return samples - samples.mean()


def wav(samples, rate, subtype="FLOAT"):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("constant", [0.001, -0.003, 0.01, 0.03])
def test_a_constant_offset_changes_nothing(rate, constant):
    clip = voice(rate)
    plain = audio.load(wav(clip, rate))
    np.testing.assert_allclose(audio.load(wav(clip + np.float32(constant), rate)), plain, atol=2e-7)
    np.testing.assert_allclose(audio.load(clip + np.float32(constant), rate), plain, atol=2e-7)
    stereo = np.stack([clip + np.float32(constant), clip], axis=1)  # of one channel alone
    np.testing.assert_allclose(audio.load(stereo, rate), plain, atol=2e-7)


@pytest.mark.parametrize("constant", [0.0, 5e-5, -9e-5])
def test_a_recording_without_an_offset_keeps_every_bit(constant):
    clip = voice(16_000) + np.float32(constant)
    np.testing.assert_array_equal(audio.load(clip), clip)


@pytest.mark.parametrize("constant", [0.0, 0.002, -0.02])
def test_a_stored_clip_is_read_as_it_was_stored(constant):
    pcm = audio.to_pcm(audio.load(voice(16_000) + np.float32(constant)))
    np.testing.assert_array_equal(audio.load(audio.to_flac(pcm)), pcm / np.float32(32768))


@pytest.mark.parametrize("seconds", [0.1, 3, 10, 10.5, 25.3])
@pytest.mark.parametrize("step", [1, 7_919, 65_536, 10**7])
def test_the_offset_does_not_depend_on_blocks(seconds, step):
    step = max(step, round(seconds * 20))
    clip = voice(16_000, seconds) + np.float32(0.01)
    whole = np.concatenate(list(without_offset([clip], 16_000)))
    parts = [clip[start : start + step] for start in range(0, len(clip), step)]
    np.testing.assert_array_equal(np.concatenate(list(without_offset(parts, 16_000))), whole)
    assert len(whole) == len(clip)
    assert abs(whole[: 10 * 16_000].mean()) < 1e-6
    assert abs(whole[-10 * 16_000 :].mean()) < 1e-3


def test_an_offset_that_changes_is_followed():
    clip = voice(16_000, 40)
    drifting = clip + np.repeat(np.float32([0.01, 0.02, -0.01, 0]), 10 * 16_000)
    np.testing.assert_allclose(audio.load(drifting), audio.load(clip), atol=5e-4)


@pytest.mark.parametrize(("mean", "found"), [(0.0, False), (1e-4 - 1e-6, False), (1.1e-4, True), (-0.5, True)])
def test_a_small_mean_is_no_offset(mean, found):
    assert offset(np.full(100, mean, dtype=np.float32)) == (pytest.approx(mean) if found else 0.0)
    assert offset(np.zeros(0, dtype=np.float32)) == 0.0


CANCELLING = {
    "inverted": lambda y: [y, -y],
    "inverted and softer": lambda y: [y, -0.8 * y],
    "silent first": lambda y: [0 * y, -y, y],
    "with offsets": lambda y: [y + 0.02, -y + 0.01],
    "with noise": lambda y: [y + 0.02 * voice(16_000, seed=1), -y + 0.02 * voice(16_000, seed=2)],
    "four": lambda y: [y, -y, y, -y],
}


@pytest.mark.parametrize("channels", CANCELLING.values(), ids=CANCELLING)
def test_channels_that_cancel_keep_their_sound(channels):
    clip = voice(16_000)
    frames = np.stack(channels(clip), axis=1).astype(np.float32)
    assert np.square(frames.mean(axis=1) - frames.mean()).mean() < 0.02 * np.square(clip).mean()  # the average loses it
    mixed = audio.load(wav(frames, 16_000))
    assert abs(np.corrcoef(mixed, clip)[0, 1]) > 0.98
    assert np.square(mixed).mean() > 0.4 * np.square(clip).mean()
    downmixer = Downmixer(16_000)
    parts = [downmixer.feed(part) for part in np.array_split(frames, 37)] + [downmixer.finish()]
    assert downmixer.inverted
    np.testing.assert_allclose(np.concatenate(list(without_offset(parts, 16_000))), mixed, atol=1e-7)


AVERAGED = {
    "the same": lambda y, other: [y, y],
    "one silent": lambda y, other: [y, 0 * y],
    "independent": lambda y, other: [y, other],
    "partly opposed": lambda y, other: [y, other - 0.4 * y],
    "all silent": lambda y, other: [0 * y, 0 * y],
}


@pytest.mark.parametrize("channels", AVERAGED.values(), ids=AVERAGED)
def test_other_channels_are_averaged_to_the_bit(channels):
    frames = np.stack(channels(voice(16_000), voice(16_000, seed=3)), axis=1).astype(np.float32)
    np.testing.assert_array_equal(audio.load(wav(frames, 16_000)), frames.mean(axis=1))


def test_a_waveform_is_not_turned_round_within_a_recording():
    early, late = voice(16_000, 2), voice(16_000, 2, seed=1)
    frames = np.concatenate([np.stack([early, -0.9 * early], axis=1), np.stack([-0.1 * late, late], axis=1)])
    mixed = audio.load(frames)
    assert np.corrcoef(mixed[: len(early)], early)[0, 1] > 0.99
    assert np.corrcoef(mixed[len(early) :], -late)[0, 1] > 0.99


def test_channels_do_not_change_on_the_way():
    downmixer = Downmixer(16_000)
    downmixer.feed(np.zeros((1_600, 1), dtype=np.float32))
    with pytest.raises(UserError, match="had 1 channels, now 2"):
        downmixer.feed(np.zeros((1_600, 2), dtype=np.float32))
