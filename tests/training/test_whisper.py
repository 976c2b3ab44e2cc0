"""A Whisper with a short window, fine-tuned, saved, and loaded by stock transformers."""

import json

import pytest
from helpers.small import FAST, make_whisper
from transformers import pipeline

from ser_hf import audio
from ser_hf.cli.main import main
from ser_hf.inference.predictor import Predictor


@pytest.fixture(scope="module")
def run(built, tmp_path_factory):
    """The output and the folder of a run."""
    folder = tmp_path_factory.mktemp("whisper")
    backbone = make_whisper(folder / "backbone", layers=3)
    flags = ["--dataset", str(built), "--model", str(backbone), "--output_dir", str(folder / "model"), *FAST]
    flags += [
        "--max_steps",
        "4",
        "--threads",
        "1",
        "--keep_layers",
        "2",
        "--augment",
        "tempo,hiss,gaps",
        "--mixup",
        "0.2",
    ]
    assert main(["finetune", *flags]) == 0
    return folder / "model"


def test_the_saved_model_has_the_window_and_the_layers(run):
    config = json.loads((run / "config.json").read_text())
    assert (config["max_source_positions"], config["encoder_layers"]) == (200, 2)
    assert json.loads((run / "preprocessor_config.json").read_text())["chunk_length"] == 4
    settings = json.loads((run / "results.json").read_text())["training"]["settings"]
    assert (settings["window"], settings["keep_layers"]) == (4, 2)


def test_the_stock_pipeline_says_what_the_predictor_says(run, recordings):
    stock = pipeline("audio-classification", model=str(run), top_k=None)
    for file in sorted(recordings[0].rglob("*.wav"))[:100:33]:
        expected = {row["label"]: row["score"] for row in stock({"raw": audio.load(file), "sampling_rate": 16_000})}
        assert Predictor(run).predict(str(file))["scores"] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--window", "31"], "--window is 31, but the model's is 4 s: give 4 to 4"),
        (["--window", "3"], "--window is 3: at least 4 is needed"),
        (["--keep_layers", "3"], "--keep_layers is 3, but the model has 2 layers: give 1 to 2"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(run, built, tmp_path, capsys, flags, said):
    paths = ["--dataset", str(built), "--model", str(run), "--output_dir", str(tmp_path / "m")]
    assert main(["finetune", *paths, *FAST, *flags]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
