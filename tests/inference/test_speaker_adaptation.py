"""One voice from a few of its clips: the arithmetic, the file, and that nothing else changes."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import softmax
from sklearn.mixture import GaussianMixture

from ser_hf import audio
from ser_hf.cli.main import main
from ser_hf.inference import adaptation_head, speaker_adaptation
from ser_hf.inference.predictor import Predictor
from ser_hf.inference.recordings import TimeoutExceeded
from ser_hf.inference.speaker_adaptation import AdaptationError


@pytest.fixture(scope="module")
def bare(tuned, tmp_path_factory):
    """The tuned model without its adaptation head."""
    ignored = shutil.ignore_patterns(adaptation_head.FILE)
    return shutil.copytree(tuned, tmp_path_factory.mktemp("bare") / "model", ignore=ignored)


@pytest.fixture(scope="module")
def predictor(bare):
    return Predictor(bare, device="cpu", backend="torch")


@pytest.fixture(scope="module")
def clips(recordings):
    return [str(path) for path in sorted(recordings[0].rglob("*-21.wav"))[:6]]


def logits(predictor, clips):
    return predictor.outputs([audio.load(clip) for clip in clips])[0].astype(np.float64)


def test_the_answers_for_a_voice_are_spread_evenly_over_its_clips():
    rng = np.random.default_rng(0)
    truth = rng.integers(8, size=400)
    raw = 4 * np.eye(8)[truth] + rng.normal(size=(400, 8)) + np.array([6, 0, 0, -3, 0, 0, 2, 0])
    voice = speaker_adaptation.fit(raw, "0" * 16)
    assert (raw.argmax(axis=1) == truth).mean() < 0.4
    assert (voice.moved(raw).argmax(axis=1) == truth).mean() > 0.97
    assert voice.offset.mean() == pytest.approx(0, abs=1e-6)
    assert np.allclose(voice.moved(raw).mean(axis=1), (1 - 0.3 * 400 / 404) * raw.mean(axis=1), atol=1e-5)
    assert (voice.clips, voice.model) == (400, "0" * 16)
    evenly = speaker_adaptation.fit(raw, "", clustered=0)
    shares = softmax(raw + evenly.offset * 404 / 400, axis=1).mean(axis=0)
    assert np.allclose(shares, 1 / 8, atol=1e-3)
    assert np.allclose(evenly.moved(raw), raw + evenly.offset, atol=1e-5)


def test_clusters_hold_against_emotions_that_are_missing():
    rng = np.random.default_rng(0)
    truth = rng.integers(5, size=120)
    raw = 3 * np.eye(8)[truth] + 0.8 * rng.normal(size=(120, 8)) + np.array([0, 0, 1, 0, 0, 0, 0, 0])
    voices = [speaker_adaptation.fit(raw, "", clustered=clustered) for clustered in (0, speaker_adaptation.CLUSTERED)]
    evenly, clustered = ((voice.moved(raw).argmax(axis=1) == truth).mean() for voice in voices)
    assert evenly < 0.85  # over eight labels, where there are five
    assert clustered > evenly + 0.05


def test_the_clusters_are_those_of_a_gaussian_mixture():
    """Against scikit-learn's, where nothing is shared with the answers or added to the clips."""
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=3_000)
    skewed = np.array([[1, 0.4, 0], [0, 0.7, 0.3], [0, 0, 0.5]])
    places = 4 * np.eye(3)[truth] + rng.normal(size=(3_000, 3)) @ skewed
    weight, constant = speaker_adaptation._clusters(places, places, 1.0)
    mixture = GaussianMixture(3, covariance_type="tied", means_init=4 * np.eye(3), tol=1e-6, max_iter=500).fit(places)
    assert np.allclose(softmax(places @ weight.T + constant, axis=1), mixture.predict_proba(places), atol=0.01)


def test_few_clips_move_little_and_what_is_even_nothing():
    row = np.array([[3.0, 0.0, 0.0, 0.0]])
    few, many = (speaker_adaptation.fit(np.repeat(row, clips, axis=0), "", clustered=0).offset for clips in (1, 100))
    assert -0.5 < few[0] < 0
    assert many[0] < -2  # a single emotion over and over is taken for the voice
    assert np.allclose(speaker_adaptation.fit(10 * np.eye(4), "").offset, 0, atol=1e-9)
    moved = softmax(speaker_adaptation.fit(row, "").moved(row), axis=1)[0]  # by the clusters of one clip, too
    assert softmax(row, axis=1)[0, 0] - 0.2 < moved[0] < softmax(row, axis=1)[0, 0]
    assert np.allclose(moved[1:], moved[1])


def test_all_logits_are_moved(predictor, clips):
    voice = predictor.adapt(clips)
    raw = logits(predictor, clips)
    moved = speaker_adaptation.fit(raw, "").moved(raw)
    assert np.allclose(logits(voice, clips), moved, atol=1e-3)
    expected = softmax(moved, axis=1)
    assert np.allclose(voice.probabilities([audio.load(clip) for clip in clips]), expected, atol=1e-4)
    scores = [list(answer["scores"].values()) for answer in voice.predict(clips)]
    assert np.allclose(scores, expected, atol=1e-4)
    assert np.abs(expected - softmax(raw, axis=1)).max() > 0.01


def test_onnx_adapts_as_torch_does(predictor, clips, bare):
    onnx = Predictor(bare, backend="onnx")
    voice = onnx.adapt(clips)
    assert np.allclose(voice.adaptation.offset, predictor.adapt(clips).adaptation.offset, atol=1e-3)
    assert voice.predict(clips[0])["scores"] == pytest.approx(
        predictor.adapt(clips).predict(clips[0])["scores"], abs=1e-4
    )
    moved = predictor.adapt(voice.adaptation).predict(clips[0])["scores"]  # the weights are the same
    assert moved == pytest.approx(voice.predict(clips[0])["scores"], abs=1e-4)


def test_adapting_leaves_the_predictor_as_it_was_even_under_load(predictor, clips):
    before = predictor.predict(clips)
    alone = predictor.adapt(clips[:3])
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(predictor.predict, clips) for _ in range(4)]
        adapted = [threads.submit(predictor.adapt, clips[:3]) for _ in range(4)]
        assert all(future.result() == before for future in futures)
        assert all(np.array_equal(future.result().adaptation.offset, alone.adaptation.offset) for future in adapted)
    assert predictor.predict(clips) == before
    assert alone.predict(clips) != before
    assert alone.model is predictor.model


def test_a_voice_is_kept_in_a_small_file(predictor, clips, tmp_path):
    voice = predictor.adapt(clips)
    file = tmp_path / "anna.safetensors"
    voice.adaptation.save(file)
    assert file.stat().st_size < 1_000
    assert [path.name for path in tmp_path.iterdir()] == ["anna.safetensors"]
    assert predictor.adapt(file).predict(clips) == voice.predict(clips)


def test_a_long_recording_is_adapted_to_in_windows(predictor, clips):
    talk = np.concatenate([audio.load(clip) for clip in clips * 3])[: 15 * audio.SAMPLING_RATE]
    assert 2 <= predictor.adapt([talk]).adaptation.clips <= 7
    silent = np.zeros(12 * audio.SAMPLING_RATE, dtype=np.float32)
    with pytest.raises(AdaptationError, match="no voice to adapt to"):
        predictor.adapt([silent])
    with pytest.raises(TimeoutExceeded, match="took longer"):
        predictor.adapt([silent], timeout=0)


def test_what_cannot_be_adapted_is_refused(predictor, clips, bare, models, tmp_path):
    with pytest.raises(AdaptationError, match="at least one clip"):
        predictor.adapt([])
    with pytest.raises(TimeoutExceeded, match=r"-21\.wav' took longer"):
        predictor.adapt(clips, timeout=0.0)
    with pytest.raises(audio.AudioError, match="longer than"):
        predictor.adapt(clips, longest=0.5)
    with pytest.raises(AdaptationError, match="an adapted predictor cannot be adapted"):
        predictor.adapt(clips).adapt(clips)
    voice = predictor.adapt(clips).adaptation
    with pytest.raises(AdaptationError, match="fitted to another model"):
        predictor.adapt(replace(voice, model="0" * 16))
    foreign = tmp_path / "other.safetensors"
    save_file({"mean": torch.zeros(2)}, foreign)
    for path, message in (
        (foreign, "holds no voice"),
        (clips[0], "cannot be read"),
        (tmp_path / "none", "cannot be read"),
    ):
        with pytest.raises(AdaptationError, match=message):
            predictor.adapt(path)
    with pytest.raises(AdaptationError, match="cannot be written"):
        voice.save(tmp_path / "voice.bin")


def test_the_command_adapts_saves_and_uses_a_voice(predictor, clips, bare, tmp_path, capsys, fails):
    file, base = tmp_path / "anna.safetensors", ["predict", "--model", str(bare), clips[0]]
    assert main([*base, "--adapt", *clips, "--save_voice", str(file)]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert first == predictor.adapt(clips).predict(clips[0])
    assert main([*base, "--adapt", str(file)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
    assert "--save_voice needs --adapt FILE… or --one_speaker" in fails(*base, "--save_voice", str(file))
    assert "cannot be written" in fails(
        "predict", clips[0], "--model", "none", "--adapt", clips[0], "--save_voice", "v.bin"
    )
    assert "is not a file" in fails(*base, "--adapt", str(tmp_path / "none.wav"))


def test_a_model_and_a_voice_may_lie_at_home(bare, predictor, clips, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my model").symlink_to(bare)
    at_home = Predictor("~/my model", device="cpu", backend="torch")
    assert at_home.predict(clips[0]) == predictor.predict(clips[0])
    predictor.adapt(clips).adaptation.save("~/anna.safetensors")
    assert (tmp_path / "anna.safetensors").is_file()
    for voice in (
        "~/anna.safetensors",
        Path("~/anna.safetensors"),
        speaker_adaptation.Adaptation.load("~/anna.safetensors"),
    ):
        assert at_home.adapt(voice).adaptation.clips == len(clips)
    with pytest.raises(AdaptationError, match=r"~/none\.safetensors"):
        at_home.adapt("~/none.safetensors")
