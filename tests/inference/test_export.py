import json
import logging
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from helpers.small import make_whisper
from scipy.special import softmax
from transformers import AutoModelForAudioClassification, HubertConfig, Wav2Vec2FeatureExtractor, WavLMConfig

from ser_hf import audio
from ser_hf.cli import publish
from ser_hf.errors import UserError
from ser_hf.inference import backends, export
from ser_hf.inference.backends import graph_check, onnx_graph, onnx_runtime
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import ID2LABEL, LABEL2ID
from ser_hf.models import loading, padding
from ser_hf.models.features import front_end_of

SECONDS = (0.1, 0.13, 0.5, 1.0, 1.37, 2.0, 3.3, 6.0)


@pytest.fixture(scope="module")
def int8(tuned, tmp_path_factory):
    """The folder of the tuned model, exported with int8."""
    folder = tmp_path_factory.mktemp("exported") / "int8"
    export.export(tuned, folder, int8=True)
    return folder


def loaded(kind, models):
    """A small model, its extractor and its rule; of the kinds of `models`, `tiny`, or another
    architecture."""
    if kind in models:
        return loading.load_for_prediction(models[kind])
    torch.manual_seed(0)
    if kind == "tiny":
        model, extractor = loading.load_for_training("tiny")
    else:
        config = {"hubert": HubertConfig, "wavlm": WavLMConfig}[kind](
            **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
            **{"conv_dim": (16, 16, 16), "conv_kernel": (10, 8, 8), "conv_stride": (10, 8, 4)},
            **{"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 16},
            **{"id2label": ID2LABEL, "label2id": LABEL2ID},
        )
        model, extractor = AutoModelForAudioClassification.from_config(config), Wav2Vec2FeatureExtractor()
        model.classifier.weight.data *= 50
    rule = padding.ignore_padding(model)
    return model.eval(), extractor, rule


def run_graph(session, features):
    return session.run(["logits"], {session.get_inputs()[0].name: features})[0]


@pytest.mark.parametrize("kind", ["bert", "group", "layer", "tiny", "hubert", "wavlm"])
def test_a_graph_predicts_as_torch_for_any_number_of_clips_of_any_length(kind, models, tmp_path):
    model, extractor, rule = loaded(kind, models)
    onnx_graph.write_graph(model, extractor, rule, tmp_path / "model.onnx")
    assert not model.training
    session, rng = onnx_runtime.open_session(tmp_path / "model.onnx"), np.random.default_rng(0)
    for seconds in SECONDS:
        noise = rng.normal(scale=0.1, size=(3, int(seconds * audio.SAMPLING_RATE))).astype(np.float32)
        features = np.stack([front_end_of(extractor).extract(clip) for clip in noise])
        with torch.inference_mode():
            wanted = softmax(model(torch.from_numpy(features)).logits.numpy(), axis=-1)
        np.testing.assert_allclose(softmax(run_graph(session, features), axis=-1), wanted, atol=1e-5)
        np.testing.assert_allclose(softmax(run_graph(session, features[:1]), axis=-1), wanted[:1], atol=1e-5)


def test_the_mask_of_another_batch_is_not_baked_in(models, tmp_path):
    model, extractor, rule = loaded("group", models)
    samples = torch.randn(2, 8000)
    with torch.inference_mode():
        wanted = model(samples).logits
        model(samples, attention_mask=torch.tensor([[1] * 8000, [1] * 4000 + [0] * 4000]))
    onnx_graph.write_graph(model, extractor, rule, tmp_path / "model.onnx")
    np.testing.assert_allclose(
        run_graph(onnx_runtime.open_session(tmp_path / "model.onnx"), samples.numpy()), wanted, atol=1e-5
    )


@pytest.mark.parametrize(("quantised", "largest"), [(False, 1e-5), (True, 0.3)])
@pytest.mark.parametrize("kind", ["bert", "group"])
def test_a_graph_gives_the_embeddings_and_the_digest_of_torch(kind, quantised, largest, home, models, clips):
    torchs = backends.load(models[kind], "torch", "cpu")
    graph = backends.load(models[kind], "onnx-int8" if quantised else "onnx")
    assert graph.digest == torchs.digest
    for clip in clips[:3]:
        features = front_end_of(torchs.extractor).extract(clip)[None]
        logits, embeddings = graph.outputs(features)
        np.testing.assert_array_equal(logits, graph.logits(features))
        wanted = torchs.outputs(features)[1]
        assert embeddings.shape == wanted.shape
        np.testing.assert_allclose(embeddings, wanted, atol=largest * np.abs(wanted).max())


def test_a_graph_without_embeddings_predicts_and_says_how_to_adapt(home, models, clips):
    new = backends.load(models["layer"], "onnx")
    graph = onnx.load(new._graph)
    del graph.graph.output[1], graph.metadata_props[:]
    onnx.save(graph, new._graph)
    old = Predictor(models["layer"], backend="onnx")
    np.testing.assert_array_equal(
        old.probabilities(clips[:1]), softmax(new.logits(old.session._features(clips[:1])), axis=-1)
    )
    with pytest.raises(UserError, match=r"gives no embeddings: write it again with `ser-hf export`$"):
        old.adapt(clips[:2])


def test_the_mean_error_of_int8_is_taken_back(tmp_path, clips):
    model, extractor, rule = loading.load_for_prediction(make_whisper(tmp_path, seconds=4))
    front_end, graphs = front_end_of(extractor), []
    for int8 in (False, True):
        onnx_graph.write_graph(model, extractor, rule, tmp_path / f"{int8}.onnx", int8)
        graphs.append(tmp_path / f"{int8}.onnx")
    uncorrected = onnx.load(graphs[1])
    correction = next(tensor for tensor in uncorrected.graph.initializer if tensor.name == "correction")
    taken_back = onnx.numpy_helper.to_array(correction)
    # not 0: ONNX Runtime would leave the addition out, and fuse what is around it otherwise
    correction.CopyFrom(onnx.numpy_helper.from_array(np.full_like(taken_back, 1e-12), "correction"))
    onnx.save(uncorrected, tmp_path / "uncorrected.onnx")
    graphs.append(tmp_path / "uncorrected.onnx")
    features = [{"input_features": front_end.extract(clip)[None]} for clip in clips[:12]]
    exact, corrected, rounded = (
        np.concatenate([onnx_runtime.open_session(graph).run(["embedding"], one)[0] for one in features])
        for graph in graphs
    )
    np.testing.assert_allclose(corrected - rounded, np.tile(taken_back, (12, 1)), atol=1e-6)
    with_it, without = (np.linalg.norm((values - exact).mean(axis=0)) for values in (corrected, rounded))
    assert with_it < 0.5 * without


def test_int8_leaves_the_head_and_what_it_moves_most_in_fp32(tmp_path):
    onnx_graph.write_graph(
        *loading.load_for_prediction(make_whisper(tmp_path, seconds=4)), tmp_path / "model.onnx", int8=True
    )
    graph = onnx.load(tmp_path / "model.onnx").graph
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer if tensor.data_type == 1}  # floats
    assert [32, 8] in weights.values() or [8, 32] in weights.values()
    assert sum(node.op_type == "MatMulInteger" for node in graph.node) == 3 + 2
    kept = {node.name.split("/")[-2] for node in graph.node if node.op_type == "MatMul" and "layers" in node.name}
    assert kept == {"self_attn", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}  # self_attn: of activations


@pytest.mark.parametrize("kind", ["bert", "group"])
def test_int8_quantises_no_convolution_and_logs_nothing(kind, models, tmp_path, caplog):
    onnx_graph.write_graph(*loaded(kind, models), tmp_path / "model.onnx", int8=True)
    graph = onnx.load(tmp_path / "model.onnx").graph
    kinds = {node.op_type for node in graph.node}
    assert {"MatMulInteger", "Conv"} <= kinds
    assert not kinds & {"ConvInteger", "QLinearConv"}
    inputs = {name for node in graph.node if node.op_type == "Conv" for name in node.input}
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert {stored[name] for name in inputs & stored.keys()} == {onnx.TensorProto.FLOAT}
    assert not [record for record in caplog.records if record.name == "root"]


def test_int8_leaves_logging_as_it_was(models, tmp_path, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    filters = list(root.filters)
    onnx_graph.write_graph(*loaded("layer", models), tmp_path / "model.onnx", int8=True)
    assert root.handlers == []
    assert root.filters == filters


def test_int8_keeps_the_labels_of_a_trained_model(tuned, int8, clips):
    torchs, graphs = (Predictor(model, backend=name) for model, name in ((tuned, "torch"), (int8, "onnx-int8")))
    torchs, graphs = torchs.probabilities(clips), graphs.probabilities(clips)
    assert 0 < np.abs(torchs - graphs).max() < 0.05
    assert (torchs.argmax(-1) == graphs.argmax(-1)).mean() > 0.95


@pytest.mark.parametrize("quantised", [False, True])
def test_an_exported_folder_needs_no_safetensors(quantised, tuned, clips, tmp_path, monkeypatch):
    folder, backend = tmp_path / "exported", "onnx-int8" if quantised else "onnx"
    report = export.export(tuned, folder, quantised, clips[:4])
    files = {"config.json", "preprocessor_config.json", "export.json", "model_int8.onnx" if quantised else "model.onnx"}
    assert {path.name for path in folder.iterdir()} == files | {
        "adaptation_head.safetensors",
        "embedding_reference.safetensors",
        "LICENSE-BACKBONE",
    }
    assert json.loads((folder / "export.json").read_text()) == report
    assert (report["model"], report["backend"]) == (tuned.name, backend)
    assert report["digest"] == loading.digest(loading.load_for_prediction(tuned)[0])
    assert report["check"]["clips"] == 4
    assert report["check"]["max_difference"] < (0.1 if quantised else 1e-4)
    monkeypatch.delattr(loading, "load_for_prediction")
    predictor = Predictor(folder, backend=backend)
    assert predictor.seen_speakers.protocol == "speaker"
    answer = predictor.predict({"array": clips[0], "sampling_rate": 16_000})
    assert set(answer["scores"]) == set(LABEL2ID)


@pytest.mark.parametrize("quantised", [False, True])
def test_the_check_refuses_other_predictions_and_leaves_nothing(quantised, home, models, tmp_path, monkeypatch):
    original = onnx_graph.write_graph

    def tampered(model, extractor, rule, path, int8=False):
        original(model, extractor, rule, path, int8)
        graph = onnx.load(path)
        bias = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("classifier.bias"))
        values = onnx.numpy_helper.to_array(bias).copy()
        values[0] += 3
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        onnx.save(graph, path)

    monkeypatch.setattr(onnx_graph, "write_graph", tampered)
    backend = "onnx-int8" if quantised else "onnx"
    with pytest.raises(UserError, match=rf"^{backend} moves a probability by 0\.\d+ .* and changes .* use .* instead$"):
        export.export(models["layer"], tmp_path / "exported", quantised)
    with pytest.raises(UserError, match=f"^{backend} moves"):
        backends.load(models["layer"], backend)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert all(path.suffix == ".lock" for path in home.iterdir())


@pytest.mark.parametrize(("lead", "changed"), [(0.04, 0), (0.06, 1)])
def test_labels_that_lead_by_little_may_change(lead, changed, models, monkeypatch):
    _, extractor, _ = loading.load_for_prediction(models["layer"])
    torchs, graphs = np.log([[0.5 + lead / 2, 0.5 - lead / 2]]), np.log([[0.49, 0.51]])
    fake = SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name="x")], run=lambda names, features: [graphs])
    monkeypatch.setattr(onnx_graph, "open_session", lambda path: fake)
    model = lambda features: SimpleNamespace(logits=torch.from_numpy(torchs))  # noqa: E731
    figures = onnx_graph.compare(model, extractor, None, [np.zeros(4000, dtype=np.float32)])
    assert figures == {
        "clips": 1,
        "max_difference": pytest.approx(0.01 + lead / 2),
        "same_labels": 0,
        "changed": changed,
    }


def test_the_check_accepts_close_predictions():
    figures = {"clips": 10, "max_difference": 0.03, "same_labels": 0.9, "changed": 0}
    graph_check.refuse_difference(figures, "onnx-int8")
    for bad in ({"max_difference": 0.2}, {"max_difference": float("nan")}, {"changed": 1}):
        with pytest.raises(UserError):
            graph_check.refuse_difference(figures | bad, "onnx-int8")


def test_what_cannot_be_exported_ends_in_one_line(models, tmp_path, monkeypatch):
    def refuses(*args, **kwargs):
        raise torch.onnx.errors.UnsupportedOperatorError("aten::fft_rfft", 17, None)

    output = tmp_path / "exported"
    monkeypatch.setattr(torch.onnx, "export", refuses)
    with pytest.raises(UserError, match=r"^a wav2vec2 cannot be exported \(.*fft_rfft.*\): use --backend torch$"):
        export.export(models["layer"], output)
    monkeypatch.setattr(onnx_graph, "MAX_BYTES", 100)
    with pytest.raises(UserError, match=r"^0.0 GiB of weights do not fit an ONNX file"):
        export.export(models["layer"], output)
    assert not list(tmp_path.iterdir())
    output.mkdir()
    with pytest.raises(UserError, match="exists already"):
        export.export(models["layer"], output)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(package, home, models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for attempt in (
        lambda: backends.load(models["layer"], "onnx"),
        lambda: export.export(models["layer"], tmp_path / "exported"),
    ):
        with pytest.raises(UserError, match=rf"^ONNX needs the package {package}: pip install {package}$"):
            attempt()


def test_the_check_takes_clips_of_many_lengths_and_the_same_each_time():
    voices = list(onnx_graph.check_clips())
    lengths = [len(voice) / audio.SAMPLING_RATE for voice in voices]
    assert min(lengths) == 0.1
    assert max(lengths) > 3
    assert all(np.array_equal(first, second) for first, second in zip(voices, onnx_graph.check_clips(), strict=True))


def test_clips_of_a_dataset_are_drawn(built, rows):
    drawn = publish.drawn_clips(built, count=5)
    assert len(drawn) == 5
    assert any(np.array_equal(drawn[0], audio.load(row["audio"])) for row in rows)
    assert all(
        np.array_equal(first, second) for first, second in zip(drawn, publish.drawn_clips(built, 5), strict=True)
    )
