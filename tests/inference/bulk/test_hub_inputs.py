"""Datasets of a Hub, read where they lie."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.clients import ser_hf
from helpers.loopback_repo import Repo

NAME = "you/calls"


@pytest.fixture
def pushed(remote, archive):
    """A dataset on the Hub with recordings as files and in a table."""
    contents = {path.name: path.read_bytes() for path in sorted(archive.iterdir())}
    table = pa.table({"audio": [{"bytes": contents[f"{number}.wav"], "path": None} for number in range(3)]})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    files = {"data/train-00000.parquet": sink.getvalue(), "calls/0.wav": contents["0.wav"], "README.md": b"# Calls"}
    remote.repos["dataset"][NAME] = repo = Repo(True, files)
    return repo


def test_a_dataset_of_the_hub_is_labelled(remote, pushed, models, tmp_path):
    def label(*words):
        flags = ("--model", models["group"], "--backend", "torch", "--output", "out")
        return ser_hf(remote, tmp_path, "label", *words, *flags)

    done = label(NAME)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "3 asked, 1 copied, 0 of 2 listed" in done.stdout or "4 asked, 0 copied, 0 of 2 listed" in done.stdout
    rows = {row["file"]: row for row in pq.read_table(tmp_path / "out").to_pylist()}
    table = f"hf://datasets/{NAME}/data/train-00000.parquet"
    assert sorted(rows) == [f"hf://datasets/{NAME}/calls/0.wav", *(f"{table}::{number}" for number in range(3))]
    assert rows[f"{table}::0"]["label"] == rows[f"hf://datasets/{NAME}/calls/0.wav"]["label"]
    pushed.files["calls/0.wav"] = pushed.files["calls/0.wav"] + b"\0\0"
    assert "1 asked, 0 copied, 1 of 2 listed" in label(f"hf://datasets/{NAME}").stdout
    done = label("you/absent")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("ser-hf: 'hf://datasets/you/absent' does not exist")
