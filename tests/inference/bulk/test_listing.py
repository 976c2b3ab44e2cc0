"""What inputs hold: folders, patterns, lists, addresses."""

import os
import shutil
import sys

import fsspec
import numpy as np
import pytest
import soundfile

from ser_hf.errors import UserError
from ser_hf.inference.bulk.listing import Entry, kind_of, list_inputs


@pytest.fixture
def archive(tmp_path):
    """Recordings in folders, beside files of other kinds."""
    root = tmp_path / "archive"
    for name in ("b/2.wav", "b/1.FLAC", "a/x.mp3", ".hidden/3.wav", "b/.4.wav", "b/notes.txt", "__MACOSX/5.wav"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * 10)
    return root


def names(*inputs, **options):
    return [os.path.basename(entry.path) for entry in list_inputs([str(name) for name in inputs], **options)]


def test_a_folder_is_its_recordings_sorted_without_hidden_ones(archive):
    entries = list(list_inputs([str(archive)]))
    assert [entry.path for entry in entries] == [str(archive / name) for name in ("a/x.mp3", "b/1.FLAC", "b/2.wav")]
    stat = (archive / "b/2.wav").stat()
    assert entries[2] == Entry(str(archive / "b/2.wav"), f"10-{stat.st_mtime_ns}", "recording")


@pytest.mark.parametrize("given", ["{}", "{}/[ab]/*", "file://{}/[ab]/[!.]*"])
def test_beside_a_manifest_only_its_rows_are_no_input(archive, given):
    for name in ("b/_manifest.json", "b/part-000001-abcdef.parquet", "a/part-000001-abcdef.parquet"):
        (archive / name).write_bytes(b"x" * 10)
    assert names(given.format(archive)) == ["part-000001-abcdef.parquet", "x.mp3", "1.FLAC", "2.wav"]


def test_links_are_followed_and_rings_end(archive, tmp_path):
    (archive / "a" / "up").symlink_to(archive)
    (archive / "a" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "9.wav").write_bytes(b"x")
    (archive / "a" / "broken.wav").symlink_to(archive / "gone.wav")
    found = names(archive)
    assert found.count("9.wav") == 1
    assert found.count("x.mp3") == 1
    assert "broken.wav" not in found


def test_each_file_is_listed_once(archive):
    assert names(archive / "b", archive, archive / "b" / "2.wav") == ["1.FLAC", "2.wav", "x.mp3"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.WAV", "recording"), ("a.m4a", "recording"), ("a.parquet", "parquet"), ("a.tar.gz", "tar"), ("a.pdf", None)],
)
def test_a_name_tells_the_kind(name, kind):
    assert kind_of(name) == kind


def test_patterns_and_folders_that_look_like_patterns(archive):
    assert names(archive / "b" / "**" / "*.wav") == ["2.wav"]
    assert names(archive / "[ab]" / "*.*") == ["x.mp3", "1.FLAC", "2.wav"]
    shutil.copytree(archive / "b", archive / "[b]")
    assert names(archive / "[b]") == ["1.FLAC", "2.wav"]


def test_lists_name_recordings_beside_them_or_in_full(archive, tmp_path):
    (archive / "list.txt").write_text(f"# mine\nb/2.wav\n\n{archive}/a/x.mp3\nb/gone.wav\n")
    entries = list(list_inputs([str(archive / "list.txt")]))
    assert [entry.path for entry in entries] == [str(archive / name) for name in ("b/2.wav", "a/x.mp3", "b/gone.wav")]
    assert [bool(entry.stamp) for entry in entries] == [True, True, False]
    (archive / "list.csv").write_text("Path;who\nb/2.wav;anna\nb/1.FLAC;ben\n")
    speakers = [entry.speaker for entry in list_inputs([str(archive / "list.csv")], column="who")]
    assert speakers == ["anna", "ben"]


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("name,who\na.wav,anna\n", None, "has no column of paths (name, who): call it 'file'"),
        ("file,start,end\na.wav,0,1\n", None, "the column 'end', but recordings are labelled whole"),
        ("file,Onset\na.wav,0\n", None, "the column 'Onset', but recordings are labelled whole"),
        ("file,who\na.wav,anna\n", "speaker", "has no column 'speaker': it has file, who"),
        ("file,who\n,anna\n", None, "line 2 has no 'file'"),
        ("file\nb\n", None, "line 2: 'b' is a folder"),
    ],
)
def test_a_table_that_cannot_be_a_list_is_refused(archive, text, column, message):
    (archive / "list.csv").write_text(text)
    with pytest.raises(UserError) as error:
        list(list_inputs([str(archive / "list.csv")], column))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "'absent' does not exist: check the path"),
        ("absent/*.wav", "'absent/*.wav' holds no recordings"),
        ("empty", "holds no recordings"),
        ("empty.txt", "names no recording: write one path a line"),
        ("memory://absent", "does not exist, or needs a token"),
        ("nothing://x", "cannot be listed (Protocol not known: nothing"),
        ("s3://bucket/x", "needs a package"),
    ],
)
def test_inputs_that_match_nothing_are_named(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("# nothing\n")
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    with pytest.raises(UserError) as error:
        list(list_inputs([name]))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_addresses_have_the_stamps_of_their_store(tmp_path):
    system = fsspec.filesystem("memory")
    system.pipe({"/calls/a.wav": b"1234", "/calls/deep/b.flac": b"12", "/calls/readme.md": b"x"})
    try:
        entries = list(list_inputs(["memory://calls"]))
        assert [entry.path for entry in entries] == ["memory:///calls/a.wav", "memory:///calls/deep/b.flac"]
        before = entries[0].stamp
        assert before.startswith("4-")
        assert names("memory://calls/*.wav") == ["a.wav"]
        assert names("memory://calls/a.wav") == ["a.wav"]
        system.pipe("/calls/a.wav", b"4321")
        assert next(list_inputs(["memory://calls/a.wav"])).stamp != before
    finally:
        system.rm("/calls", recursive=True)
    soundfile.write(tmp_path / "c.wav", np.zeros(1600), 16_000)
    assert names(f"file://{tmp_path}") == ["c.wav"]
