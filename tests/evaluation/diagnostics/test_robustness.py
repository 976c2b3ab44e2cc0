import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from scipy import signal

from ser_hf.audio import effects, voice_activity
from ser_hf.evaluation.diagnostics import occlusion, robustness
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import EMOTIONS

BY_NAME = {condition.name: condition for condition in robustness.CONDITIONS}


def voice(samples=32_000, seed=0):
    """Noise of the band of speech that swells and fades, in a nearly silent room."""
    rng = np.random.default_rng(seed)
    band = signal.sosfilt(signal.butter(4, [200, 3_000], "bandpass", fs=16_000, output="sos"), rng.normal(size=samples))
    swell = np.sin(np.pi * np.arange(samples) / 4_000) ** 2
    swell[: samples // 4] = 0
    return (0.2 * band * swell + 1e-5 * rng.normal(size=samples)).astype(np.float32)


def decibel(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


def share_above(samples, frequency):
    density = np.square(np.abs(np.fft.rfft(samples)))
    return density[round(frequency * len(samples) / 16_000) :].sum() / density.sum()


@pytest.mark.parametrize("condition", robustness.CONDITIONS, ids=lambda condition: condition.name)
def test_seed_name_and_samples_decide_and_the_input_stays(condition):
    clip = voice()
    kept = clip.copy()
    one, same = condition(clip, 1), condition(clip, 1)
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(clip, kept)
    assert one.dtype == np.float32
    assert np.isfinite(one).all()
    assert len(one) == len(clip) or condition.kind in ("speed", "trimming")
    assert not np.array_equal(one, clip)
    assert np.array_equal(one, condition(clip, 2)) is (condition.kind not in ("noise", "room", "hum"))


@pytest.mark.parametrize("condition", robustness.CONDITIONS, ids=lambda condition: condition.name)
@pytest.mark.parametrize("samples", [0, 1, 399, 400, 1_600, 4_000])
def test_short_and_silent_clips_stay_clips(condition, samples):
    for clip in (np.zeros(samples, dtype=np.float32), voice(40_000)[-samples or 40_000 :]):
        out = condition(clip)
        assert np.isfinite(out).all()
        assert len(out) >= min(samples, 1_600)
        assert out.any() == clip.any() or condition.kind == "offset"


def test_names_are_unique_and_of_a_kind():
    assert len(BY_NAME) == len(robustness.CONDITIONS)
    assert {condition.kind for condition in robustness.CONDITIONS} == {
        *("gain", "noise", "hum", "room", "offset", "codec", "clipping", "trimming", "speed")
    }


@pytest.mark.parametrize("by", [-20, -10, 10])
def test_gain_is_exact_and_nothing_clips(by):
    clip = 3 * voice()
    out = BY_NAME[f"gain {by:+d} dB"](clip)
    assert decibel(out) - decibel(clip) == pytest.approx(by, abs=1e-4)
    np.testing.assert_allclose(out / 10 ** (by / 20), clip, rtol=1e-6)


@pytest.mark.parametrize(("name", "constant"), [("offset 0.1 %", 0.001), ("offset 1 %", 0.01), ("offset 3 %", 0.03)])
def test_an_offset_is_a_share_of_full_scale(name, constant):
    clip = voice()
    np.testing.assert_allclose(BY_NAME[name](clip) - clip, constant, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "ratio"), [("noise 20 dB", 20), ("noise 10 dB", 10), ("noise 5 dB", 5), ("noise 0 dB", 0)]
)
def test_noise_lies_below_the_voice_as_named(name, ratio):
    clip = voice()
    start, end = voice_activity.voiced_span(clip)
    assert start > 5_000
    added = BY_NAME[name](clip) - clip
    assert decibel(clip[start:end]) - decibel(added) == pytest.approx(ratio, abs=0.2)
    frequency, density = signal.welch(added, 16_000, nperseg=2_048)
    per_octave = [density[(frequency >= low) & (frequency < 2 * low)].mean() for low in (125, 500, 2_000)]
    falls = -10 * np.diff(np.log10(per_octave))
    assert falls == pytest.approx([6, 6], abs=1.5)  # two octaves at 3 dB


@pytest.mark.parametrize(("name", "ratio"), [("hum 20 dB", 20), ("hum 10 dB", 10)])
def test_hum_is_of_the_mains_and_lies_below_the_voice_as_named(name, ratio):
    clip = voice()
    start, end = voice_activity.voiced_span(clip)
    added = BY_NAME[name](clip) - clip
    assert decibel(clip[start:end]) - decibel(added) == pytest.approx(ratio, abs=0.2)
    spectrum = np.square(np.abs(np.fft.rfft(added[:16_000] * np.hanning(16_000))))  # 1 Hz apart
    lines = np.add.outer(50 * np.arange(1, 9), (-2, -1, 0, 1, 2)).ravel()
    assert spectrum[lines].sum() / spectrum.sum() > 0.98


def test_white_noise_is_flat():
    clip = voice()
    added = BY_NAME["white noise 20 dB"](clip) - clip
    assert share_above(added, 4_000) == pytest.approx(0.5, abs=0.03)
    start, end = voice_activity.voiced_span(clip)
    assert decibel(clip[start:end]) - decibel(added) == pytest.approx(20, abs=0.2)


def test_a_telephone_takes_what_lies_above_its_band():
    clip = (0.1 * np.random.default_rng(0).normal(size=48_000)).astype(np.float32)
    assert share_above(clip, 3_400) > 0.5
    assert share_above(BY_NAME["telephone"](clip), 3_800) < 0.01


@pytest.mark.parametrize("name", ["mp3 24 kbit/s", "opus 16 kbit/s"])
@pytest.mark.parametrize("samples", [1_601, 32_000, 47_999])
def test_codecs_keep_length_and_place_and_lose_something(name, samples):
    clip = voice(60_000)[-samples:]
    out = BY_NAME[name](clip)
    assert len(out) == samples
    lag = int(signal.correlate(out, clip).argmax()) - (samples - 1)
    assert abs(lag) <= 16  # 1 ms
    assert 0.6 < np.corrcoef(out, clip)[0, 1] < 0.9999


def test_codecs_keep_to_their_bitrate():
    clip = (0.1 * np.random.default_rng(0).normal(size=48_000)).astype(np.float32)
    quality = [
        np.corrcoef(robustness.coded(clip, None, kilobits, form), clip)[0, 1]
        for form in ("MP3", "OPUS")
        for kilobits in (16, 32, 64)
    ]
    assert quality[:3] == sorted(quality[:3])
    assert quality[3:] == sorted(quality[3:])
    assert quality[2] > 0.9 > quality[0]


def test_clipping_cuts_the_loudest_tenth_of_the_voice():
    clip = voice()
    start, end = voice_activity.voiced_span(clip)
    out = BY_NAME["clipped 10 %"](clip)
    changed = out != clip
    assert changed[start:end].mean() == pytest.approx(0.1, abs=1e-3)
    assert len(np.unique(np.abs(out[changed]))) == 1
    assert np.abs(out).max() >= np.abs(clip[~changed]).max()
    np.testing.assert_array_equal(np.sign(out), np.sign(clip))


def test_trimming_leaves_the_voice_or_what_follows_its_start():
    clip = voice()
    start, end = voice_activity.voiced_span(clip)
    np.testing.assert_array_equal(BY_NAME["edges trimmed"](clip), clip[start:end])
    np.testing.assert_array_equal(BY_NAME["starts 0.3 s late"](clip), clip[start + 4_800 :])


@pytest.mark.parametrize(("name", "length"), [("speed -10 %", 53_334), ("speed +10 %", 43_637)])
def test_speed_moves_length_and_pitch_along(name, length):
    tone = np.sin(2 * np.pi * 1_000 * np.arange(48_000) / 16_000).astype(np.float32)
    out = BY_NAME[name](tone)
    assert len(out) == length
    peak = np.abs(np.fft.rfft(out * np.hanning(length))).argmax() * 16_000 / length
    assert peak == pytest.approx(1_000 * 48_000 / length, abs=1)


def test_a_room_always_has_the_reverberation_time_that_it_is_named_for():
    click = np.zeros(16_000, dtype=np.float32)
    click[100] = 1
    for seed in range(4):
        heard = BY_NAME["room 0.4 s"](click, seed)
        left = np.cumsum(np.square(heard[101:], dtype=np.float64)[::-1])[::-1]  # Schroeder's integral
        level = 10 * np.log10(left[left > 0] / left[0])
        assert 3 * (np.argmax(level < -25) - np.argmax(level < -5)) / 16_000 == pytest.approx(0.4, rel=0.15)
        assert np.abs(heard).argmax() == 100
    assert len(effects._response(np.random.default_rng(0), 0.4)) == 6_400


def level_meter():
    """Calls loud clips angry, faint ones sad, and those in between neutral."""

    def probabilities(clips):
        answers = np.full((len(clips), 8), 0.01, dtype=np.float32)
        for row, clip in zip(answers, clips, strict=True):
            level = np.abs(clip).max()
            row[EMOTIONS.index("angry" if level > 0.7 else "sad" if level < 0.15 else "neutral")] = 0.9
        return answers

    return SimpleNamespace(probabilities=probabilities, voice=SimpleNamespace(has_voice=lambda clip: clip.max() > 0.5))


def test_figures_are_those_counted_by_hand(monkeypatch):
    read, decoded_clips = [], robustness.decoded_clips
    monkeypatch.setattr(robustness, "decoded_clips", lambda rows: read.append(len(rows)) or decoded_clips(rows))
    tone = np.sin(2 * np.pi * 300 * np.arange(8_000) / 16_000).astype(np.float32)
    clips = [tone * level for level in (0.8, 0.5, 0.3, 0.1)] + [tone]  # the last is not asked for
    labels = ["angry", "neutral", "neutral", "sad", "happy"]
    data = datasets.Dataset.from_dict(
        {
            "audio": [{"array": clip, "sampling_rate": 16_000} for clip in clips],
            "label": [EMOTIONS.index(label) for label in labels],
        }
    )
    model = level_meter()
    indices = [3, 0, 1, 2]
    report = robustness.evaluate_robustness(
        model, data, indices, model.probabilities([clips[i] for i in indices]), seed=3
    )
    assert (report["n"], report["seed"]) == (4, 3)
    assert report["clean"] == {"uar": 1.0, "accuracy": 1.0}
    silent = [occlusion.noise_floor(clips[i]).max() <= 0.5 for i in indices]
    assert report["silence"]["abstained"] == np.mean(silent)
    assert 0 < np.mean(silent) < 1
    assert read == [4]  # once
    for name in ("offset 0.1 %", "offset 1 %", "offset 3 %"):  # a recording is read without it
        assert {row["name"]: row["flips"] for row in report["conditions"]}[name] == 0
    found = {row["name"]: row for row in report["conditions"]}
    assert list(found) == list(BY_NAME)
    # 20 dB softer, all are below 0.15; of three classes, that of the one sad clip is right
    assert found["gain -20 dB"] == {
        "name": "gain -20 dB",
        "kind": "gain",
        "uar": pytest.approx(1 / 3),
        "accuracy": 0.25,
        "share": pytest.approx(1 / 3),
        "flips": 0.75,
    }
    # 10 dB louder: 0.32 for the sad one, the others above 0.9
    louder = found["gain +10 dB"]
    assert (louder["uar"], louder["accuracy"], louder["flips"]) == (pytest.approx(1 / 3), 0.25, 0.75)
    softer = found["gain -10 dB"]  # 0.25, 0.158, 0.095, 0.03: neutral, neutral, sad, sad
    assert (softer["uar"], softer["accuracy"], softer["flips"]) == (pytest.approx(0.5), 0.5, 0.5)
    slower = found["speed -10 %"]
    assert (slower["uar"], slower["accuracy"], slower["flips"]) == (1.0, 1.0, 0.0)
    assert {type(value) for row in report["conditions"] for value in row.values()} == {str, float}


def test_chunks_change_nothing(monkeypatch):
    clips = [voice(4_000 + 100 * seed, seed) for seed in range(5)]
    rows = {"audio": [{"array": c, "sampling_rate": 16_000} for c in clips], "label": [0, 3, 4, 0, 3]}
    data, model = datasets.Dataset.from_dict(rows), level_meter()
    clean = model.probabilities(clips)
    whole = robustness.evaluate_robustness(model, data, list(range(5)), clean)
    monkeypatch.setattr(robustness, "_CHUNK", 2)
    assert robustness.evaluate_robustness(model, data, list(range(5)), clean) == whole


def test_a_real_model_is_asked_and_answers_the_same_again(models):
    clips = [voice(8_000 + 400 * seed, seed) for seed in range(3)]
    rows = {"audio": [{"array": c, "sampling_rate": 16_000} for c in clips], "label": [0, 3, 4]}
    data, model = datasets.Dataset.from_dict(rows), Predictor(models["layer"], device="cpu")
    report = robustness.evaluate_robustness(model, data, [2, 0], model.probabilities([clips[2], clips[0]]))
    assert report["n"] == 2
    assert robustness.evaluate_robustness(model, data, [2, 0], model.probabilities([clips[2], clips[0]])) == report
    assert json.loads(json.dumps(report)) == report
