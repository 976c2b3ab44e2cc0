"""One voice from a few of its clips: the arithmetic, the file, and that nothing else changes."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ser_hf import adaptation, audio, dataset, modeling, protocols
from ser_hf.adaptation import PRIOR, Adaptation, AdaptationError
from ser_hf.cli import main
from ser_hf.predictor import Predictor, TimeoutExceeded


@pytest.fixture(scope="module")
def predictor(tuned):
    return Predictor(tuned, device="cpu")


@pytest.fixture(scope="module")
def clips(recordings):
    return [str(path) for path in sorted(recordings[0].rglob("*-21.wav"))[:6]]


def embeddings(predictor, clips):
    return predictor.outputs([audio.load(clip) for clip in clips])[1].astype(np.float64)


def test_calibration_leaves_the_typical_speaker_of_validation_in_the_config(predictor, built):
    rows = dataset.load(built)
    chosen = rows.select(protocols.split(rows).validation)
    heard = predictor.outputs([audio.load(one) for one in chosen["audio"]])[1]
    speakers = np.array(chosen["speaker"])
    means = [heard[speakers == one].mean(axis=0) for one in sorted(set(speakers))]
    sds = [heard[speakers == one].std(axis=0) for one in sorted(set(speakers))]
    found = predictor.trained_on["typical_speaker"]
    assert len(means) == 4
    assert np.allclose(found["mean"], np.mean(means, axis=0), atol=2e-3)
    assert np.allclose(found["sd"], np.mean(sds, axis=0), atol=2e-3)


def test_an_adapted_embedding_has_the_ground_of_the_typical_speaker(predictor, clips):
    usual = predictor.trained_on["typical_speaker"]
    mean, sd = np.array(usual["mean"]), np.array(usual["sd"])
    heard = embeddings(predictor, clips)
    n, own = len(clips), heard.mean(axis=0)
    drawn = (n * own + PRIOR * mean) / (n + PRIOR)
    spread = np.sqrt(((n - 1) * heard.var(axis=0, ddof=1) + PRIOR * sd**2) / (n - 1 + PRIOR))
    last = modeling.last_linear(predictor.model)
    weight, bias = (one.detach().numpy().astype(np.float64) for one in (last.weight, last.bias))
    moved = (heard - drawn) / spread * sd + mean
    voice = predictor.adapt(clips)
    logits = voice.outputs([audio.load(clip) for clip in clips])[0]
    assert np.allclose(logits, moved @ weight.T + bias, atol=1e-4)
    assert voice.adaptation.clips == n
    one = predictor.adapt(clips[:1]).adaptation  # a single clip says nothing of the spread
    assert np.allclose(one.sd, sd, rtol=1e-5)
    assert np.allclose(one.mean, (heard[0] + PRIOR * mean) / (1 + PRIOR), atol=1e-5)


def test_the_typical_speaker_changes_nothing(predictor, clips):
    usual = predictor.trained_on["typical_speaker"]
    mean, sd = np.float32(usual["mean"]), np.float32(usual["sd"])
    voice = predictor.adapt(Adaptation(mean, sd, 1, modeling.digest(predictor.model)))
    for one, other in zip(voice.predict(clips), predictor.predict(clips), strict=True):
        assert list(one["scores"].values()) == pytest.approx(list(other["scores"].values()), abs=1e-5)


def test_adapting_leaves_the_predictor_as_it_was_even_under_load(predictor, clips):
    before = predictor.predict(clips)
    alone = predictor.adapt(clips[:3])
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(predictor.predict, clips) for _ in range(4)]
        made = [threads.submit(predictor.adapt, clips[:3]) for _ in range(4)]
        assert all(one.result() == before for one in asked)
        assert all(np.array_equal(one.result().adaptation.mean, alone.adaptation.mean) for one in made)
    assert predictor.predict(clips) == before
    assert alone.predict(clips) != before
    shared = {id(one) for one in predictor.model.parameters()}
    assert sum(id(one) not in shared for one in alone.model.parameters()) == 2  # the last layer's


def test_a_voice_is_kept_in_a_small_file(predictor, clips, tmp_path):
    voice = predictor.adapt(clips)
    file = tmp_path / "anna.safetensors"
    voice.adaptation.save(file)
    assert file.stat().st_size < 8_000
    assert [path.name for path in tmp_path.iterdir()] == ["anna.safetensors"]
    assert predictor.adapt(file).predict(clips) == voice.predict(clips)


def test_a_long_recording_is_adapted_to_in_windows(predictor, clips):
    talk = np.concatenate([audio.load(clip) for clip in clips * 3])[: 15 * audio.SAMPLING_RATE]
    assert 2 <= predictor.adapt([talk]).adaptation.clips <= 7
    silent = np.zeros(12 * audio.SAMPLING_RATE, dtype=np.float32)
    with pytest.raises(AdaptationError, match="no voice to adapt to"):
        predictor.adapt([silent])


def test_what_cannot_be_adapted_is_said(predictor, clips, tuned, models, tmp_path):
    with pytest.raises(AdaptationError, match="at least one clip"):
        predictor.adapt([])
    with pytest.raises(TimeoutExceeded, match=r"-21\.wav' took longer"):
        predictor.adapt(clips, timeout=0.0)
    with pytest.raises(audio.AudioError, match="longer than"):
        predictor.adapt(clips, longest=0.5)
    with pytest.raises(AdaptationError, match="an adapted predictor cannot be adapted"):
        predictor.adapt(clips).adapt(clips)
    with pytest.raises(AdaptationError, match="torch-bf16 cannot be adapted"):
        Predictor(tuned, backend="torch-bf16").adapt(clips)
    voice = predictor.adapt(clips).adaptation
    with pytest.raises(AdaptationError, match="a model of other weights"):
        predictor.adapt(Adaptation(voice.mean, voice.sd, 6, "0" * 16))
    other = tmp_path / "other.safetensors"
    save_file({"mean": torch.zeros(2)}, other)
    for path, says in ((other, "holds no voice"), (clips[0], "cannot be read"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(AdaptationError, match=says):
            predictor.adapt(path)
    with pytest.raises(AdaptationError, match="cannot be written"):
        voice.save(tmp_path / "voice.bin")
    del predictor.model.config.ser_hf["typical_speaker"]
    try:
        with pytest.raises(AdaptationError, match="ser-hf calibrate"):
            predictor.adapt(clips)
    finally:
        predictor.model.config.ser_hf["typical_speaker"] = Predictor(tuned).trained_on["typical_speaker"]


def test_the_command_adapts_saves_and_uses_a_voice(predictor, clips, tuned, tmp_path, capsys, fails):
    file, base = tmp_path / "anna.safetensors", ["predict", "--model", str(tuned), clips[0]]
    assert main([*base, "--adapt", *clips, "--save_voice", str(file)]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert first == predictor.adapt(clips).predict(clips[0])
    assert main([*base, "--adapt", str(file)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
    assert "--save_voice needs --adapt FILE…" in fails(*base, "--save_voice", str(file))
    assert "cannot be written" in fails(
        "predict", clips[0], "--model", "none", "--adapt", clips[0], "--save_voice", "v.bin"
    )
    assert "is not a file" in fails(*base, "--adapt", str(tmp_path / "none.wav"))


def test_typical_counts_speakers_and_not_clips():
    heard = np.array([[0.0, 2.0], [2.0, 2.0], [10.0, 4.0], [10.0, 4.0], [10.0, 4.0]])
    assert adaptation.typical(heard, ["a", "a", "b", "b", "b"]) == {"mean": [5.5, 3.0], "sd": [0.5, 0.0]}
