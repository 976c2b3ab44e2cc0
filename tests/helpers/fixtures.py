"""What tests share: small audio and small models, made here.

Nothing is downloaded, and no real recording is needed.
"""

import gc
import importlib.util
import json
import os
import pickle
import shutil
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from filelock import FileLock
from matplotlib.figure import Figure
from PIL import Image

from helpers.app import serving
from helpers.chromium import launched
from helpers.clients import caller
from helpers.loopback_hub import Hub
from helpers.small import FAST, ROOT, make_model
from ser_hf import audio, protocols
from ser_hf.cli.main import main
from ser_hf.data import dataset
from ser_hf.data.corpora import synthetic
from ser_hf.training import finetune  # noqa: F401  a process that tests trains sooner or later

SAVEFIG = Figure.savefig


def save_point(figure, path, **how):
    point = BytesIO()
    Image.new("L", (1, 1)).save(point, "PNG")
    Path(path).write_bytes(point.getvalue())


gc.collect()
gc.freeze()  # each training collects garbage: what was imported need not be looked through again


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Calls a function with a new folder, once in a test run however many processes share it.

    Gives what the function returned. The other processes wait for it. No test may change what it
    made.
    """
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # each process has a folder in that of the run

    def call_once(name, make):
        folder, result = place / f"once-{name}", place / f"once-{name}.pickle"
        with FileLock(f"{folder}.lock"):
            if not result.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a call that failed
                folder.mkdir()
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(Figure, "savefig", SAVEFIG)  # other tests look at its pictures
                    content = pickle.dumps(make(folder))
                result.write_bytes(content)
        return pickle.loads(result.read_bytes())

    return call_once


@pytest.fixture(scope="session")
def load_script():
    """Loads a file of `scripts/` by its name, with its folder in `sys.path` as Python has it."""

    def load(name):
        path = ROOT / "scripts" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # its dataclasses look themselves up there
        before = sys.path.copy()
        sys.path.insert(0, str(path.parent))
        try:
            spec.loader.exec_module(module)
            assert str(ROOT / "scripts") not in sys.path  # whose evaluate.py would hide a package
        finally:
            sys.path[:] = before
        return module

    return load


@pytest.fixture(scope="session")
def recordings(once):
    """Both synthetic corpora at their smallest: 384 RAVDESS and 28 TESS recordings."""
    return once("recordings", lambda folder: synthetic.write_corpora(folder, takes=1, words=2))


@pytest.fixture(scope="session")
def built(recordings, once):
    """The dataset folder of `recordings`."""

    def build(folder):
        dataset.build(folder / "dataset", {"ravdess": [recordings[0]], "tess": [recordings[1]]})
        return folder / "dataset"

    return once("built", build)


@pytest.fixture(scope="session")
def few(recordings, once):
    """The dataset folder of 28 TESS recordings and half of those of 12 RAVDESS actors, for tests
    that train often."""

    def build(folder):
        for actor in (*range(1, 5), *range(17, 25)):
            for path in sorted(recordings[0].rglob(f"*-{actor:02d}.wav"))[::2]:
                kept = folder / "ravdess" / path.relative_to(recordings[0])
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, kept)
        dataset.build(folder / "dataset", {"ravdess": [folder / "ravdess"], "tess": [recordings[1]]})
        return folder / "dataset"

    return once("few", build)


@pytest.fixture(scope="session")
def parquet(built, once):
    """A folder of two Parquet files, with 68 rows in groups of at most 6: 24 voices of RAVDESS, two
    of TESS."""

    def write(folder):
        table = pq.read_table(sorted((built / "data").glob("*.parquet")))
        speakers = np.array(table["speaker"].to_pylist())
        rows = []
        for voice in np.unique(speakers):
            own = np.flatnonzero(speakers == voice)
            rows += own[:10].tolist() if "tess" in voice else own[::6][:2].tolist()
        table = table.take(pa.array(sorted(rows)))
        (folder / "voices" / "data").mkdir(parents=True)
        for number, part in enumerate((table.slice(0, 30), table.slice(30))):
            pq.write_table(part, folder / "voices" / "data" / f"train-{number:05d}-of-00002.parquet", row_group_size=6)
        return folder / "voices"

    return once("parquet", write)


@pytest.fixture(scope="session")
def rows(built):
    return dataset.load(built)


@pytest.fixture(scope="session")
def synthetic_built(once):
    """The folder and the report of the synthetic dataset as `make quickstart` builds it, 908
    recordings."""
    return once(
        "synthetic", lambda folder: (folder / "dataset", dataset.build(folder / "dataset", make_synthetic=True))
    )


@pytest.fixture(scope="session")
def clips(recordings):
    """Some recordings of either corpus, 16 kHz."""
    paths = [path for folder in recordings for path in sorted(folder.rglob("*.wav"))[::12]]
    return [audio.load(path) for path in paths]


@pytest.fixture(scope="session")
def models(once):
    """A folder of each kind of small model, by kind; that of `bert` has a licence text."""

    def make(folder):
        made = {kind: make_model(kind, folder / kind) for kind in ("bert", "group", "layer")}
        (made["bert"] / "LICENSE-BACKBONE").write_text("Nobody may earn money with these random numbers.\n")
        return made

    return once("models", make)


@pytest.fixture(scope="session")
def tuned(built, models, once):
    """The folder that fine-tuning the small mel model wrote, through the command line."""

    def train(folder):
        paths = ["--dataset", str(built), "--model", str(models["bert"]), "--output_dir", str(folder / "model")]
        assert main(["finetune", *paths, *FAST]) == 0
        return folder / "model"

    return once("tuned", train)


@pytest.fixture(scope="session")
def trained(few, models, once):
    """The folder that the same training wrote of `few`."""

    def train(folder):
        paths = ["--dataset", str(few), "--model", str(models["bert"]), "--output_dir", str(folder / "model")]
        assert main(["finetune", *paths, *FAST]) == 0
        return folder / "model"

    return once("trained", train)


@pytest.fixture(scope="session")
def app_url(tuned):
    """The address of a running app with the model `tuned`, MCP and the limits of every day."""
    with serving("--model", tuned, "--mcp") as address:
        yield address


@pytest.fixture
def home(monkeypatch, tmp_path):
    """An empty cache, and in it the folder of the graphs."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "ser_hf" / "onnx"


@pytest.fixture
def remote():
    """A loopback Hub, empty."""
    with Hub(lasting=True) as started:
        yield started


@pytest.fixture
def call(remote, tmp_path):
    """Calls functions of ours as its user, in a process of their own."""
    return caller(remote, tmp_path)


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures are one point large: to draw them takes longer than a small training."""
    monkeypatch.setattr(Figure, "savefig", save_point)


@pytest.fixture(scope="module")
def all_undrawn():
    """As `undrawn`, and so are those that fixtures of the module draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save_point)
        yield


@pytest.fixture(scope="session")
def talk_file(recordings, once):
    """Twelve utterances, about 30 s, as a WAV file."""

    def write(folder):
        files = sorted(recordings[0].rglob("*.wav"))[::34]
        samples = np.concatenate([audio.load(file) for file in files[:12]])
        soundfile.write(folder / "talk.wav", samples, audio.SAMPLING_RATE)
        return folder / "talk.wav"

    return once("talk", write)


@pytest.fixture(scope="module")
def browser(talk_file):
    with launched(talk_file) as started:
        yield started


@pytest.fixture(scope="module")
def one_thread():
    """At these sizes threads wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def custom(rows, tmp_path):
    """Write a protocol file, split by it, and give the split."""

    def run(text, ending=".yaml", data=rows, **how):
        (tmp_path / f"mine{ending}").write_text(text if isinstance(text, str) else json.dumps(text))
        return protocols.split(data, str(tmp_path / f"mine{ending}"), **how)

    return run


@pytest.fixture
def fails(capsys):
    """Run a command that must fail as the user's mistakes do: exit code 2 and one line; gives that
    line."""

    def run(*argv):
        capsys.readouterr()
        assert main([str(word) for word in argv]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        message = [line for line in error if line.startswith("ser-hf: ")]
        assert len(message) == 1
        assert "Traceback" not in "".join(error)
        return message[0]

    return run
