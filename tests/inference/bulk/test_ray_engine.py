"""Labelling by the actors of Ray, of which one is killed."""

import hashlib
import os
import pickle
import re
import shutil
import signal
import socket
from dataclasses import replace
from functools import partial

import psutil
import pytest
import ray
from helpers import programs, ray_worker
from ray._private.parameter import RayParams

from ser_hf.errors import UserError
from ser_hf.inference.bulk import label as labelling
from ser_hf.inference.bulk import ray_engine
from ser_hf.inference.bulk.labeler import Unit
from ser_hf.inference.bulk.listing import Entry
from ser_hf.inference.bulk.ray_engine import RayEngine, _Actor

WORKERS = 2


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, with room for two actors however few cores there are.

    Its workers are forked where the package is imported, and what shows or scales a cluster is left
    out: all of it would take more time than to label.
    """
    patched = {"setup_worker_path": ray_worker.__file__, "include_log_monitor": False, "no_monitor": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # or the actors starve beside other tests
        patch.setenv(ray_worker.SERVER, programs.own_server())
        patch.setattr("ray._private.parameter.RayParams", partial(RayParams, **patched))
        patch.setattr("ray._private.services.start_api_server", lambda *args, **settings: ("", None))
        patch.setattr(ray, "init", partial(ray.init, num_cpus=WORKERS))
        before = signal.getsignal(signal.SIGTERM)
        ray_engine._connect(None)
        assert signal.getsignal(signal.SIGTERM) is before  # Ray's own would hang pools of processes forked later
        yield
        ray.shutdown()


def actors():
    """Process numbers of the actors that label."""
    for process in psutil.process_iter(["cmdline"]):
        if any(word.startswith("ray::MapWorker") for word in process.info["cmdline"] or ()):
            yield process.pid


class Killing:
    """An engine of which one actor is killed after some answers."""

    def __init__(self, engine, after):
        self.engine, self.after, self.killed = engine, after, None

    def answers(self, units, contents):
        for number, answers in enumerate(self.engine.answers(units, contents)):
            if number == self.after:
                self.killed = min(actors())
                os.kill(self.killed, signal.SIGKILL)
            yield answers


def test_an_actor_that_is_killed_costs_no_row(cluster, run, rows, choice, archive, tmp_path, monkeypatch):
    for number in range(40):
        shutil.copy(archive / f"{number % 8}.wav", archive / f"more-{number}.wav")
    monkeypatch.setattr(labelling, "UNIT", 2)
    run(output=tmp_path / "local", reuse=False)
    engine = Killing(RayEngine(replace(choice, threads=None), workers=WORKERS), after=3)
    outcome = run(engine=engine, reuse=False, shard_rows=7)
    assert engine.killed
    assert (outcome.asked, outcome.errors, outcome.rows) == (50, 2, 50)
    assert rows() == rows(tmp_path / "local")


def test_more_actors_than_fit_are_refused(cluster, choice):
    with pytest.raises(UserError, match=r"3 actors with 1 cores and 0 GPUs each do not fit the cluster of 2 and 0"):
        RayEngine(choice, workers=3)
    with pytest.raises(UserError, match=r"1 actors with 1 cores and 1 GPUs each do not fit"):
        RayEngine(choice, num_gpus=1)


def asked(actor, *paths):
    """What an actor answers for files of a unit."""
    unit = Unit([Entry(str(path), "1", "recording") for path in paths])
    (content,) = actor({"unit": [pickle.dumps(unit)]})["answers"]
    return pickle.loads(content)


def test_an_actor_that_cannot_load_the_model_says_so_and_lives(choice, archive):
    actor = _Actor(replace(choice, model="/gone/model"), None)
    for _ in range(2):
        error = asked(actor, archive / "0.wav")
        assert isinstance(error, UserError)
        assert re.match(r"a Ray actor cannot load the model: '/gone/model' does not exist", str(error))


def test_an_actor_is_told_which_bytes_have_an_answer(cluster, choice, archive):
    key = hashlib.sha256((archive / "1.wav").read_bytes()).hexdigest()
    answers = asked(_Actor(choice, ray.put(frozenset({key}))), archive / "0.wav", archive / "1.wav")
    assert [row["file"] for row in answers.rows] == [str(archive / "0.wav")]
    assert [fetched.recording.file for fetched in answers.repeated] == [str(archive / "1.wav")]


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:port", "ray://127.0.0.1"])
def test_an_address_that_is_none_is_refused(choice, address, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match=rf"--address is '{address}': HOST:PORT, ray://HOST:PORT or auto is needed"):
        RayEngine(choice, address)


def test_a_cluster_that_does_not_answer_is_named(choice, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UserError, match=rf"no Ray cluster answers at '127.0.0.1:{port}' \(Connection refused\)"):
        RayEngine(choice, f"127.0.0.1:{port}")
