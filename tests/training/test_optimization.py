"""Sharpness-aware steps, a train_on_validation, and a model of which nobody is left to test it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.small import FAST
from safetensors.torch import load_file
from torch import nn

from ser_hf import protocols
from ser_hf.cli.main import main
from ser_hf.cli.train import parse_finetune
from ser_hf.data import dataset
from ser_hf.evaluation.results import Results
from ser_hf.inference.predictor import Predictor
from ser_hf.training import setup
from ser_hf.training.optimization import sam_ascent
from ser_hf.training.sampler import by_length
from ser_hf.training.trainer import SerTrainer


def test_weights_climb_a_radius_along_the_gradient_and_come_back():
    model = nn.Linear(3, 2, bias=False)
    still = nn.Parameter(torch.ones(4))
    model.register_parameter("still", still)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    with sam_ascent(model, 0.5):
        moved = model.weight.detach() - before
        assert torch.allclose(moved, torch.tensor([[0.3, 0.0, 0.0], [0.0, 0.4, 0.0]]))
        assert model.weight.grad is None
        model.weight.grad = torch.ones(2, 3)
    assert torch.equal(model.weight, before)
    assert torch.equal(model.weight.grad, torch.ones(2, 3))
    assert torch.equal(still, torch.ones(4))


def test_a_step_descends_along_the_gradient_found_uphill(built, models, rows, tmp_path):
    words = ["--dataset", built, "--model", models["bert"], "--output_dir", tmp_path / "m", "--bf16", "false"]
    words += ["--report_to", "none", "--sam_rho", "0.2", "--mask_time_prob", "0", "--label_smoothing_factor", "0.1"]
    words += ["--use_cpu", "true"]
    made = setup.prepare(*parse_finetune(list(map(str, words))), rows, protocols.split(rows))
    trainer, model = made.trainer, made.trained.trainable
    trainer.create_optimizer_and_scheduler(10)
    batch = next(iter(trainer.get_train_dataloader()))
    weights = {name: one.detach().clone() for name, one in model.named_parameters()}
    trainer.training_step(model, dict(batch), torch.tensor(len(batch["labels"])))
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    assert all(torch.equal(one, weights[name]) for name, one in model.named_parameters())
    few = [{name: one[::2] for name, one in half.items()} for half in by_length(batch)]
    assert trainer.hits.tolist()[1] == sum(len(part["labels"]) for part in few)

    def gradient(parts):
        model.zero_grad()
        for part in parts:
            values = {name: one for name, one in part.items() if name != "labels"}
            logits, labels = model(**values).logits, part["labels"]
            loss = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1, reduction="sum")
            (loss / sum(len(one["labels"]) for one in parts)).backward()
        return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}

    up, plain = gradient(few), gradient([batch])
    length = torch.sqrt(sum((one**2).sum() for one in up.values()))
    with torch.no_grad():
        for name, one in model.named_parameters():
            one += 0.2 * up[name] / length if name in up else 0
    wanted = gradient([batch])
    for name, one in wanted.items():
        torch.testing.assert_close(found[name], one, atol=1e-6, rtol=1e-3)
    assert any(not torch.allclose(found[name], one, atol=1e-4) for name, one in plain.items())
    with torch.no_grad():
        for name, one in model.named_parameters():
            one.copy_(weights[name])
    model.zero_grad()
    trainer.state.max_steps, trainer.state.global_step = 10, 4  # the first half of a training is plain
    trainer.training_step(model, dict(batch), torch.tensor(len(batch["labels"])))
    for name, one in model.named_parameters():
        if one.grad is not None:
            torch.testing.assert_close(one.grad, plain[name], atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(("device", "parts"), [("cpu", 2), ("cuda", 1)])
def test_only_a_cpu_takes_a_step_by_halves(device, parts):
    batch = {"input_features": torch.ones(4, 4, 2), "attention_mask": torch.ones(4, 4), "labels": torch.arange(4)}
    taken, model = [], nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    trainer = SimpleNamespace(
        args=SimpleNamespace(device=torch.device(device)), _sum_of=lambda model, found: taken.append(found), hits=None
    )
    for radius in (0.0, 0.1):
        SerTrainer._in_parts(trainer, model, batch, radius)
    labels = [sorted(torch.cat([part["labels"] for part in found]).tolist()) for found in taken]
    assert labels == [[0, 1, 2, 3], [0, 2], [0, 1, 2, 3]]  # uphill along every second clip
    assert [len(found) for found in taken] == [parts] * 3


def test_a_refit_hears_the_validation_side_and_takes_a_temperature(built, models, rows, tmp_path):
    base = ["finetune", "--dataset", str(built), "--model", str(models["bert"]), *FAST, "--max_steps", "2"]
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
        "adaptation_head.safetensors",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    predictor = Predictor(folder)
    assert predictor.seen_speakers.temperature == 1.5
    assert set(predictor.seen_speakers.speakers) == set(dataset.load(built)["speaker"])
    assert np.isfinite(predictor.probabilities([np.zeros(16_000, dtype=np.float32)])).all()
    assert "holds out nobody" in fails(*base, "--output_dir", tmp_path / "no")
    assert "holds an earlier run" in fails(*words)


def test_a_batch_is_halved_by_length_and_loses_its_padding():
    lengths = torch.tensor([5, 2, 7, 3, 7])
    mask = (torch.arange(8) < lengths[:, None]).long()
    features = torch.randn(5, 8, 3) * mask[..., None]
    batch = {"input_features": features, "attention_mask": mask, "labels": lengths, "share": lengths / 10}
    batch["functionals"] = torch.randn(5, 8)  # as wide as the clips are long
    short, long = by_length(batch)
    assert short["labels"].tolist() == [2, 3, 5]
    assert long["labels"].tolist() == [7, 7]
    assert short["input_features"].shape == (*short["attention_mask"].shape, 3) == (3, 5, 3)
    assert long["input_features"].shape == (2, 7, 3)
    assert torch.equal(short["input_features"][0, :2], features[1, :2])
    assert torch.equal(long["functionals"], batch["functionals"][[2, 4]])
    assert short["share"].tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert by_length({"input_values": features}) == [{"input_values": features}]
