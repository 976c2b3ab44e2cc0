"""The way over the Hub, each step in a process: the pushed model predicts as the trained one."""

import json

import pytest
from gradio_client import Client, handle_file
from helpers.app import serving
from helpers.clients import ABSENT, run, ser_hf
from helpers.loopback_hub import Hub
from helpers.small import FAST

from ser_hf.inference.predictor import Predictor

DATASET, MODEL, SPACE = "you/tones", "you/voices", "you/voices-page"

STRANGER = (
    ABSENT
    + """
import json
import soundfile
from huggingface_hub import snapshot_download
from transformers import pipeline

model, space, folder, file = sys.argv[1:]
samples, rate = soundfile.read(file, dtype="float32")
rows = pipeline("audio-classification", model=model, top_k=None)({"array": samples, "sampling_rate": rate})
print(json.dumps({row["label"]: row["score"] for row in rows}))
snapshot_download(space, repo_type="space", local_dir=folder)
"""
)


def prediction(answer):
    """The one dict with scores in what an endpoint returns, whatever else it returns."""
    values = answer if isinstance(answer, list | tuple) else [answer]
    (row,) = [value for value in values if isinstance(value, dict)]
    assert {"label", "score", "scores"} <= set(row)
    return row


@pytest.fixture(scope="module")
def journey(recordings, few, models, tmp_path_factory):
    """A loopback Hub with a dataset, a model and a Space; the folder; the last push's output."""
    place = tmp_path_factory.mktemp("journey")
    with Hub(lasting=True) as remote:

        def step(*words):
            done = ser_hf(remote, place, *words)
            assert done.returncode == 0, done.stderr[-3000:]
            return done.stdout

        ravdess, tess = few.parent / "ravdess", recordings[1]
        step("data", "--ravdess", ravdess, "--tess", tess, "--output", "dataset", "--push_to_hub", DATASET)
        step("finetune", "--dataset", DATASET, "--model", models["bert"], "--output_dir", "model", *FAST)
        output = step("push", "--model", "model", "--repo", MODEL, "--space", SPACE)
        yield remote, place, output


def test_what_was_pushed_answers_as_what_was_trained(journey, recordings):
    remote, place, output = journey
    repos = (remote.repos["dataset"][DATASET], remote.repos["model"][MODEL], remote.repos["space"][SPACE])
    assert [len(repo.commits) for repo in repos] == [1, 1, 1]
    assert all(repo.private for repo in repos)
    pushed, space, secret = output.splitlines()
    assert pushed == f"pushed: {remote.url}/{MODEL}/commit/{repos[1].head}"
    assert space == f"space: {remote.url}/spaces/{SPACE}/commit/{repos[2].head}"
    assert secret.startswith(f"'{MODEL}' is private: ")
    assert json.loads(repos[1].files["results.json"])["dataset"] == DATASET

    file = sorted(recordings[0].rglob("*-21.wav"))[3]
    expected = Predictor(place / "model").predict(str(file))
    away, folder = remote.environment(place / "another home"), place / "space"
    (scores,) = run(away, STRANGER, place, MODEL, SPACE, folder, file)
    assert scores == pytest.approx(expected["scores"], abs=1e-5)

    # no path to the checkout, and a trace of which package was imported
    trace = folder / "imported"
    with (folder / "ser_hf" / "__init__.py").open("a") as package:
        package.write(f"\nopen({str(trace)!r}, 'w').close()\n")
    alone = {key: value for key, value in away.items() if key != "PYTHONPATH"}
    alone |= {"GRADIO_ANALYTICS_ENABLED": "False"}
    with serving(environment=alone, folder=folder, ours=False) as address:  # as the Hub does but for the port
        answer = prediction(Client(address, verbose=False).predict(handle_file(str(file)), api_name="/predict"))
    assert trace.exists()
    assert answer["label"] == expected["label"]
    assert answer["scores"] == pytest.approx(expected["scores"], abs=1e-5)
