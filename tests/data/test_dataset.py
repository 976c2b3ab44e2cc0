import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from huggingface_hub import DatasetCard

from ser_hf import audio
from ser_hf.audio import AudioError
from ser_hf.data import dataset, describe
from ser_hf.data.corpora.base import CorpusError
from ser_hf.data.dataset import DatasetError
from ser_hf.errors import UserError
from ser_hf.labels import EMOTIONS


def test_both_loaders_read_the_columns(built, tmp_path):
    stored = datasets.load_from_disk(str(built))["train"]
    loaded = datasets.load_dataset(str(built), cache_dir=str(tmp_path))["train"]
    assert stored.features == loaded.features == dataset.FEATURES
    assert stored.features["label"].names == list(EMOTIONS)
    assert stored["sha256"] == loaded["sha256"]
    assert len(stored) == 384 + 28


def test_parquet_and_arrow_hold_the_same_rows(built):
    stored = datasets.load_from_disk(str(built))["train"]
    (shard,) = (built / "data").iterdir()
    assert shard.name == "train-00000-of-00001.parquet"
    table = pq.read_table(shard)
    assert table.to_pylist() == stored.data.table.to_pylist()
    assert datasets.Features.from_arrow_schema(table.schema) == dataset.FEATURES
    assert pq.ParquetFile(shard).metadata.row_group(0).num_rows == 64
    assert sorted(path.name for path in built.iterdir()) == [
        "README.md",
        "audit.json",
        "data",
        "dataset_dict.json",
        "pictures",
        "train",
    ]


def test_shards_are_bounded(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "MAX_SHARD_SIZE", "2MB")
    dataset.build(tmp_path / "out", {"ravdess": [recordings[0]]})
    shards = sorted((tmp_path / "out" / "data").iterdir())
    assert [shard.name for shard in shards] == [
        f"train-0000{n}-of-0000{len(shards)}.parquet" for n in range(len(shards))
    ]
    assert len(shards) > 2
    rows = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train")
    assert rows["file"] == dataset.load(tmp_path / "out")["file"]
    assert len(rows) == 384


def test_the_card_says_what_was_counted(built):
    card = DatasetCard.load(built / "README.md")
    assert card.data.license == ["cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"]
    assert card.data.dataset_info["splits"][0]["num_examples"] == 412
    assert [feature["name"] for feature in card.data.dataset_info["features"]] == list(dataset.FEATURES)
    report = json.loads((built / "audit.json").read_text())
    for emotion in EMOTIONS:
        counts = [f"{report['counts'][group][emotion]:,}" for group in report["counts"]]
        assert f"| {emotion} | {' | '.join(counts)} |" in card.text
    assert "Livingstone" in card.text
    assert "Pichora-Fuller" in card.text
    assert "keep this repository private" in card.text
    for picture in ("balance", "durations"):
        assert f"(pictures/{picture}.png)" in card.text
        assert (built / "pictures" / f"{picture}.png").read_bytes()[:4] == b"\x89PNG"
    assert sum(report["durations"]["tess speech"]) == 28
    assert report["balance"]["tess female"]["angry"] == 4


def test_a_row_says_what_its_name_says_and_holds_its_samples(rows, recordings):
    row = rows[rows["file"].index("03-01-05-01-02-01-06.wav")]
    source = audio.load(recordings[0] / "Actor_06" / "03-01-05-01-02-01-06.wav")
    samples = audio.load(row["audio"])
    np.testing.assert_array_equal(samples, source)
    assert row["sha256"] == hashlib.sha256(audio.to_pcm(source).tobytes()).hexdigest()
    assert row["duration"] == round(len(source) / 16_000, 3)
    assert {k: v for k, v in row.items() if k not in ("audio", "sha256", "duration")} == {
        "label": EMOTIONS.index("angry"),
        "corpus": "ravdess",
        "channel": "speech",
        "speaker": "ravdess-06",
        "sex": "female",
        "intensity": "normal",
        "statement": "2",
        "repetition": 1,
        "file": "03-01-05-01-02-01-06.wav",
    }
    tess = rows[rows["file"].index("YAF_bar_ps.wav")]
    assert (EMOTIONS[tess["label"]], tess["intensity"], tess["repetition"], tess["statement"]) == (
        "surprised",
        None,
        None,
        "bar",
    )


def small(recordings, folder):
    shutil.copytree(recordings[0] / "Actor_03", folder / "Actor_03")
    return folder


def test_the_bytes_do_not_depend_on_workers_or_layout(recordings, tmp_path):
    one = small(recordings, tmp_path / "one")
    two = small(recordings, tmp_path / "two" / "nested")
    for path in one.rglob("*.wav"):  # at the rates of the originals, so that resampling takes part
        samples, _ = soundfile.read(path)
        for folder, rate in ((one, 48_000), (two, 48_000)):
            soundfile.write(folder / "Actor_03" / path.name, np.repeat(samples, 3), rate)
    dataset.build(tmp_path / "a", {"ravdess": [one]}, num_proc=1)
    dataset.build(tmp_path / "b", {"ravdess": [two]}, num_proc=4)
    a, b = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()}
        for f in (tmp_path / "a", tmp_path / "b")
    )
    assert a == b


def test_second_copies_are_dropped_and_same_samples_flagged(recordings, tmp_path):
    folder = small(recordings, tmp_path / "real")
    shutil.copytree(folder / "Actor_03", folder / "again" / "Actor_03")
    actor = folder / "Actor_03"
    shutil.copy(actor / "03-01-01-01-01-01-03.wav", actor / "03-01-01-01-01-02-03.wav")
    report = dataset.build(tmp_path / "out", {"ravdess": [folder]})
    assert report["recordings"] == 17
    assert len(report["dropped_duplicates"]) == 16
    assert report["same_samples"] == [["03-01-01-01-01-01-03.wav", "03-01-01-01-01-02-03.wav"]]
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == report
    assert "16 second copies dropped" in describe.counts_table(report)
    assert report["counts"]["ravdess speech"]["neutral"] == 3
    assert sum(report["counts"]["ravdess speech"].values()) == 17


def test_silence_under_a_label_is_said(recordings, tmp_path):
    folder = tmp_path / "Actor_03"
    shutil.copytree(recordings[0] / "Actor_03", folder)
    paths = sorted(folder.glob("*.wav"))[:6]
    samples, rate = soundfile.read(paths[0])
    silent = [samples * 0, samples * 1e-4, np.full_like(samples, 0.02)]
    heard = [samples, np.stack([samples, -samples], axis=1), samples * 0.1]
    for path, content in zip(paths, [*silent, *heard], strict=True):
        soundfile.write(path, content, rate)
    report = dataset.build(tmp_path / "dataset", {"ravdess": [folder]})
    assert report["silent"] == [path.name for path in paths[:3]]
    assert "3 silent recording(s) stand under a label" in describe.counts_table(report)
    assert json.loads((tmp_path / "dataset" / "audit.json").read_text())["silent"] == report["silent"]


def test_a_bad_recording_ends_the_build_and_leaves_nothing(recordings, tmp_path):
    folder = small(recordings, tmp_path / "real")
    bad = folder / "Actor_03" / "03-01-08-01-01-02-03.wav"
    for content in (b"I am text", None):
        soundfile.write(bad, np.zeros(0), 16_000) if content is None else bad.write_bytes(content)
        with pytest.raises(AudioError, match=bad.name):
            dataset.build(tmp_path / "out", {"ravdess": [folder]})
        assert sorted(p.name for p in tmp_path.iterdir()) == ["real"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_interrupted_leaves_nothing(recordings, tmp_path, how):
    """Ctrl-C, or being told to end, while it decodes: what it had written is gone, and the name is
    free."""
    script = "import sys; from ser_hf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    output = tmp_path / "place" / "out"
    command = [sys.executable, "-c", script, "data", "--ravdess", str(recordings[0]), "--output", str(output)]
    process = subprocess.Popen([*command, "--num_proc", "1"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list(output.parent.glob(".partial-*/cache/built*/*.parquet")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(how)
    assert process.wait() != 0
    assert list(output.parent.iterdir()) == []


def test_an_output_that_exists_is_not_touched(recordings, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        dataset.build(tmp_path / "out", {"ravdess": [recordings[0]]})
    assert not list((tmp_path / "out").iterdir())


def test_what_is_no_dataset_is_refused(tmp_path, built):
    with pytest.raises(DatasetError, match="is no dataset"):
        dataset.load(tmp_path)
    datasets.load_from_disk(str(built))["train"].remove_columns("speaker").save_to_disk(str(tmp_path / "d"))
    with pytest.raises(DatasetError, match="lacks the column 'speaker'"):
        dataset.load(tmp_path / "d")
    with pytest.raises(DatasetError, match="neither a folder nor a dataset"):
        dataset.load("nobody/nothing")


def test_a_folder_pulled_from_the_hub_is_read(built, rows, tmp_path):
    shutil.copytree(built / "data", tmp_path / "pulled" / "data")
    shutil.copy(built / "README.md", tmp_path / "pulled")
    assert dataset.load(tmp_path / "pulled")["sha256"] == rows["sha256"]
    (tmp_path / "broken" / "train").mkdir(parents=True)
    (tmp_path / "broken" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (tmp_path / "broken" / "train" / "state.json").write_text("")
    with pytest.raises(DatasetError, match="cannot be read"):
        dataset.load(tmp_path / "broken")


def test_an_output_among_the_recordings_is_none_of_them(recordings, tmp_path):
    small(recordings, tmp_path)
    report = dataset.build(tmp_path / "Actor_03" / "out", {"ravdess": [tmp_path]})
    assert report["unmatched"] == []
    assert report["recordings"] == 16


def test_synthetic_datasets_say_so(synthetic_built):
    folder, report = synthetic_built
    assert report["recordings"] == 908
    assert "no human" in dataset.load(folder).info.description
    assert "no human" in (folder / "README.md").read_text()
    assert len(list((folder / "recordings").rglob("*.wav"))) == 908


@pytest.mark.parametrize("name", ["my data [test]", "a*b", "what?", "a::b", "[1]/dataset"])
def test_a_name_that_would_be_a_pattern_is_refused_before_anything_is_read(tmp_path, name):
    with pytest.raises(DatasetError, match="load_dataset would take it for a pattern, choose another name"):
        dataset.build(tmp_path / name, {"ravdess": [tmp_path / "nowhere"]})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_named_like_a_pattern_loads_or_is_refused(built, tmp_path):
    place = shutil.copytree(built, tmp_path / "my data [test]")
    assert len(dataset.load(place)) == len(dataset.load(built))
    shutil.rmtree(place / "train")
    (place / "dataset_dict.json").unlink()  # as the Hub gives it
    with pytest.raises(
        DatasetError, match=r"my data \[test\]' holds '\[': load_dataset takes it for a pattern, rename"
    ):
        dataset.load(place)


def test_home_is_understood_without_a_shell(built, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").symlink_to(built)
    assert len(dataset.load("~/mine/")) == len(dataset.load(built))
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "03-01-01-01-01-01-01.wav").symlink_to("annex/object")
    with pytest.raises(CorpusError, match="is a link to nothing: fetch the file that it stands for, or remove it"):
        dataset.build("~/out", {"ravdess": ["~/recordings"]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "recordings"]
