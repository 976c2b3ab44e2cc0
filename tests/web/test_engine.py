"""The engine of the page answers as the predictor does, in Node with the runtime of browsers."""

import json
import subprocess

import numpy as np
import onnx
import pytest
import soundfile
from helpers.small import ROOT, make_whisper
from onnx import helper, numpy_helper

from ser_hf.inference import web_graphs
from ser_hf.inference.backends.onnx_runtime import open_session
from ser_hf.inference.predictor import Predictor


def write_recordings(folder, recordings):
    """Recordings of several lengths, rates and channels, as files and as raw samples."""
    rng = np.random.default_rng(0)
    speech, rate = soundfile.read(sorted(recordings[0].rglob("*.wav"))[5], dtype="float32")
    long = np.tile(speech, 8)[: 12 * rate]
    made = {
        "clip.wav": (speech[:, None], rate),
        "short.wav": (speech[rate // 2 : rate // 2 + rate // 5, None], rate),
        "long.wav": (long[:, None], rate),
        "pause.wav": (np.concatenate([speech, np.zeros(9 * rate, np.float32), speech])[:, None], rate),
        "offset.wav": (speech[:, None] * 0.5 + 0.2, 48_000),
        "stereo.wav": (np.stack([speech, speech * 0.3], 1), 44_100),
        "inverted.wav": (np.stack([speech, -speech * 0.9], 1), 22_050),
        "tess.wav": (speech[:, None], 24_414),
        "zeros.wav": (np.zeros((rate, 1), np.float32), rate),
        "hiss.wav": (rng.normal(0, 1e-3, (12 * rate, 1)).astype(np.float32), rate),
    }
    clips = []
    for name, (samples, made_rate) in made.items():
        soundfile.write(folder / name, samples, made_rate, subtype="FLOAT")
        samples = samples.astype(np.float32)
        paths = [str(folder / f"{name}-{channel}.f32") for channel in range(samples.shape[1])]
        for channel, path in enumerate(paths):
            samples[:, channel].tofile(path)
        clips.append({"file": name, "rate": made_rate, "channels": paths})
    return clips


def answers(node, folder, clips, **options):
    content = json.dumps({"folder": str(folder), "clips": clips, **options})
    words = [node, ROOT / "web" / "checks" / "answers.mjs"]
    done = subprocess.run(words, input=content, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def clips(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    return folder, write_recordings(folder, recordings)


@pytest.mark.parametrize("kind", ["whisper", "bert", "layer"])
def test_the_page_answers_as_python_does(node, kind, models, clips, tmp_path):
    model = make_whisper(tmp_path / "whisper", seconds=5) if kind == "whisper" else models[kind]
    folder, recordings = clips
    (tmp_path / "site").mkdir()
    settings = web_graphs.write_web_model(model, tmp_path / "site")
    (tmp_path / "site" / "ser_hf.json").write_text(json.dumps(settings))
    predictor = Predictor(model, device="cpu", backend="torch")
    found = answers(node, tmp_path / "site", recordings)
    assert len({row["label"] for row in found}) > 1
    for row, clip in zip(found, recordings, strict=True):
        expected = predictor.predict(str(folder / clip["file"]))
        assert row["scores"] == pytest.approx(expected["scores"], abs=2e-4)
        assert {key: row[key] for key in ("file", "label", "abstained", "duration")} == {
            key: expected[key] for key in ("file", "label", "abstained", "duration")
        }
        for ours, theirs in zip(row["segments"], expected["segments"], strict=True):
            assert ours == pytest.approx(theirs, abs=2e-4)


def test_a_voice_is_adapted_to_as_in_python(node, tuned, recordings, tmp_path):
    (tmp_path / "site").mkdir()
    settings = web_graphs.write_web_model(tuned, tmp_path / "site")
    assert settings["adaptation_head"] is not None
    (tmp_path / "site" / "ser_hf.json").write_text(json.dumps(settings))
    files = sorted(recordings[0].rglob("*-21.wav"))[:7]
    clips = []
    for number, file in enumerate(files):
        samples, rate = soundfile.read(file, dtype="float32")
        samples.tofile(tmp_path / f"{number}.f32")
        clips.append({"file": file.name, "rate": rate, "channels": [str(tmp_path / f"{number}.f32")]})
    found = answers(node, tmp_path / "site", clips, adapt=True)[len(clips) :]
    predictor = Predictor(tuned, device="cpu", backend="torch").adapt([str(file) for file in files])
    for row, file in zip(found, files, strict=True):
        assert row == pytest.approx(list(predictor.predict(str(file))["scores"].values()), abs=1e-4)


def test_sixteen_bits_are_stored_where_nothing_changes(tmp_path):
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(64, 64)).astype(np.float16).astype(np.float32)
    other = rng.normal(size=(64, 64)).astype(np.float32)
    tensors = [numpy_helper.from_array(exact, "exact"), numpy_helper.from_array(other, "other")]
    nodes = [helper.make_node("MatMul", ["x", "exact"], ["y"]), helper.make_node("MatMul", ["y", "other"], ["z"])]
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 64]) for name in ("x", "z")]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "g.onnx")
    x = rng.normal(size=(1, 64)).astype(np.float32)
    before = open_session(tmp_path / "g.onnx").run(None, {"x": x})[0]
    web_graphs.store_in_half(tmp_path / "g.onnx")
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "g.onnx").graph.initializer}
    assert kinds == {"exact_half": onnx.TensorProto.FLOAT16, "other": onnx.TensorProto.FLOAT}
    assert np.array_equal(open_session(tmp_path / "g.onnx").run(None, {"x": x})[0], before)


def test_the_stock_pipeline_of_transformers_js_says_the_same(node, models, clips, tmp_path):
    _, recordings = clips
    (tmp_path / "layer").mkdir()
    web_graphs.write_web_model(models["layer"], tmp_path / "layer")
    paths = [clip["channels"][0] for clip in recordings if clip["file"] in ("clip.wav", "short.wav")]
    content = json.dumps({"folder": f"{tmp_path}/", "name": "layer", "clips": paths})
    words = [node, ROOT / "web" / "checks" / "stock.mjs"]
    done = subprocess.run(words, input=content, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    predictor = Predictor(models["layer"], device="cpu", backend="torch")
    for line, path in zip(done.stdout.splitlines(), paths, strict=True):
        (expected,) = predictor.probabilities([np.fromfile(path, dtype=np.float32)])
        assert json.loads(line) == pytest.approx(dict(zip(predictor.labels, expected, strict=True)), abs=1e-4)


def test_the_modules_pass_their_own_tests(node):
    words = [node, "--test", "test/"]
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(words, cwd=ROOT / "web", **options)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_bundle_is_that_of_the_sources(node, tmp_path):
    bundle = ROOT / "ser_hf" / "app" / "web"
    subprocess.run([node, "build.mjs", tmp_path / "web"], cwd=ROOT / "web", check=True, timeout=60)
    built = {path.relative_to(tmp_path / "web"): path.read_bytes() for path in (tmp_path / "web").rglob("*.*")}
    committed = {path.relative_to(bundle): path.read_bytes() for path in bundle.rglob("*.*")}
    assert sorted(built) == sorted(committed), "run `make web`"
    assert built == committed, "run `make web`"
    assert sum(map(len, committed.values())) < 3 * 2**20
