import numpy as np
import pytest
from transformers import AutoFeatureExtractor, SeamlessM4TFeatureExtractor

from ser_hf import features
from ser_hf.features import Clips, Collator, LengthBuckets


def noise(samples, seed=0):
    return np.random.default_rng(seed).normal(size=samples).astype(np.float32) * 0.1


def test_waveforms_are_those_of_the_stock_extractor(models):
    extractor = AutoFeatureExtractor.from_pretrained(models["group"])
    stock = extractor(noise(20_000), sampling_rate=16_000, return_tensors="np")
    np.testing.assert_array_equal(features.extract(extractor, noise(20_000)), stock["input_values"][0])


@pytest.mark.parametrize("samples", [1_600, 1_999, 2_500, 16_000, 48_123])
@pytest.mark.parametrize("stride", [2, 4])
def test_mel_frames_are_those_of_the_stock_extractor(samples, stride):
    extractor = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, sampling_rate=16_000, stride=stride)
    quiet_then_loud = noise(samples) * np.linspace(0, 1, samples, dtype=np.float32)
    for clip in (quiet_then_loud, np.r_[quiet_then_loud, np.zeros(4_000, dtype=np.float32)]):
        stock = extractor(clip, sampling_rate=16_000, return_tensors="np")
        unmasked = stock["attention_mask"][0].sum()
        assert stock["attention_mask"][0][:unmasked].all()
        np.testing.assert_allclose(features.extract(extractor, clip), stock["input_features"][0][:unmasked], atol=1e-4)


def test_batches_are_padded_and_masked(models):
    extractor = AutoFeatureExtractor.from_pretrained(models["layer"])
    clips = [{"features": noise(n), "labels": label} for n, label in ((300, 4), (500, 0))]
    batch = Collator(extractor, "attention mask")(clips)
    assert batch["input_values"].shape == (2, features.WAVEFORM_STEP)  # the next multiple of it
    assert batch["attention_mask"].sum(1).tolist() == [300, 500]
    assert batch["input_values"][0, 300:].abs().sum() == 0
    assert batch["labels"].tolist() == [4, 0]
    unmasked = Collator(extractor, "fixed length")(clips)
    assert "attention_mask" not in unmasked
    assert unmasked["input_values"].shape == (2, 500)


def test_clips_are_extracted_once_while_memory_allows(rows, models, monkeypatch):
    extractor = AutoFeatureExtractor.from_pretrained(models["bert"])
    calls = []
    extract = features.extract
    monkeypatch.setattr(features, "extract", lambda *a: calls.append(1) or extract(*a))
    clips = Clips(rows, [5, 9], extractor)
    first = clips[1]
    assert first["labels"] == rows[9]["label"]
    np.testing.assert_array_equal(clips[1]["features"], first["features"])
    assert len(calls) == 1
    monkeypatch.setattr(features, "CACHE_BYTES", 0)
    uncached = Clips(rows, [5, 9], extractor)
    np.testing.assert_array_equal(uncached[1]["features"], uncached[1]["features"])
    assert len(calls) == 3
    assert clips.durations.tolist() == [rows[5]["duration"], rows[9]["duration"]]


def test_buckets_hold_like_lengths_and_every_clip_once():
    lengths = np.random.default_rng(0).uniform(1, 4, 203)
    order = list(LengthBuckets(lengths, batch=8, seed=1))
    assert sorted(order) == list(range(203))
    full = lengths[order[:200]].reshape(-1, 8)
    shuffled = lengths[np.random.default_rng(0).permutation(203)[:200]].reshape(-1, 8)
    assert np.ptp(full, axis=1).mean() < 0.3 * np.ptp(shuffled, axis=1).mean()


def test_buckets_depend_on_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).uniform(1, 4, 50)
    one, same, other = (LengthBuckets(lengths, 8, seed) for seed in (1, 1, 2))
    assert list(one) == list(same) == list(one)
    assert list(one) != list(other)
    first = list(one)
    one.set_epoch(1)
    assert list(one) != first
    one.set_epoch(0)
    assert list(one) == first


def test_batches_by_length_cover_all():
    batches = list(features.by_length([3, 9, 1, 7], 2))
    assert batches == [[1, 3], [0, 2]]
