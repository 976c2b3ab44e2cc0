"""`make model`: which runs it starts, what it does not run again, and what it makes of their
answers."""

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.small import ROOT
from scipy.special import softmax

from ser_hf import in_the_box
from ser_hf.errors import UserError
from ser_hf.experiments import adaptation_study
from ser_hf.labels import EMOTIONS

WORDS = ["make_model.py", "--ravdess", str(ROOT), "--tess", str(ROOT)]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    spec = importlib.util.spec_from_file_location("make_model", ROOT / "scripts" / "make_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def commands(script, monkeypatch, tuned):
    """What was asked for; each command leaves the files that the real one would."""
    asked = []

    def run(log, *words):
        words = [str(word) for word in words]
        asked.append(words)
        folder = Path(words[words.index("--output_dir" if words[0] == "finetune" else "--output") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        if words[0] == "data":
            return
        for name in ("model.safetensors", "config.json", "preprocessor_config.json", "results.json"):
            shutil.copy(tuned / name, folder / name)
        results = json.loads((tuned / "results.json").read_text()) | {"protocol": Path(words[1]).stem}
        (folder / "results.json").write_text(json.dumps(results))
        if "--resume_from_checkpoint" in words:
            (folder / "repeats.json").write_text("{}")
        rng = np.random.default_rng(len(asked))
        with (folder / "predictions.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["file", "corpus", "speaker", "label", "predicted", *EMOTIONS])
            for clip, label in enumerate(rng.integers(8, size=96)):
                chances = softmax(3 * np.eye(8)[label] + 2 * rng.normal(size=8))
                corpus = "ravdess" if clip % 2 else "tess"
                lines.writerow(["f", corpus, f"{corpus}-{clip % 4}", EMOTIONS[label], "sad", *chances])

    monkeypatch.setattr(script, "ser_hf", run)
    return asked


@pytest.fixture
def box(monkeypatch):
    """What was put into the box, and what was added."""
    put, added = [], []
    monkeypatch.setattr(in_the_box, "put", lambda *given: put.append(given))
    monkeypatch.setattr(in_the_box, "add", lambda *given: added.append(given) or given[0])
    monkeypatch.setattr(in_the_box, "temperature", lambda recipe: 2.0)
    return put, added


def test_it_runs_every_protocol_and_seed_once_and_puts_that_of_everybody_into_the_box(
    script, commands, tmp_path, capsys, monkeypatch, box
):
    put, added = box
    monkeypatch.setattr(sys, "argv", [*WORDS, "--output", str(tmp_path / "o"), "--seeds", "2"])
    script.main()
    assert [one[0] for one in commands] == ["data"] + ["finetune"] * (2 * (6 + 4) + 2 + 1)
    singles = [one for one in commands if "--fold" in one]
    assert len({one[one.index("--output_dir") + 1] for one in singles}) == 12
    (everybody,) = [place for place, one in enumerate(commands) if Path(one[1]).stem == "all"]
    assert everybody >= 1 + 6  # its temperature is of the first seed's folds
    assert float(commands[everybody][commands[everybody].index("--temperature") + 1]) > 0
    ((model, tested, measured, recipe),) = put
    assert model == tmp_path / "o" / "all" / "seed-42"
    assert tested == tmp_path / "o" / "emobox-ravdess" / "seed-42"
    assert list(measured) == list(script.PROTOCOLS)
    assert [list(row["seeds"]) for row in measured.values()] == [["42", "43"]] * 5
    assert recipe == script.recipe()
    assert not added
    assert "| … TESS |" in capsys.readouterr().out
    known = len(commands)
    script.main()  # all of it is there
    assert len(commands) == known


def test_more_seeds_of_some_protocols_are_added_at_the_temperature_of_the_box(
    script, commands, tmp_path, monkeypatch, box
):
    put, added = box
    words = [*WORDS, "--output", str(tmp_path), "--add", "--first", "44", "--seeds", "1", "--only"]
    monkeypatch.setattr(sys, "argv", [*words, "random", "speaker"])
    script.main()
    assert sorted(Path(one[1]).stem for one in commands[1:]) == ["random", "speaker"]
    ((measured, _),) = added
    assert {name: list(row["seeds"]) for name, row in measured.items()} == {"random": ["44"], "speaker": ["44"]}
    found = adaptation_study.adaptation_figures(
        [adaptation_study.read_predictions(tmp_path / "random" / "seed-44")], [2.0]
    )
    assert measured["random"]["seeds"]["44"] == found
    monkeypatch.setattr(sys, "argv", [*words, "emobox-ravdess"])
    script.main()
    assert len([one for one in commands if one[0] == "finetune"]) == 2 + 7
    assert not put


def test_a_model_needs_the_figures_of_all_protocols(script, commands, monkeypatch, capsys, box):
    monkeypatch.setattr(sys, "argv", [*WORDS, "--only", "random"])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "--only needs --add" in capsys.readouterr().err
    assert not commands


def test_runs_of_another_recipe_are_not_taken_for_those_of_this_one(script, commands, tmp_path, monkeypatch, box):
    monkeypatch.setattr(sys, "argv", [*WORDS, "--output", str(tmp_path), "--seeds", "1"])
    script.main()
    known = len(commands)
    monkeypatch.setattr(script, "recipe", lambda: "another")
    with pytest.raises(UserError, match="runs of another recipe"):
        script.main()
    assert len(commands) == known


def test_what_the_user_can_mend_is_one_line(tmp_path):
    (tmp_path / "recipe").write_text("another")
    words = [sys.executable, str(ROOT / "scripts" / WORDS[0]), *WORDS[1:], "--output", str(tmp_path)]
    run = subprocess.run(words, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr == f"make_model: '{tmp_path}' holds runs of another recipe: choose another --output\n"


def test_a_recipe_is_another_where_a_config_file_says_otherwise(script, monkeypatch, tmp_path):
    before = script.recipe()
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.setattr(script, "CONFIGS", tmp_path / "configs")
    file = tmp_path / "configs" / "random.yaml"
    file.write_text("# a remark\n" + file.read_text())
    assert script.recipe() == before
    file.write_text(file.read_text().replace("mixup: 0.15", "mixup: 0.2"))
    assert script.recipe() != before


def test_nothing_begins_after_a_run_that_failed(script, monkeypatch, tmp_path):
    begun, failed = [], threading.Event()

    def train(output, name):
        begun.append(name)
        if name == "slow":
            assert failed.wait(10)
        if name == "bad":
            failed.set()
            sys.exit(2)

    monkeypatch.setattr(script, "train", train)
    with pytest.raises(SystemExit, match="2"):
        script.train_each(tmp_path, [("slow",), ("bad",), ("third",), ("fourth",)], jobs=2)
    assert sorted(begun) == ["bad", "slow"]
