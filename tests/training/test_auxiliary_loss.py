"""A second task: what a clip's eGeMAPS functionals are."""

import json

import numpy as np
import pytest
import torch
from helpers.small import FAST
from safetensors.torch import load_file

from ser_hf import protocols
from ser_hf.cli.main import main
from ser_hf.cli.train import parse_finetune
from ser_hf.data import acoustic_features
from ser_hf.models import loading
from ser_hf.training import losses, setup


def voice(rng):
    """A hiss, then a buzz of its own pitch, melody, darkness and breath; two seconds, whose loudest
    sample is 0.9."""
    time = np.arange(32_000) / 16_000
    pitch = (
        2 * np.pi * np.cumsum(rng.uniform(100, 300) + rng.uniform(5, 50) * np.sin(rng.uniform(2, 6) * time)) / 16_000
    )
    dark = rng.uniform(0.7, 1.6)
    buzz = sum(np.sin(k * pitch) / k**dark for k in range(1, 20)) * (0.2 + np.sin(rng.uniform(3, 8) * time) ** 2)
    buzz = buzz * (time > 0.6) + rng.uniform(0.01, 0.05) * np.where(time > 0.6, 1, 8) * rng.normal(size=32_000)
    return np.float32(buzz / np.abs(buzz).max() * 0.9)


def test_what_is_told_of_a_clip_does_not_change_with_its_level():
    rng = np.random.default_rng(0)
    voices = [voice(rng) for _ in range(8)]
    loud, quiet = (np.stack([acoustic_features.egemaps(one / part) for one in voices]) for part in (1, 4))
    spread = loud.std(axis=0)
    changes = np.divide(np.median(np.abs(loud - quiet), axis=0), spread, out=np.zeros(88), where=spread > 1e-6)
    assert len(losses.OF_LEVEL) == 18
    told = np.setdiff1d(np.arange(88), [*losses.OF_LEVEL, 65])  # 65, on recordings, by 0.02 of its spread alone
    assert changes[told].max() < 0.1
    assert changes[list(losses.OF_LEVEL)].min() > 0.15


def test_targets_are_standardised_over_the_clips_asked_for(rows, tmp_path):
    split = protocols.split(rows)
    found = losses.targets(rows, split.train, tmp_path)
    assert found.shape == (len(split.train), 70)
    assert found.dtype == np.float32
    assert np.abs(found).max() <= 4
    values = np.delete(
        acoustic_features.features(rows.select(split.train), "egemaps", tmp_path), losses.OF_LEVEL, axis=1
    )
    wanted = (values[:, 0] - values[:, 0].mean()) / values[:, 0].std()
    np.testing.assert_allclose(found[:, 0], np.clip(wanted, -4, 4), atol=1e-4)


def test_the_loss_adds_the_error_of_what_is_told(built, models, rows, tmp_path):
    words = ["--dataset", built, "--model", models["bert"], "--output_dir", tmp_path / "m", "--bf16", "false"]
    words += ["--report_to", "none", "--aux_egemaps_weight", "0.5", "--cache_dir", tmp_path, "--mixup", "0.5"]
    made = setup.prepare(*parse_finetune(list(map(str, words))), rows, protocols.split(rows))
    trainer, model = made.trainer, made.trained.trainable.train()
    batch = next(iter(trainer.get_train_dataloader()))
    clips = len(batch["labels"])
    assert batch["functionals"].shape == (clips, 70)
    torch.manual_seed(0)
    loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=torch.tensor(clips))
    heard = []
    model.classifier.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    torch.manual_seed(0)
    logits = model(**{name: one for name, one in batch.items() if name in ("input_features", "attention_mask")}).logits
    apart = trainer.recipe.objective(logits, batch["labels"], batch["other"], batch["share"])
    told = model.functionals.linear(heard[0])
    error = torch.nn.functional.smooth_l1_loss(told, batch["functionals"], reduction="none").mean(dim=1)
    torch.testing.assert_close(loss, (apart + 0.5 * error).mean())
    loss.backward()
    assert model.functionals.linear.weight.grad.abs().max() > 0
    mixed = made.trainer.train_dataset[0, 3]
    assert not any(np.allclose(mixed["functionals"], one) for one in made.trainer.train_dataset.functionals)


def test_nothing_of_the_second_task_is_left_in_what_is_saved(built, models, tmp_path):
    base = ["finetune", "--dataset", str(built), "--model", str(models["bert"]), *FAST, "--cache_dir", str(tmp_path)]
    for name, weight in (("with", "1"), ("without", "0")):
        words = [*base, "--max_steps", "2", "--aux_egemaps_weight", weight, "--output_dir", str(tmp_path / name)]
        assert main(words) == 0
    told, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("with", "without"))
    assert set(told) == set(plain)
    assert any(not torch.equal(told[name], plain[name]) for name in told)
    results = json.loads((tmp_path / "with" / "results.json").read_text())
    assert results["training"]["settings"]["aux_egemaps_weight"] == 1
    assert results["training"]["parameters"] == sum(one.numel() for one in told.values())


def test_a_head_that_is_not_linear_is_refused(models):
    model, _ = loading.load_for_training(models["bert"])
    model.classifier = torch.nn.Sequential(model.classifier)
    with pytest.raises(loading.ModelError, match="leave out --aux_egemaps_weight"):
        losses.attach(model, 70, 1.0)
