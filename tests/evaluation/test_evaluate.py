import json
import shutil

import numpy as np
import pytest

from ser_hf import protocols
from ser_hf.cli.main import main
from ser_hf.evaluation import evaluate
from ser_hf.evaluation.results import Results, ResultsError
from ser_hf.inference.predictor import Predictor
from ser_hf.models.seen_speakers import SeenSpeakers
from ser_hf.protocols import LeakError


@pytest.fixture
def random_model(tuned, rows, tmp_path):
    """`tuned`, as if it had been trained under `random`."""
    split = protocols.split(rows, "random")
    predictor = Predictor(tuned)
    speakers = sorted(set(rows.select(split.train)["speaker"]))
    SeenSpeakers().trained("random", split.hash, 0, speakers).remember(predictor.config)
    return predictor, split


def test_evaluate_repeats_what_fine_tuning_said(tuned, built, tmp_path, capsys):
    out = tmp_path / "evidence"
    assert main(["evaluate", "--model", str(tuned), "--dataset", str(built), "--output", str(out)]) == 0
    ours, theirs = Results.load(out / "results.json"), Results.load(tuned / "results.json")
    for name in ("accuracy", "uar", "macro_f1", "weighted_f1", "ci95", "per_class", "per_speaker", "protocol_hash"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.ece == pytest.approx(theirs.ece, abs=1e-6)
    assert theirs.environment["backend"] == "torch"  # of the weights that were trained
    assert ours.environment["backend"] == Predictor(tuned).backend
    assert (out / "classification_report.txt").read_text() in capsys.readouterr().out
    assert (out / "plots" / "confusion_matrix.png").stat().st_size > 10_000


def test_results_from_elsewhere_in_a_models_folder_are_no_obstacle(tuned, built, tmp_path):
    model = shutil.copytree(tuned, tmp_path / "model")
    (model / "results.json").write_text('{"accuracy": 0.9}')
    flags = ["--dataset", str(built), "--output", str(tmp_path / "out"), "--into_model", "--backend", "onnx"]
    assert main(["evaluate", "--model", str(model), *flags]) == 0
    ours, theirs = Results.load(model / "results.json"), Results.load(tuned / "results.json")
    assert (ours.uar, ours.weights) == (theirs.uar, theirs.weights)
    assert ours.environment["backend"] == "onnx"
    assert {"onnxruntime"} == set(ours.environment) - set(theirs.environment)


def test_a_model_is_not_tested_on_speakers_it_was_trained_on(tuned, built, fails, tmp_path):
    base = ("evaluate", "--model", tuned, "--dataset", built, "--output", tmp_path / "out")
    assert "was trained under 'speaker' fold 0 on ravdess-01" in fails(*base, "--protocol", "emobox-ravdess")
    assert "ravdess-01" in fails(*base, "--protocol", "emobox-ravdess", "--fold", "all")
    assert "was trained" in fails(*base, "--protocol", "random")
    assert not (tmp_path / "out").exists()


def test_unseen_speakers_of_another_protocol_are_fine(tuned, rows):
    results, *_ = evaluate.evaluate(Predictor(tuned), rows, [protocols.split(rows, "tess-oaf-yaf")], "d")
    assert set(results.per_speaker) == {"tess-yaf"}
    assert results.distribution == "new speakers of a corpus that was trained on"
    assert results.ci95 is None
    assert "1 test speaker(s)" in results.ci95_says


def test_the_random_split_says_in_every_output_that_it_leaks(random_model, rows, tmp_path):
    from ser_hf.evaluation import plots, reports

    predictor, split = random_model
    results, *_ = evaluate.evaluate(predictor, rows, [split], "d")
    warning = "leaks: 26 of 26 test speakers"
    assert any(warning in note for note in results.notes)
    assert warning in results.report()
    assert results.leaks
    assert results.distribution == "speakers seen"
    assert warning in reports.model_card(results, [])
    assert "LEAKS" in plots.confusion_matrix(results).get_suptitle()


def test_a_test_of_a_corpus_that_was_left_out_is_marked(models, rows):
    splits = protocols.folds(rows, "leave-corpus-out")
    probabilities = np.full((sum(len(split.test) for split in splits), 8), 0.125)
    results = evaluate.build_results(probabilities, rows, splits, "d", "m")
    assert results.distribution == "new speakers of a new corpus"
    assert [row["test_clips"] for row in results.data["corpora"].values()] == [len(split.test) for split in splits]


def test_refusals_are_counted():
    references = np.array([0, 0, 0, 0, 3, 3])
    predictions = np.array([0, 0, 3, 0, 3, 0])
    answered = np.array([True, True, True, False, True, False])
    assert evaluate._abstention_figures(predictions, references, answered) == {
        "asked_n": 6,
        "answered_n": 4,
        "error": 0.25,
        "uar_answered": pytest.approx((2 / 3 + 1) / 2),
        "uar_refusals_wrong": pytest.approx((2 / 4 + 1 / 2) / 2),
    }


def test_the_backbone_is_told(tuned):
    results = Results.load(tuned / "results.json")
    assert results.backbone["name"] == "unknown"  # a folder of random weights that names no public backbone
    assert "Backbone: unknown, pretrained on data that are not known here." in (tuned / "README.md").read_text()


def test_pooled_folds_test_every_clip_once(models, rows):
    splits = [protocols.split(rows, "emobox-ravdess", fold) for fold in range(6)]
    results, *_ = evaluate.evaluate(Predictor(models["bert"]), rows, splits, "d")
    assert results.fold == "all"
    assert results.n == 24 * 16
    assert len(results.per_speaker) == 24
    assert any("does not say which speakers" in note for note in results.notes)
    assert "24 test speakers" in results.ci95_says


def test_a_model_with_other_labels_is_refused(tuned, rows):
    predictor = Predictor(tuned)
    predictor.session.labels = predictor.labels[::-1]
    with pytest.raises(LeakError, match="they must be"):
        evaluate.evaluate(predictor, rows, [protocols.split(rows)], "d")


def test_results_survive_json_and_hold_the_contract(tuned):
    raw = json.loads((tuned / "results.json").read_text())
    contract = """protocol protocol_hash fold model dataset n accuracy uar macro_f1 weighted_f1 ece ci95 per_class
    per_corpus per_speaker per_sex confusion_matrix labels history environment seconds"""
    assert set(contract.split()) <= set(raw)
    for figures in (raw, *raw["per_corpus"].values(), *raw["per_sex"].values()):
        for name, (low, high) in (figures["ci95"] or {}).items():
            assert low <= figures[name] <= high
    assert np.array(raw["confusion_matrix"]).sum() == raw["n"]


def test_the_report_is_scikit_learns(tuned):
    report = Results.load(tuned / "results.json").report()
    for word in ("precision", "recall", "f1-score", "support", "macro avg", "weighted avg", "surprised"):
        assert word in report


def test_results_say_who_was_heard_and_what_the_data_are(tuned, rows):
    results = Results.load(tuned / "results.json")
    assert results.speakers == {"train": 17, "validation": 4, "test": 5}
    assert results.held_apart == ["speakers", "samples", "near duplicates"]
    assert not results.leaks
    corpora = results.data["corpora"]
    assert {name: row["clips"] for name, row in corpora.items()} == {"ravdess": 384, "tess": 28}
    assert results.data["hours"] == pytest.approx(sum(rows["duration"]) / 3600, abs=0.005)
    assert "CC BY-NC-SA 4.0" in corpora["ravdess"]["licence"]
    assert results.chance == 1 / 8


def test_a_file_that_is_no_results_is_said_in_one_line(tmp_path):
    for text in ("{", "[]", '{"uar": 1}', '{"protocol": 1, "unknown": 2}'):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ResultsError, match=r"is no results\.json of ser_hf"):
            Results.load(tmp_path / "results.json")
    with pytest.raises(ResultsError, match="absent"):
        Results.load(tmp_path / "absent.json")
