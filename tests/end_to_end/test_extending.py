"""docs/extending.md is run from top to bottom, as it stands."""

import json
import re
import runpy
import shlex
import shutil
import sys

import numpy as np
import pytest
import soundfile
from helpers.small import ROOT

from ser_hf.audio import SAMPLING_RATE
from ser_hf.audio.synthesis import SyntheticVoice, synthesize
from ser_hf.cli.main import main
from ser_hf.data import dataset
from ser_hf.evaluation.metrics import METRICS
from ser_hf.evaluation.results import Results

BLOCKS = re.findall(r"```(yaml|python|bash)\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL)
EMOTIONS = {"Wut": "angry", "Freude": "happy", "ruhig": "calm"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with `wav/`: four speakers, three labels, two clips each."""
    for speaker, female in (("anna", True), ("ben", False), ("cleo", True), ("dan", False)):
        voice = SyntheticVoice.of(speaker, female=female, seed=0)
        for label, emotion in EMOTIONS.items():
            (tmp_path / "wav" / label).mkdir(parents=True, exist_ok=True)
            for take in range(2):
                samples = synthesize(voice, emotion, [0, 1, 2], np.random.default_rng([take, *speaker.encode()]))
                number = 2 * list(EMOTIONS).index(label) + take
                path = tmp_path / "wav" / label / f"{speaker}_{number}.wav"
                soundfile.write(path, np.clip(samples, -1, 1), SAMPLING_RATE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line, monkeypatch):
    """A line of the shell in this process; its exit code."""
    program, *words = shlex.split(line)
    if program == "ser-hf":
        return main(words)
    assert program == "python"
    monkeypatch.setattr(sys, "argv", words)
    before = dict(METRICS)
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:  # what a script registers is gone afterwards
        METRICS.clear()
        METRICS.update(before)
    return 0


def test_the_page(place, monkeypatch, capsys, undrawn):
    assert [kind for kind, _ in BLOCKS].count("bash") == 4
    for kind, text in BLOCKS:
        if kind == "bash":
            for line in text.splitlines():
                assert run(line, monkeypatch) == 0, line
        else:
            (place / text.splitlines()[0].removeprefix("# ")).write_text(text)
    printed = capsys.readouterr().out

    rows = dataset.load("runs/mine")
    assert sorted(set(rows["speaker"])) == ["mine-anna", "mine-ben", "mine-cleo", "mine-dan"]
    assert len(rows) == 24
    assert "protocol custom:two-folds fold 1" in printed

    svm, worst = (Results.load(place / "runs" / name / "results.json") for name in ("svm", "worst"))
    assert (svm.protocol, svm.fold, svm.n, svm.further_metrics) == ("custom:two-folds", "all", 24, {})
    recall = min(row["recall"] for row in worst.per_class.values() if row["support"])
    assert worst.further_metrics == {"worst_recall": recall}
    assert set(worst.ci95) == {"accuracy", "uar", "macro_f1", "weighted_f1", "worst_recall"}

    sew = Results.load(place / "runs" / "sew" / "results.json")
    assert (sew.protocol, sew.fold, sew.training["padding"]) == ("custom:two-folds", 0, "one clip at a time")
    assert json.loads((place / "runs" / "sew" / "config.json").read_text())["model_type"] == "sew"
    assert re.search(r"custom:two-folds fold all \(2 folds, \w{8}…\): 24 clips of 4 speakers", printed)
    assert re.search(r"custom:two-folds fold 0 \(\w{16}\): 12 clips of 2 speakers", printed)
    assert "worst_recall" not in METRICS
    shutil.rmtree(place / "runs")
