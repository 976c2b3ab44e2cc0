"""Models with a fixed window: longer recordings are predicted in windows, wherever one asks."""

import numpy as np
import pytest
import torch
from helpers.small import make_whisper
from scipy.special import softmax
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from ser_hf import audio
from ser_hf.errors import UserError
from ser_hf.inference import long_audio
from ser_hf.inference.predictor import Predictor
from ser_hf.models import padding
from ser_hf.models.features import Collator, front_end_of

RATE = audio.SAMPLING_RATE


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """With a window of 5 s."""
    return make_whisper(tmp_path_factory.mktemp("whisper"), seconds=5, layers=2)


@pytest.fixture(scope="module")
def predictor(whisper):
    return Predictor(whisper, device="cpu")


@pytest.fixture(scope="module")
def talk(recordings):
    """14 s with pauses."""
    pause = np.zeros(RATE, dtype=np.float32)
    files = sorted(recordings[0].rglob("*.wav"))[:360:40]
    parts = [part for file in files for part in (audio.load(file), pause)]
    return np.resize(np.concatenate(parts), 14 * RATE)


def test_a_clip_alone_in_a_batch_and_in_the_stock_pipeline_has_the_same_logits(whisper, predictor, clips):
    model, extractor = (
        AutoModelForAudioClassification.from_pretrained(whisper),
        AutoFeatureExtractor.from_pretrained(whisper),
    )
    rule = padding.ignore_padding(model)
    assert rule == "fixed length"
    chosen = [*clips[:3], clips[3][:2_000]]
    front_end = front_end_of(extractor)
    batch = Collator(extractor, rule)([{"features": front_end.extract(clip)} for clip in chosen])
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {"input_features": (4, 80, 500)}
    with torch.inference_mode():
        together = model.eval()(**batch).logits.numpy()
    alone = predictor.logits(chosen)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    stock = pipeline("audio-classification", model=str(whisper), top_k=None)
    for clip, row in zip(chosen, predictor.probabilities(chosen), strict=True):
        expected = {answer["label"]: answer["score"] for answer in stock({"raw": clip, "sampling_rate": RATE})}
        assert dict(zip(predictor.labels, row.tolist(), strict=True)) == pytest.approx(expected, abs=2e-6)


def test_up_to_the_window_a_recording_is_one_clip(predictor, talk):
    answer = predictor.predict(talk[: 5 * RATE])
    assert [(part["start"], part["end"]) for part in answer["segments"]] == [(0.0, 5.0)]
    assert list(answer["scores"].values()) == pytest.approx(predictor.probabilities([talk[: 5 * RATE]])[0], abs=2e-6)


@pytest.mark.parametrize("seconds", [5.1, 7.0, 14.0])
def test_evaluation_says_of_a_longer_clip_what_predict_says(predictor, talk, seconds):
    longer = talk[: round(seconds * RATE)]
    windows = long_audio.Windows([longer], predictor.session)
    kept = list(windows)
    expected, _ = long_audio.predict_windows(kept_windows(windows, kept), predictor.session)
    shorter = [talk[:RATE], talk[: 3 * RATE]]
    clips = [shorter[0], longer, shorter[1], longer]
    rows = predictor.probabilities(iter(clips))
    np.testing.assert_allclose(rows[1], expected, atol=1e-6)
    np.testing.assert_array_equal(rows[1], rows[3])
    np.testing.assert_allclose(rows[[0, 2]], predictor.probabilities(shorter), atol=1e-7)
    assert list(predictor.predict(longer)["scores"].values()) == pytest.approx(rows[1], abs=2e-6)
    assert np.abs(rows[1] - predictor.probabilities([longer[: 5 * RATE]])[0]).max() > 1e-4  # it is not cut
    logits, embeddings = predictor.outputs(clips)
    np.testing.assert_array_equal(logits, predictor.logits(clips))
    assert embeddings.shape == (4, 32)
    each = predictor.outputs([window.samples for window in kept])
    weights = np.linalg.lstsq(each[1].T.astype(np.float64), embeddings[1], rcond=None)[0]
    np.testing.assert_allclose(np.exp(logits[1]), weights @ softmax(each[0], axis=-1), atol=1e-4)  # the same weights


def kept_windows(windows, kept):
    """Windows that were taken before, to be taken again."""

    class Again:
        voiced, length = windows.voiced, windows.length

        def __iter__(self):
            return iter(kept)

    return Again()


def test_of_a_longer_clip_without_voice_nothing_is_known(predictor, talk):
    silent = np.zeros(6 * RATE, dtype=np.float32)
    logits, embeddings = predictor.outputs([silent, talk[:RATE], silent])
    assert not logits[[0, 2]].any()
    expected = predictor.outputs([silent[: long_audio.WINDOW], talk[:RATE]])
    np.testing.assert_array_equal(embeddings[0], expected[1][0])
    np.testing.assert_array_equal(logits[1], expected[0][1])
    answer = predictor.predict(silent)
    assert set(answer["scores"].values()) == {0.125}
    assert answer["abstained"]


def test_a_stream_and_an_adaptation_take_windows(predictor, talk):
    answers = list(predictor.stream([talk[: 6 * RATE]]))
    assert len(answers) == 6
    expected = predictor.probabilities([talk[:RATE]])[0]  # the first second alone
    assert list(answers[0]["scores"].values()) == pytest.approx(expected, abs=2e-6)
    adapted = predictor.adapt([talk, talk[: 3 * RATE]])
    assert adapted.adaptation.clips == 1 + len(list(long_audio.Windows([talk], predictor.session)))
    row = adapted.probabilities([talk])[0]
    assert list(adapted.predict(talk)["scores"].values()) == pytest.approx(row, abs=2e-6)


def test_a_graph_has_the_window(whisper, predictor, talk, home):
    graph = Predictor(whisper, backend="onnx")
    clips = [talk[:RATE], talk[: 5 * RATE], talk]
    np.testing.assert_allclose(graph.logits(clips), predictor.logits(clips), atol=1e-4)
    assert graph.predict(talk)["scores"] == pytest.approx(predictor.predict(talk)["scores"], abs=1e-5)


def test_a_window_shorter_than_those_of_long_recordings_is_refused(tmp_path):
    with pytest.raises(UserError, match="the window of the model is 2 s: give a model whose window is 4 s or more"):
        Predictor(make_whisper(tmp_path, seconds=2, layers=1))
