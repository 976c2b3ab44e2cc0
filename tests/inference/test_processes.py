"""A predictor in other processes: forked, started anew, pickled, copied."""

import copy
import json
import multiprocessing
import os
import pickle
import threading
import time
from functools import partial

import datasets
import numpy as np
import pytest
import torch
from helpers import programs
from helpers.processes import in_fork
from helpers.small import make_model

from ser_hf import Predictor, audio
from ser_hf.inference.pool import ForkError, InferencePool
from ser_hf.inference.speaker_adaptation import AdaptationError

RATE = audio.SAMPLING_RATE

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture(scope="module", params=["torch", "onnx"])
def predictor(request, tuned):
    """A predictor that has answered, in a process in which OpenMP has threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    loaded = Predictor(tuned, device="cpu", backend=request.param, threads=2)
    loaded.predict(np.zeros(RATE, dtype=np.float32))
    torch.ones(1_000, 1_000).sum().item()
    yield loaded
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def files(recordings):
    return [str(path) for path in sorted(recordings[0].rglob("*.wav"))[::60]]


@pytest.fixture(scope="module")
def speech(files):
    """12 s."""
    return np.resize(np.concatenate([audio.load(file) for file in files]), 12 * RATE)


def clips_at_once(predictor, files, speech):
    return predictor.predict(files)


def long_recording(predictor, files, speech):
    return predictor.predict(speech)


def stream(predictor, files, speech):
    return list(predictor.stream(np.split(speech[: 3 * RATE], 6)))


def adapted(predictor, files, speech):
    return predictor.adapt_to_one_speaker(files).predict(files[0])


def embeddings(predictor, files, speech):
    return np.concatenate(predictor.outputs([speech[:RATE], speech]), axis=1).tolist()


def loaded_anew(predictor, files, speech):
    return Predictor(predictor.name, device="cpu", backend=predictor.backend).predict(files[0])


def weights(predictor, files, speech):
    return [values.detach().double().sum().item() for values in predictor.model.parameters()]


USES = [clips_at_once, long_recording, stream, adapted, embeddings, loaded_anew, weights]


@pytest.mark.parametrize("use", USES)
def test_a_forked_process_gives_the_same_answers(use, predictor, files, speech):
    expected = use(predictor, files, speech)
    assert in_fork(lambda: use(predictor, files, speech)) == expected
    assert use(predictor, files, speech) == expected


def test_a_fork_of_a_fork_answers(predictor, files):
    def fork_again():
        return in_fork(lambda: predictor.predict(files[0]))

    assert in_fork(fork_again) == predictor.predict(files[0])


class Locking:
    """A backend that holds a lock while it computes, as ONNX Runtime's memory does."""

    def __init__(self, backend, seconds):
        self._backend, self._seconds, self._lock = backend, seconds, threading.Lock()

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def logits(self, features):
        with self._lock:
            time.sleep(self._seconds)
            return self._backend.logits(features)


@pytest.fixture
def locking(tuned):
    loaded = Predictor(tuned, device="cpu", backend="torch")
    loaded.session.backend = Locking(loaded.session.backend, seconds=0.02)
    return loaded


def test_a_fork_waits_for_the_threads_that_compute(locking, files):
    expected, stop = locking.predict(files[0]), threading.Event()

    def keep_busy():
        while not stop.is_set():
            assert locking.predict(files[0]) == expected

    threads = [threading.Thread(target=keep_busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        forks = [
            threading.Thread(target=lambda: answers.append(in_fork(lambda: locking.predict(files[0])))) for _ in "ab"
        ]
        answers = [in_fork(lambda: locking.predict(files[0])) for _ in range(3)]
        for fork in forks:  # two at a time, too
            fork.start()
        for fork in forks:
            fork.join()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert answers == 5 * [expected]


def test_a_function_of_the_pool_may_fork(predictor, files):
    pool = predictor.session.pool
    assert pool.submit(in_fork, partial(int, "7")).result() == 7
    assert predictor.predict(files[0])["file"]


def test_what_was_begun_before_the_fork_says_so(locking, files):
    begun = locking.each(5 * files)
    first = next(begun)
    with pytest.raises(ForkError, match="was begun before the fork: begin it in the forked process"):
        in_fork(lambda: list(begun))
    assert [first, *begun] == locking.predict(5 * files)


def test_a_gpu_in_a_forked_process_is_refused_in_words():
    pool = InferencePool("cuda")
    assert pool.submit(int, "3").result() == 3
    with pytest.raises(
        ForkError, match=r"cannot use the GPU of its parent: start it with multiprocessing\.get_context"
    ):
        in_fork(lambda: pool.submit(int, "3").result())


@pytest.mark.parametrize("predictor", ["onnx"], indirect=True)
def test_pools_of_processes_and_dataset_map(predictor, files):
    expected = [answer["label"] for answer in predictor.predict(files)]

    def answer():
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pooled = pool.map(predictor.predict, files)
        rows = datasets.Dataset.from_dict({"file": files})
        mapped = rows.map(lambda row: {"label": predictor.predict(row["file"])["label"]}, num_proc=2)
        return [row["label"] for row in pooled], list(mapped["label"])

    assert in_fork(answer, seconds=120) == (expected, expected)


class Labels(torch.utils.data.Dataset):
    def __init__(self, predictor, files):
        self.predictor, self.files = predictor, files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.predictor.predict(self.files[index])["label"]


def test_workers_of_a_data_loader(predictor, files):
    expected = [answer["label"] for answer in predictor.predict(files)]
    loader = torch.utils.data.DataLoader(Labels(predictor, files), 2, num_workers=2, timeout=60)
    assert [label for batch in loader for label in batch] == expected


LOADS = """
import json, pickle, sys
for one in pickle.load(open(sys.argv[1], "rb")):
    print(json.dumps(one.predict(sys.argv[2])))
"""


def test_a_new_process_loads_it_from_a_pickle(tuned, files, tmp_path):
    predictor = Predictor(tuned, device="cpu")
    adapted = predictor.adapt_to_one_speaker(files)
    expected = [predictor.predict(files[0]), adapted.predict(files[0])]
    (tmp_path / "pickled").write_bytes(pickle.dumps([predictor, adapted]))
    run = programs.run(["-c", LOADS, tmp_path / "pickled", files[0]], ours=False)
    assert [json.loads(line) for line in run.stdout.splitlines()] == expected, run.stderr[-2000:]


def pickled(predictor):
    return pickle.loads(pickle.dumps(predictor))


@pytest.mark.parametrize(
    ("duplicate", "settings"),
    [
        (pickled, {}),
        (pickled, {"backend": "torch"}),
        (copy.deepcopy, {"backend": "onnx"}),
        (copy.copy, {"backend": "torch"}),
    ],
)
def test_copies_keep_the_model_and_the_settings(duplicate, settings, tuned, files, speech, tmp_path, monkeypatch):
    monkeypatch.chdir(tuned.parent)
    predictor = Predictor(tuned.name, device="cpu", batch_size=3, **settings)
    predictor.abstain_below = 0.9
    predictor = predictor.adapt(files)
    twin = duplicate(predictor)
    assert twin.predict([files[0], speech]) == predictor.predict([files[0], speech])
    assert (twin.session.batch_size, twin.backend) == (3, predictor.backend)
    twin.abstain_below = 0.0
    assert predictor.abstain_below == 0.9


def test_a_pickle_names_its_folder_and_not_that_of_the_installation(tuned, monkeypatch, tmp_path):
    monkeypatch.chdir(tuned.parent)
    predictor = Predictor(tuned.name, device="cpu", backend="torch")
    monkeypatch.chdir(tmp_path)  # what is pickled later is of the folder that it was loaded from
    pickled = pickle.dumps(predictor)
    assert pickle.loads(pickled).name == str(tuned)
    assert b"pretrained" not in pickle.dumps(Predictor(device="cpu", backend="torch"))


def test_a_voice_of_other_weights_is_refused(tmp_path, files):
    make_model("bert", tmp_path / "model")
    pickled = pickle.dumps(Predictor(tmp_path / "model", device="cpu", backend="torch").adapt(files))
    make_model("bert", tmp_path / "model", seed=1)
    with pytest.raises(AdaptationError, match="another model"):
        pickle.loads(pickled)
