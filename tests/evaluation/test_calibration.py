import copy
import json

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from transformers import pipeline

from ser_hf import audio, protocols
from ser_hf.evaluation import calibration, metrics
from ser_hf.evaluation.calibration import CalibrationError
from ser_hf.evaluation.metrics import ConfidenceError
from ser_hf.inference.predictor import Predictor
from ser_hf.models import loading


def draw(degrees, n=2000, seed=0):
    """Logits and references such that `softmax(logits / degrees)` is calibrated."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((n, 8))
    chances = softmax(logits / degrees, axis=1).cumsum(axis=1)
    return logits, (rng.random((n, 1)) > chances).sum(axis=1).clip(0, 7)


@pytest.fixture(scope="module")
def head(models, rows):
    """Weights and biases of a last layer that knows a little, for the model `group`."""
    predictor = Predictor(models["group"], backend="torch")
    train = rows.select(protocols.split(rows).train[::2])
    embeddings = predictor.outputs([audio.load(one) for one in train["audio"]])[1]
    scale = embeddings.std(axis=0) + 1e-9
    fitted = LogisticRegression(max_iter=1000).fit(embeddings / scale, train["label"])
    return torch.tensor(fitted.coef_ / scale), torch.tensor(fitted.intercept_)


@pytest.fixture
def sure(models, rows, head):
    """A model that is far too sure of itself, the validation clips, and its logits and their
    labels."""
    predictor = Predictor(models["group"], backend="torch")
    predictor.model.config.ser_hf = {"protocol_hash": "h", "speakers": ["ravdess-01"]}
    layer = loading.last_linear(predictor.model)
    layer.weight.data, layer.bias.data = (3 * one.float() for one in head)
    indices = protocols.split(rows).validation
    return predictor, indices, *logits_of(predictor, rows, indices)


def logits_of(predictor, rows, indices):
    chosen = rows.select(indices)
    return predictor.outputs([audio.load(one) for one in chosen["audio"]])[0], np.array(chosen["label"])


@pytest.mark.parametrize("degrees", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found(degrees):
    logits, references = draw(degrees, n=50_000)
    found = calibration.fit_temperature(logits, references)
    assert found == pytest.approx(degrees, rel=0.02)
    before, after = (softmax(one, axis=1) for one in (logits, logits / found))
    assert metrics.calibration_error(references, after) < 0.01
    if degrees != 1:
        assert metrics.calibration_error(references, before) > 0.1
    assert calibration.fit_temperature(logits / found, references) == pytest.approx(1, abs=1e-5)


def test_the_temperature_has_the_least_likelihood_loss():
    logits, references = draw(2.0)

    def loss(degrees):
        return -np.log(softmax(logits / degrees, axis=1)[np.arange(len(logits)), references]).mean()

    found = calibration.fit_temperature(logits.astype(np.float32), references)
    assert all(loss(found) < loss(found * factor) for factor in (0.5, 0.95, 0.99, 1.01, 1.05, 2))


def test_answers_that_teach_no_temperature():
    logits, references = draw(1.0)
    with pytest.raises(CalibrationError, match=r"all 2,000 clips are answered rightly.*calibrate on more"):
        calibration.fit_temperature(logits, logits.argmax(axis=1))
    with pytest.raises(CalibrationError, match="0 clips"):
        calibration.fit_temperature(logits[:0], references[:0])
    worse_than_chance = calibration.fit_temperature(logits, logits.argmin(axis=1))
    assert worse_than_chance == pytest.approx(calibration.BOUNDS[1], rel=1e-4)


@pytest.mark.parametrize("degrees", [0.3, 4.0])
def test_undone_gives_the_probabilities_before(degrees):
    logits, _ = draw(1.0)
    before, after = softmax(logits, axis=1), softmax(logits / degrees, axis=1)
    np.testing.assert_allclose(calibration.undo_temperature(after, degrees), before, atol=1e-12)
    np.testing.assert_allclose(calibration.undo_temperature(after.astype(np.float32), degrees), before, atol=2e-6)
    np.testing.assert_array_equal(calibration.undo_temperature(np.array([[0.0, 0.5, 0.5]]), degrees), [[0, 0.5, 0.5]])
    np.testing.assert_array_equal(calibration.undo_temperature(np.array([[0.0, 1.0]]), degrees), [[0, 1]])


@pytest.mark.parametrize("kind", ["bert", "group"])
def test_a_folded_model_is_calibrated_in_a_stock_pipeline(models, rows, tmp_path, kind):
    predictor = Predictor(models[kind], backend="torch")
    calibration.fold_temperature(predictor.model, 1 / 10)  # an untrained model is sure of nothing
    clips = [audio.load(one) for one in rows[:3]["audio"]]
    before = predictor.outputs(clips)[0].astype(np.float64)
    calibration.fold_temperature(predictor.model, 2.5)
    predictor.model.save_pretrained(tmp_path)
    predictor.extractor.save_pretrained(tmp_path)
    ours = Predictor(tmp_path, backend="torch").probabilities(clips)
    np.testing.assert_allclose(ours, softmax(before / 2.5, axis=1), atol=1e-6)
    assert np.abs(ours - softmax(before, axis=1)).max() > 1e-3
    stock = pipeline("audio-classification", model=str(tmp_path))
    for clip, row in zip(clips, ours, strict=True):
        scores = {one["label"]: one["score"] for one in stock({"array": clip, "sampling_rate": 16_000}, top_k=None)}
        np.testing.assert_allclose([scores[label] for label in predictor.labels], row, atol=1e-5)


def test_what_cannot_be_folded_is_refused(models):
    model = Predictor(models["bert"], backend="torch").model
    for degrees in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(CalibrationError, match=f"temperature {degrees} cannot be folded"):
            calibration.fold_temperature(model, degrees)


def test_calibrating_a_model_in_place(sure, rows):
    predictor, indices, before, references = sure
    found = calibration.calibrate_model(predictor, rows, indices, coverage=0.5)
    assert json.loads(json.dumps(found)) == found
    after, _ = logits_of(predictor, rows, indices)
    np.testing.assert_allclose(after, before / found["temperature"], atol=1e-5)
    np.testing.assert_array_equal(after.argmax(axis=1), before.argmax(axis=1))
    figures = found["validation"]
    assert figures["n"] == len(indices) == 64
    assert figures["ece_before"] == pytest.approx(metrics.calibration_error(references, softmax(before, axis=1)))
    assert figures["ece"] == pytest.approx(metrics.calibration_error(references, softmax(after, axis=1)), abs=1e-4)
    assert figures["ece"] < figures["ece_before"]
    assert figures["nll"] < figures["nll_before"]
    answered = [predictor.predict(one)["abstained"] is False for one in rows.select(indices)["audio"]]
    assert np.mean(answered) == found["abstain"]["coverage"] >= 0.5
    assert found["abstain"]["asked"] == {"coverage": 0.5}


def test_calibrating_twice_is_calibrating_once(sure, rows):
    predictor, indices, _, _ = sure
    first = calibration.calibrate_model(predictor, rows, indices, error=0.5)
    notes = copy.deepcopy(predictor.model.config.ser_hf)
    assert notes["temperature"] == first["temperature"]
    assert notes["abstain_below"] == predictor.abstain_below == first["abstain"]["abstain_below"]
    assert notes["protocol_hash"] == "h"
    assert notes["speakers"] == ["ravdess-01", "ravdess-17", "ravdess-18", "ravdess-19", "ravdess-20"]
    second = calibration.calibrate_model(predictor, rows, indices)
    assert second["temperature"] == pytest.approx(1, abs=1e-4)
    assert second["abstain"] is None
    after = predictor.model.config.ser_hf
    assert after["temperature"] == pytest.approx(first["temperature"] * second["temperature"])
    assert "abstain_below" not in after
    assert predictor.abstain_below == 0


def test_a_calibrated_model_comes_back_as_it_was_saved(sure, rows, tmp_path):
    predictor, indices, _, _ = sure
    found = calibration.calibrate_model(predictor, rows, indices, coverage=0.7)
    predictor.model.save_pretrained(tmp_path)
    predictor.extractor.save_pretrained(tmp_path)
    again = Predictor(tmp_path)
    assert again.abstain_below == found["abstain"]["abstain_below"]
    assert again.model.config.ser_hf["temperature"] == found["temperature"]


def test_a_model_from_elsewhere_gets_no_speakers(sure, rows):
    predictor, indices, _, _ = sure
    del predictor.model.config.ser_hf
    found = calibration.calibrate_model(predictor, rows, indices)
    assert set(predictor.model.config.ser_hf) == {"temperature"}
    assert predictor.model.config.ser_hf["temperature"] == found["temperature"]


def test_a_wish_that_fails_leaves_the_model_as_it_was(sure, rows):
    predictor, indices, before, references = sure
    wrong = np.array(indices)[before.argmax(axis=1) != references].tolist()
    for chosen, wish, says in (
        (wrong, {"error": 0.5}, "error 0.5 cannot be reached: the least is 1.000"),
        (indices, {"coverage": 1.5}, "coverage 1.5 is out of range"),
        (indices, {"coverage": 0.5, "error": 0.5}, "coverage 0.5 and error 0.5 given"),
    ):
        with pytest.raises(ConfidenceError, match=says):
            calibration.calibrate_model(predictor, rows, chosen, **wish)
    np.testing.assert_array_equal(logits_of(predictor, rows, indices)[0], before)
    assert "temperature" not in predictor.model.config.ser_hf
    predictor.session.backend.name = "onnx"
    with pytest.raises(ConfidenceError, match=r"runs on onnx: load it with backend='torch'$"):
        calibration.calibrate_model(predictor, rows, indices)
    predictor.session.labels = predictor.labels[::-1]
    with pytest.raises(ConfidenceError, match="they must be"):
        calibration.calibrate_model(predictor, rows, indices)


def test_weights_of_a_temperature_are_those_of_repeated_clips():
    rng = np.random.default_rng(0)
    logits, references = rng.normal(size=(60, 8)) * 3, rng.integers(8, size=60)
    weights = 1 + (np.arange(60) % 3)
    bounds = (np.log(0.05), np.log(50))
    found = calibration.likeliest_temperature(logits, references, bounds, 1e-8, weights)
    repeated = np.repeat(np.arange(60), weights)
    assert found == pytest.approx(
        calibration.likeliest_temperature(logits[repeated], references[repeated], bounds, 1e-8), rel=1e-5
    )
