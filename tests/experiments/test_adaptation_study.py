"""What calibration and adaptation give, by cross-validation over made-up predictions."""

import csv

import numpy as np
import pytest
from scipy.special import softmax

from ser_hf.evaluation import calibration, metrics
from ser_hf.experiments import adaptation_study
from ser_hf.inference import adaptation_head, speaker_adaptation
from ser_hf.inference.adaptation_head import AdaptationHead
from ser_hf.labels import EMOTIONS


@pytest.fixture
def folds(tmp_path):
    """Two runs whose predictions are too sure, and lopsided by speaker."""
    rng, written = np.random.default_rng(0), []
    for fold in range(2):
        truth = rng.integers(8, size=160)
        speakers = np.array([f"ravdess-{fold}{number}" for number in rng.integers(2, size=160)])
        lean = {name: rng.normal(size=8) * 2 for name in sorted(set(speakers))}
        logits = (
            2 * np.eye(8)[truth] + rng.normal(size=(160, 8)) * 1.5 + np.array([lean[speaker] for speaker in speakers])
        )
        folder = tmp_path / f"fold-{fold}"
        folder.mkdir()
        with (folder / "predictions.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["file", "corpus", "speaker", "label", "predicted", *EMOTIONS])
            for label, speaker, chances in zip(truth, speakers, softmax(3 * logits, axis=1), strict=True):
                lines.writerow(["f", "ravdess", speaker, EMOTIONS[label], EMOTIONS[chances.argmax()], *chances])
        written.append((folder, 3 * logits, truth, speakers))
    return written


def test_figures_are_calibrated_on_other_folds_and_adapted_on_other_clips(folds):
    runs = [adaptation_study.read_predictions(folder) for folder, *_ in folds]
    temperatures = adaptation_study.cross_fitted_temperatures(runs)
    for fold, calibrated_on in ((0, 1), (1, 0)):
        assert temperatures[fold] == pytest.approx(
            calibration.fit_temperature(folds[calibrated_on][1], folds[calibrated_on][2]), rel=1e-3
        )
    figures = adaptation_study.adaptation_figures(runs, temperatures)
    truth = np.concatenate([fold[2] for fold in folds])
    logits = np.concatenate([fold[1] for fold in folds])
    assert figures["accuracy"] == pytest.approx((logits.argmax(axis=1) == truth).mean())
    assert figures["uar"] == figures["uar ravdess"]
    warm = np.concatenate([fold[1] / t for fold, t in zip(folds, temperatures, strict=True)])
    assert figures["ece"] == pytest.approx(metrics.calibration_error(truth, softmax(warm, axis=1)), abs=1e-4)
    assert figures["ece"] < figures["ece before"] - 0.05
    assert figures["adapted uar"] > figures["uar"] + 0.05
    assert adaptation_study.adapted_uar(runs, temperatures, 0) == [figures["uar"]] * 10


def test_no_clip_is_adapted_on_itself():
    logits = np.eye(8)[[0, 1, 2, 3]] * 5
    names = np.array(["a", "a", "a", "b"])
    predictions = adaptation_study.RunPredictions(names, logits, np.arange(4), names, names)
    adapted = adaptation_study.adapt_across_clips(predictions, np.random.default_rng(0))
    for clip, rest in ((0, [1, 2]), (1, [0, 2]), (2, [0, 1])):
        assert np.allclose(adapted[clip], speaker_adaptation.fit(logits[rest], "").moved(logits[clip]))
    assert np.array_equal(adapted[3], logits[3])  # its speaker has no other clip


def test_runs_with_a_head_are_adapted_by_embeddings(folds):
    rng, runs = np.random.default_rng(1), []
    for folder, *_ in folds:
        head = AdaptationHead(np.eye(8), np.zeros(8), np.zeros(8), np.ones(8), "d", 0.3, 1.0)
        head.save(folder / adaptation_head.FILE)
        np.save(folder / "embeddings.npy", rng.normal(size=(160, 8)).astype(np.float32))
        runs.append(adaptation_study.read_predictions(folder))
    run = runs[0].calibrated(2.0)
    assert np.array_equal(run.logits, runs[0].logits / 2)
    rest, part = np.arange(5), np.arange(5, 9)
    voice = speaker_adaptation.fit_with_head(run.head, run.logits[rest], run.embeddings[rest], "")
    wanted = voice.moved(run.logits[part], run.embeddings[part])
    assert np.allclose(run.adapted(part, rest, speaker_adaptation.CLUSTERED), wanted)
    assert np.allclose(run.select(np.arange(9)).adapted(part, rest, speaker_adaptation.CLUSTERED), wanted)
    assert len(set(adaptation_study.adapted_uar(runs, [1.0, 1.0], 10))) > 1
