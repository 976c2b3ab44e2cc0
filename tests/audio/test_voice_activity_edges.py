import time

import numpy as np
import pytest

from ser_hf.audio import voice_activity
from ser_hf.training import augmentation


def tone(samples, level=0.5):
    return (level * np.sin(2 * np.pi * 440 * np.arange(samples) / 16_000)).astype(np.float32)


def hiss(samples, decibel, seed=0):
    """Noise whose power is so many dB against that of `tone`."""
    power = 0.5**2 / 2 * 10 ** (decibel / 10)
    return np.random.default_rng(seed).normal(0, power**0.5, samples).astype(np.float32)


def padded(before, voice, after):
    return np.pad(tone(voice), (before, after))


@pytest.mark.parametrize(("before", "after"), [(8_000, 12_000), (8_050, 11_937), (3_001, 801)])
def test_the_voice_is_found_with_a_margin(before, after):
    start, end = voice_activity.voiced_span(padded(before, 16_000, after))
    # the margin of 800, and at most a frame of 400 that reaches a little into the voice
    assert before - 800 - 400 <= start <= before - 800
    assert before + 16_000 + 800 - 160 <= end <= before + 16_000 + 800 + 400
    assert type(start) is type(end) is int


def test_margins_end_with_the_clip():
    assert voice_activity.voiced_span(padded(500, 8_000, 300)) == (0, 8_800)
    assert voice_activity.voiced_span(tone(16_000)) == (0, 16_000)


def test_pauses_stay_and_the_level_does_not_matter():
    clip = np.concatenate([padded(8_000, 4_000, 16_000), padded(0, 4_000, 8_000)])
    start, end = voice_activity.voiced_span(clip)
    assert start < 8_000 < 32_000 < end < 34_000
    assert voice_activity.voiced_span(clip * np.float32(1e-3)) == (start, end)


@pytest.mark.parametrize(("decibel", "whole"), [(-25, True), (-45, False)])
def test_a_noise_floor_counts_where_it_is_loud_enough(decibel, whole):
    clip = padded(8_000, 16_000, 8_000) + hiss(32_000, decibel)
    assert (voice_activity.voiced_span(clip) == (0, 32_000)) is whole
    assert voice_activity.voiced_span(clip, below=60) == (0, 32_000)


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 5_000])
def test_silence_and_short_clips_are_whole(samples):
    assert voice_activity.voiced_span(np.zeros(samples, dtype=np.float32)) == (0, samples)
    if samples < 400:
        assert voice_activity.voiced_span(np.ones(samples, dtype=np.float32)) == (0, samples)


def test_what_follows_the_last_full_hop_is_heard():
    clip = np.zeros(16_000 + 399, dtype=np.float32)
    clip[-5:] = 1  # the frames every 160 samples end before it
    assert voice_activity.voiced_span(clip)[1] == len(clip)


def test_a_clip_takes_less_than_a_few_milliseconds():
    clip = padded(16_000, 32_000, 16_000)
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        voice_activity.voiced_span(clip)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 5e-3  # under 1 ms on a free core


def test_silence_is_cut_to_random_shares():
    rng = np.random.default_rng(0)
    kept = np.array([augmentation.vary(3_000, (1_000, 2_000), rng) for _ in range(4_000)])
    before, after = 1_000 - kept[:, 0], kept[:, 1] - 2_000
    for part in (before, after):
        assert part.min() == 0
        assert part.max() >= 999
        assert part.mean() == pytest.approx(1_000 / 3, abs=15)
        assert np.median(part) == pytest.approx(250, abs=25)  # of u², not of u
    assert abs(np.corrcoef(before, after)[0, 1]) < 0.05


def test_all_silence_is_kept_or_all_but_a_margin_is_cut():
    rng = np.random.default_rng(0)
    kept = np.array([augmentation.random_trim(3_000, (1_000, 2_000), rng, 200) for _ in range(4_000)])
    whole = (kept == (0, 3_000)).all(axis=1)
    assert whole.mean() == pytest.approx(0.5, abs=0.03)
    before, after = 1_000 - kept[~whole, 0], kept[~whole, 1] - 2_000
    for part in (before, after):
        assert (part.min(), part.max()) == (0, 200)
        assert part.mean() == pytest.approx(100, abs=5)
    assert augmentation.random_trim(500, (10, 490), np.random.default_rng(1), 200)[1] <= 500


def test_cuts_depend_on_the_seed_alone():
    one, same, other = (augmentation.vary(9_000, (4_000, 5_000), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert augmentation.vary(500, (0, 500), np.random.default_rng(0)) == (0, 500)


def test_edges_are_what_was_recorded_around_the_voice():
    room = hiss(32_000, -50)
    clip = padded(8_000, 16_000, 8_000) + room
    before, after = voice_activity.unvoiced_edges(clip)
    start, end = voice_activity.voiced_span(clip)
    np.testing.assert_array_equal(before, room[:start])
    np.testing.assert_array_equal(after, clip[end:])


def test_edges_hold_no_digital_zeros_and_nothing_short():
    assert list(voice_activity.unvoiced_edges(padded(16_000, 16_000, 16_000))) == []
    clip = padded(8_000, 16_000, 4_200) + hiss(28_200, -50)
    clip[:1_000] = 0
    clip[26_000:] = 0  # what is left of that end is shorter than 0.2 s
    (only,) = voice_activity.unvoiced_edges(clip)
    start, _ = voice_activity.voiced_span(clip)
    np.testing.assert_array_equal(only, clip[1_000:start])
    clip[4_000:4_500] = 0  # 3,000 samples before it, less behind it
    assert list(voice_activity.unvoiced_edges(clip)) == []
