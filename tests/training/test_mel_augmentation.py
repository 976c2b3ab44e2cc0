import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from ser_hf.audio import effects
from ser_hf.audio.effects import AugmentError
from ser_hf.models.features import front_end_of
from ser_hf.training import augmentation

FRAMES, BINS = 200, 80
HERTZ = np.linspace(50, 7950, BINS)
"""The middle of each bin."""


def seeded(seed=0):
    return np.random.default_rng(seed)


def ridge(bin_of_frame):
    """Frames of low power with one loud bin each."""
    mel = np.full((len(bin_of_frame), BINS), -5.0, dtype=np.float32)
    mel[np.arange(len(bin_of_frame)), bin_of_frame] = 10.0
    return mel


def test_tempo_changes_the_length_and_not_the_spectrum():
    mel = ridge(np.full(FRAMES, 30))
    lengths = [len(augmentation.tempo(mel, seeded(seed), 0.1)) for seed in range(200)]
    assert min(lengths) >= int(FRAMES * np.exp(-0.1))
    assert max(lengths) <= int(FRAMES * np.exp(0.1))
    assert max(lengths) - min(lengths) > 30
    np.testing.assert_allclose(augmentation.tempo(mel, seeded(), 0.1)[5], mel[5])
    rising = np.linspace(0, 1, FRAMES, dtype=np.float32)[:, None] * np.ones(BINS, dtype=np.float32)
    made = augmentation.tempo(rising, seeded(), 0.1)
    np.testing.assert_allclose(made[:, 0], np.linspace(0, 1, len(made)), atol=1e-6)
    assert all(len(augmentation.tempo(mel[:12], seeded(seed), 0.5)) >= 12 for seed in range(20))


def test_tract_moves_what_lies_high_further_and_keeps_the_length():
    low, high = ridge(np.full(FRAMES, 10)), ridge(np.full(FRAMES, 60))
    for seed in range(20):
        drawn = np.exp(seeded(seed).uniform(-0.1, 0.1))
        for mel, place in ((low, 10), (high, 60)):
            made = augmentation.tract(mel, seeded(seed), 0.1)
            assert made.shape == mel.shape
            if (wanted := place / drawn) < BINS - 1:
                assert abs(made[7].argmax() - wanted) <= 1


def test_hiss_fills_what_lies_below_it_and_leaves_the_loud():
    mel = np.full((FRAMES, BINS), -10.0, dtype=np.float32)
    mel[50:150] = 8.0
    floors = []
    for seed in range(200):
        made = augmentation.hiss(mel, seeded(seed), 20, 30)
        assert made.dtype == np.float32
        assert np.all(made >= mel)
        floors.append((8.0 - made[:50].mean()) * 10 / np.log(10))
        assert abs(made[50:150].mean() - 8.0) < 0.5
    assert 19 < np.mean(floors) < 31


def test_masks_become_zeros_in_what_the_model_hears():
    mel = seeded().normal(size=(FRAMES, BINS)).astype(np.float32)
    widths, lengths = [], []
    for seed in range(300):
        made = augmentation.bands(mel, seeded(seed), 10)
        changed = np.flatnonzero((made != mel).any(axis=0))
        assert not len(changed) or np.array_equal(changed, np.arange(changed[0], changed[-1] + 1))
        assert np.allclose(made[:, changed], mel.mean(axis=0)[changed])
        widths.append(len(changed))
        made = augmentation.gaps(mel, seeded(seed), 0.3)
        lengths.append(int((made != mel).any(axis=1).sum()))
    assert (min(widths), max(widths)) == (0, 10)
    assert (min(lengths), max(lengths)) == (0, 30)
    slower = [int((augmentation.gaps(mel, seeded(s), 0.3, rate=50) != mel).any(axis=1).sum()) for s in range(200)]
    assert max(slower) == 15
    assert all((augmentation.gaps(mel[:20], seeded(s), 2.0) != mel[:20]).any(axis=1).sum() <= 5 for s in range(50))


def test_a_band_is_that_of_the_telephone_codec():
    """The voice is noise of the band of speech, at the level of a recording."""
    front_end = front_end_of(WhisperFeatureExtractor(chunk_length=4))
    assert np.all(np.diff(front_end.bin_frequencies) > 0)
    assert front_end.bin_frequencies[7] == pytest.approx(297.6, abs=0.1)
    clip = (0.05 * seeded().normal(size=48_000)).astype(np.float32)
    plain, coded = (front_end.prepare(samples)[5:290] for samples in (clip, effects.codec(clip, seeded())))
    seed = next(seed for seed in range(9) if _cuts_low(seed))
    made = augmentation.band(plain, seeded(seed), 3400, 3400, frequencies=front_end.bin_frequencies)
    features = [front_end.finish(mel) for mel in (plain, coded, made)]
    assert np.abs(features[0] - features[1]).mean() > 0.3  # a quarter is 10 dB
    assert np.abs(features[2] - features[1]).mean() < 0.05


def _cuts_low(seed):
    rng = seeded(seed)
    rng.random()
    return rng.random() < 0.5


def test_a_band_ends_where_it_was_drawn_and_begins_at_300_hz_in_half_of_the_clips():
    mel = np.zeros((3, BINS), dtype=np.float32)
    edges, low = [], 0
    for seed in range(200):
        left = augmentation.band(mel, seeded(seed), 2000, 6000, frequencies=HERTZ)[0] > -3
        edges.append(HERTZ[left].max())
        assert edges[-1] == pytest.approx(seeded(seed).uniform(2000, 6000), abs=200)
        low += not left[0]
    assert min(edges) < 2200
    assert max(edges) > 5800
    assert 80 < low < 120


def test_no_step_changes_its_input():
    mel = seeded().normal(size=(FRAMES, BINS)).astype(np.float32)
    before = mel.copy()
    made = augmentation.parse("tempo,tract,hiss,band,bands,gaps", probability=1).of_frames(mel, seeded(1), HERTZ)
    assert made.dtype == np.float32
    augmentation.mix_mels(mel, mel[:50], 0.7)
    np.testing.assert_array_equal(mel, before)


def test_they_are_named_and_ordered_as_those_of_waveforms():
    found = augmentation.parse("gaps:0.2,hiss:10-20,gain,tempo")
    assert list(found.strengths) == ["gain", "tempo", "hiss", "gaps"]
    assert found.names(of_frames=True) == ["tempo", "hiss", "gaps"]
    assert found.names(of_frames=False) == ["gain"]
    with pytest.raises(AugmentError, match="is no strength of hiss: expected two numbers of dB"):
        augmentation.parse("hiss:10")
