"""Datasets whose recordings stay in Parquet: the same rows, references that resolve, refusals."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import errors

from ser_hf import audio, protocols
from ser_hf.data import dataset, references, streaming
from ser_hf.data.dataset import DatasetError
from ser_hf.protocols import SplitSettings


@pytest.fixture(scope="module")
def rows_of(parquet):
    return streaming.load(parquet), dataset.load(parquet)


def test_the_rows_are_those_of_a_dataset_that_is_loaded_whole(rows_of):
    ours, whole = rows_of
    assert ours.column_names == whole.column_names
    assert ours.features == whole.features
    for name in set(ours.column_names) - {"audio"}:
        assert ours[name][:] == whole[name][:]
    assert [references.recording(entry) for entry in ours["audio"]] == whole["audio"][:]
    assert ours.data.nbytes < 40_000  # none of the recordings


def test_recordings_of_a_side_are_put_in_their_place(rows_of):
    ours, whole = rows_of
    mixed = streaming.with_recordings(ours, [3, 40, 41])
    for row, entry in enumerate(mixed["audio"]):
        if row in (3, 40, 41):
            assert entry == whole[row]["audio"]
        else:
            assert entry == ours[row]["audio"]
            assert references.is_reference(entry)
    np.testing.assert_array_equal(references.load_clip(mixed[0]["audio"]), audio.load(whole[0]["audio"]))
    assert mixed["speaker"][:] == whole["speaker"][:]
    again = streaming.with_recordings(ours, [3, 40, 41])
    assert again.cache_files == mixed.cache_files
    assert streaming.with_recordings(ours, [3]).cache_files != mixed.cache_files


def test_places_tell_row_groups_apart(rows_of):
    ours, _ = rows_of
    groups, group_of, place = references.places(ours)
    assert [group.number for group in groups] == [*range(5), *range(7)]
    assert len({group.file for group in groups}) == 2
    assert np.bincount(group_of).tolist() == [6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 2]
    chosen = [2, 31, 67]
    groups, group_of, place = references.places(ours.select(chosen))
    assert (group_of.tolist(), place.tolist()) == ([0, 1, 2], [2, 1, 1])


@pytest.mark.parametrize("column", ["speaker", "sha256"])
def test_a_leak_is_refused_before_any_recording_is_read(parquet, tmp_path, monkeypatch, column):
    table = pq.read_table(sorted((parquet / "data").glob("*.parquet")))
    split = protocols.split(dataset.load(parquet), "speaker")
    values = table[column].to_pylist()
    values[split.train[0]] = values[split.test[0]]
    if column == "speaker":  # a file of the user's, which names rows
        sides = {row: side for side in ("train", "validation", "test") for row in getattr(split, side)}
        lines = [f"{name},{sides[row]}" for row, name in enumerate(table["file"].to_pylist()) if row in sides]
        (tmp_path / "sides.csv").write_text("\n".join(["file,side", *lines]))
    at = table.column_names.index(column)
    (tmp_path / "data" / "data").mkdir(parents=True)
    leaky = table.set_column(at, table.schema.field(at), pa.array(values))
    pq.write_table(leaky, tmp_path / "data" / "data" / "train-0.parquet", row_group_size=6)
    monkeypatch.setattr(references.RowGroup, "read", None)

    class Streamed(SplitSettings):
        streaming = True

    protocol = str(tmp_path / "sides.csv") if column == "speaker" else "speaker"
    with pytest.raises(protocols.LeakError, match="in train and in test"):
        protocols.load_split(Streamed(dataset=str(tmp_path / "data"), protocol=protocol))


def saved_to_disk(folder, table):
    datasets.Dataset(table).save_to_disk(folder)


def without(name):
    return lambda folder, table: write(folder, table.drop_columns([name]))


def other_labels(folder, table):
    features = datasets.Features.from_arrow_schema(table.schema)
    features["label"] = datasets.ClassLabel(names=["calm", "loud"])
    write(folder, table.replace_schema_metadata(features.arrow_schema.metadata))


def cut_off(folder, table):
    write(folder, table)
    path = folder / "data" / "train-0.parquet"
    path.write_bytes(path.read_bytes()[:-9])


def write(folder, table):
    (folder / "data").mkdir(parents=True)
    pq.write_table(table, folder / "data" / "train-0.parquet")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder, table: None, "is no dataset that can be streamed"),
        (lambda folder, table: folder.mkdir(), "is no dataset that can be streamed"),
        (saved_to_disk, "not in Parquet.*leave out --streaming"),
        (without("speaker"), "lacks the column 'speaker'"),
        (without("audio"), "lacks the column 'audio'"),
        (other_labels, "has the labels .*calm"),
        (cut_off, "train-0.parquet.* cannot be read"),
    ],
)
def test_what_cannot_be_streamed_is_named(parquet, tmp_path, make, says):
    make(tmp_path / "d", pq.read_table(sorted((parquet / "data").glob("*.parquet"))).slice(0, 8))
    with pytest.raises(DatasetError, match=says) as told:
        streaming.load(tmp_path / "d")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("load", [streaming.load, dataset.load])
@pytest.mark.parametrize("labels", [["calm", "happy"], [1, 2], [0.5, 1.5]])
def test_labels_without_names_are_refused(tmp_path, load, labels):
    columns = {name: labels if name == "label" else ["x", "y"] for name in dataset.FEATURES}
    write(tmp_path, pa.table(columns))
    with pytest.raises(DatasetError, match=r"has the labels None: they must be \['neutral'"):
        load(tmp_path)


def test_a_hub_that_is_lost_is_named_where_all_is_loaded(monkeypatch):
    def lost(*_, **__):
        raise errors.HTTPError("connection reset")

    monkeypatch.setattr(datasets, "load_dataset", lost)
    with pytest.raises(DatasetError, match=r"'you/voices' is neither .* \(connection reset\)"):
        dataset.load("you/voices")


@pytest.mark.parametrize("step", ["the file", "the dataset"])
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.HTTPError("connection reset"), "the Hub cannot be reached .connection reset..: check the network"),
        (OSError("no route"), "no route"),
        (ConnectionError("refused"), "refused"),
    ],
)
def test_a_hub_that_is_lost_while_columns_are_read_is_named(parquet, monkeypatch, step, error, says):
    def lost(*_, **__):
        raise error

    if step == "the file":
        monkeypatch.setattr(streaming, "open_parquet", lost)
    else:
        monkeypatch.setattr(datasets, "load_dataset_builder", lost)
        says = "is no dataset that can be streamed .*" + str(error)
    with pytest.raises(DatasetError, match=says):
        streaming.load(parquet)


def test_a_row_group_too_large_to_be_read_is_named(parquet, monkeypatch):
    monkeypatch.setattr(streaming, "LARGEST_GROUP", 1000)
    with pytest.raises(DatasetError, match=r"has a row group of \d+ MB"):
        streaming.load(parquet)
