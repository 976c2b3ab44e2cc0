"""The published figures: what the docs' tables state, and what `make reproduce` compares."""

import json
import re
import statistics
import sys

import pytest
from helpers.small import ROOT

from ser_hf import BUNDLED_MODEL
from ser_hf.cli.main import main
from ser_hf.evaluation.baselines import BASELINES
from ser_hf.evaluation.results import Results


def table_rows(page, head):
    """The lines of the Markdown table that begins with this head."""
    text = (ROOT / "docs" / page).read_text()
    table = text[text.index(head) :].split("\n\n")[0]
    return table.splitlines()[2:]


def test_the_table_of_the_docs_is_that_of_the_file(reproduce):
    rows = [reproduce.table_row(*cell, row) for cell, row in reproduce.published().items() if cell[1] != "bundled"]
    assert table_rows("evidence.md", "| protocol | model | clips | accuracy |") == rows
    assert len(rows) == 6 * (len(BASELINES) + 1)


def test_the_table_of_the_bundled_model_is_that_of_its_seeds():
    seeds = json.loads((BUNDLED_MODEL / "seeds.json").read_text())["protocols"]
    stated = {}
    for line in table_rows("bundled_model.md", "| protocol | clips | accuracy | UAR |"):
        cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if not cells[0].startswith("…"):
            stated[cells[0]] = cells[1:4]
    for protocol, row in seeds.items():
        figures = [[seed[name] for seed in row["seeds"].values()] for name in ("accuracy", "uar")]
        spread = [f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}" for values in figures]
        assert stated.pop(protocol) == [f"{row['n']:,}", *spread]
    assert stated == {}


@pytest.fixture
def run(reproduce, monkeypatch, tmp_path, built, capsys):
    """Run the script on the synthetic dataset; give its exit code, its rows and its commands."""
    commands = []

    def in_this_process(words):
        commands.append([str(word) for word in words])
        assert main(commands[-1]) == 0

    def call(*words):
        commands.clear()
        output = tmp_path / "out"
        argv = ["reproduce.py", "--dataset", str(built), "--output", str(output), *words]
        monkeypatch.setattr(reproduce, "ser_hf", in_this_process)
        monkeypatch.setattr(sys, "argv", argv)
        capsys.readouterr()
        code = reproduce.main()
        return code, [line for line in (output / "tables.md").read_text().splitlines() if "`" in line], list(commands)

    return call


def test_cells_are_run_once_and_compared(run, reproduce, monkeypatch, tmp_path, capsys):
    words = ["--models", "mfcc-svm", "--only", "speaker", "sentence"]
    code, rows, commands = run(*words)
    assert "2 of 2 cells are to be run: about " in capsys.readouterr().err
    assert code == 0  # these are other recordings, which are not judged
    assert [command[:2] for command in commands] == [["baseline", "mfcc-svm"]] * 2
    results = Results.load(tmp_path / "out" / "mfcc-svm" / "speaker" / "results.json")
    (row,) = (row for row in rows if row.startswith("| `speaker` | mfcc-svm |"))
    assert f"| {results.n:,} | {results.accuracy:.3f} | {results.uar:.3f} | {results.macro_f1:.3f} |" in row
    assert row.endswith("other recordings: not judged |")

    # the same figures as if they had been published, and one that is far off
    reached = {
        (protocol, "mfcc-svm"): reproduce.Published.of_results(
            [Results.load(tmp_path / "out" / "mfcc-svm" / protocol / "results.json")]
        )
        for protocol in ("speaker", "sentence")
    }
    monkeypatch.setattr(reproduce, "published", lambda: reached)
    monkeypatch.setattr(reproduce, "is_published_dataset", lambda folder: True)
    code, rows, commands = run(*words)
    assert (code, commands) == (0, [])
    assert all(row.endswith("+0.000, within 0.01 |") for row in rows)
    wrong = reproduce.Published(results.n, results.accuracy, results.uar - 0.02, results.macro_f1)
    monkeypatch.setattr(reproduce, "published", lambda: reached | {("speaker", "mfcc-svm"): wrong})
    code, rows, _ = run(*words)
    assert code == 3
    assert re.search(r"\+0\.020, FARTHER THAN 0\.01 \|$", rows[0])


@pytest.mark.parametrize(
    ("uar", "accuracy", "clips", "same", "says"),
    [
        (0.509, 0.5, 10, True, "+0.009, within 0.01"),
        (0.5, 0.489, 10, True, "-0.011, FARTHER THAN 0.01"),
        (0.6, 0.5, 11, True, "+0.100, other recordings: not judged"),
        (0.6, 0.5, 10, False, "+0.100, other recordings: not judged"),
    ],
)
def test_what_is_judged(reproduce, uar, accuracy, clips, same, says):
    stated = reproduce.Published(10, 0.5, 0.5)
    assert reproduce.judge("mfcc-svm", reproduce.Published(clips, accuracy, uar), stated, same) == says


def test_commands_of_trained_cells(reproduce, tmp_path, monkeypatch):
    words = ["reproduce.py", "--dataset", "D", "--output", str(tmp_path), "--seeds", "2", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--backbone", "B"])
    args = reproduce.parse_arguments(reproduce.published())
    tiny = reproduce.commands("tiny", "emobox-ravdess", tmp_path / "tiny", args)
    assert [place.name for place in tiny] == ["seed-42", "seed-43"]
    line = " ".join(map(str, next(iter(tiny.values()))))
    assert line == (
        "finetune --model tiny --threads 1 --dataset D --protocol emobox-ravdess --fold all "
        f"--output_dir {tmp_path}/tiny/seed-42 --seed 42"
    )
    bundled = next(iter(reproduce.commands("bundled", "ravdess-tess", tmp_path, args).values()))
    assert str(bundled[1]).endswith("configs/bundled_model.yaml")
    assert " ".join(map(str, bundled[2:8])) == f"--cache_dir {tmp_path}/features --model B --extra_train_speakers false"


@pytest.mark.parametrize(
    ("left", "resumes"),
    [
        ([], False),
        (["logs.txt"], False),  # ended before its first checkpoint
        (["checkpoint-2/config.json"], False),  # while it was written
        (["ser_hf.json", "fold-0/results.json"], True),
    ],
)
def test_a_training_goes_on_where_it_can(reproduce, tmp_path, monkeypatch, left, resumes):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--dataset", "D", "--output", str(tmp_path)])
    for name in left:
        (tmp_path / "seed-42" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "seed-42" / name).touch()
    args = reproduce.parse_arguments(reproduce.published())
    (words,) = reproduce.commands("tiny", "speaker", tmp_path, args).values()
    assert ("--resume_from_checkpoint" in words) == resumes


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--ravdess", "", "--tess", "T"],
        ["--dataset", "D", "--seeds", "0"],
        ["--dataset", "D", "--only", "x"],
        ["--dataset", "D", "--models", "tiny", "--only", "ravdess-tess"],
    ],
)
def test_mistakes(reproduce, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    with pytest.raises(SystemExit) as end:
        reproduce.parse_arguments(reproduce.published())
    assert end.value.code == 2


def test_times_in_words(reproduce):
    assert [reproduce.in_words(seconds) for seconds in (5, 330, 9000)] == ["1 min", "6 min", "2.5 h"]
    seconds, features = reproduce.SECONDS, reproduce.FEATURES
    assert reproduce.estimate([("speaker", "mfcc-svm")], 1) == features["mfcc"] + seconds["mfcc-svm"]
    assert reproduce.estimate([("emobox-ravdess", "tiny")], 3) == seconds["tiny"] * 6 * 3
