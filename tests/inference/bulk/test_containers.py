"""Recordings in Parquet, Arrow and tars, and runs over them."""

import io
import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ser_hf.errors import UserError
from ser_hf.inference.bulk import containers
from ser_hf.inference.bulk.listing import Entry


@pytest.fixture
def contents(archive):
    """The bytes of the files of `archive`, by name."""
    return {path.name: path.read_bytes() for path in sorted(archive.iterdir())}


def write_tar(path, contents, mode="w"):
    with tarfile.open(path, mode) as file:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def write_audio(folder, contents, kind, **columns):
    """A table of a `datasets` audio column, of bytes, or of what `datasets` saves."""
    files = [{"bytes": content, "path": name} for name, content in contents.items()]
    if kind == "saved":
        datasets.Dataset.from_dict({"audio": files}).save_to_disk(folder / "saved")
        return folder / "saved"
    audio = files if kind == "struct" else list(contents.values())
    pq.write_table(pa.table({"id": list(range(len(files))), "audio": audio, **columns}), folder / f"{kind}.parquet")
    return folder / f"{kind}.parquet"


@pytest.mark.parametrize("kind", ["struct", "bytes", "saved", "tar", "tar.gz"])
def test_rows_of_a_container_are_those_of_its_files(run, rows, contents, tmp_path, kind):
    run(output=tmp_path / "files", reuse=False)
    expected = list(rows(tmp_path / "files").values())
    if kind.startswith("tar"):
        more = {"notes.txt": b"x", "a/.hidden.wav": b"x", "1.json": b"{}", **contents}
        source = write_tar(tmp_path / f"calls.{kind}", more, "w:gz" if kind == "tar.gz" else "w")
    else:
        source = write_audio(tmp_path, contents, kind)
    outcome = run(source)
    assert (outcome.listed, outcome.asked, outcome.errors) == (1, 10, 2)
    found = list(rows().values())
    names = list(contents) if kind.startswith("tar") else range(10)
    prefix = next(source.glob("*.arrow")) if kind == "saved" else source
    assert [row["file"] for row in found] == [f"{prefix}::{name}" for name in names]
    same = ("sha256", "label", "score", "segments", "duration", "channels", "model")
    for ours, theirs in zip(found, expected, strict=True):
        assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    again = run(source)
    assert (again.known, again.asked) == (1, 0)


def test_a_container_is_gone_on_with(run, rows, contents, labeler, tmp_path):
    class Interrupted(Exception):
        pass

    class Breaking:
        def answers(self, units, contents):
            for number, answers in enumerate(labeler.answers(units, contents)):
                if number == 4:
                    raise Interrupted
                yield answers

    source = write_tar(tmp_path / "calls.tar", contents)
    run(source, output=tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(source, engine=Breaking(), shard_rows=2)
    assert len(rows()) == 4
    outcome = run(source, reuse=False)
    assert (outcome.asked, outcome.rows) == (6, 10)
    assert rows() == rows(tmp_path / "whole")
    write_tar(source, {**contents, "9.wav": contents["0.wav"], "0.wav": contents["1.wav"]})
    assert run(source, reuse=False).asked == 11  # it is another one
    assert rows()["calls.tar::0.wav"]["sha256"] == rows()["calls.tar::1.wav"]["sha256"]


def test_a_damaged_container_is_a_row_and_keeps_what_was_read(run, rows, contents, archive, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    whole = write_tar(folder / "cut.tar", contents)
    whole.write_bytes(whole.read_bytes()[:-90_000])
    (folder / "text.parquet").write_text("no table")
    (folder / "text.tar").write_text("no archive" * 100)
    (folder / "good.wav").write_bytes(contents["0.wav"])
    outcome = run(folder)
    found = rows()
    assert outcome.errors == 3
    assert found["good.wav"]["error"] is None
    assert found["cut.tar::0.wav"]["label"] == found["good.wav"]["label"]
    for name, kind in (("cut.tar", "tar"), ("text.parquet", "parquet"), ("text.tar", "tar")):
        assert f"'{folder / name}' is damaged or no {kind} (" in found[name]["error"]
    assert run(folder).asked == 0
    assert run(folder, retry_errors=True, reuse=False).rows == outcome.rows


@pytest.mark.parametrize("name", ["a::b.tar", "a#b?.tar", "[a]*.tar", "a b%20.tar"])
def test_a_name_that_looks_like_an_address_or_a_pattern(run, contents, tmp_path, name):
    assert run(write_tar(tmp_path / name, contents)).asked == 10


def test_a_table_without_audio_ends_in_one_line(run, tmp_path):
    pq.write_table(pa.table({"file": ["a.wav"], "label": ["sad"]}), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"rows\.parquet' has no audio column \(its columns are file, label\)"):
        run(tmp_path / "rows.parquet")
    assert not list((tmp_path / "out").glob("part*"))


def test_of_several_columns_with_bytes_the_one_of_audio_is_read(contents, tmp_path):
    pictures = [{"bytes": b"png", "path": "a.png"}] * 10
    sounds = [{"bytes": content, "path": name} for name, content in contents.items()]
    pq.write_table(pa.table({"image": pictures, "audio": sounds}), tmp_path / "a.parquet")
    read = containers.recordings(Entry(str(tmp_path / "a.parquet"), "1", "parquet"))
    assert [recording.content for recording in read] == list(contents.values())
    pq.write_table(pa.table({"image": pictures, "picture": pictures}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"has several columns of files \(image, picture\): call that of audio 'audio'"):
        containers.check_table(Entry(str(tmp_path / "b.parquet"), "1", "parquet"), None)


def test_paths_in_a_table_lie_beside_it(run, rows, contents, archive):
    files = [{"bytes": None, "path": "0.wav"}, {"bytes": None, "path": "gone.wav"}]
    pq.write_table(pa.table({"audio": files}), archive / "paths.parquet")
    run(archive / "paths.parquet")
    found = rows()
    assert found["paths.parquet::0"]["label"]
    assert "is empty (0 bytes)" in found["paths.parquet::1"]["error"]


def test_long_recordings_of_a_tar_do_not_stay_in_memory_or_on_disk(run, rows, contents, tmp_path, monkeypatch):
    run(output=tmp_path / "files")
    monkeypatch.setattr(containers, "IN_MEMORY", 1000)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(containers.tempfile, "tempdir", str(tmp_path / "tmp"))
    run(write_tar(tmp_path / "calls.tar", contents))
    keys = ("sha256", "label", "score")
    for ours, theirs in zip(rows().values(), rows(tmp_path / "files").values(), strict=True):
        assert {key: ours[key] for key in keys} == {key: theirs[key] for key in keys}
    assert not list((tmp_path / "tmp").iterdir())


def test_speakers_of_a_table_stand_together(contents, tmp_path):
    sorted_rows = ["anna"] * 6 + ["ben"] * 4
    path = write_audio(tmp_path, contents, "bytes", who=sorted_rows)
    read = list(containers.recordings(Entry(str(path), "1", "parquet"), "who"))
    assert [recording.speaker for recording in read] == sorted_rows
    path = write_audio(tmp_path, contents, "bytes", who=["anna", "ben"] * 5)
    with pytest.raises(UserError, match="has who 'anna' in several places: sort it by who"):
        list(containers.recordings(Entry(str(path), "1", "parquet"), "who"))
    with pytest.raises(UserError, match="has no column 'speaker': it has id, audio, who"):
        containers.check_table(Entry(str(path), "1", "parquet"), "speaker")
