"""`make model`: which runs it starts, what it does not run again, and the figures of their
predictions."""

import csv
import json
import shutil
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import programs
from helpers.small import ROOT
from scipy.special import softmax

from ser_hf.errors import UserError
from ser_hf.experiments import adaptation_study
from ser_hf.labels import EMOTIONS

WORDS = ["bundle_model.py", "--ravdess", str(ROOT), "--tess", str(ROOT)]


def write_predictions(path, rng):
    """Predictions of 96 clips that are right more often than not."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["file", "corpus", "speaker", "label", "predicted", *EMOTIONS])
        for clip, label in enumerate(rng.integers(8, size=96)):
            chances = softmax(3 * np.eye(8)[label] + 2 * rng.normal(size=8))
            corpus = "ravdess" if clip % 2 else "tess"
            lines.writerow(["f", corpus, f"{corpus}-{clip % 4}", EMOTIONS[label], "sad", *chances])


def protocol_of(words):
    return words[words.index("--protocol") + 1]


@pytest.fixture
def commands(bundle_model, monkeypatch, tuned):
    """The commands that were run; each leaves the files that the real one would."""
    commands = []

    def run(log, *words):
        words = [str(word) for word in words]
        commands.append(words)
        folder = Path(words[words.index("--output_dir" if words[0] == "finetune" else "--output") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        if words[0] == "data":
            return
        for name in ("model.safetensors", "config.json", "preprocessor_config.json", "results.json"):
            shutil.copy(tuned / name, folder / name)
        protocol = words[words.index("--protocol") + 1]
        results = json.loads((tuned / "results.json").read_text()) | {"protocol": protocol}
        (folder / "results.json").write_text(json.dumps(results))
        rng = np.random.default_rng(len(commands))
        for fold in range(bundle_model.FOLDS[protocol]) if "--fold" in words else [None]:
            part = folder if fold is None else folder / f"fold-{fold}"
            part.mkdir(exist_ok=True)
            write_predictions(part / "predictions.csv", rng)

    monkeypatch.setattr(bundle_model, "run_ser_hf", run)
    monkeypatch.setattr(adaptation_study, "_DRAWS", 1)  # ten take a minute
    monkeypatch.setattr(adaptation_study, "_PARTS", 3)
    return commands


@pytest.fixture
def bundled(bundle_model, monkeypatch):
    """What was bundled, and what was added."""
    written, added = [], []
    monkeypatch.setattr(bundle_model, "write_bundle", lambda *args: written.append(args))
    monkeypatch.setattr(bundle_model, "add_seeds", lambda *args: added.append(args) or args[0])
    monkeypatch.setattr(bundle_model, "refuse_another_recipe", lambda recipe: None)
    return written, added


def test_it_runs_every_protocol_and_seed_once_and_bundles_the_model_of_all_speakers(
    bundle_model, commands, tmp_path, capsys, monkeypatch, bundled
):
    written, added = bundled
    monkeypatch.setattr(sys, "argv", [*WORDS, "--output", str(tmp_path / "o"), "--seeds", "2", "--backbone", "b"])
    bundle_model.main()
    assert [words[0] for words in commands] == ["data"] + ["finetune"] * 2 * (1 + len(bundle_model.PROTOCOLS))
    trainings = commands[1:]
    assert [protocol_of(words) for words in trainings if protocol_of(words) == "all"] == ["all", "all"]
    # the features that all protocols of a seed read are computed by the first
    assert protocol_of(trainings[0]) == protocol_of(trainings[len(trainings) // 2]) == "all"
    assert {words[words.index("--model") + 1] for words in trainings} == {"b"}
    assert {protocol_of(words) for words in trainings if "--fold" in words} == {"emobox-ravdess", "luna-ravdess"}
    alone = {protocol_of(words) for words in trainings if "--extra_train_speakers" in words}
    assert alone == {"ravdess-tess", "tess-ravdess"}
    ((model, tested, measured, abstains, recipe),) = written
    assert model == tmp_path / "o" / "all" / "seed-42"
    assert tested == tmp_path / "o" / "emobox-ravdess" / "seed-42"
    assert list(measured) == list(bundle_model.PROTOCOLS)
    assert [list(row["seeds"]) for row in measured.values()] == [["42", "43"]] * 8
    assert recipe == bundle_model.recipe_digest()
    runs = [adaptation_study.read_predictions(run) for run in sorted((tmp_path / "o").glob("emobox*/seed-*/fold-*"))]
    score = np.concatenate([softmax(run.logits, axis=1).max(axis=1) for run in runs])
    wrong = np.concatenate([run.logits.argmax(axis=1) != run.labels for run in runs])
    assert len(runs) == 12
    assert list(abstains["protocols"]) == list(bundle_model.PROTOCOLS)
    answered = score >= abstains["abstain_below"]
    assert 0.14 < wrong[answered].mean() <= 0.15  # without a threshold more are wrong
    assert wrong.mean() > 0.17
    assert abstains["protocols"]["emobox-ravdess"] == {
        "coverage": pytest.approx(answered.mean()),
        "error": pytest.approx(wrong[answered].mean()),
    }
    assert not added
    assert "| … TESS |" in capsys.readouterr().out
    before = len(commands)
    bundle_model.main()  # all of it is there
    assert len(commands) == before


def test_more_seeds_of_some_protocols_are_added(bundle_model, commands, tmp_path, monkeypatch, bundled):
    written, added = bundled
    words = [*WORDS, "--output", str(tmp_path), "--add", "--first", "44", "--seeds", "1", "--only"]
    monkeypatch.setattr(sys, "argv", [*words, "random", "speaker"])
    bundle_model.main()
    assert sorted(protocol_of(words) for words in commands[1:]) == ["all", "random", "speaker"]
    ((measured, _),) = added
    assert {name: list(row["seeds"]) for name, row in measured.items()} == {"random": ["44"], "speaker": ["44"]}
    run = adaptation_study.read_predictions(tmp_path / "random" / "seed-44")
    expected = adaptation_study.adaptation_figures([run], [1.0])
    ten = float(np.mean(adaptation_study.adapted_uar([run], [1.0], clips=10)))
    assert measured["random"]["seeds"]["44"] == {**expected, "adapted uar, ten clips": pytest.approx(ten)}
    assert not written


def test_a_model_needs_the_figures_of_all_protocols(bundle_model, commands, monkeypatch, capsys, bundled):
    monkeypatch.setattr(sys, "argv", [*WORDS, "--only", "random"])
    with pytest.raises(SystemExit, match="2"):
        bundle_model.main()
    assert "--only needs --add" in capsys.readouterr().err
    assert not commands


def test_runs_of_another_recipe_are_not_taken_for_those_of_this_one(
    bundle_model, commands, tmp_path, monkeypatch, bundled
):
    monkeypatch.setattr(sys, "argv", [*WORDS, "--output", str(tmp_path), "--seeds", "1"])
    bundle_model.main()
    before = len(commands)
    monkeypatch.setattr(bundle_model, "recipe_digest", lambda: "another")
    with pytest.raises(UserError, match="runs of another recipe"):
        bundle_model.main()
    assert len(commands) == before


def test_what_the_user_can_mend_is_one_line(tmp_path):
    (tmp_path / "recipe").write_text("another")
    run = programs.run([ROOT / "scripts" / "maintain" / WORDS[0], *WORDS[1:], "--output", tmp_path])
    assert run.returncode == 2
    assert run.stderr == f"bundle_model: '{tmp_path}' holds runs of another recipe: choose another --output\n"


def test_a_recipe_is_another_where_a_config_file_says_otherwise(bundle_model, monkeypatch, tmp_path):
    before, text = bundle_model.recipe_digest(), bundle_model.RECIPE.read_text()
    monkeypatch.setattr(bundle_model, "RECIPE", tmp_path / "recipe.yaml")
    bundle_model.RECIPE.write_text("# a remark\n" + text)
    assert bundle_model.recipe_digest() == before
    assert "window: 5" in text
    bundle_model.RECIPE.write_text(text.replace("window: 5", "window: 6"))
    assert bundle_model.recipe_digest() != before


def test_nothing_begins_after_a_run_that_failed(bundle_model):
    started, failed = [], threading.Event()

    def train(name):
        started.append(name)
        if name == "slow":
            assert failed.wait(10)
        if name == "bad":
            failed.set()
            sys.exit(2)

    runs = [partial(train, name) for name in ("slow", "bad", "third", "fourth")]
    with pytest.raises(SystemExit, match="2"):
        bundle_model.train_all(runs, jobs=2)
    assert sorted(started) == ["bad", "slow"]
