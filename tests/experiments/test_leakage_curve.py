import json

import pytest
from helpers.small import FAST

from ser_hf.cli.main import main
from ser_hf.evaluation import plots
from ser_hf.evaluation.results import Results
from ser_hf.experiments import leakage_curve


@pytest.fixture(scope="module")
def curve(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("curve") / "d"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw_results", lambda results, folder: [])  # of each protocol
        assert main(["leakage-curve", "--model", "mfcc-svm", "--dataset", str(built), "--output", str(folder)]) == 0
    return folder


def test_a_curve_has_a_row_for_each_protocol(curve):
    report = json.loads((curve / "leakage_curve.json").read_text())
    assert [row["protocol"] for row in report["rows"]] == list(leakage_curve.NOVELTY)
    for row in report["rows"]:
        results = Results.load(curve / row["protocol"] / "results.json")
        assert (row["uar"], row["n"], row["leaks"]) == (results.uar, results.n, results.leaks)
    assert [row["leaks"] for row in report["rows"]] == [True, True, False, False, False]
    assert (curve / "leakage_curve.png").stat().st_size > 10_000


def test_what_is_there_is_loaded(curve, built, capsys):
    file = curve / "speaker" / "results.json"
    before = file.stat().st_mtime_ns
    assert main(["leakage-curve", "--model", "mfcc-svm", "--dataset", str(built), "--output", str(curve)]) == 0
    assert capsys.readouterr().out.count("reusing") == 5
    assert file.stat().st_mtime_ns == before


@pytest.mark.usefixtures("undrawn")
def test_a_curve_fine_tunes_with_the_flags_given(few, models, tmp_path, monkeypatch):
    monkeypatch.setattr(leakage_curve, "NOVELTY", {"tess-oaf-yaf": "the voice is new"})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("protocol: random\nseed: 7\n")  # the protocols are those of the curve
    base = ["leakage-curve", str(recipe), "--model", str(models["bert"]), "--dataset", str(few)]
    assert main([*base, "--output", str(tmp_path / "d"), *FAST]) == 0
    results = Results.load(tmp_path / "d" / "tess-oaf-yaf" / "results.json")
    assert results.training["settings"]["seed"] == 7
    assert results.protocol == "tess-oaf-yaf"


def test_flags_that_the_curve_sets_are_refused(built, fails, tmp_path):
    base = ("leakage-curve", "--model", "mfcc-svm", "--dataset", built, "--output", tmp_path / "d")
    assert "--protocol is set by the leakage curve" in fails(*base, "--protocol", "random")
    assert "takes no flags of fine-tuning" in fails(*base, "--seed", "3")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("search", [["--search", "2"], ["--search=5"], ["search.yaml"]])
def test_a_search_has_no_results_to_draw(few, models, fails, tmp_path, monkeypatch, search):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search.yaml").write_text("search: 3\n")
    words = ["leakage-curve", *search[:1]] if search == ["search.yaml"] else ["leakage-curve"]
    words += ["--model", models["bert"], "--dataset", few, "--output", "d"]
    message = fails(*words, *([] if search == ["search.yaml"] else search))
    assert "gives no results to draw: search with `ser-hf finetune` first" in message
    assert not (tmp_path / "d").exists()
