"""Graphs on processors that compute int8 differently: what AVX2 answers, and the check there."""

import base64
import errno
import json

import numpy as np
import onnx
import pytest
from helpers.saturation import largest_pair, saturating
from helpers.small import make_whisper
from onnx import numpy_helper

from ser_hf.errors import UserError
from ser_hf.inference import backends, export
from ser_hf.inference.backends import graph_check, onnx_graph, onnx_runtime
from ser_hf.models import loading
from ser_hf.models.features import front_end_of


@pytest.fixture(scope="module")
def quantised(models, tmp_path_factory):
    """An int8 graph and features of a few clips, by kind of model."""
    folder = tmp_path_factory.mktemp("int8")

    def write(kind):
        path = make_whisper(folder / "whisper", seconds=2, layers=2) if kind == "whisper" else models[kind]
        loaded = loading.load_for_prediction(path)
        if not (graph := folder / f"{kind}.onnx").exists():
            onnx_graph.write_graph(*loaded, graph, int8=True)
        front_end, rng = front_end_of(loaded[1]), np.random.default_rng(0)
        clips = [rng.normal(scale=0.1, size=size).astype(np.float32) for size in (4000, 9000)]
        return graph, [front_end.extract(clip) for clip in clips]

    return write


def weights_of_products(graph):
    """The int8 weights of an ONNX graph, by the name of their tensor."""
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    nodes = (node for node in graph.graph.node if node.op_type == "MatMulInteger")
    return {node.input[1]: numpy_helper.to_array(tensors[node.input[1]]) for node in nodes}


@pytest.mark.parametrize("kind", ["bert", "group", "layer", "whisper"])
def test_no_input_of_an_int8_graph_saturates_16_bits(kind, quantised):
    weights = weights_of_products(onnx.load(quantised(kind)[0]))
    assert weights
    assert all(largest_pair(values) <= 2**15 - 1 for values in weights.values())
    assert max(np.abs(values).max() for values in weights.values()) > 64  # finer than 7 bits


@pytest.mark.parametrize("kind", ["bert", "layer", "whisper"])
def test_avx2_answers_what_this_processor_does(kind, quantised):
    graph, features = quantised(kind)
    session = onnx_runtime.open_session(graph)
    here = graph_check.run(session, features)
    np.testing.assert_allclose(graph_check.run(saturating(onnx.load(graph)), features), here, atol=1e-3)


@pytest.mark.parametrize(
    ("weights", "values", "scale"),
    [
        ([[1.0], [0.9]], [[67], [60]], 1.9 / 127),  # two of one sign
        ([[1.0], [-1.0]], [[127], [-127]], 1 / 127),  # two of other signs take something from each other
        ([[-0.4], [-0.1], [1.0], [0.0]], [[-51], [-13], [127], [0]], 1 / 127),
        ([[0.0], [0.5], [0.5]], [[0], [127], [127]], 0.5 / 127),  # the last of an odd number is alone
        ([[0.0], [0.0]], [[0], [0]], 1),
    ],
)
def test_the_scale_is_the_finest_that_cannot_saturate(weights, values, scale):
    int8, scales = onnx_graph.rounded(np.array(weights, dtype=np.float32))
    assert int8.tolist() == values
    np.testing.assert_allclose(scales, [scale], rtol=1e-6)
    assert largest_pair(int8) <= 2**15 - 1


def test_random_weights_never_saturate():
    weights = np.random.default_rng(0).standard_normal((512, 300)).astype(np.float32)
    assert 127 * 255 <= largest_pair(onnx_graph.rounded(weights)[0]) <= 2**15 - 1


def test_weights_of_8_bits_saturate_on_avx2(quantised):
    graph, features = quantised("whisper")
    doubled = onnx.load(graph)  # the same products, but for half the scale of twice the weight
    scales = {tensor.name: tensor for tensor in doubled.graph.initializer if tensor.name.endswith("_scale")}
    for tensor in doubled.graph.initializer:
        if tensor.name.endswith("_quantized"):
            values = np.clip(numpy_helper.to_array(tensor) * 2.0, -127, 127).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            scale = scales[tensor.name.removesuffix("quantized") + "scale"]
            scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / 2, scale.name))
    values = weights_of_products(doubled).values()
    assert max(map(largest_pair, values)) > 2**15
    exact = graph_check.run(onnx_runtime.open_session(graph), features)
    assert np.abs(graph_check.run(saturating(doubled), features) - exact).max() > 0.01


def move_the_bias(graph):
    """Change an answer of a graph, as a processor that computes it wrongly would."""
    changed = onnx.load(graph)
    bias = next(tensor for tensor in changed.graph.initializer if tensor.name.endswith("classifier.bias"))
    values = numpy_helper.to_array(bias).copy()
    values[0] += 3
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(changed, graph)


@pytest.fixture
def runs(monkeypatch):
    """The numbers of clips that checks have run."""
    counted, run = [], graph_check.run

    def counting(session, features):
        counted.append(len(features))
        return run(session, features)

    monkeypatch.setattr(graph_check, "run", counting)
    return counted


@pytest.mark.parametrize("backend", ["onnx", "onnx-int8"])
def test_a_graph_is_checked_once_a_processor(backend, home, models, tmp_path, monkeypatch, runs, capsys):
    export.export(models["layer"], tmp_path / "exported", backend == "onnx-int8")
    runs.clear()
    for _ in range(2):
        backends.load(tmp_path / "exported", backend)
    assert runs == [onnx_graph.CARRIED_CLIPS]
    (kept,) = (home.parent / "graph_checks").glob("*.json")
    record = json.loads(kept.read_text())
    assert record["figures"]["max_difference"] <= graph_check.MAX_DIFFERENCE[backend]
    monkeypatch.setattr(graph_check.processor, "name", lambda: "another")
    backends.load(tmp_path / "exported", backend)
    monkeypatch.setattr("onnxruntime.__version__", "0")
    backends.load(tmp_path / "exported", backend)
    assert len(runs) == 3
    for text in ("", "[]", '{"figures": 3}'):
        for path in kept.parent.glob("*.json"):
            path.write_text(text)
        backends.load(tmp_path / "exported", backend)
    assert len(runs) == 6
    assert capsys.readouterr().err.count("graph") == 0


def test_a_graph_that_was_written_here_is_checked_then_alone(home, models, runs):
    for _ in range(2):
        backends.load(models["layer"], "onnx-int8")
        assert len(runs) == onnx_graph.CHECK_CLIPS  # each clip alone, when it was written


@pytest.mark.parametrize("backend", ["onnx", "onnx-int8"])
def test_a_graph_that_is_wrong_on_this_processor_is_refused_each_time(backend, home, models, tmp_path, runs):
    export.export(models["layer"], tmp_path / "exported", backend == "onnx-int8")
    runs.clear()
    move_the_bias(tmp_path / "exported" / onnx_runtime.GRAPH_FILES[backend])
    for _ in range(2):
        with pytest.raises(UserError, match=rf"^{backend} moves a probability by 0\.\d+ on this processor \(at most"):
            backends.load(tmp_path / "exported", backend)
    assert len(runs) == 1


def test_a_kept_graph_of_another_processor_is_checked_here(home, models, monkeypatch, runs):
    backends.load(models["layer"], "onnx-int8")
    move_the_bias(next(home.glob("*.onnx")))  # what another processor makes of it
    monkeypatch.setattr(graph_check.processor, "name", lambda: "another")
    with pytest.raises(UserError, match="on this processor"):
        backends.load(models["layer"], "onnx-int8")


def damaged():
    """What a graph carries, with bytes changed within a compressed member."""
    content = bytearray(base64.b64decode(graph_check.packed([np.ones((4, 2), dtype=np.float32)], np.ones((1, 8)))))
    start = content.index(b"logits.npy") + len(b"logits.npy")
    content[start : start + 40] = b"\xff" * 40
    return base64.b64encode(content).decode()


@pytest.mark.parametrize("text", ["", "no base64", "bm8gYXJjaGl2ZQ==", damaged()])
def test_what_a_graph_carries_is_read_or_named(text, home, models, tmp_path):
    export.export(models["layer"], tmp_path / "exported")
    path = tmp_path / "exported" / "model.onnx"
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {graph_check.EXPECTED: text})
    onnx.save(graph, path)
    with pytest.raises(UserError, match=r"model.onnx' cannot be checked \(.*\): write it again with `ser-hf export`$"):
        backends.load(tmp_path / "exported", "onnx")


def test_a_graph_without_expected_logits_says_that_it_is_not_checked(home, models, tmp_path, capsys):
    export.export(models["layer"], tmp_path / "exported")
    path = tmp_path / "exported" / "model.onnx"
    graph = onnx.load(path)
    del graph.metadata_props[:]
    onnx.save(graph, path)
    backends.load(tmp_path / "exported", "onnx")
    said = f"'{path}' cannot be compared with torch on this processor: write it again with `ser-hf export`"
    assert said in capsys.readouterr().err
    assert not list(home.parent.glob("graph_checks/*.json"))


def test_without_a_cache_each_load_checks_and_says_so(home, models, tmp_path, monkeypatch, runs, capsys):
    export.export(models["layer"], tmp_path / "exported")
    runs.clear()

    def cache_dir(*parts):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(graph_check.files, "cache_dir", cache_dir)
    for number in (1, 2):
        backends.load(tmp_path / "exported", "onnx")
        assert len(runs) == number
        assert "cannot be kept (Permission denied): each start repeats it" in capsys.readouterr().err


def test_features_and_logits_come_back_as_they_were():
    features = [np.arange(3, dtype=np.float16), np.ones((2, 4), dtype=np.float16)]
    unpacked, logits = graph_check.unpacked(graph_check.packed(features, np.eye(2, dtype=np.float32)))
    for before, after in zip(features, unpacked, strict=True):
        np.testing.assert_array_equal(before, after)
        assert after.dtype == np.float32
    np.testing.assert_array_equal(logits, np.eye(2))
