"""Fine-tuning on recordings that stay in Parquet: the losses are those in memory, also after a
break."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ser_hf import protocols
from ser_hf.cli.main import main
from ser_hf.cli.train import parse_finetune
from ser_hf.evaluation.results import Results
from ser_hf.training import setup
from ser_hf.training.streaming.sampler import StreamSampler

pytestmark = pytest.mark.usefixtures("undrawn")

FLAGS = ["--patience", "0", "--bf16", "false", "--report_to", "none", "--logging_strategy", "steps"]
FLAGS += ["--logging_steps", "1", "--learning_rate", "3e-3", "--num_train_epochs", "2"]
FLAGS += ["--per_device_train_batch_size", "8"]


def prepared(dataset, model, folder, *flags):
    words = ["--dataset", dataset, "--model", model, "--output_dir", folder, *FLAGS, *flags]
    config, args = parse_finetune(list(map(str, words)))
    return setup.prepare(config, args, *protocols.load_split(config))


def losses(state):
    return [row["loss"] for row in state["log_history"] if "loss" in row]


@pytest.mark.parametrize(
    ("kind", "buffer", "flags"),
    [
        ("bert", 10, []),
        ("bert", 24, ["--dataloader_num_workers", "2", "--silence", "random_trim", "--balance", "label"]),
        ("layer", 1, ["--augment", "gain:6", "--batching", "shuffled", "--gradient_accumulation_steps", "2"]),
    ],
)
def test_a_stream_trains_as_clips_in_memory_in_the_same_order(parquet, models, tmp_path, kind, buffer, flags):
    flags = [*flags, "--save_strategy", "no", "--load_best_model_at_end", "false"]
    stream = prepared(parquet, models[kind], tmp_path, "--streaming", "true", "--shuffle_buffer", buffer, *flags)
    memory = prepared(parquet, models[kind], tmp_path, *flags)
    assert (stream.split.hash, stream.split.train) == (memory.split.hash, memory.split.train)
    reader, sampler = stream.trainer.train_dataset.stream, stream.trainer.recipe.sampler
    assert isinstance(sampler, StreamSampler)
    same = StreamSampler(
        sampler.lengths,
        reader.group_of,
        sampler.steps,
        sampler.seed,
        buffer,
        lambda batches: None,
        sampler.accumulation,
        shuffle_only=sampler.shuffle_only,
    )
    memory.trainer.recipe.sampler = memory.watch.sampler = same
    for run in (stream, memory):
        run.trainer.train()
    ours, theirs = (losses(vars(run.trainer.state)) for run in (stream, memory))
    assert len(ours) == 2 * sampler.steps
    assert ours == theirs
    for name, tensor in stream.trained.model.state_dict().items():
        torch.testing.assert_close(memory.trained.model.state_dict()[name], tensor, atol=0, rtol=0)


def test_a_broken_stream_goes_on_to_the_same_end(parquet, models, tmp_path):
    base = ["finetune", "--dataset", parquet, "--model", models["bert"], *FLAGS, "--streaming", "true"]
    base += ["--shuffle_buffer", "12", "--save_strategy", "steps", "--eval_strategy", "steps"]
    base += ["--save_steps", "2", "--eval_steps", "2", "--save_total_limit", "9", "--adaptation_head", "false"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*map(str, base), "--output_dir", str(whole)]) == 0
    states = {path: json.loads((path / "trainer_state.json").read_text()) for path in whole.glob("checkpoint-*")}
    within = min((path for path in states if states[path]["epoch"] % 1), key=lambda path: states[path]["global_step"])
    last = max(states, key=lambda path: states[path]["global_step"]).name
    shutil.copytree(within, broken / within.name)  # all that a kill leaves
    assert main([*map(str, base), "--output_dir", str(broken), "--resume_from_checkpoint", "true"]) == 0
    one, other = (losses(json.loads((run / last / "trainer_state.json").read_text())) for run in (whole, broken))
    assert len(one) == len(other) == states[whole / last]["global_step"]
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    weights = [load_file(Path(run) / "model.safetensors") for run in (whole, broken)]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-6, rtol=0)
    results = Results.load(broken / "results.json")
    assert results.n == results.split["test"]
