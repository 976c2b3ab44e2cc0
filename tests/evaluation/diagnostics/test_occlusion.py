import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import signal
from transformers import AutoModelForAudioClassification, Wav2Vec2FeatureExtractor

from ser_hf import audio
from ser_hf.errors import UserError
from ser_hf.evaluation.diagnostics import occlusion
from ser_hf.evaluation.diagnostics.occlusion import ExplanationError
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import COLOURS, EMOTIONS


def recording(seconds=3.0, seed=0, floor=1e-3):
    """A voice between two silences: bursts of noise that are 40 dB above the room."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=round(seconds * 16_000))
    speaking = (np.arange(len(samples)) % 3_200 < 2_400).astype(float)
    speaking[: len(samples) // 6] = speaking[-len(samples) // 6 :] = 0
    return (samples * (floor + 0.1 * speaking)).astype(np.float32)


def listener(start, end, length, label="angry"):
    """A model that hears nothing but seconds `start` to `end`: the louder they are, the surer it is
    of the label."""
    asked = []

    def probabilities(clips):
        asked.append(len(clips))
        assert {len(clip) for clip in clips} == {length}
        answers = np.zeros((len(clips), 8), dtype=np.float32)
        for row, clip in zip(answers, clips, strict=True):
            heard = clip[round(start * 16_000) : round(end * 16_000)]
            sure = 0.02 + 0.9 * min(1.0, np.sqrt(np.mean(np.square(heard))) / 0.09)
            row[:] = (1 - sure) / 7 - 0.001
            row[EMOTIONS.index(label)] = sure
            row[EMOTIONS.index("calm")] += 0.007
        return answers

    voice = SimpleNamespace(has_voice=np.any)
    return SimpleNamespace(probabilities=probabilities, labels=list(EMOTIONS), voice=voice, asked=asked)


@pytest.mark.parametrize(("start", "end"), [(0.6, 0.9), (1.4, 1.6), (2.1, 2.4)])
def test_the_peak_lies_where_the_model_listens(start, end):
    samples = recording()
    kept = samples.copy()
    model = listener(start, end, len(samples))
    found = occlusion.explain(model, samples)
    np.testing.assert_array_equal(samples, kept)
    assert found.label == "angry"
    assert found.score == pytest.approx(model.probabilities([samples])[0].max())
    assert start - 0.05 <= found.seconds[found.importance.argmax()] <= end + 0.05
    away = (found.seconds < start - 0.35) | (found.seconds > end + 0.35)
    assert np.abs(found.importance[away]).max() < 1e-6
    assert found.stretch[0] - 0.15 <= (start + end) / 2 <= found.stretch[1] + 0.15
    assert found.stretch[1] - found.stretch[0] < 0.6
    assert found.without["angry"] < 0.7 * found.score
    assert max(model.asked) <= 16


def test_importance_is_the_mean_of_the_windows_that_cover_a_cell():
    samples = recording(2.0)
    model = listener(0.9, 1.0, len(samples))
    found = occlusion.explain(model, samples)
    cell = 1_333  # a third of 0.25 s
    assert found.window == 3 * cell / 16_000
    assert len(found.seconds) == len(found.importance) == 25  # the last one is a rest
    assert found.seconds[:2] == pytest.approx([cell / 2 / 16_000, 1.5 * cell / 16_000])
    floor, number = occlusion.noise_floor(samples), EMOTIONS.index("angry")
    drops = []
    for first in (9, 10, 11):
        changed = samples.copy()
        part = slice(first * cell, (first + 3) * cell)
        fade = np.sin(np.pi / 2 * (np.arange(160) + 0.5) / 160) ** 2
        share = np.concatenate([fade, np.ones(3 * cell - 320), fade[::-1]])
        changed[part] = (1 - share) * samples[part] + share * floor[part]
        drops.append(np.log(found.score) - np.log(model.probabilities([changed])[0, number]))
    assert found.importance[11] == pytest.approx(np.mean(drops), rel=1e-4)
    assert found.importance[11] > 0.1
    first = occlusion.explain(listener(0.0, 0.05, len(samples), "sad"), samples)
    assert first.importance[0] == pytest.approx(0, abs=0.02)  # silence by silence


def test_the_strongest_stretch_is_the_shortest_with_half():
    assert occlusion._strongest(np.array([0, 0.1, 2, 2, 0.1, -3])) == (2, 4)
    assert occlusion._strongest(np.array([0, 5, 1, 1, 1, 1])) == (1, 2)
    assert occlusion._strongest(np.array([1.0, 1, 1, 1])) == (0, 2)
    assert occlusion._strongest(np.array([1, 0, 0, 3])) == (3, 4)


def test_the_noise_floor_sounds_like_the_pauses():
    rng = np.random.default_rng(1)
    hum = signal.sosfilt(signal.butter(2, 500, fs=16_000, output="sos"), rng.normal(size=64_000)) * 0.01
    voice = np.zeros(64_000)
    voice[20_000:50_000] = rng.normal(size=30_000)
    samples = (hum + voice).astype(np.float32)
    floor = occlusion.noise_floor(samples)
    assert len(floor) == len(samples)
    assert floor.dtype == np.float32
    np.testing.assert_array_equal(floor, occlusion.noise_floor(samples))
    frequency, wanted = signal.welch(hum, 16_000, nperseg=512)
    _, found = signal.welch(floor, 16_000, nperseg=512)
    for low, high in ((60, 500), (500, 1_000), (1_000, 2_000), (2_000, 4_000)):  # falls by 50 dB from first to last
        band = (frequency > low) & (frequency < high)
        assert 10 * np.log10(found[band].sum() / wanted[band].sum()) == pytest.approx(-1, abs=2.5)


def test_digital_zeros_are_not_the_noise_floor():
    samples = recording()
    padded = np.pad(samples, 16_000)
    level = np.sqrt(np.mean(np.square(occlusion.noise_floor(padded))))
    assert level == pytest.approx(1e-3, rel=0.15)
    assert not occlusion.noise_floor(np.zeros(1_600, dtype=np.float32)).any()


def test_a_replaced_window_fades_and_leaves_the_rest():
    samples, floor = np.ones(16_000, dtype=np.float32), np.zeros(16_000, dtype=np.float32)
    out = occlusion._replaced(samples, floor, 4_000, 8_000)
    assert (out[:4_000] == 1).all()
    assert (out[8_000:] == 1).all()
    assert (out[4_160:7_840] == 0).all()
    assert np.abs(np.diff(out)).max() < 0.011
    assert occlusion._replaced(samples, floor, 15_000, 19_000)[15_160:15_840].max() == 0


@pytest.mark.parametrize("seconds", [0.1, 0.26, 0.8, 12.0, 60.0])
def test_windows_fit_the_clip(seconds):
    samples = recording(seconds)
    model = listener(seconds / 3, seconds / 2, len(samples))
    found = occlusion.explain(model, samples)
    assert 12 <= len(found.importance) <= 121
    assert found.window <= max(0.25, seconds / 4 + 0.01, seconds / 39)
    assert seconds / 3 - found.window <= found.seconds[found.importance.argmax()] <= seconds / 2 + found.window
    assert 0 < found.seconds[0] < found.seconds[-1] < seconds
    assert sum(model.asked) <= 121


def test_a_recording_that_is_too_long_is_named():
    with pytest.raises(ExplanationError, match="the recording is 61 s long: cut out the 60 s or less"):
        occlusion.explain(None, np.ones(61 * 16_000, dtype=np.float32))
    assert issubclass(ExplanationError, UserError)


def test_what_counts_nowhere_is_said():
    constant = np.full((1, 8), 0.1, dtype=np.float32)
    constant[0, 2] = 0.3
    voice = SimpleNamespace(has_voice=lambda samples: True)
    model = SimpleNamespace(
        probabilities=lambda clips: np.repeat(constant, len(clips), 0), labels=list(EMOTIONS), voice=voice
    )
    for samples in (recording(), np.zeros(4_000, dtype=np.float32)):
        found = occlusion.explain(model, samples)
        report = occlusion.summary(found)
        assert (report["label"], report["stretch"], report["without"]) == ("happy", None, None)
        assert report["says"].startswith("no stretch of 0.")
        assert not np.any(report["importance"])
        occlusion.draw_occlusion(found).canvas.draw()


def test_a_summary_says_where_and_what_is_left():
    samples = recording()
    report = occlusion.summary(occlusion.explain(listener(1.4, 1.6, len(samples)), samples))
    (start, end), answer = report["stretch"], max(report["without"], key=report["without"].get)
    assert answer == "angry"
    left = report["without"]["angry"]
    assert left < report["score"]
    assert report["says"] == f"{start:.1f} to {end:.1f} s carries most of it; without it: still angry ({left:.2f})"
    assert set(report["without"]) == set(EMOTIONS)
    assert report["file"] == "the recording"
    assert report["layer_weights"] is None
    assert json.loads(json.dumps(report)) == report


def mixing(models, folder):
    """A stock model that mixes its layers, with weights that are known."""
    model = AutoModelForAudioClassification.from_pretrained(models["layer"], use_weighted_layer_sum=True)
    model.layer_weights.data = torch.tensor([0.0, np.log(3.0)])
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor.from_pretrained(models["layer"]).save_pretrained(folder)
    return Predictor(folder, device="cpu")


def test_layer_weights_are_those_of_a_model_that_mixes(models, tmp_path):
    model, clip = mixing(models, tmp_path), audio.to_flac(audio.to_pcm(recording(1.5)))
    model.voice.has_voice = np.any  # bursts of noise are none
    found = occlusion.explain(model, {"bytes": clip, "path": "somewhere/angry.flac"})
    assert found.layer_weights == pytest.approx([0.25, 0.75])
    assert occlusion.summary(found)["layer_weights"] == found.layer_weights
    figure = occlusion.draw_occlusion(found)
    assert [axes.get_ylabel() for axes in figure.axes] == ["amplitude", "importance (nats)", "share"]
    assert [bar.get_height() for bar in figure.axes[2].patches] == pytest.approx([0.25, 0.75])
    assert figure.get_suptitle().startswith(f"angry.flac: {found.label}, 0.")
    assert occlusion.layer_weights(Predictor(models["layer"], device="cpu")) is None


def test_a_recording_without_voice_is_not_explained():
    with pytest.raises(ExplanationError, match="nobody speaks in"):
        occlusion.explain(listener(0, 1, RATE := 16_000), np.zeros(RATE, dtype=np.float32))


def test_the_shortest_clip_can_be_drawn(tmp_path):
    samples = recording(0.1)
    occlusion.draw_occlusion(occlusion.explain(listener(0.04, 0.06, 1_600), samples)).savefig(tmp_path / "short.png")
    assert (tmp_path / "short.png").stat().st_size > 5_000


def test_the_picture_shows_clip_and_importance():
    samples = recording()
    found = occlusion.explain(listener(1.4, 1.6, len(samples)), samples)
    wave, curve = occlusion.draw_occlusion(found).axes
    assert wave.get_xlim() == curve.get_xlim() == (0, 3)
    assert curve.get_xlabel() == "time (s)"
    assert curve.get_ylim()[1] >= found.importance.max()
    (lines,) = wave.collections
    ends = np.array(lines.get_segments())  # of shape (lines, 2, 2)
    assert ends[:, 0, 1].min() == pytest.approx(samples.min(), abs=0.01)
    assert ends[:, 1, 1].max() == pytest.approx(samples.max(), abs=0.01)
    orange = [int(COLOURS["angry"][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    coloured = ends[np.isclose(lines.get_colors()[:, :3], orange).all(axis=1), 0, 0]
    peak = found.seconds[found.importance.argmax()]
    assert len(coloured)
    assert np.abs(coloured - peak).max() < 0.1
    assert curve.patches[0].get_x() == pytest.approx(found.stretch[0])
