import datasets
import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, WhisperFeatureExtractor

from ser_hf import audio
from ser_hf.audio import effects, voice_activity
from ser_hf.models import frozen_frontend
from ser_hf.models.features import front_end_of
from ser_hf.training import augmentation, dataset, feature_cache
from ser_hf.training.dataset import SpeechDataset, TrainingCollator, Variation

INDICES = [5, 9, 40, 200, 390, 405]


@pytest.fixture(scope="module")
def extractors(models):
    return {kind: AutoFeatureExtractor.from_pretrained(folder) for kind, folder in models.items()}


def noise(samples, seed=0):
    return np.random.default_rng(seed).normal(size=samples).astype(np.float32) * 0.1


def same(one, other):
    return one["features"].shape == other["features"].shape and np.array_equal(one["features"], other["features"])


@pytest.mark.parametrize("kind", ["bert", "group"])
def test_without_variation_a_clip_is_what_the_extractor_makes_of_it(rows, extractors, kind):
    made = SpeechDataset(rows, INDICES, extractors[kind]).decode()
    assert len(made) == len(INDICES)
    for place, index in enumerate(INDICES):
        expected = front_end_of(extractors[kind]).extract(audio.load(rows[index]["audio"]))
        for key in (place, (3, place)):
            assert made[key].keys() == {"features", "labels"}
            assert made[key]["labels"] == rows[index]["label"]
            np.testing.assert_array_equal(made[key]["features"], expected)
    assert made.durations.tolist() == made.lengths(2).tolist() == [rows[i]["duration"] for i in INDICES]
    assert made.shortest() == min(made.durations)


@pytest.mark.parametrize("kind", ["bert", "group"])
@pytest.mark.parametrize(
    "how",
    [
        {"silence": "vary"},
        {"silence": "vary", "mixup": 0.4},
        {"augmentation": augmentation.parse("speed:0.1,gain:6", (), 1.0)},
    ],
    ids=["silence", "mixup", "augmentation"],
)
def test_an_example_depends_on_seed_epoch_and_place_alone(rows, extractors, kind, how):
    variation = Variation(**how, seed=7)
    one = SpeechDataset(rows, INDICES, extractors[kind], variation).decode()
    two = SpeechDataset(rows, INDICES, extractors[kind], variation)  # never decoded ahead, asked in another order
    later = {place: two[2, place] for place in reversed(range(len(INDICES)))}
    assert all(same(one[2, place], later[place]) for place in later)
    other = SpeechDataset(rows, INDICES, extractors[kind], Variation(**how, seed=8))
    assert not all(same(one[2, place], one[3, place]) for place in later)
    assert not all(same(one[2, place], other[2, place]) for place in later)
    assert same(one[0], SpeechDataset(rows, INDICES, extractors[kind])[0])  # no epoch, no variation


def test_silence_is_cut_at_the_edges_alone(rows, extractors):
    varied = SpeechDataset(rows, INDICES, extractors["group"], Variation(silence="vary"))
    shortened = 0
    for place, index in enumerate(INDICES):
        samples = audio.load(rows[index]["audio"])
        start, end = voice_activity.voiced_span(samples)
        got = varied[1, place]["features"]
        rng = np.random.default_rng([0, 1, place])
        begin, stop = augmentation.vary(len(samples), (start, end), rng)
        assert begin <= start < end <= stop
        np.testing.assert_array_equal(got, front_end_of(extractors["group"]).extract(samples[begin:stop]))
        shortened += len(samples) - len(got)
    assert shortened > 0


def test_all_or_a_margin_of_the_silence_is_left(rows, extractors):
    varied = SpeechDataset(rows, INDICES, extractors["group"], Variation(silence="random_trim"))
    lengths = set()
    for epoch in range(4):
        for place, index in enumerate(INDICES):
            samples = audio.load(rows[index]["audio"])
            rng = np.random.default_rng([0, epoch, place])
            begin, stop = augmentation.random_trim(len(samples), voice_activity.voiced_span(samples), rng, 3_200)
            got = varied[epoch, place]["features"]
            assert abs(len(got) - (stop - begin)) <= 2  # durations are rounded
            lengths.add(len(got) - len(samples))
    assert 0 in lengths
    assert len(lengths) > 5


@pytest.mark.parametrize(("start", "frames"), [(0, 150), (31, 120), (60, 61)])
def test_cut_log_mel_frames_are_those_of_the_cut_waveform(extractors, start, frames):
    extractor = extractors["bert"]
    samples = noise(40_000) * np.linspace(0.1, 1, 40_000, dtype=np.float32)
    kept = front_end_of(extractor).prepare(samples)[start : start + frames]
    assert len(kept) == frames
    cut = samples[start * 160 : (start + frames - 1) * 160 + 400]
    np.testing.assert_allclose(front_end_of(extractor).finish(kept), front_end_of(extractor).extract(cut), atol=1e-4)


@pytest.mark.parametrize(("kind", "unit"), [("bert", 0.01), ("group", 1 / 16_000)])
def test_lengths_are_those_of_the_examples(rows, extractors, kind, unit):
    varied = SpeechDataset(rows, INDICES, extractors[kind], Variation(silence="vary")).decode()
    step = unit if kind == "group" else 4 * unit  # four frames are stacked
    for epoch in (0, 4):
        real = np.array([len(varied[epoch, place]["features"]) for place in range(len(INDICES))]) * step
        slack = 1e-3 if kind == "group" else 0.05  # durations are rounded; a stack of frames, and the window's end
        np.testing.assert_allclose(varied.lengths(epoch), real, atol=slack)
    assert not np.array_equal(varied.lengths(0), varied.lengths(4))
    assert (varied.lengths(0) <= varied.durations + 1e-9).all()
    least = min(varied.lengths(epoch).min() for epoch in range(20))
    assert varied.shortest() <= least < varied.shortest() + 0.3


def test_a_corrupt_recording_is_named(rows, extractors):
    broken = datasets.Dataset.from_dict(
        {
            "audio": [{"path": "03-01-broken.wav", "bytes": b"RIFF, and then nothing"}],
            "label": [1],
            "sha256": ["0"],
            "duration": [2.0],
        }
    )
    with pytest.raises(audio.AudioError, match=r"03-01-broken\.wav"):
        SpeechDataset(broken, [0], extractors["bert"]).decode()


@pytest.mark.parametrize("kind", ["bert", "group"])
def test_what_memory_does_not_hold_is_decoded_again(rows, extractors, kind, monkeypatch):
    variation = Variation(silence="vary")
    whole = SpeechDataset(rows, INDICES, extractors[kind], variation).decode()
    seconds = [rows[index]["duration"] for index in INDICES]
    monkeypatch.setattr(dataset, "KEPT_BYTES", int(sum(seconds[:2]) * 64_000) + 64)
    some = SpeechDataset(rows, INDICES, extractors[kind], variation).decode()
    assert (len(whole._clips._in_memory), len(some._clips._in_memory)) == (len(INDICES), 2)
    assert all(same(whole[1, place], some[1, place]) for place in range(len(INDICES)))
    decoded = []
    load = audio.load
    monkeypatch.setattr(audio, "load", lambda source: decoded.append(1) or load(source))
    whole[1, 5], some[1, 1]
    assert not decoded
    some[1, 5]
    assert decoded


def test_mixup_mixes_waveforms_and_says_with_what(rows, extractors):
    mixed = SpeechDataset(rows, INDICES, extractors["group"], Variation(mixup=0.4)).decode()
    shares = []
    for place, index in enumerate(INDICES):
        example = mixed[0, place]
        shares.append(example["share"])
        candidates = [i for i in INDICES if rows[i]["label"] == example["other"]]
        own = audio.load(rows[index]["audio"])
        expected = [
            front_end_of(extractors["group"]).extract(
                augmentation.mix_waveforms(own, audio.load(rows[i]["audio"]), np.float32(example["share"])),
            )
            for i in candidates
        ]
        assert any(np.allclose(example["features"], one, atol=1e-5) for one in expected)
        assert example["labels"] == rows[index]["label"]
    assert 0.5 <= min(shares) < max(shares) <= 1
    assert "other" not in mixed[0]
    batch = TrainingCollator(extractors["group"], "attention mask")([mixed[0, place] for place in range(3)])
    torch.testing.assert_close(batch["share"].double(), torch.tensor(shares[:3]).double())
    assert batch["other"].dtype == torch.int64


def test_mixup_of_mel_frames_adds_powers_at_one_level(rows, extractors):
    made = SpeechDataset(rows, INDICES, extractors["bert"], Variation(mixup=0.4, seed=3)).decode()
    example = made[1, 0]
    rng = np.random.default_rng([3, 1, 0])
    other, share = int(rng.integers(len(INDICES))), float(rng.beta(0.4, 0.4))
    share = max(share, 1 - share)
    one, two = (front_end_of(extractors["bert"]).prepare(audio.load(rows[INDICES[i]]["audio"])) for i in (0, other))
    two = two[: len(one)] + np.quantile(one.mean(axis=1), 0.95) - np.quantile(two.mean(axis=1), 0.95)
    power = share * np.exp(one.astype(np.float64))
    power[: len(two)] += (1 - share) * np.exp(two.astype(np.float64))
    expected = front_end_of(extractors["bert"]).finish(np.log(power).astype(np.float32))
    np.testing.assert_allclose(example["features"], expected, atol=2e-3)
    assert example["other"] == rows[INDICES[other]]["label"]
    assert example["share"] == share


def test_mel_frames_are_augmented_after_the_waveform(rows, extractors):
    both = augmentation.parse("gain:6,bands:10", (), 1.0)
    example = SpeechDataset(rows, INDICES, extractors["bert"], Variation(augmentation=both, seed=3)).decode()[0, 2]
    rng = np.random.default_rng([3, 0, 2])
    louder = effects.gain(audio.load(rows[INDICES[2]]["audio"]), rng_after(rng), 6)
    mel = front_end_of(extractors["bert"]).prepare(louder)
    rng.random()  # whether
    expected = front_end_of(extractors["bert"]).finish(augmentation.bands(mel, rng, 10))
    np.testing.assert_array_equal(example["features"], expected)


def rng_after(rng):
    """The generator after it was asked whether to apply a step."""
    rng.random()
    return rng


def test_weights_come_with_the_examples(rows, extractors):
    weighted = SpeechDataset(rows, INDICES, extractors["bert"], weights=np.arange(6) / 2)
    assert [weighted[place]["weight"] for place in range(3)] == [0, 0.5, 1]


def test_examples_from_frozen_outputs(rows, models, extractors, tmp_path):
    model = AutoModelForAudioClassification.from_pretrained(models["layer"]).eval()
    used = rows.select(INDICES)
    store, _ = feature_cache.feature_cache(
        used, "front", model, extractors["layer"], frozen_frontend.FrozenFrontend(model).outputs, tmp_path
    )
    stored = SpeechDataset(rows, INDICES, extractors["layer"], store=store).decode()
    varied = SpeechDataset(rows, INDICES, extractors["layer"], Variation(silence="vary"), store).decode()
    cut = 0
    for place, index in enumerate(INDICES):
        whole, (start, end) = store[rows[index]["sha256"]]
        np.testing.assert_array_equal(stored[place]["features"], whole)
        assert stored[place]["labels"] == rows[index]["label"]
        part = varied[0, place]["features"]
        begin, stop = augmentation.vary(len(whole), (start, end), np.random.default_rng([0, 0, place]))
        np.testing.assert_array_equal(part, whole[begin:stop])
        assert varied.lengths(0)[place] == pytest.approx(rows[index]["duration"] * len(part) / len(whole))
        cut += len(whole) - len(part)
    assert cut > 0
    assert stored[0]["features"].dtype == np.float32


def test_what_belongs_to_clips_is_batched_with_them(extractors):
    extractor = extractors["layer"]
    clips = [
        {"features": np.zeros(300, dtype=np.float32), "labels": 4, "other": 2, "share": 0.75, "weight": 1.5},
        {"features": np.zeros(500, dtype=np.float32), "labels": 0, "other": 7, "share": 1.0, "weight": 0.5},
    ]
    batch = TrainingCollator(extractor, "attention mask")(clips)
    assert batch["labels"].tolist() == [4, 0]
    assert batch["other"].tolist() == [2, 7]
    assert batch["share"].tolist() == [0.75, 1.0]
    assert batch["weight"].tolist() == [1.5, 0.5]
    assert batch["share"].is_floating_point()
    assert batch["weight"].is_floating_point()
    plain = TrainingCollator(extractor, "attention mask")([{"features": np.zeros(300, dtype=np.float32)}])
    assert plain.keys() == {"input_values", "attention_mask"}


@pytest.mark.parametrize("augment", ["", "gain:6", "hiss:10-40,gaps:0.3"])
def test_of_a_clip_longer_than_the_window_each_epoch_takes_a_random_stretch(rows, augment):
    extractor = WhisperFeatureExtractor(chunk_length=1)
    parsed = augmentation.parse(augment, (), 1e-9) if augment else None  # not applied, but prepared for
    made = SpeechDataset(rows, INDICES, extractor, Variation(silence="keep", augmentation=parsed, seed=7)).decode()
    assert made.durations.min() > 1.0
    assert made.lengths(0).tolist() == made.unvaried_lengths().tolist() == [1.0] * len(INDICES)
    front_end = front_end_of(extractor)
    for place, index in enumerate(INDICES):
        prepared = front_end.prepare(audio.load(rows[index]["audio"]))
        features = [made[epoch, place]["features"] for epoch in range(3)]
        assert {one.shape for one in features} == {(80, 100)}
        assert not np.array_equal(features[0], features[1])
        np.testing.assert_array_equal(features[0], made[0, place]["features"])
        if augment != "gain:6":  # the stretch of a waveform need not begin with a frame
            stretches = {front_end.finish(prepared[i : i + 100]).tobytes(): i for i in range(len(prepared) - 99)}
            starts = {stretches[one.tobytes()] for one in features}
            assert len(starts) > 1
    # validation takes the beginning, as the stock extractor does
    alone = SpeechDataset(rows, INDICES, extractor)[0]["features"]
    stock = extractor(audio.load(rows[INDICES[0]]["audio"]), sampling_rate=16_000, return_tensors="np")
    np.testing.assert_allclose(alone[:, :-1], stock["input_features"][0][:, :-1], atol=1e-5)
