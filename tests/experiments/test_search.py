"""A search for settings: what it tries, what it writes, and that the test is left alone."""

import json
from itertools import pairwise

import pytest
import torch

from ser_hf.cli.main import main
from ser_hf.cli.train import parse_finetune
from ser_hf.training.optimization import WeightAverage

pytestmark = pytest.mark.usefixtures("undrawn")

STEPS = ["--max_steps", "2", "--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps"]
STEPS += ["--save_steps", "2", "--bf16", "false", "--logging_strategy", "steps", "--logging_steps", "1"]
STEPS += ["--adaptation_head", "false", "--calibrate", "false"]  # nothing here depends on them


def words(built, model, folder, *flags):
    return [str(word) for word in ("finetune", "--dataset", built, "--model", model, "--output_dir", folder, *flags)]


def test_each_trial_of_a_search_averages_the_weights_of_its_own_model(few, models, tmp_path, monkeypatch):
    weights = []

    def recorded(self, args, state, control, **kwargs):
        update(self, args, state, control, **kwargs)
        weights.append(self._trained["classifier.weight"].detach().clone())

    update = WeightAverage.on_step_end
    monkeypatch.setattr(WeightAverage, "on_step_end", recorded)
    pace = ["--ema_decay", "0.9", "--search", "2"]
    assert main(words(few, models["bert"], tmp_path / "m", *STEPS, *pace)) == 0
    assert len(weights) == 4
    assert all(not torch.equal(earlier, later) for earlier, later in pairwise(weights))  # untrained ones stay equal


def test_a_search_finds_settings_and_leaves_the_test_alone(few, models, tmp_path):
    recipe = [
        "--lr_scheduler_kwargs",
        '{"num_cycles": 2}',
        "--fold",
        "3",
        "--protocol",
        "emobox-ravdess",
        "--split_seed",
        "7",
        "--mixup",
        "0.3",
        "--seed",
        "5",
    ]
    assert main(words(few, models["bert"], tmp_path / "m", *STEPS, "--search", "2", *recipe)) == 0
    report = json.loads((tmp_path / "m" / "search.json").read_text())
    assert len(report["trials"]) == 2
    assert len({trial["learning_rate"] for trial in report["trials"]}) == 2
    assert report["best"]["uar"] == max(trial["uar"] for trial in report["trials"])
    assert not (tmp_path / "m" / "results.json").exists()
    config, args = parse_finetune([str(tmp_path / "m" / "best.yaml")])
    assert args.learning_rate == pytest.approx(report["best"]["learning_rate"])
    assert config.dataset == str(few)
    # on another fold it would be tested on those whom the search chose by
    assert (config.protocol, config.fold, config.split_seed, args.seed) == ("emobox-ravdess", "3", 7, 5)
    assert (config.mixup, config.search) == (0.3, 0)
    assert args.lr_scheduler_kwargs == {"num_cycles": 2}
    assert args.save_strategy == "steps"  # as given, and not as the search itself ran
    assert args.per_device_eval_batch_size == 32
