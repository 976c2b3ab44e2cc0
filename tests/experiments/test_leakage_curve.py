import json

import pytest
from helpers.small import FAST

from ser_hf.cli.main import main
from ser_hf.evaluation.results import Results
from ser_hf.experiments import leakage_curve


@pytest.fixture(scope="module")
def dialled(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dial") / "d"
    assert main(["evaluate", "--dial", "--model", "mfcc-svm", "--dataset", str(built), "--output", str(folder)]) == 0
    return folder


def test_a_dial_has_a_row_for_each_protocol(dialled):
    report = json.loads((dialled / "dial.json").read_text())
    assert [row["protocol"] for row in report["rows"]] == list(leakage_curve.NEW)
    for row in report["rows"]:
        results = Results.load(dialled / row["protocol"] / "results.json")
        assert (row["uar"], row["n"], row["leaks"]) == (results.uar, results.n, results.leaks)
    assert [row["leaks"] for row in report["rows"]] == [True, True, False, False, False]
    assert (dialled / "dial.png").stat().st_size > 10_000


def test_what_is_there_is_loaded(dialled, built, capsys):
    file = dialled / "speaker" / "results.json"
    before = file.stat().st_mtime_ns
    assert main(["evaluate", "--dial", "--model", "mfcc-svm", "--dataset", str(built), "--output", str(dialled)]) == 0
    assert capsys.readouterr().out.count("reusing") == 5
    assert file.stat().st_mtime_ns == before


def test_a_dial_fine_tunes_with_the_flags_given(built, models, tmp_path, monkeypatch):
    monkeypatch.setattr(leakage_curve, "NEW", {"tess-oaf-yaf": "the voice is new"})
    base = ["evaluate", "--dial", "--model", str(models["bert"]), "--dataset", str(built)]
    assert main([*base, "--output", str(tmp_path / "d"), *FAST, "--seed", "7"]) == 0
    results = Results.load(tmp_path / "d" / "tess-oaf-yaf" / "results.json")
    assert results.training["settings"]["seed"] == 7
    assert results.protocol == "tess-oaf-yaf"


def test_flags_that_the_dial_sets_are_refused(built, fails, tmp_path):
    base = ("evaluate", "--dial", "--model", "mfcc-svm", "--dataset", built, "--output", tmp_path / "d")
    assert "--protocol is set by the dial" in fails(*base, "--protocol", "random")
    assert "takes no flags of fine-tuning" in fails(*base, "--seed", "3")
    assert not (tmp_path / "d").exists()
