"""Small audio and small models, made here; nothing is downloaded and no real recording is needed."""

import json
import os

os.environ.update(HF_HUB_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False", TOKENIZERS_PARALLELISM="false")

import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from clients import caller
from hub import Hub
from transformers import (
    AutoModelForAudioClassification,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
)

from ser_hf import audio, protocols
from ser_hf.cli.main import main
from ser_hf.data import dataset
from ser_hf.data.corpora import synthetic
from ser_hf.inference import backends
from ser_hf.labels import ID2LABEL, LABEL2ID

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """Both synthetic corpora at their smallest: 384 RAVDESS and 28 TESS recordings."""
    return synthetic.write_corpora(tmp_path_factory.mktemp("recordings"), takes=1, words=2)


@pytest.fixture(scope="session")
def built(recordings, tmp_path_factory):
    """The dataset folder of `recordings`."""
    folder = tmp_path_factory.mktemp("built") / "dataset"
    dataset.build(folder, [str(recordings[0])], [str(recordings[1])])
    return folder


@pytest.fixture(scope="session")
def rows(built):
    return dataset.load(built)


@pytest.fixture(scope="session")
def synthetic_built(tmp_path_factory):
    """The folder and the report of the synthetic dataset as `make quickstart` builds it, 908 recordings."""
    folder = tmp_path_factory.mktemp("synthetic") / "dataset"
    return folder, dataset.build(folder, make_synthetic=True)


def make_model(kind, folder, seed=0):
    """Write a small untrained model with the eight labels: `bert` (mel frames), `group` or `layer` (waveform)."""
    torch.manual_seed(seed)
    common = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "classifier_proj_size": 16,
        "hidden_dropout": 0.0,
        "activation_dropout": 0.0,
        "attention_dropout": 0.0,
        "feat_proj_dropout": 0.0,
        "final_dropout": 0.0,
        "layerdrop": 0.0,
        "apply_spec_augment": False,
        "id2label": ID2LABEL,
        "label2id": LABEL2ID,
    }
    if kind == "bert":
        config = Wav2Vec2BertConfig(
            **common,
            conv_depthwise_kernel_size=5,
            position_embeddings_type=None,
            feature_projection_input_dim=320,
            conformer_conv_dropout=0.0,
        )
        extractor = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, sampling_rate=16_000, stride=4)
    else:
        config = Wav2Vec2Config(
            **common,
            conv_dim=(16, 16, 16),
            conv_kernel=(10, 8, 8),
            conv_stride=(10, 8, 4),
            feat_extract_norm=kind,
            do_stable_layer_norm=kind == "layer",
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
        )
        extractor = Wav2Vec2FeatureExtractor(return_attention_mask=kind == "layer")
    model = AutoModelForAudioClassification.from_config(config)
    if kind != "bert":
        model.classifier.weight.data *= 50  # answers that differ from clip to clip, as those of a trained model do
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clips(recordings):
    """Some recordings of either corpus, 16 kHz."""
    paths = [path for folder in recordings for path in sorted(folder.rglob("*.wav"))[::12]]
    return [audio.load(path) for path in paths]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder of each kind of small model, by kind."""
    return {kind: make_model(kind, tmp_path_factory.mktemp(kind)) for kind in ("bert", "group", "layer")}


FAST = ["--num_train_epochs", "2", "--learning_rate", "3e-3", "--bf16", "false", "--patience", "0"]


@pytest.fixture(scope="session")
def tuned(built, models, tmp_path_factory):
    """The folder that fine-tuning the small mel model wrote, through the command line."""
    folder = tmp_path_factory.mktemp("tuned") / "model"
    code = main(
        ["finetune", "--dataset", str(built), "--model", str(models["bert"]), "--output_dir", str(folder), *FAST]
    )
    assert code == 0
    return folder


@pytest.fixture
def home(monkeypatch, tmp_path):
    """An empty cache of graphs."""
    monkeypatch.setattr(backends, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "ser_hf"


@pytest.fixture
def remote():
    """A loopback Hub, empty."""
    with Hub() as started:
        yield started


@pytest.fixture
def call(remote, tmp_path):
    """Calls functions of ours as its user, in a process of their own."""
    return caller(remote, tmp_path)


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
    """Run a command that must fail as the user's mistakes do: exit code 2 and one line; gives that line."""

    def run(*argv):
        capsys.readouterr()
        assert main([str(word) for word in argv]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        message = [line for line in error if line.startswith("ser-hf: ")]
        assert len(message) == 1
        assert "Traceback" not in "".join(error)
        return message[0]

    return run


@contextmanager
def serving(*flags, environment=None):
    """The app as a user starts it, in a process of its own on a free port; gives its address."""
    port = free_port()
    command = [sys.executable, ROOT / "app.py", "--port", port, *flags]
    with tempfile.TemporaryFile("w+") as log:
        app = subprocess.Popen(
            [str(word) for word in command], stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )
        try:
            yield when_up(app, f"http://127.0.0.1:{port}", log)
        finally:
            app.terminate()
            app.wait(timeout=30)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def when_up(app, address, log):
    """Wait for the app that a process is starting; gives its address."""
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return address
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if app.poll() is not None:
                log.seek(0)
                raise AssertionError(log.read()) from None
            time.sleep(0.25)
    raise AssertionError(f"{address} did not answer within a minute")
