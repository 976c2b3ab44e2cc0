import hashlib
import json
import shutil

import datasets
import numpy as np
import pytest
import soundfile

from ser_hf import audio, dataset, summary
from ser_hf.audio import AudioError
from ser_hf.dataset import DatasetError
from ser_hf.emotions import EMOTIONS


def test_both_loaders_read_the_columns(built, tmp_path):
    stored = datasets.load_from_disk(str(built))["train"]
    loaded = datasets.load_dataset(str(built), cache_dir=str(tmp_path))["train"]
    assert stored.features == loaded.features == dataset.FEATURES
    assert stored.features["label"].names == list(EMOTIONS)
    assert stored["sha256"] == loaded["sha256"]
    assert len(stored) == 384 + 28


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
    dataset.build(tmp_path / "a", [str(one)], num_proc=1)
    dataset.build(tmp_path / "b", [str(two)], num_proc=4)
    assert [p.read_bytes() for p in (tmp_path / "a/train").glob("*.arrow")] == [
        p.read_bytes() for p in (tmp_path / "b/train").glob("*.arrow")
    ]


def test_second_copies_are_dropped_and_same_samples_flagged(recordings, tmp_path):
    folder = small(recordings, tmp_path / "real")
    shutil.copytree(folder / "Actor_03", folder / "again" / "Actor_03")
    actor = folder / "Actor_03"
    shutil.copy(actor / "03-01-01-01-01-01-03.wav", actor / "03-01-01-01-01-02-03.wav")
    report = dataset.build(tmp_path / "out", [str(folder)])
    assert report["recordings"] == 17
    assert len(report["dropped_duplicates"]) == 16
    assert report["same_samples"] == [["03-01-01-01-01-01-03.wav", "03-01-01-01-01-02-03.wav"]]
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == report
    assert "16 second copies dropped" in summary.table(report)
    assert report["counts"]["ravdess speech"]["neutral"] == 3
    assert sum(report["counts"]["ravdess speech"].values()) == 17


def test_a_bad_recording_ends_the_build_and_leaves_nothing(recordings, tmp_path):
    folder = small(recordings, tmp_path / "real")
    bad = folder / "Actor_03" / "03-01-08-01-01-02-03.wav"
    for content in (b"I am text", None):
        soundfile.write(bad, np.zeros(0), 16_000) if content is None else bad.write_bytes(content)
        with pytest.raises(AudioError, match=bad.name):
            dataset.build(tmp_path / "out", [str(folder)])
        assert sorted(p.name for p in tmp_path.iterdir()) == ["real"]


def test_an_output_that_exists_is_not_touched(recordings, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DatasetError, match="exists already"):
        dataset.build(tmp_path / "out", [str(recordings[0])])
    assert not list((tmp_path / "out").iterdir())


def test_what_is_no_dataset_is_refused(tmp_path, built):
    with pytest.raises(DatasetError, match="is no dataset"):
        dataset.load(tmp_path)
    datasets.load_from_disk(str(built))["train"].remove_columns("speaker").save_to_disk(str(tmp_path / "d"))
    with pytest.raises(DatasetError, match="lacks the column 'speaker'"):
        dataset.load(tmp_path / "d")
    with pytest.raises(DatasetError, match="neither a folder nor a dataset"):
        dataset.load("nobody/nothing")


def test_synthetic_datasets_say_so(synthetic_built):
    folder, report = synthetic_built
    assert report["recordings"] == 908
    assert "no human" in dataset.load(folder).info.description
    assert "no human" in (folder / "README.md").read_text()
    assert len(list((folder / "recordings").rglob("*.wav"))) == 908
