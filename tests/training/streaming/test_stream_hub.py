"""Fine-tuning on recordings that stay on a Hub: the losses are those of the files in a folder."""

import json
import re
from itertools import chain, repeat

import pytest
from helpers.clients import ser_hf
from helpers.loopback_repo import Repo

NAME = "you/emotions"
FLAGS = ["--streaming", "true", "--shuffle_buffer", "12", "--num_train_epochs", "1", "--learning_rate", "3e-3"]
FLAGS += ["--per_device_train_batch_size", "8", "--logging_strategy", "steps", "--logging_steps", "1"]
FLAGS += ["--patience", "0", "--bf16", "false", "--report_to", "none", "--adaptation_head", "false"]


@pytest.fixture
def pushed(remote, parquet):
    """The dataset on the Hub, in files as they lie in the folder."""
    names = [path.relative_to(parquet) for path in parquet.rglob("*") if path.is_file()]
    repo = Repo(True, {name.as_posix(): (parquet / name).read_bytes() for name in names})
    remote.repos["dataset"][NAME] = repo
    return repo


def train(remote, folder, dataset, model, output):
    return ser_hf(remote, folder, "finetune", "--dataset", dataset, "--model", model, "--output_dir", output, *FLAGS)


def losses(folder):
    (state,) = folder.glob("checkpoint-*/trainer_state.json")
    return [row["loss"] for row in json.loads(state.read_text())["log_history"] if "loss" in row]


def test_a_stream_of_the_hub_trains_as_that_of_a_folder(remote, pushed, parquet, models, tmp_path):
    for dataset, output in ((NAME, "hub"), (str(parquet), "folder")):
        done = train(remote, tmp_path, dataset, models["bert"], output)
        assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "hub") == losses(tmp_path / "folder")
    results = [json.loads((tmp_path / output / "results.json").read_text()) for output in ("hub", "folder")]
    for key in ("protocol_hash", "split", "confusion_matrix", "risk_coverage"):
        assert results[0][key] == results[1][key]
    assert not list((tmp_path / "home").resolve().rglob("*.parquet"))  # nothing was copied


def test_a_hub_that_fails_while_clips_are_read_is_named(remote, pushed, models, tmp_path):
    remote.fail["resolve"] = chain(repeat(None, 40), repeat(403))
    done = train(remote, tmp_path, NAME, models["bert"], "hub")
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert re.fullmatch(
        rf"ser-hf: recordings in 'hf://datasets/{NAME}@\w+/data/train-0000\d-of-00002.parquet' cannot be read any "
        r"more: the Hub answered 403 \(resolve is set to fail\): take a token that may do this, or a name under your "
        r"own account, then run it again; no checkpoint had been saved",
        done.stderr.strip().splitlines()[-1],
    )
