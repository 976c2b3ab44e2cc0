import os

import pytest

from ser_hf.errors import UserError
from ser_hf.utils.files import cache_dir, cache_lock, new_folder, replacing


def test_a_new_file_replaces_the_old_one_at_once(tmp_path):
    file = tmp_path / "results.json"
    file.write_text("old")
    with replacing(file) as partial:
        partial.write_text("new")
        assert (partial.suffix, file.read_text()) == (".json", "old")
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "results.json"
    file.write_text("old")

    def write():
        with replacing(file) as partial:
            partial.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert (file.read_text(), os.listdir(tmp_path)) == ("old", ["results.json"])


def test_a_new_folder_appears_when_it_is_complete(tmp_path):
    with new_folder(tmp_path / "a" / "b") as partial:
        (partial / "file").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "file").read_text() == "1"
    assert os.listdir(tmp_path / "a") == ["b"]
    with pytest.raises(UserError, match=r"b' exists already: choose another --output or remove it$"):
        new_folder(tmp_path / "a" / "b").__enter__()


def test_caches_lie_in_one_folder_and_are_locked(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    assert cache_dir("features", "x") == tmp_path / "ser_hf" / "features" / "x"
    with cache_lock(cache_dir() / "file.json") as lock:
        assert lock.is_locked
        assert not cache_lock(cache_dir() / "file.json").is_locked
