"""Recordings, and a model that is loaded once for all tests of labelling."""

import shutil

import pytest

from ser_hf.inference.bulk.label import LabelOptions, label
from ser_hf.inference.bulk.labeler import Labeler, ModelChoice
from ser_hf.inference.bulk.store import Store


@pytest.fixture(scope="session")
def choice(models):
    return ModelChoice(str(models["group"]), backend="torch", device="cpu", threads=2, readers=3)


@pytest.fixture(scope="session")
def labeler(choice):
    return Labeler(choice)


@pytest.fixture
def archive(recordings, tmp_path):
    """Eight recordings, one of text, and one that is cut off."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for number, path in enumerate(sorted(recordings[0].rglob("*.wav"))[:160:20]):
        shutil.copy(path, folder / f"{number}.wav")
    (folder / "text.wav").write_text("this is no sound")
    (folder / "zero.flac").write_bytes(b"")
    return folder


@pytest.fixture
def run(choice, labeler, archive, tmp_path):
    """Label `archive`, or other inputs, and give what `label` gives."""

    def run(*inputs, output=None, engine=None, **options):
        inputs = [str(name) for name in inputs] or [str(archive)]
        output = str(output or tmp_path / "out")
        return label(inputs, output, choice, LabelOptions(**options), engine, labeler)

    return run


@pytest.fixture
def rows(tmp_path):
    """Rows of an output by the names of their files, each of which it holds once."""

    def rows(output=None):
        store = Store(str(output or tmp_path / "out"))
        found = [row for name in store.parts for row in store.read_part(name).to_pylist()]
        by_name = {row["file"].rsplit("/", 1)[-1]: row for row in found}
        assert len(by_name) == len(found)
        return dict(sorted(by_name.items()))

    return rows
