import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.small import make_model
from transformers import AutoModelForAudioClassification

from ser_hf.errors import UserError
from ser_hf.inference import backends, export
from ser_hf.inference.backends import onnx_backend
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import ID2LABEL
from ser_hf.models import loading
from ser_hf.models.features import front_end_of


@pytest.fixture(scope="module")
def int8(models, tmp_path_factory):
    """A folder that was exported with int8."""
    folder = tmp_path_factory.mktemp("exported") / "int8"
    export.export(models["bert"], folder, int8=True)
    return folder


def train_on(folder):
    """The same model with other weights."""
    model = AutoModelForAudioClassification.from_pretrained(folder)
    model.classifier.bias.data += 1
    model.save_pretrained(folder)


def test_a_kept_graph_needs_no_weights_and_no_exporter(home, models, clips, monkeypatch):
    first = Predictor(models["layer"], backend="onnx").probabilities(clips[:3])
    np.testing.assert_allclose(first, Predictor(models["layer"], backend="torch").probabilities(clips[:3]), atol=1e-5)
    monkeypatch.delattr(loading, "load_for_prediction")
    monkeypatch.setitem(sys.modules, "onnx", None)
    np.testing.assert_array_equal(Predictor(models["layer"], backend="onnx").probabilities(clips[:3]), first)
    assert len(list(home.glob("*.onnx"))) == 1


def test_other_weights_labels_or_formats_are_another_graph(home, tmp_path, monkeypatch):
    folder = make_model("layer", tmp_path / "model")
    before = backends.load(folder, "onnx").logits(np.zeros((1, 4000), dtype=np.float32))
    train_on(folder)
    after = backends.load(folder, "onnx").logits(np.zeros((1, 4000), dtype=np.float32))
    np.testing.assert_allclose(after, before + 1, atol=1e-5)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {i: f"label {i}" for i in range(8)}}))
    assert backends.load(folder, "onnx").config.id2label[0] == "label 0"
    backends.load(folder, "onnx-int8")
    monkeypatch.setattr(onnx_backend, "FORMAT", 0)
    backends.load(folder, "onnx")
    assert sorted(path.name[17:] for path in home.glob("*.onnx")) == ["fp32.onnx"] * 4 + ["int8.onnx"]


def test_graphs_that_were_not_used_for_longest_make_room(home, models, monkeypatch):
    home.mkdir(parents=True)
    for age, name in enumerate(("new-fp32.onnx", "old-int8.onnx", "older-fp32.onnx", ".older.7.onnx", "note.txt")):
        (home / name).write_bytes(b"0" * 1000)
        os.utime(home / name, (1e9 - age, 1e9 - age))
    size = onnx_backend.load(models["layer"], None, None)._graph.stat().st_size  # all have room
    assert len(list(home.glob("[!.]*.onnx"))) == 4
    monkeypatch.setattr(onnx_backend, "CACHE_BYTES", 3.5 * size)
    for age, name in enumerate(("new-fp32.onnx", "old-int8.onnx", "older-fp32.onnx")):
        (home / name).write_bytes(b"0" * size)
        os.utime(home / name, (1e9 - age, 1e9 - age))
    backends.load(models["layer"], "onnx")  # used now
    backends.load(models["bert"], "onnx")
    names = {path.name for path in home.iterdir() if path.suffix != ".lock"}
    assert {"new-fp32.onnx", ".older.7.onnx", "note.txt"} <= names
    assert not {"old-int8.onnx", "older-fp32.onnx"} & names
    assert len(names) == 5


def test_an_unreadable_kept_graph_is_named(home, models):
    backends.load(models["layer"], "onnx")
    next(home.glob("*.onnx")).write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"fp32.onnx' cannot be read .* remove it"):
        backends.load(models["layer"], "onnx")


def test_a_hub_id_is_one_commit(home, models, monkeypatch, tmp_path):
    snapshot, requests = tmp_path / "snapshots" / "c0ffee", []
    shutil.copytree(models["layer"], snapshot)
    original = loading.load_for_prediction

    def downloaded(name, revision, allow_patterns):
        requests.append((name, revision))
        assert "model.onnx" not in allow_patterns
        return str(snapshot)

    def load(name, revision):
        requests.append((name, revision))
        return original(snapshot)

    monkeypatch.setattr(onnx_backend, "snapshot_download", downloaded)
    monkeypatch.setattr(loading, "load_for_prediction", load)
    backends.load("you/model", "onnx", revision="v1")
    assert requests == [("you/model", "v1"), ("you/model", "c0ffee")]


def test_an_exported_folder_says_what_it_can(int8):
    with pytest.raises(UserError, match="without torch's weights: use --backend onnx-int8"):
        backends.load(int8, "torch")
    with pytest.raises(UserError, match=r"neither model.safetensors nor model.onnx: use --backend onnx-int8"):
        backends.load(int8, "onnx")


def test_labels_without_a_meaning_are_refused(home, int8, models, tmp_path):
    for source, backend in ((int8, "onnx-int8"), (models["layer"], "onnx")):
        folder = tmp_path / backend
        shutil.copytree(source, folder)
        config = json.loads((folder / "config.json").read_text())
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(8)}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(loading.ModelError, match="labels without a meaning"):
            backends.load(folder, backend)


def test_a_graph_with_other_inputs_is_refused(int8, models, tmp_path):
    shutil.copytree(int8, tmp_path / "model")
    shutil.copy(models["layer"] / "preprocessor_config.json", tmp_path / "model")
    with pytest.raises(UserError, match="takes input_features, not input_values"):
        backends.load(tmp_path / "model", "onnx-int8")


def test_wrong_backends_and_devices_end_in_one_line(models):
    for named, message in (
        ({"backend": "tensorrt"}, "'tensorrt' is no backend: choose one of auto, torch, torch-bf16, onnx, onnx-int8"),
        ({"backend": "onnx", "device": "cuda"}, "onnx runs on the processor, not on 'cuda': use --backend torch there"),
        ({"device": "abacus"}, "torch has no device 'abacus' here: use cpu"),
        ({"backend": "onnx", "revision": "v1"}, "is a folder and has no revision 'v1': leave out --revision"),
    ):
        with pytest.raises(UserError) as raised:
            backends.load(models["layer"], **named)
        assert str(raised.value).endswith(message)
    with pytest.raises(loading.ModelError, match="does not exist"):
        backends.load("/nowhere", "onnx")


@pytest.mark.parametrize("kind", ["bert", "group"])
def test_bfloat16_is_autocast_whoever_calls_the_model(kind, models):
    model, extractor, _ = loading.load_for_prediction(models[kind])
    backend = backends.load(models[kind], "torch-bf16", "cpu")
    features = front_end_of(extractor).extract(np.random.default_rng(0).normal(size=8000).astype(np.float32))[None]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        wanted = model(torch.from_numpy(features)).logits.float().numpy()
    np.testing.assert_array_equal(backend.logits(features), wanted)
    with torch.inference_mode():
        np.testing.assert_array_equal(backend.model(torch.from_numpy(features)).logits.float().numpy(), wanted)


@pytest.mark.parametrize("backend", ["torch", "torch-bf16", "onnx", "onnx-int8"])
def test_threads_do_not_change_answers(backend, home, models):
    loaded = backends.load(models["group"], backend, "cpu")
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(1, int(size))).astype(np.float32) for size in rng.integers(1600, 32_000, 40)]
    answers = []
    for threads in (1, 8):  # torch itself sums otherwise with more than one thread a clip
        with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
            answers.append(list(pool.map(loaded.logits, features)))
    for alone, beside_others in zip(*answers, strict=True):
        np.testing.assert_array_equal(alone, beside_others)
    assert loaded.batches == (backend != "onnx-int8")


def test_every_backend_has_what_the_protocol_names(home, models):
    for name in backends.BACKENDS:
        loaded = backends.load(models["bert"], name, "cpu")
        assert loaded.device == "cpu"
        assert loaded.config.id2label == ID2LABEL
        assert loaded.extractor.model_input_names[0] == "input_features"
        assert loaded.logits(np.zeros((2, 10, 320), dtype=np.float32)).shape == (2, 8)
