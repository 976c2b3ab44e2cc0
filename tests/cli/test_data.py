"""`ser-hf data`, end to end: downloads are read as if they had been given, what is built is what
the Hub serves."""

import hashlib
import json
import zipfile

import pytest
from helpers import programs
from helpers.loopback_hub import Hub
from helpers.small import ROOT

from ser_hf.cli.main import main
from ser_hf.data import dataset, download

LOAD = """
import hashlib, json, sys
sys.modules["ser_hf"] = None  # as on a machine without this package
from datasets import load_dataset
for streaming in (False, True):
    rows = load_dataset("you/ravdess-tess", split="train", streaming=streaming)
    for row in rows:
        row["audio"] = hashlib.sha256(row["audio"]["bytes"]).hexdigest()
        print(json.dumps([rows.features["label"].names, row]))
"""


@pytest.fixture
def small(recordings, tmp_path):
    """The archives of two actors, as Zenodo would pack them, and the folder of TESS."""
    archive = tmp_path / "records" / "Audio_Speech_Actors_01-24.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as content:
        for actor in ("Actor_01", "Actor_02"):
            for path in sorted((recordings[0] / actor).iterdir()):
                content.write(path, f"{actor}/{path.name}")
    return archive, recordings[1]


def test_downloads_are_read_as_if_given(small, tmp_path, monkeypatch, capsys):
    fetched = []

    def fetch(corpora, folder):
        fetched.append((corpora, str(folder)))
        return {"ravdess": [small[0]], "tess": [small[1]]}

    monkeypatch.setattr(download, "fetch", fetch)
    flags = ["--download", "--download_dir", str(tmp_path / "kept")]
    assert main(["data", *flags, "--output", str(tmp_path / "out")]) == 0
    assert fetched == [(["ravdess", "tess"], str(tmp_path / "kept"))]
    assert "60 recordings, 4 speakers" in capsys.readouterr().out
    assert len(dataset.load(tmp_path / "out")) == 60


def test_only_what_is_not_given_is_downloaded(small, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(download, "fetch", lambda corpora, folder: fetched.append(corpora) or {"tess": [small[1]]})
    assert main(["data", "--download", "--ravdess", str(small[0]), "--output", str(tmp_path / "out")]) == 0
    assert fetched == [["tess"]]


def test_flags_that_do_not_go_together(small, fails, tmp_path):
    out = ("--output", tmp_path / "out")
    for flags, message in (
        (("--synthetic", "--download"), "leave out --ravdess, --tess, --other and --download"),
        (("--download_dir", "d", "--ravdess", small[0]), "goes with --download"),
        (("--public", "--ravdess", small[0]), "goes with --push_to_hub"),
        (("--download", "--ravdess", small[0], "--tess", small[1]), "has nothing to fetch"),
        (("--push_to_hub", "no name", "--ravdess", small[0]), "is no name for a dataset"),
        (("--push_to_hub", "you/name", "--ravdess", small[0]), "no token for the Hub was found"),
    ):
        assert message in fails("data", *flags, *out)
        assert not (tmp_path / "out").exists()


def test_splits_prints_each_fold(built, capsys, fails):
    assert main(["data", "splits", "--dataset", str(built)]) == 0
    printed = capsys.readouterr().out
    assert "train          ravdess female     ravdess male      tess female              all" in printed
    assert "held apart: speakers, samples, near duplicates" in printed
    assert main(["data", "splits", "--dataset", str(built), "--protocol", "luna-ravdess", "--fold", "all"]) == 0
    assert [line[:28] for line in capsys.readouterr().out.splitlines() if line.startswith("protocol")] == [
        f"protocol luna-ravdess fold {fold}" for fold in range(5)
    ]
    assert "speaker' leaks: 2 statements of ravdess" in fails("data", "splits", "--dataset", built, "--text_disjoint")


def test_what_is_built_is_what_strangers_load(small, tmp_path):
    with Hub(lasting=True) as remote:
        environment = remote.environment(tmp_path / "home")
        command = ["data", "--ravdess", str(small[0]), "--tess", str(small[1]), "--output", str(tmp_path / "out")]
        words = ["-m", "ser_hf.cli.main", *command, "--push_to_hub", "ravdess-tess"]
        pushed = programs.run(words, environment, ROOT)
        assert pushed.returncode == 0, pushed.stderr[-3000:]
        assert f"pushed: {remote.url}/datasets/you/ravdess-tess/commit/" in pushed.stdout
        repo = remote.repos["dataset"]["you/ravdess-tess"]
        assert repo.private
        assert set(repo.files) - {".gitattributes"} == {
            "README.md",
            "audit.json",
            "data/train-00000-of-00001.parquet",
            "pictures/balance.png",
            "pictures/durations.png",
        }
        load = programs.run(["-c", LOAD], environment, tmp_path, ours=False)
    assert load.returncode == 0, load.stderr[-3000:]
    loaded = [json.loads(line) for line in load.stdout.splitlines()]
    rows = dataset.load(tmp_path / "out")
    expected = [[rows.features["label"].names, row | {"audio": digest(row)}] for row in rows]
    assert loaded == expected * 2


def digest(row):
    return hashlib.sha256(row["audio"]["bytes"]).hexdigest()


def test_damaged_files_never_end_in_anything_but_an_audio_error():
    run = programs.run([ROOT / "benchmarks" / "fuzz_audio.py", "--files", 600, "--seed", 7])
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("600 cases of ")
