"""Soups: what is averaged, which runs are taken, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForAudioClassification

from ser_hf import protocols
from ser_hf.cli.main import main
from ser_hf.data import dataset
from ser_hf.data.dataset import decoded_clips
from ser_hf.evaluation import calibration, metrics
from ser_hf.evaluation.results import Results
from ser_hf.inference.predictor import Predictor
from ser_hf.models.seen_speakers import SeenSpeakers

pytestmark = pytest.mark.usefixtures("undrawn")

START = {"shrinkage": 0.1, "uar": 0.5, "chosen_on": "validation", "kept": False}


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """Three folders as of seeds that shared a start: a run, and copies whose weights were moved."""
    folders = []
    for seed, temperature in enumerate((1.0, 2.0, 0.5)):
        folder = tmp_path_factory.mktemp("soup") / f"seed-{seed}"
        shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("checkpoint-*", "plots"))
        model = AutoModelForAudioClassification.from_pretrained(folder)
        torch.manual_seed(seed)
        for weight in model.parameters():
            weight.data += torch.randn_like(weight) * 0.05 * seed
        calibration.apply_temperature(model, temperature)
        model.save_pretrained(folder)
        results = json.loads((folder / "results.json").read_text())
        results["training"]["head_start"] = {**START, "kept": seed == 1}
        (folder / "results.json").write_text(json.dumps(results))
        folders.append(folder)
    return folders


def soup(runs, few, output, *flags):
    return main(["soup", *map(str, runs), "--dataset", str(few), "--output", str(output), *flags])


def raw(folder):
    """Weights before the temperature."""
    model = AutoModelForAudioClassification.from_pretrained(folder)
    temperature = SeenSpeakers.of(model.config).temperature
    model.classifier.weight.data *= temperature
    model.classifier.bias.data *= temperature
    return model.state_dict()


def test_a_uniform_soup_is_the_mean_of_all(runs, few, tmp_path):
    assert soup(runs, few, tmp_path / "soup", "--choose", "uniform") == 0
    parts, found = [raw(run) for run in runs], raw(tmp_path / "soup")
    assert (tmp_path / "soup" / "LICENSE-BACKBONE").is_file()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, sum(part[name] for part in parts) / 3, atol=1e-5, rtol=1e-4)
    results = Results.load(tmp_path / "soup" / "results.json")
    assert results.training["settings"]["soup"] == "3 of 3 runs, uniform"
    assert "soup: 3 of 3 runs, uniform" in (tmp_path / "soup" / "README.md").read_text()
    seen = [
        SeenSpeakers.of(AutoModelForAudioClassification.from_pretrained(f).config) for f in (runs[0], tmp_path / "soup")
    ]
    assert set(seen[1].speakers) == set(seen[0].speakers)
    assert seen[1].protocol_hash == seen[0].protocol_hash


def test_a_greedy_soup_is_no_worse_on_validation_than_its_best_run(runs, few, tmp_path, capsys):
    assert soup(runs, few, tmp_path / "soup") == 0
    rows = dataset.load(few)
    validation = rows.select(protocols.split(rows, "speaker").validation)
    clips, labels = list(decoded_clips(validation)), np.array(validation["label"])

    def uar(folder):
        logits = Predictor(folder, backend="torch").logits(clips)
        return metrics.scores(metrics.confusion(labels, logits.argmax(1)))["uar"]

    alone = max(map(uar, runs))
    assert uar(tmp_path / "soup") >= alone - 1e-9
    assert f"alone at most {alone:.3f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base_model": "other/one"}, "has another backbone, so it cannot be averaged with"),
        ({"head_start": None}, "has no head start"),
        ({"head_start": {**START, "shrinkage": 0.3}}, "has another head start"),
    ],
)
def test_runs_that_do_not_fit_are_refused(runs, few, tmp_path, fails, change, says):
    shutil.copytree(runs[1], tmp_path / "other")
    results = json.loads((tmp_path / "other" / "results.json").read_text())
    results["training"] |= change
    (tmp_path / "other" / "results.json").write_text(json.dumps(results))
    message = fails("soup", runs[0], tmp_path / "other", "--dataset", few, "--output", tmp_path / "soup")
    assert says in message
    assert f"'{tmp_path / 'other'}'" in message
    assert not (tmp_path / "soup").exists()


def test_other_splits_and_too_few_runs_are_refused(runs, few, tmp_path, fails):
    flags = ("--dataset", few, "--output", tmp_path / "soup")
    assert "was not trained under random fold 0" in fails("soup", *runs, *flags, "--protocol", "random")
    assert "alone is that model: give two runs or more" in fails("soup", runs[0], *flags)
    assert "holds no results.json" in fails("soup", runs[0], tmp_path, *flags)
