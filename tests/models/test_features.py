import numpy as np
import pytest
from transformers import (
    AutoFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from ser_hf.models import features
from ser_hf.models.features import Collator, front_end_of


def noise(samples, seed=0):
    return np.random.default_rng(seed).normal(size=samples).astype(np.float32) * 0.1


def test_waveforms_are_those_of_the_stock_extractor(models):
    extractor = AutoFeatureExtractor.from_pretrained(models["group"])
    stock = extractor(noise(20_000), sampling_rate=16_000, return_tensors="np")
    np.testing.assert_array_equal(front_end_of(extractor).extract(noise(20_000)), stock["input_values"][0])


@pytest.mark.parametrize("samples", [1_600, 1_999, 2_500, 16_000, 48_123])
@pytest.mark.parametrize("stride", [2, 4])
def test_mel_frames_are_those_of_the_stock_extractor(samples, stride):
    extractor = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, sampling_rate=16_000, stride=stride)
    quiet_then_loud = noise(samples) * np.linspace(0, 1, samples, dtype=np.float32)
    for clip in (quiet_then_loud, np.r_[quiet_then_loud, np.zeros(4_000, dtype=np.float32)]):
        stock = extractor(clip, sampling_rate=16_000, return_tensors="np")
        unmasked = stock["attention_mask"][0].sum()
        assert stock["attention_mask"][0][:unmasked].all()
        np.testing.assert_allclose(
            front_end_of(extractor).extract(clip), stock["input_features"][0][:unmasked], atol=1e-4
        )


def test_batches_are_padded_and_masked(models):
    extractor = AutoFeatureExtractor.from_pretrained(models["layer"])
    clips = [{"features": noise(n)} for n in (300, 500)]
    batch = Collator(extractor, "attention mask")(clips)
    assert batch["input_values"].shape == (2, features.WAVEFORM_STEP)  # the next multiple of it
    assert batch["attention_mask"].sum(1).tolist() == [300, 500]
    assert batch["input_values"][0, 300:].abs().sum() == 0
    unmasked = Collator(extractor, "fixed length")(clips)
    assert "attention_mask" not in unmasked
    assert unmasked["input_values"].shape == (2, 500)


@pytest.mark.parametrize("kind", ["bert", "group"])
def test_features_are_made_in_two_steps(models, kind):
    extractor = AutoFeatureExtractor.from_pretrained(models[kind])
    prepared = front_end_of(extractor).prepare(noise(20_000))
    # a frame of 400 samples every 160; waveforms stay as they are
    assert prepared.shape == ((1 + (20_000 - 400) // 160, 80) if kind == "bert" else (20_000,))
    assert front_end_of(extractor).hop == (160 if kind == "bert" else 1)
    finished = front_end_of(extractor).finish(prepared)
    np.testing.assert_array_equal(finished, front_end_of(extractor).extract(noise(20_000)))
    assert finished.dtype == np.float32


@pytest.mark.parametrize(("rule", "longest"), [("attention mask", 24), ("one clip at a time", 17)])
def test_frames_are_padded_with_what_they_hold(models, rule, longest):
    extractor = AutoFeatureExtractor.from_pretrained(models["group"])
    clips = [{"features": noise(frames * 5).reshape(frames, 5)} for frames in (17, 9)]
    batch = Collator(extractor, rule)(clips)
    assert batch["input_values"].shape == (2, longest, 5)
    assert batch["attention_mask"].sum(1).tolist() == [17, 9]
    np.testing.assert_array_equal(batch["input_values"][1, :9], clips[1]["features"])
    assert batch["input_values"][1, 9:].abs().sum() == 0


WHISPER_CLIPS = {
    "short": noise(8_000),
    "quiet": 1e-4 * noise(8_000),
    "silence": np.zeros(8_000, dtype=np.float32),
    "tone": np.sin(np.arange(40_000) * 0.1).astype(np.float32) * np.linspace(1, 0, 40_000, dtype=np.float32),
    "shorter than a frame": noise(100),
    "one sample": noise(1),
    "nearly the window": noise(79_979),
    "the window": noise(80_000),
    "longer": noise(90_001),
}


@pytest.mark.parametrize("name", WHISPER_CLIPS)
def test_features_of_whisper_are_those_of_the_stock_extractor(name):
    extractor, clip = WhisperFeatureExtractor(feature_size=80, chunk_length=5), WHISPER_CLIPS[name]
    front_end = front_end_of(extractor)
    features = front_end.extract(clip)
    assert features.dtype == np.float32
    stock = extractor(clip, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    assert features.shape == (80, 500)
    np.testing.assert_allclose(features, stock, atol=1e-6)
    if name != "longer":  # its last frame holds what follows, where the stock one mirrors
        np.testing.assert_array_equal(front_end.finish(front_end.prepare(clip)), features)


def test_frames_of_whisper_are_natural_logarithms_of_power():
    front_end = front_end_of(WhisperFeatureExtractor(feature_size=80, chunk_length=5))
    assert (front_end.on_frames, front_end.fixed_window, front_end.hop, front_end.longest) == (True, True, 160, 80_000)
    prepared = front_end.prepare(noise(16_000))
    assert prepared.shape == (102, 80)  # 100 of a second, and two that reach into it from behind
    np.testing.assert_allclose(front_end.prepare(2 * noise(16_000)), prepared + np.log(4), atol=1e-5)
    assert front_end.prepare(noise(160_000)).shape == (1_000, 80)  # of all of a clip longer than the window
    stretch = front_end.finish(front_end.prepare(noise(160_000))[300:900])
    assert stretch.shape == (80, 500)
    from_there = front_end.extract(noise(160_000)[300 * 160 :])
    np.testing.assert_allclose(stretch[:, 2:-1], from_there[:, 2:-1], atol=2e-5)


def test_an_extractor_without_an_entry_has_the_front_end_of_its_base(monkeypatch):
    class Derived(SeamlessM4TFeatureExtractor):
        pass

    assert type(front_end_of(Derived())) is features.StackedMelFrontEnd
    assert type(front_end_of(Wav2Vec2FeatureExtractor())) is features.FrontEnd
