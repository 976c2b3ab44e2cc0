"""The commands about evidence, as a user types them."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
from helpers.small import FAST
from transformers import pipeline

from ser_hf import audio
from ser_hf.cli.main import main
from ser_hf.evaluation import baselines, reports, run
from ser_hf.evaluation.diagnostics import robustness
from ser_hf.evaluation.results import Results
from ser_hf.evaluation.settings import EvaluateSettings
from ser_hf.hub import checks
from ser_hf.hub.checks import ProvenanceError
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import EMOTIONS
from ser_hf.models import loading

PIXEL = re.compile(r'src="data:image/png;base64,[A-Za-z0-9+/=]{1000,}"')


def words(*parts):
    return [str(part) for part in parts]


@pytest.fixture(scope="module")
def full(trained, few, tmp_path_factory):
    """A copy of `trained`, and all evidence of it, which also went into its folder."""
    model = shutil.copytree(trained, tmp_path_factory.mktemp("full") / "model")
    out = model.parent / "evidence"
    base = words("evaluate", "--model", model, "--dataset", few, "--output", out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "EPOCHS", 2)  # of the network; 200 take a minute
        kinds = {condition.kind: condition for condition in robustness.CONDITIONS}  # one of each: all take long
        patch.setattr(robustness, "CONDITIONS", tuple(kinds.values()))
        assert main([*base, "--also", "all", "--into_model"]) == 0  # in the cache that all tests share
    return model, out


def test_all_evidence_is_written_and_stands_in_the_card(full):
    model, out = full
    results = Results.load(out / "results.json")
    assert {row["name"] for row in results.baselines} == {
        "egemaps-svm",
        "egemaps-logistic",
        "mfcc-cnn",
        "mfcc-mlp",
        "mfcc-svm",
    }
    assert results.robustness["n"] == results.n
    assert {row["kind"] for row in results.robustness["conditions"]} == {one.kind for one in robustness.CONDITIONS}
    assert results.bias_probes["n"] == results.n
    assert {path.name for path in (out / "plots").iterdir()} == {
        "baselines.png",
        "confusion_matrix.png",
        "groups.png",
        "history.png",
        "reliability.png",
        "risk_coverage.png",
        "bias_probes.png",
        "robustness.png",
    }
    card = (out / "README.md").read_text()
    for picture in (out / "plots").iterdir():
        assert f"(plots/{picture.name})" in card
    for heading in ("Under damage", "What the embeddings also tell", "Simple models", "Confidence", "Limits"):
        assert heading in card
    for name in ("results.json", "README.md", "plots/robustness.png", "predictions.csv"):
        assert (model / name).read_bytes() == (out / name).read_bytes()
    checks.check_evidence(model)


def test_history_and_settings_of_the_training_are_kept(full, trained):
    own, later = Results.load(trained / "results.json"), Results.load(full[1] / "results.json")
    assert later.history == own.history
    assert later.training == own.training
    assert later.calibration["validation"] == own.calibration["validation"]
    assert later.weights == own.weights == loading.digest(Predictor(trained).model)


def test_fine_tuning_calibrates_and_stock_pipeline_with_it(tuned, recordings):
    results = Results.load(tuned / "results.json")
    found = results.calibration
    assert found["validation"]["nll"] < found["validation"]["nll_before"]
    assert json.loads((tuned / "config.json").read_text())["ser_hf"]["temperature"] == found["temperature"] != 1
    file = str(next(iter(sorted(recordings[0].rglob("*-22.wav")))))
    ours = Predictor(tuned).predict(file)["scores"]
    samples, rate = soundfile.read(file, dtype="float32")
    stock = pipeline("audio-classification", model=str(tuned), top_k=None)({"array": samples, "sampling_rate": rate})
    for row in stock:
        assert row["score"] == pytest.approx(ours[row["label"]], abs=1e-5)


@pytest.mark.usefixtures("undrawn")
def test_fine_tuning_without_calibration_has_the_same_answers(trained, few, models, tmp_path):
    base = words("finetune", "--dataset", few, "--model", models["bert"], "--output_dir", tmp_path / "m", *FAST)
    assert main([*base, "--calibrate", "false"]) == 0
    plain, calibrated = Results.load(tmp_path / "m" / "results.json"), Results.load(trained / "results.json")
    assert plain.calibration is None
    assert plain.confusion_matrix == calibrated.confusion_matrix
    assert plain.ece == pytest.approx(calibrated.calibration["ece_before"], abs=1e-6)
    last = [loading.last_linear(Predictor(folder).model).weight for folder in (tmp_path / "m", trained)]
    torch.testing.assert_close(last[0] / calibrated.calibration["temperature"], last[1])


@pytest.mark.usefixtures("undrawn")
def test_calibrate_sets_when_a_model_abstains(tuned, built, recordings, tmp_path, fails, capsys):
    out = tmp_path / "calibrated"
    base = ("calibrate", "--model", tuned, "--dataset", built)
    assert main(words(*base, "--coverage", "0.5", "--output", out)) == 0
    found = json.loads(capsys.readouterr().out.rpartition("calibrated model")[0])
    assert (out / "LICENSE-BACKBONE").is_file()
    assert found["temperature"] == pytest.approx(1, abs=1e-2)  # it was calibrated on these clips before
    assert found["abstain"]["coverage"] == pytest.approx(0.5, abs=0.05)
    files = [str(path) for path in sorted(recordings[0].rglob("*-21.wav"))]
    for answer in Predictor(out).predict(files):
        assert answer["abstained"] == (answer["score"] < found["abstain"]["abstain_below"])
    assert main(words("evaluate", "--model", out, "--dataset", built, "--output", tmp_path / "e")) == 0
    results = Results.load(tmp_path / "e" / "results.json")
    assert results.calibration["abstain_below"] == found["abstain"]["abstain_below"]
    assert "abstained: true" in (tmp_path / "e" / "README.md").read_text()
    assert "choose another --output" in fails(*base, "--output", out)
    assert "coverage 2.0" in fails(*base, "--coverage", "2", "--output", tmp_path / "x")
    other = ("--protocol", "emobox-ravdess", "--output", tmp_path / "x")
    assert "validates on" in fails(*base, *other)
    assert "give its number" in fails(*base, *other, "--fold", "all")
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_baseline_writes_its_evidence(built, tmp_path, fails):
    out = tmp_path / "svm"
    base = ("baseline", "mfcc-svm", "--dataset", built, "--cache_dir", tmp_path / "cache")
    assert main(words(*base, "--protocol", "emobox-ravdess", "--fold", "all", "--output", out)) == 0
    results = Results.load(out / "results.json")
    assert (results.model, results.protocol, results.fold, results.n) == ("mfcc-svm", "emobox-ravdess", "all", 384)
    assert len(results.training["settings"]["folds"]) == 6
    assert results.ci95["uar"][0] < results.uar < results.ci95["uar"][1]
    assert "mfcc-knn" in fails("baseline", "mfcc-knn", "--dataset", built, "--output", tmp_path / "x")


@pytest.mark.usefixtures("undrawn")
def test_compare_reads_two_folders(full, tuned, built, tmp_path, capsys, fails):
    out = tmp_path / "svm"
    assert main(words("baseline", "mfcc-svm", "--dataset", built, "--output", out)) == 0
    assert main(words("compare", tuned, out, "--output", tmp_path / "c.json")) == 0
    found = json.loads((tmp_path / "c.json").read_text())
    ours, theirs = Results.load(tuned / "results.json"), Results.load(out / "results.json")
    assert found["differences"]["uar"]["difference"] == pytest.approx(theirs.uar - ours.uar, abs=1e-12)
    assert "B - A" in capsys.readouterr().out
    assert "holds no" in fails("compare", tuned, tmp_path) or "has no" in fails("compare", tuned, tmp_path)


def test_explain_draws_and_says(tuned, recordings, tmp_path, capsys, fails):
    file = next(iter(sorted(recordings[0].rglob("*-22.wav"))))
    out = tmp_path / "why.png"
    assert main(words("explain", file, "--model", tuned, "--output", out)) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["label"] == Predictor(tuned).predict(str(file))["label"]
    assert out.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["why.png"]
    assert "name a .png file" in fails("explain", file, "--model", tuned, "--output", tmp_path / "why.txt")


def test_a_report_is_one_page_that_loads_nothing(full, tmp_path, fails):
    folder = full[0].parent
    assert main(words("report", folder, "--output", tmp_path / "r")) == 0
    page = (tmp_path / "r" / "report.html").read_text()
    assert len(PIXEL.findall(page)) >= 8
    assert re.findall(r'(?:src|href)="(?!data:|#run-)', page) == []
    assert "http" not in re.sub(r"base64,[^\"]+", "", page)
    results = Results.load(full[1] / "results.json")
    assert page.count(f"<strong>{results.uar:.3f}</strong>") == 2  # of the model's folder, and of the evidence
    table = (tmp_path / "r" / "report.tex").read_text()
    assert rf"{results.accuracy:.3f} & {results.uar:.3f}" in table
    assert table.count(r"\\") == 3
    assert "holds no results.json" in fails("report", tmp_path / "r")
    assert "is no folder" in fails("report", tmp_path / "absent")


@pytest.mark.usefixtures("undrawn")
def test_names_in_a_report_are_escaped(full, tmp_path):
    results = Results.load(full[1] / "results.json")
    results = dataclasses.replace(results, model="a_b & <script>alert(1)</script> 50%")
    results.save(tmp_path / "results.json")
    (page, table), errors = reports.write_report(tmp_path)
    assert errors == []
    assert "<script>" not in page.read_text()
    assert r"a\_b \& <script>" in table.read_text()
    assert r"50\%" in table.read_text()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("content", ["", "{}", '{"model": "x"', "[1]"])
def test_a_report_leaves_out_results_that_cannot_be_read_and_names_them(content, full, fails, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "results.json").write_text(content)
    assert f"'{tmp_path / 'a' / 'results.json'}'" in fails("report", tmp_path)
    assert not (tmp_path / "report.html").exists()
    shutil.copy(full[1] / "results.json", tmp_path / "b")
    assert main(["report", str(tmp_path)]) == 3
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(
        f"ser-hf: 1 results.json below '{tmp_path}' cannot be used: '{tmp_path / 'a' / 'results.json'}'"
    )
    assert (tmp_path / "report.html").exists()


def test_into_model_needs_a_folder(built, fails, tmp_path):
    base = ("evaluate", "--model", "you/model", "--dataset", built, "--output", tmp_path / "x")
    assert "is no folder of this machine" in fails(*base, "--into_model")


class TestProvenance:
    @pytest.fixture
    def model(self, tuned, tmp_path):
        ignored = shutil.ignore_patterns("checkpoint-*", "tensorboard")
        return shutil.copytree(tuned, tmp_path / "model", ignore=ignored)

    def test_what_fine_tuning_wrote_holds(self, model):
        assert checks.check_evidence(model).uar == Results.load(model / "results.json").uar

    def test_evidence_of_other_weights_is_refused(self, model):
        predictor = Predictor(model)
        loading.last_linear(predictor.model).weight.data += 0.01
        predictor.model.save_pretrained(model)
        with pytest.raises(ProvenanceError, match="is of other weights"):
            checks.check_evidence(model)

    def test_a_card_with_a_figure_of_its_own_is_refused(self, model):
        card = model / "README.md"
        card.write_text(card.read_text() + "\nOur users say it is right in 97.31 % of cases.\n")
        with pytest.raises(ProvenanceError, match=r"says 97\.31, which is not in results"):
            checks.check_evidence(model)

    def test_words_may_be_added(self, model):
        card = model / "README.md"
        card.write_text(card.read_text() + "\nWith thanks to the actors.\n")
        checks.check_evidence(model)

    def test_leaky_figures_need_the_flag_and_the_stamp(self, model):
        results = Results.load(model / "results.json")
        held_apart = [kind for kind in results.held_apart if kind != "speakers"]
        notes = ["protocol 'random' leaks: 26 of 26 test speakers"]
        results = dataclasses.replace(results, held_apart=held_apart, notes=notes)
        results.save(model / "results.json")
        with pytest.raises(ProvenanceError, match=r"not tested on held-out speakers.*--allow_leaky"):
            checks.check_evidence(model)
        with pytest.raises(ProvenanceError, match="does not say that its figures leak"):
            checks.check_evidence(model, allow_leaky=True)
        pictures = [path.name for path in (model / "plots").iterdir()]
        (model / "README.md").write_text(reports.model_card(results, pictures))
        checks.check_evidence(model, allow_leaky=True)

    def test_a_model_without_evidence_is_refused(self, models, fails):
        assert "results.json" in fails("push", "--model", models["bert"], "--repo", "you/model")


def test_abstaining_flags_that_cannot_be(fails, built, tmp_path):
    base = ("finetune", "--dataset", built, "--model", "tiny", "--output_dir", tmp_path / "m")
    assert "give one of them" in fails(*base, "--abstain_coverage", "0.5", "--abstain_error", "0.1")
    assert "a share between 0 and 1" in fails(*base, "--abstain_coverage", "1.5")
    assert "leave out --calibrate false" in fails(*base, "--abstain_error", "0.1", "--calibrate", "false")


@pytest.mark.usefixtures("undrawn")
def test_evidence_of_the_library_is_that_of_the_command(tuned, built, tmp_path):
    results = run.run_evaluation(EvaluateSettings(model=str(tuned), dataset=str(built), output=str(tmp_path / "e")))
    assert results.uar == Results.load(tuned / "results.json").uar
    answers = np.loadtxt(tmp_path / "e" / "predictions.csv", delimiter=",", skiprows=1, usecols=range(5, 13))
    assert answers.shape == (results.n, len(EMOTIONS))
    assert audio.SAMPLING_RATE == 16_000
