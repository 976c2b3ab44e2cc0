"""Every benchmark, study and script starts: its imports resolve and it prints its help."""

import argparse
import json
import pickle
import runpy
import sys
import time

import pytest
import torch
from helpers.small import ROOT, make_whisper
from transformers import AutoModelForAudioClassification

from ser_hf.models import cutting, loading
from ser_hf.training import feature_cache

FOLDERS = ("benchmarks", "studies", "scripts/maintain")
SCRIPTS = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
SCRIPTS += [ROOT / "scripts" / f"{name}.py" for name in ("add_reference", "quickstart", "reproduce")]
"""All but those that are a command of `ser-hf`."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_help(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(script.parent))  # as Python does for a script
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_every_study_is_listed():
    listed = (ROOT / "studies" / "README.md").read_text()
    assert [path.name for path in (ROOT / "studies").glob("*.py") if f"`studies/{path.name}`" not in listed] == []


@pytest.fixture
def train_speed(monkeypatch):
    """The module, whose runs take place in this process."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import train_speed

    def measure(recipe, args, model, epochs, flags, processes=1):
        flags = [*flags, "--threads", "1"]
        child = {"child": recipe, "model": str(model), "epochs": epochs, "batch": 8, "flags": flags}
        return json.loads(json.dumps(train_speed.run_once(argparse.Namespace(**vars(args) | child))))

    monkeypatch.setattr(train_speed, "measure", measure)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    return train_speed


def test_training_of_a_whisper_is_compared_with_the_stock_recipe(train_speed, built, tmp_path, capsys):
    model = make_whisper(tmp_path / "model", seconds=6)
    settings = {"dataset": str(built), "clips": 16, "validated": 8, "protocol": "speaker"}
    train_speed.compare_whisper(argparse.Namespace(**settings, epochs=1, rounds=1, keep_layers=2), model)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("window: 4 s") for line in lines) == 2
    table = [line.split(" | ") for line in lines if line.startswith("| ")][2:]
    assert [row[0] for row in table] == ["| stock", "| ours, full", "| ours, partial"]
    assert all(0 <= float(row[4]) <= 1 for row in table)
    assert float(lines[-1].split()[-1]) < 1e-5


def test_training_on_cached_frames_of_a_whisper_ends_at_one_loss(train_speed, built, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(feature_cache, "STORED", torch.float32)  # or rounding moves the loss by 1e-4
    monkeypatch.setattr(train_speed, "WHISPER_OURS", {"partial": train_speed.WHISPER_OURS["partial"]})
    settings = {"dataset": str(built), "clips": 16, "validated": 8, "protocol": "speaker", "keep_layers": 2}
    model = make_whisper(tmp_path / "model", seconds=6)
    train_speed.cached_equals_uncached(argparse.Namespace(**settings), model)
    cached, uncached = (float(words.split()[-1]) for words in capsys.readouterr().out.splitlines()[-1].split(","))
    assert cached == pytest.approx(uncached, abs=1e-5)


def test_prediction_of_a_whisper_is_compared_with_stock_at_30_s(monkeypatch, rows, home, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import predict_speed

    model = str(make_whisper(tmp_path / "model", seconds=4))
    long = predict_speed.at_30_seconds(model, tmp_path / "long")
    names = dict.fromkeys([*predict_speed.STOCK, "torch"], model) | dict.fromkeys(predict_speed.AT_30_S, long)

    class Process:
        def __init__(self, name):
            self.contestant = predict_speed.make_contestant(name, names[name])

        def request(self, task, source):
            clips, began = pickle.loads(source.read_bytes()), time.perf_counter()
            answers = getattr(self.contestant, task)(clips)
            return {"answers": answers, "seconds": time.perf_counter() - began, "peak": 0}

    (part := tmp_path / "clips").write_bytes(pickle.dumps([row["audio"]["bytes"] for row in rows.select(range(3))]))
    assert predict_speed.compare_clips({name: Process(name) for name in names}, [part], 9.0, model)
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert "at 30 s" in table[0][3]
    assert [row[0] for row in table[2:]] == [f"| {name}" for name in names]
    assert {row[0]: row[5][:6] for row in table[2:]} == {
        f"| {name}": "anothe" if name in predict_speed.AT_30_S else "3 of 3" for name in names
    }


def test_the_layers_at_30_s_begin_with_the_positions_of_the_window(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import predict_speed

    whole = str(make_whisper(tmp_path / "whole", seconds=30))
    model, extractor, _ = loading.load_for_prediction(whole)
    cutting.cut_window(model, extractor, 5).save_pretrained(tmp_path / "cut")
    model.save_pretrained(tmp_path / "cut")
    again, longer, _ = loading.load_for_prediction(predict_speed.at_30_seconds(tmp_path / "cut", tmp_path / "again"))
    assert longer.chunk_length == 30
    stock = AutoModelForAudioClassification.from_pretrained(whole).state_dict()
    assert again.state_dict().keys() == stock.keys()
    for name, values in again.state_dict().items():
        torch.testing.assert_close(values, stock[name], atol=1e-6, rtol=0)
