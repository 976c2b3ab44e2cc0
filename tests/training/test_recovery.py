"""A training that is cut off, or that cannot go on: what it says, what it keeps, and that it ends
the same."""

import errno
import json
import os
import re
import shutil
import time

import pytest
import torch
from helpers.programs import Program
from helpers.small import make_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForAudioClassification

from ser_hf.audio import AudioError
from ser_hf.cli.main import main
from ser_hf.training import dataset, finetune
from ser_hf.training.recovery import checkpoints
from ser_hf.training.trainer import SerTrainer

pytestmark = pytest.mark.usefixtures("undrawn")

STEPS = ["--bf16", "false", "--logging_strategy", "steps", "--logging_steps", "1"]
STEPS += ["--patience", "0", "--per_device_train_batch_size", "8"]
STEPS += ["--adaptation_head", "false", "--calibrate", "false"]  # nothing here depends on them


@pytest.fixture(scope="module")
def built(few):
    return few


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A small model that draws all it can at random: dropout, dropped layers, SpecAugment."""
    folder = make_model("bert", tmp_path_factory.mktemp("noisy"))
    config = AutoConfig.from_pretrained(folder)
    config.update({"hidden_dropout": 0.1, "attention_dropout": 0.1, "layerdrop": 0.1, "num_hidden_layers": 2})
    config.update({"apply_spec_augment": True, "mask_time_prob": 0.2, "mask_time_length": 2})
    torch.manual_seed(0)
    AutoModelForAudioClassification.from_config(config).save_pretrained(folder)
    return folder


def words(built, model, folder, *flags, steps=8, every=2):
    pace = f"--max_steps {steps} --eval_strategy steps --eval_steps {every} --save_strategy steps --save_steps {every}"
    base = ["finetune", "--dataset", built, "--model", model, "--output_dir", folder, *STEPS, *pace.split(), *flags]
    return [str(word) for word in base]


def kill_when(command, there, tries=6000):
    """Start a command and kill it as soon as a file is there."""
    process = Program(["-m", "ser_hf.cli.main", *command])
    for _ in range(tries):
        if there() or process.poll() is not None:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()


def test_killed_at_any_step_it_ends_with_the_same_weights(built, noisy, tmp_path):
    drawn = [
        "--augment",
        "speed,gain,noise:10-20",
        "--mixup",
        "0.4",
        "--mask_feature_prob",
        "0.1",
        "--layer_decay",
        "0.8",
        "--ema_decay",
        "0.9",
    ]
    assert main(words(built, noisy, tmp_path / "whole", *drawn)) == 0
    broken = words(built, noisy, tmp_path / "broken", *drawn)
    marks = iter(("checkpoint-2/ser_hf.json", "checkpoint-6/optimizer.pt"))  # in the middle of saving, and soon after
    mark = tmp_path / "broken" / next(marks)
    kill_when(broken, mark.exists)
    assert not (tmp_path / "broken" / "results.json").exists()
    resume = ["--resume_from_checkpoint", "true"] if checkpoints(tmp_path / "broken") else []
    second = tmp_path / "broken" / next(marks)
    kill_when([*broken, *resume], second.exists)
    assert not (tmp_path / "broken" / "results.json").exists()
    assert checkpoints(tmp_path / "broken")
    assert main([*broken, "--resume_from_checkpoint", "true"]) == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "broken")]
    assert [row.get("eval_loss") for row in histories[0]] == [row.get("eval_loss") for row in histories[1]]


@pytest.mark.parametrize("mode", ["lora", "partial"])
def test_other_modes_go_on_to_the_same_weights(built, noisy, tmp_path, mode):
    flags = ["--mode", mode, "--cache_dir", tmp_path / "cache", "--save_total_limit", "2"]
    assert main(words(built, noisy, tmp_path / "whole", *flags, steps=4)) == 0
    (tmp_path / "broken").mkdir()
    os.rename(tmp_path / "whole" / "checkpoint-2", tmp_path / "broken" / "checkpoint-2")
    broken = words(built, noisy, tmp_path / "broken", *flags, "--resume_from_checkpoint", "true", steps=4)
    assert main(broken) == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_full_disk_ends_in_one_line_and_keeps_the_last_checkpoint(built, noisy, tmp_path, fails, monkeypatch):
    save = SerTrainer._save_optimizer_and_scheduler

    def full(self, folder):
        if self.state.global_step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, folder)

    monkeypatch.setattr(SerTrainer, "_save_optimizer_and_scheduler", full)
    line = fails(*words(built, noisy, tmp_path / "m"))
    assert "is full at step 4" in line
    assert "go on from" in line
    assert [path.name for path in (tmp_path / "m").glob("checkpoint-*")] == ["checkpoint-2"]
    monkeypatch.undo()
    assert main([*words(built, noisy, tmp_path / "m"), "--resume_from_checkpoint", "true"]) == 0


def test_a_disk_that_fills_while_the_model_is_saved_ends_in_one_line(built, noisy, tmp_path, fails, monkeypatch):
    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(finetune, "_write_tested", full)
    line = fails(*words(built, noisy, tmp_path / "m", steps=2))
    assert "the disk is full while the model is saved" in line
    monkeypatch.undo()
    assert main([*words(built, noisy, tmp_path / "m", steps=2), "--resume_from_checkpoint", "true"]) == 0


def test_a_corrupt_recording_met_late_is_named(built, noisy, tmp_path, fails, monkeypatch):
    monkeypatch.setattr(dataset, "KEPT_BYTES", 0)  # nothing is decoded before its turn
    decoded, calls = dataset.DecodedClips._decode, []

    def corrupt(self, index):
        calls.append(index)
        if len(calls) > 60:
            raise AudioError("'03-01-05-01-01-01-21.wav' cannot be decoded: remove it")
        return decoded(self, index)

    monkeypatch.setattr(dataset.DecodedClips, "_decode", corrupt)
    line = fails(*words(built, noisy, tmp_path / "m", "--silence", "keep"))
    assert "'03-01-05-01-01-01-21.wav' cannot be decoded" in line
    assert "go on from" in line
    assert checkpoints(tmp_path / "m")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory_is_said_with_the_batch(built, models, tmp_path, fails, monkeypatch, error):
    def forward(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(SerTrainer, "compute_loss", forward)
    line = fails(*words(built, models["bert"], tmp_path / "m"))
    assert re.search(r"out of memory at step 1, with a batch of \d+ clips of \d+ frames: ", line)
    assert "lower --per_device_train_batch_size" in line
    assert "no checkpoint had been saved" in line


def test_another_error_is_not_hidden(built, models, tmp_path, monkeypatch):
    def forward(self, *args, **kwargs):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(SerTrainer, "compute_loss", forward)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        main(words(built, models["bert"], tmp_path / "m"))


def test_weights_that_are_no_numbers_are_never_saved(built, models, tmp_path, fails, monkeypatch):
    step = SerTrainer.training_step

    def poisoned(self, model, *args, **kwargs):
        loss = step(self, model, *args, **kwargs)
        if self.state.global_step == 3:
            next(p for p in model.parameters() if p.grad is not None).grad.fill_(float("nan"))
        return loss

    monkeypatch.setattr(SerTrainer, "training_step", poisoned)
    line = fails(*words(built, models["bert"], tmp_path / "m", "--max_grad_norm", "0"))
    assert "lower --learning_rate" in line
    (kept,) = checkpoints(tmp_path / "m")
    weights = load_file(kept / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


def test_a_checkpoint_without_its_average_is_not_complete(built, noisy, tmp_path):
    assert main(words(built, noisy, tmp_path / "run", "--ema_decay", "0.9", steps=2)) == 0
    (saved,) = checkpoints(tmp_path / "run")
    (saved / "average.safetensors").unlink()
    assert checkpoints(tmp_path / "run") == []


def test_half_a_checkpoint_is_not_resumed_from(built, noisy, tmp_path):
    assert main(words(built, noisy, tmp_path / "m", "--save_total_limit", "9", steps=2)) == 0
    (whole,) = checkpoints(tmp_path / "m")
    for step, state in ((4, '{"global_'), (6, None)):  # cut off while it was written
        half = shutil.copytree(whole, whole.with_name(f"checkpoint-{step}")) / "trainer_state.json"
        half.write_text(state) if state else half.unlink()
    for step, name in ((8, "model.safetensors"), (10, "optimizer.pt"), (12, "scheduler.pt"), (14, "rng_state.pth")):
        (shutil.copytree(whole, whole.with_name(f"checkpoint-{step}")) / name).unlink()  # while it was deleted
    assert checkpoints(tmp_path / "m") == [whole]


def test_a_run_that_stopped_for_want_of_patience_is_not_trained_on(built, noisy, tmp_path, monkeypatch):
    flags = ["--patience", "1", "--learning_rate", "1e-9", "--save_total_limit", "2"]  # it never gets better
    assert main(words(built, noisy, tmp_path / "m", *flags)) == 0
    history = json.loads((tmp_path / "m" / "history.json").read_text())
    assert [row["step"] for row in history if "eval_uar" in row] == [2, 4]
    weights = load_file(tmp_path / "m" / "model.safetensors")
    for name in ("results.json", "model.safetensors"):
        (tmp_path / "m" / name).unlink()
    monkeypatch.setattr(SerTrainer, "train", lambda *a, **k: pytest.fail("trained on"))
    resumed = [*words(built, noisy, tmp_path / "m", *flags), "--resume_from_checkpoint", "true"]
    assert main(resumed) == 0
    again = load_file(tmp_path / "m" / "model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
