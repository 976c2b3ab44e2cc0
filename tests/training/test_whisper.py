"""A Whisper with a short window, fine-tuned, saved, and loaded by stock transformers."""

import json

import numpy as np
import pytest
import torch
from helpers.small import FAST, make_whisper
from transformers import pipeline

from ser_hf import audio, protocols
from ser_hf.cli.main import main
from ser_hf.inference.predictor import Predictor
from ser_hf.models import loading, padding
from ser_hf.models.features import front_end_of
from ser_hf.training.config import FinetuneConfig, training_arguments
from ser_hf.training.heads import probe
from ser_hf.training.inputs import TrainingInputs

pytestmark = pytest.mark.usefixtures("all_undrawn")


@pytest.fixture(scope="module")
def run(few, tmp_path_factory):
    """The output and the folder of a run."""
    folder = tmp_path_factory.mktemp("whisper")
    backbone = make_whisper(folder / "backbone", layers=3)
    flags = ["--dataset", str(few), "--model", str(backbone), "--output_dir", str(folder / "model"), *FAST]
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
        assert Predictor(run, backend="torch").predict(str(file))["scores"] == pytest.approx(expected, abs=2e-6)


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


def test_a_probe_averages_stretches_of_the_window(run, rows, built, tmp_path):
    config = FinetuneConfig(
        dataset=str(built), mode="probe", pooling="attentive", figures_only=True, cache_dir=str(tmp_path)
    )
    model, extractor = loading.load_for_training(run)
    args = training_arguments(config, output_dir=str(tmp_path), use_cpu=True, bf16=False)
    clips, split = rows.select([3, 50]), protocols.Split([0], [1], [], "speaker", 0, "")
    cache, _ = probe.embeddings(TrainingInputs(config, args, clips, split, model, extractor))
    features = torch.from_numpy(front_end_of(extractor).extract(audio.load(clips[1]["audio"])))
    assert padding.frames_of(model, front_end_of(extractor).steps(features.numpy())) == 200
    with torch.inference_mode():
        hidden = torch.stack(model.eval()(features[None], output_hidden_states=True).hidden_states, dim=2)[0]
    expected = hidden.unflatten(0, (40, 5)).mean(1)  # 0.1 s is five frames
    np.testing.assert_allclose(cache[clips[1]["sha256"]][0], expected, atol=5e-3, rtol=2e-3)
