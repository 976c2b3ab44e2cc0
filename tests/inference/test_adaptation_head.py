"""Voices from embeddings: the statistics, the file beside the weights, and every backend."""

import json
import shutil

import numpy as np
import pytest
from scipy.special import softmax

from ser_hf import audio
from ser_hf.app import api
from ser_hf.app.metrics import Metrics
from ser_hf.app.uploads import Limits, Recordings, UploadedFile
from ser_hf.cli.main import main
from ser_hf.evaluation.adaptation_head import Embedded, fit_head
from ser_hf.inference import adaptation_head, export, speaker_adaptation
from ser_hf.inference.adaptation_head import AdaptationHead, AdaptationHeadError
from ser_hf.inference.predictor import Predictor

WIDTH, CENTRES = 24, 3 * np.random.default_rng(7).normal(size=(8, 24)) / np.sqrt(24)


def made_up(rng, speakers, clips=48, labels=8, shifted=1.5):
    """Clips of speakers, each with a shift and a scale of their own, and logits that know
    neither."""
    truth = np.tile(np.arange(labels), len(speakers) * clips // labels)
    names = np.repeat(speakers, clips)
    shifts = {name: (shifted * rng.normal(size=WIDTH), np.exp(rng.normal(size=WIDTH))) for name in speakers}
    clean = CENTRES[truth] + 0.7 * rng.normal(size=(len(truth), WIDTH))
    embeddings = np.array([shifts[name][0] + shifts[name][1] * row for name, row in zip(names, clean, strict=True)])
    return Embedded(embeddings @ CENTRES.T / 2, embeddings, truth, names)


@pytest.fixture(scope="module")
def head():
    """A head of 12 made-up speakers."""
    rng = np.random.default_rng(0)
    return fit_head(made_up(rng, [f"s{number}" for number in range(12)]), None, "0" * 16)


@pytest.fixture(scope="module")
def with_head(tuned):
    return Predictor(tuned, device="cpu", backend="torch")


@pytest.fixture(scope="module")
def clips(recordings):
    return [str(path) for path in sorted(recordings[0].rglob("*-21.wav"))[:8]]


def accuracy(voice, test):
    return (voice.moved(test.logits, test.embeddings).argmax(axis=1) == test.labels).mean()


def test_the_shift_and_the_scale_of_an_unseen_voice_are_undone(head):
    figures = []
    for seed in range(6):
        own = made_up(np.random.default_rng(100 + seed), ["new"], clips=96)
        rest, test = (
            Embedded(own.logits[part], own.embeddings[part], own.labels[part], own.speakers[part])
            for part in (slice(48), slice(48, 96))
        )
        voice = speaker_adaptation.fit_with_head(head, rest.logits, rest.embeddings, "")
        moved = speaker_adaptation.fit(rest.logits, "")
        plain = (test.logits.argmax(axis=1) == test.labels).mean()
        figures.append((plain, accuracy(moved, test), accuracy(voice, test)))
    plain, moved, standardised = np.mean(figures, axis=0)
    assert plain < 0.6
    assert standardised > moved + 0.05
    assert standardised > 0.88


def test_missing_emotions_and_few_clips_do_no_harm(head):
    figures = []
    for seed in range(8):
        own = made_up(np.random.default_rng(200 + seed), ["new"], clips=96, shifted=0.4)
        few = np.flatnonzero(own.labels == seed)[:2]  # of one emotion
        some = np.flatnonzero(own.labels[:64] < 5)
        voices = [
            speaker_adaptation.fit_with_head(head, own.logits[rows], own.embeddings[rows], "") for rows in (few, some)
        ]
        plain = (own.logits.argmax(axis=1) == own.labels).mean()
        figures.append((plain, *(accuracy(voice, own) for voice in voices)))
    plain, few, some = np.mean(figures, axis=0)
    assert few > plain - 0.05
    assert some > plain


def test_statistics_shrink_towards_the_training_speakers(head):
    far = np.full((1, WIDTH), 30.0)
    for clips in (1, 10, 1_000):
        mean, spread = head.statistics(np.repeat(far, clips, axis=0))
        share = clips / (clips + 2)
        np.testing.assert_allclose(mean, share * 30 + (1 - share) * head.mean, rtol=1e-6)
        own = clips / (clips + 20)
        wanted = own * (30 - mean) ** 2 + (1 - own) * head.spread**2
        np.testing.assert_allclose(spread, np.sqrt(wanted), rtol=1e-6)


def test_an_adaptation_is_linear_in_embeddings_and_logits(head):
    own = made_up(np.random.default_rng(1), ["new"])
    voice = speaker_adaptation.fit_with_head(head, own.logits, own.embeddings, "d", even=0, clustered=0)
    mean, spread = head.statistics(own.embeddings)
    share = 48 / 50
    wanted = share * ((own.embeddings - mean) / spread @ head.weight.T + head.bias) + (1 - share) * own.logits
    moved = voice.moved(own.logits, own.embeddings)
    centred = [logits - logits.mean(axis=1, keepdims=True) for logits in (moved, wanted)]
    np.testing.assert_allclose(*centred, atol=1e-3)
    assert (voice.clips, voice.model) == (48, "d")


def test_fine_tuning_leaves_a_head_that_every_backend_uses(with_head, tuned, clips, home, tmp_path):
    assert with_head.adaptation_head.model == with_head.session.backend.digest
    samples = [audio.load(clip) for clip in clips]
    logits, embeddings = with_head.outputs(samples)
    voice = with_head.adapt(clips)
    wanted = speaker_adaptation.fit_with_head(with_head.adaptation_head, logits, embeddings, "").moved(
        logits, embeddings
    )
    np.testing.assert_allclose(voice.logits(samples), wanted, atol=1e-3)
    np.testing.assert_allclose(voice.probabilities(samples), softmax(wanted, axis=1), atol=1e-4)
    answers = [answer["scores"] for answer in voice.predict(clips)]
    voice.adaptation.save(tmp_path / "anna.safetensors")
    assert (tmp_path / "anna.safetensors").stat().st_size < 5_000
    export.export(tuned, tmp_path / "exported")
    for model in (tuned, tmp_path / "exported"):
        graph = Predictor(model, backend="onnx")
        for adapted in (graph.adapt(clips), graph.adapt(tmp_path / "anna.safetensors")):
            for answer, scores in zip(adapted.predict(clips), answers, strict=True):
                assert answer["scores"] == pytest.approx(scores, abs=1e-3)


def test_a_model_without_a_head_moves_its_logits(with_head, tuned, clips, tmp_path):
    shutil.copytree(tuned, tmp_path / "model")
    (tmp_path / "model" / adaptation_head.FILE).unlink()
    bare = Predictor(tmp_path / "model", device="cpu", backend="torch")
    assert bare.adaptation_head is None
    assert bare.adapt(clips).adaptation.embedding_weight is None
    saved = with_head.adapt(clips)  # a voice needs the head no more
    assert bare.adapt(saved.adaptation).predict(clips[0]) == saved.predict(clips[0])


def test_a_head_of_other_weights_and_other_files_are_refused(with_head, tuned, clips, tmp_path, head):
    shutil.copytree(tuned, tmp_path / "model")
    head.save(tmp_path / "model" / adaptation_head.FILE)
    foreign = Predictor(tmp_path / "model", device="cpu", backend="torch")
    assert foreign.predict(clips[0]) == with_head.predict(clips[0])
    with pytest.raises(AdaptationHeadError, match="belongs to other weights"):
        foreign.adapt(clips)
    for file, message in ((tuned / "model.safetensors", "holds no adaptation head"), (clips[0], "cannot be read")):
        with pytest.raises(AdaptationHeadError, match=message):
            AdaptationHead.load(file)


def test_recordings_of_one_speaker_are_adapted_to_themselves(with_head, tuned, clips, tmp_path, capsys, fails):
    base = ["predict", *clips, "--model", str(tuned), "--backend", "torch"]
    file = tmp_path / "anna.safetensors"
    assert main([*base, "--one_speaker", "--save_voice", str(file)]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()[-len(clips) :]]
    assert answers == with_head.adapt(clips).predict(clips)
    assert with_head.adapt(file).adaptation.clips == len(clips)
    few = fails("predict", *clips[:4], "--model", str(tuned), "--one_speaker")
    assert "4 clips of one speaker are too few to adapt to: give 5 or more" in few
    assert "give one of them" in fails(*base, "--one_speaker", "--adapt", clips[0])
    (tmp_path / "notes.wav").write_bytes(b"no sound")
    uploads = Recordings([UploadedFile.at(path) for path in (*clips, tmp_path / "notes.wav")], Limits())
    *predicted, failed = api.predict_batch(with_head, Limits(), Metrics(), uploads, one_speaker=True)
    assert [answer["scores"] for answer in predicted] == [answer["scores"] for answer in answers]
    assert "error" in failed
