"""Training on the validation side, too, and a model of which nobody is left to test it."""

import json

import numpy as np
import pytest
import torch
from helpers.small import FAST
from safetensors.torch import load_file

from ser_hf import protocols
from ser_hf.cli.main import main
from ser_hf.data import dataset
from ser_hf.evaluation.results import Results
from ser_hf.inference.predictor import Predictor

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def built(few):
    return few


@pytest.fixture(scope="module")
def rows(few):
    return dataset.load(few)


def test_a_refit_hears_the_validation_side_and_takes_a_temperature(built, models, rows, tmp_path):
    base = ["finetune", "--dataset", str(built), "--model", str(models["bert"]), *FAST, "--max_steps", "2"]
    base += ["--adaptation_head", "false"]
    for name, flags in (("plain", []), ("warm", ["--temperature", "2"])):
        assert main([*base, "--train_on_validation", "true", "--output_dir", str(tmp_path / name), *flags]) == 0
    plain, warm = (Results.load(tmp_path / name / "results.json") for name in ("plain", "warm"))
    split = protocols.split(rows, train_on_validation=True)
    assert plain.protocol_hash == warm.protocol_hash == split.hash
    assert (plain.split["train"], plain.split["validation"]) == (len(split.train), 0)
    assert any("validation side" in note for note in plain.notes)
    assert plain.calibration is None
    assert warm.calibration["temperature"] == 2
    assert warm.calibration["ece_before"] == pytest.approx(plain.ece, abs=1e-6)
    assert warm.uar == plain.uar
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "warm"))
    torch.testing.assert_close(one["classifier.weight"], 2 * other["classifier.weight"])
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert set(config["ser_hf"]["speakers"]) == set(rows.select(split.train)["speaker"])


def test_a_model_of_everybody_has_weights_and_no_figures(built, models, rows, tmp_path, fails):
    folder = tmp_path / "everybody"
    base = ["finetune", "--dataset", str(built), "--model", str(models["bert"]), *FAST, "--protocol", "all"]
    words = [
        *base,
        "--max_steps",
        "2",
        "--train_on_validation",
        "true",
        "--temperature",
        "1.5",
        "--output_dir",
        str(folder),
    ]
    assert main(words) == 0
    names = {path.name for path in folder.iterdir()} - {"tensorboard"}
    assert {name for name in names if not name.startswith("checkpoint-")} == {
        "LICENSE-BACKBONE",
        "adaptation_head.safetensors",
        "config.json",
        "embedding_reference.safetensors",
        "model.safetensors",
        "preprocessor_config.json",
    }
    predictor = Predictor(folder)
    assert predictor.seen_speakers.temperature == 1.5
    assert set(predictor.seen_speakers.speakers) == set(dataset.load(built)["speaker"])
    assert np.isfinite(predictor.probabilities([np.zeros(16_000, dtype=np.float32)])).all()
    assert "holds out nobody" in fails(*base, "--output_dir", tmp_path / "no")
    assert "holds an earlier run" in fails(*words)
