"""The code of docs/in_your_code.md and of the README is run as it stands."""

import json
import re
import shutil
import subprocess

import pytest
from helpers import programs
from helpers.small import ROOT

import ser_hf
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import EMOTIONS

BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", (ROOT / "docs" / "in_your_code.md").read_text(), re.DOTALL)
ADDRESS = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def place(tuned, recordings, tmp_path_factory):
    """A folder with `runs/model` and `clip.wav`, as the page supposes."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "runs").mkdir()
    (folder / "runs" / "model").symlink_to(tuned)
    shutil.copy(next(recordings[0].rglob("*.wav")), folder / "clip.wav")
    return folder


def block(holds):
    (match,) = [(kind, text) for kind, text in BLOCKS if holds in text]
    return match


def run(place, kind, text):
    if kind == "python":
        done = programs.run(["-c", text], folder=place, ours="ser_hf" in text)
    else:
        command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_block_is_tested():
    assert len(BLOCKS) == 7


def test_python_of_the_quickstart(place, tuned):
    """The blocks in order: stock `pipeline`, a trained model."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "quickstart.md").read_text(), re.DOTALL)
    shutil.copy(place / "clip.wav", place / "an hour of talk.mp3")  # decoded by content, not by ending
    rows, predictions = run(place, "python", "\n".join(blocks)).splitlines()
    expected = Predictor(tuned).predict(place / "clip.wav")
    assert {row["label"]: row["score"] for row in eval(rows)} == pytest.approx(expected["scores"], abs=2e-6)
    assert [row["scores"] for row in eval(predictions)] == [expected["scores"]] * 2


def test_stock_pipeline(place, tuned):
    rows = eval(run(place, *block("pipeline(")))
    expected = Predictor(tuned).predict(place / "clip.wav")
    assert {row["label"]: row["score"] for row in rows} == pytest.approx(expected["scores"], abs=2e-6)


def test_predictor(place, tuned):
    expected = Predictor(tuned).predict(place / "clip.wav")
    first, *rest = run(place, *block("predictor.each(")).splitlines()
    assert first == json.dumps(expected)
    assert rest == [f"clip.wav {expected['label']}"] * 2


def test_the_whole_job(place, few, recordings, tmp_path):
    (tmp_path / "path" / "to").mkdir(parents=True)
    for name, folder in (("ravdess", few.parent / "ravdess"), ("tess", recordings[1])):
        (tmp_path / "path" / "to" / name).symlink_to(folder)
    shutil.copy(place / "clip.wav", tmp_path)
    kind, text = block("build_dataset(")
    headline, label = run(tmp_path, kind, text.replace("num_train_epochs=12", "max_steps=1")).splitlines()[-2:]
    assert headline.startswith("speaker: UAR 0.")
    assert label in EMOTIONS


def test_every_public_name_is_told():
    page = (ROOT / "docs" / "in_your_code.md").read_text()
    assert [name for name in ser_hf.__all__ if f"`{name}`" not in page and name != "__version__"] == []


def test_one_voice(place, tuned):
    voice = Predictor(tuned).adapt([place / "clip.wav"] * 2)
    label = voice.predict(place / "clip.wav")["label"]
    assert run(place, *block("predictor.adapt(")).splitlines() == [label, label]
    assert (place / "anna.safetensors").is_file()


def test_running_answers(place):
    lines = run(place, *block("predictor.stream(")).splitlines()
    assert [line.split()[0] for line in lines] == [f"{second}.0" for second in range(1, len(lines) + 1)]
    assert {line.split()[1] for line in lines} <= set(EMOTIONS)


def test_gradio_client(place, tuned, app_url):
    kind, text = block("gradio_client")
    expected = Predictor(tuned).predict(place / "clip.wav")
    printed = [line for line in run(place, kind, text.replace(ADDRESS, app_url)).splitlines() if line[:1] in "{["]
    single, batch, timeline = map(eval, printed)
    assert json.dumps(single) == json.dumps(expected)
    assert batch == [expected] * 2
    assert timeline == {"duration": expected["duration"], "segments": expected["segments"]}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(place, tuned, app_url):
    kind, text = block("curl")
    form, raw, batch, timeline, health = run(place, kind, text.replace(ADDRESS, app_url)).splitlines()
    expected = Predictor(tuned).predict(place / "clip.wav")
    assert form == raw == json.dumps(expected)
    assert json.loads(batch) == [expected] * 2
    assert json.loads(timeline) == {"duration": expected["duration"], "segments": expected["segments"]}
    assert json.loads(health)["status"] == "ok"
