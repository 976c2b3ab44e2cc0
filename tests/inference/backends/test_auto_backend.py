"""The backend `auto`: what it chooses, what it keeps, and what it does without a cache."""

import errno
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.small import make_model

from ser_hf.errors import UserError
from ser_hf.inference import export
from ser_hf.inference.backends import auto_backend, onnx_graph, torch_backend
from ser_hf.inference.backends.auto_backend import Choice, Measurement
from ser_hf.inference.predictor import Predictor
from ser_hf.models import loading
from ser_hf.utils import processor

LOGITS = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]))
SECONDS = np.array([2.0, 4.0])


def faster(times, moved=0.0, seconds=SECONDS):
    """Measurements of torch and of a backend that takes a share of its time."""
    other = LOGITS.copy()
    other[0, 0] += moved
    return {"torch": Measurement(LOGITS, seconds), "onnx": Measurement(other, seconds / times)}


def test_the_fastest_backend_that_agrees_is_chosen():
    choice = auto_backend.decide(faster(2, moved=2e-5), {})
    assert choice == Choice("onnx", "2.00 times as fast as torch, probabilities within 5e-06 of torch's")
    both = faster(1.5) | {
        "quick": Measurement(LOGITS, SECONDS / 3),
        "wrong": Measurement(LOGITS[:, ::-1], SECONDS / 9),
    }
    assert auto_backend.decide(both, {}).backend == "quick"


def test_the_speed_is_the_median_over_the_clips():
    seconds = np.array([1.0, 1.0, 1.0])
    logits = np.repeat(LOGITS[:1], 3, axis=0)
    other = Measurement(logits, np.array([0.5, 40.0, 0.4]))  # something else ran during the second clip
    choice = auto_backend.decide({"torch": Measurement(logits, seconds), "onnx": other}, {})
    assert (choice.backend, choice.reason.split()[0]) == ("onnx", "2.00")


@pytest.mark.parametrize(
    ("times", "moved", "reason"),
    [
        (0.5, 0.0, "onnx: 0.50 times as fast as torch"),
        (1.04, 0.0, "onnx: 1.04 times as fast as torch"),
        (3, 1e-3, "onnx: moves a probability by 0.00025, 0.0001 is allowed"),
        (3, float("nan"), "onnx: moves a probability by nan, 0.0001 is allowed"),
    ],
)
def test_torch_is_chosen_where_another_is_slower_or_differs(times, moved, reason):
    assert auto_backend.decide(faster(times, moved), {}) == Choice("torch", reason)


def test_a_label_that_changes_is_refused_however_close_it_was():
    near = np.log(np.array([[0.500001, 0.499999]]))
    measured = {"torch": Measurement(near, SECONDS[:1]), "onnx": Measurement(near[:, ::-1], SECONDS[:1] / 9)}
    assert auto_backend.decide(measured, {}) == Choice("torch", "onnx: changes 1 of 1 labels")


def test_the_reasons_of_those_that_cannot_run_are_kept():
    measured = {"torch": Measurement(LOGITS, SECONDS)}
    assert auto_backend.decide(measured, {"onnx": "no such operator"}) == Choice("torch", "onnx: no such operator")


def test_backends_run_in_turn_by_one_thread_and_their_first_call_is_not_counted(models):
    _, extractor, _ = loading.load_for_prediction(models["layer"])
    now, calls = [0.0], []

    def backend(name, seconds):
        def logits(features):
            calls.append((name, features.shape, torch.get_num_threads()))
            now[0] += seconds * (10 if len(calls) <= 2 else 1)  # the first call of each takes longer
            return features.sum(axis=1, keepdims=True)

        return SimpleNamespace(extractor=extractor, logits=logits)

    clips = [np.ones(size, dtype=np.float32) for size in (1600, 3200)]
    backends = {"onnx": backend("onnx", 1.0), "torch": backend("torch", 2.0)}
    measured = auto_backend.measure(backends, clips, lambda: now[0])
    assert [(name, shape) for name, shape, _ in calls] == [
        (name, (1, size)) for size in (1600, 1600, 3200) for name in ("onnx", "torch")
    ]
    assert {threads for *_, threads in calls} == {1}
    assert measured["onnx"].seconds.tolist() == [1.0, 1.0]
    assert measured["torch"].seconds.tolist() == [2.0, 2.0]
    np.testing.assert_array_equal(measured["onnx"].logits, measured["torch"].logits)
    assert measured["torch"].logits.shape == (2, 1)


@pytest.mark.parametrize(("seconds", "count"), [(0.1, 8), (1.5, 6), (60.0, 3)])
def test_a_slow_model_runs_fewer_clips(seconds, count, models):
    _, extractor, _ = loading.load_for_prediction(models["layer"])
    now = [0.0]

    def logits(features):
        now[0] += seconds
        return np.zeros((1, 2), dtype=np.float32)

    backends = {"torch": SimpleNamespace(extractor=extractor, logits=logits)}
    measured = auto_backend.measure(backends, [np.ones(1600, dtype=np.float32)] * 8, lambda: now[0])
    assert len(measured["torch"].seconds) == count


@pytest.fixture
def said(capsys):
    """Gives the lines on stderr, without the progress bars of transformers."""
    return lambda: [line for line in capsys.readouterr().err.split("\n") if line and "it/s]" not in line]


@pytest.fixture
def comparisons(home, monkeypatch):
    """The backends of each comparison; ONNX is said to be twice as fast."""
    compared, measure = [], auto_backend.measure

    def counted(backends, clips):
        compared.append(sorted(backends))
        measured = measure(backends, list(clips)[:1])
        if "onnx" in measured:
            half = Measurement(measured["onnx"].logits, measured["torch"].seconds / 2)
            measured["onnx"] = half
        return measured

    monkeypatch.setattr(auto_backend, "measure", counted)
    return compared


def test_a_choice_is_kept_for_processor_weights_and_versions(comparisons, tmp_path, monkeypatch, said):
    model = make_model("layer", tmp_path / "model")
    choice, loaded = auto_backend.choose(model)
    assert choice.backend == loaded.name == "onnx"
    assert said() == [f"the backends of '{model}' are compared on this machine, which takes seconds"]
    shutil.copytree(model, tmp_path / "copy")
    with monkeypatch.context() as patch:
        patch.delattr(loading, "load_for_prediction")  # neither torch nor the exporter
        assert auto_backend.choose(tmp_path / "copy")[0] == choice
    assert said() == []
    assert comparisons == [["onnx", "torch"]]
    for number, (place, value) in enumerate(
        (
            ("processor.name", lambda: "another"),
            ("_version", lambda package: "0"),
            ("__version__", "0"),
            ("FORMAT", 0),
        ),
        2,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"{auto_backend.__name__}.{place}", value)
            assert auto_backend.choose(model)[0].backend == "onnx"
            auto_backend.choose(model)
            assert len(comparisons) == number
    make_model("layer", model, seed=1)
    auto_backend.choose(model)
    assert len(comparisons) == 6


def test_a_kept_choice_that_is_cut_off_is_made_again(comparisons, home, models):
    auto_backend.choose(models["layer"])
    (kept,) = (home.parent / "backends").glob("*.json")
    whole = json.loads(kept.read_text())
    assert whole["conditions"]["processor"] == processor.name()
    for text in (kept.read_text()[:20], "[]", "{}"):
        kept.write_text(text)
        assert auto_backend.choose(models["layer"])[0].backend == "onnx"
        assert json.loads(kept.read_text()) == whole
    assert len(comparisons) == 4


def test_those_who_begin_at_once_compare_once(comparisons, models, said):
    with ThreadPoolExecutor(4) as threads:
        chosen = list(threads.map(lambda _: auto_backend.choose(models["layer"])[0], range(4)))
    assert comparisons == [["onnx", "torch"]]
    assert len(set(chosen)) == 1
    assert len(said()) == 1


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.ENOSPC, "No space")]
)
def test_without_a_cache_each_start_compares_and_says_so(error, comparisons, models, monkeypatch, said, tmp_path):
    def cache_dir(*parts):
        raise error

    monkeypatch.setattr(auto_backend.files, "cache_dir", cache_dir)
    monkeypatch.setattr(auto_backend.tempfile, "tempdir", str(tmp_path))
    for number in (1, 2):
        choice, loaded = auto_backend.choose(models["layer"])
        assert choice.backend == "onnx"
        assert loaded.logits(np.zeros((1, 4000), dtype=np.float32)).shape == (1, 8)
        lines = said()
        assert lines[0] == f"the comparison of backends cannot be kept ({error.strerror}): each start repeats it"
        assert (len(lines), len(comparisons)) == (2, number)
    assert list(tmp_path.iterdir()) == []


def test_without_any_disk_torch_runs(home, models, monkeypatch):
    def write_checked(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx_graph, "write_checked", write_checked)
    choice, loaded = auto_backend.choose(models["layer"])
    assert choice == Choice("torch", "no graph can be written: No space left on device")
    assert loaded.name == "torch"


def test_without_onnx_runtime_torch_runs(home, models, monkeypatch, said):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    choice, loaded = auto_backend.choose(models["layer"])
    assert choice == Choice("torch", "onnxruntime is not installed: pip install onnxruntime")
    assert (loaded.name, Predictor(models["layer"]).backend) == ("torch", "torch")
    assert said() == []


def test_what_cannot_be_exported_runs_on_torch(comparisons, models, monkeypatch):
    def refuses(*args, **kwargs):
        raise torch.onnx.errors.UnsupportedOperatorError("aten::fft_rfft", 17, None)

    monkeypatch.setattr(torch.onnx, "export", refuses)
    for _ in range(2):  # the reason is kept, too
        choice, loaded = auto_backend.choose(models["layer"])
        assert choice.backend == loaded.name == "torch"
        assert choice.reason.startswith("onnx: a wav2vec2 cannot be exported (")
    assert comparisons == [["torch"]]


def test_a_gpu_runs_torch_without_a_comparison(comparisons, models, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    loads = []

    def load(model, device, revision):
        loads.append((device, revision))
        return SimpleNamespace(device="cuda")

    monkeypatch.setattr(torch_backend, "load", load)
    assert auto_backend.choose(models["layer"])[0] == Choice("torch", "the device is cuda")
    assert auto_backend.choose(models["layer"], "cuda:1", "v1")[0].backend == "torch"
    assert loads == [("cuda", None), ("cuda:1", "v1")]
    assert comparisons == []


def test_a_folder_with_a_graph_alone_runs_it(models, tmp_path, monkeypatch):
    export.export(models["bert"], tmp_path / "int8", int8=True)
    predictor = Predictor(tmp_path / "int8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Predictor(tmp_path / "int8").backend == "onnx-int8"
    monkeypatch.undo()
    assert predictor.backend == "onnx-int8"
    with pytest.raises(UserError, match="was exported, without torch's weights: give the model itself"):
        _ = predictor.model
    (tmp_path / "int8" / "model_int8.onnx").unlink()
    with pytest.raises(loading.ModelError, match="holds no weights"):
        Predictor(tmp_path / "int8")


def test_all_that_needs_torch_is_there_whatever_runs(comparisons, models, clips):
    predictor, stock = Predictor(models["layer"]), Predictor(models["layer"], backend="torch")
    assert (predictor.backend, predictor.device) == ("onnx", "cpu")
    np.testing.assert_allclose(predictor.probabilities(clips[:3]), stock.probabilities(clips[:3]), atol=1e-4)
    for ours, theirs in zip(predictor.outputs(clips[:3]), stock.outputs(clips[:3]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert loading.digest(predictor.model) == loading.digest(stock.model)
    assert predictor.model is predictor.model
