import os

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ser_hf.errors import UserError
from ser_hf.utils.files import (
    cache_dir,
    cache_lock,
    new_folder,
    pattern_in,
    read_settings,
    refuse_existing,
    replacing,
    validated,
)


def test_long_names_that_begin_alike_are_written_side_by_side(tmp_path):
    first, second = (tmp_path / f"{'results' * 20}-{letter}.json" for letter in "ab")
    with replacing(first) as one, replacing(second) as other:
        one.write_text("a")
        other.write_text("b")
    assert (first.read_text(), second.read_text()) == ("a", "b")
    assert len(list(tmp_path.iterdir())) == 2


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


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    side: str


class Description(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(default="x", min_length=1)
    parts: list[Part] = []
    labels: dict[str, str] = {}

    @field_validator("name")
    @classmethod
    def is_lower(cls, name):
        if name != name.lower():
            raise ValueError(f"is '{name}': small letters are expected")
        return name

    @model_validator(mode="after")
    def has_parts_or_labels(self):
        if not self.parts and not self.labels:
            raise ValueError("give either parts or labels")
        return self


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"nam": "x"}, "'f.yaml' has 'nam': its keys are name, parts, labels"),
        ([1], "'f.yaml' has no keys: its keys are name, parts, labels"),
        (None, "'f.yaml' has no keys: its keys are name, parts, labels"),
        ({"name": ["x"]}, "'f.yaml': name is ['x']: a text is expected"),
        ({"name": ""}, "'f.yaml': name is '': a text is expected"),
        ({"name": "X"}, "'f.yaml': name is 'X': small letters are expected"),
        ({"labels": "x"}, "'f.yaml': labels is 'x': a mapping is expected"),
        ({"labels": {"a": 1}}, "'f.yaml': labels.a is 1: a text is expected"),
        ({"parts": [{"side": "test"}, {}]}, "'f.yaml': parts[1].side is missing: add it"),
        ({"parts": [{"side": "test", "a": 1}]}, "'f.yaml': parts[0].a is an unknown key: remove it"),
        ({}, "'f.yaml': give either parts or labels"),
    ],
)
def test_a_wrong_file_ends_in_one_line_about_its_first_problem(content, message):
    class WrongFile(UserError):
        pass

    with pytest.raises(WrongFile) as caught:
        validated(Description, content, "'f.yaml'", WrongFile)
    assert str(caught.value) == message


def test_a_right_file_becomes_its_model():
    description = validated(Description, {"parts": [{"side": "test"}]}, "'f.yaml'")
    assert (description.name, description.parts) == ("x", [Part(side="test")])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("name", "text"), [("a.yaml", "é: [1, 2]\r\n"), ("a.json", '\r\n{"é": [1, 2]}')])
def test_settings_of_any_editor_are_read(tmp_path, encoding, name, text):
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert read_settings(tmp_path / name, typed=True) == {"é": [1, 2]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "", "is empty: write its keys and their values"),
        ("a.json", " \n", "is empty: write its keys and their values"),
        ("a.yaml", "model: 2024-99-99", "cannot be read: month must be in 1..12"),
        ("a.yaml", "model: !!python/name:os.system", "cannot be read: could not determine a constructor"),
        ("a.yaml", "? [a]\n: b", "cannot be read: while constructing a mapping"),
        ("a.yaml", "a: 1\n---\nb: 2", "cannot be read: expected a single document"),
        ("a.yaml", "a:\n\t- b", "cannot be read: while scanning for the next token found character '\\t'"),
        ("a.json", '{"a": 1,}', "cannot be read: "),
        ("a.json", '{"a": 1, "a": 2}', "cannot be read: the key 'a' stands twice"),
        ("a.yaml", "a: ä".encode("latin-1"), "line 1 is no text in UTF-8"),
        ("a.json", '{"a": 1}'.encode("utf-16-le"), "is no text in UTF-8 (it holds zero bytes)"),
    ],
)
def test_settings_that_cannot_be_read_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_settings(tmp_path / name, typed=True)
    assert f"{name}' {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("folder/", "exists already: choose another --output or remove it"),
        ("link", "exists already"),
        ("broken", "exists already"),
        ("file/new", "cannot be made, because '.*file' is no folder: choose another"),
        ("broken/new", "cannot be made, because '.*broken' is no folder"),
        ("n" * 201, "'n{40}…' is a name of 201 bytes: choose one of at most 200"),
        (f"new/{'ü' * 120}/x", "'ü{40}…' is a name of 240 bytes"),
        ("~/folder", "exists already"),
    ],
)
def test_an_output_that_cannot_appear_is_refused_at_once(tmp_path, monkeypatch, output, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "broken").symlink_to("nowhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        refuse_existing(output)
    for possible in ("n" * 200, "new/folder/", "./folder/x y [1]", "~/other"):
        refuse_existing(possible)


def test_an_output_may_be_below_home_a_link_or_as_long_as_names_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with new_folder(f"~/{'n' * 200}"):
        pass
    assert os.listdir(tmp_path) == ["n" * 200]
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    for name in ("link.json", f"{'n' * 190}.json"):
        with replacing(tmp_path / name) as partial:
            partial.write_text("new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


@pytest.mark.parametrize(
    ("path", "pattern"),
    [("my data [test]", "["), ("a*", "*"), ("wh?/at", "?"), ("x]", "]"), ("a::b/c", "::"), ("a {b} !c 'd' #e", None)],
)
def test_patterns_of_paths_are_found(path, pattern):
    assert pattern_in(path) == pattern
