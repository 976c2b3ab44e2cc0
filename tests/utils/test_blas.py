"""Products of NumPy take one thread where clips are prepared, and give the others back."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers.processes import in_fork
from helpers.small import ROOT
from transformers import SeamlessM4TFeatureExtractor, WhisperFeatureExtractor

from ser_hf.audio import resampling
from ser_hf.models.features import front_end_of
from ser_hf.utils import blas

CLIP = np.sin(np.arange(16_000, dtype=np.float32) / 20)


def threads():
    """Numbers of threads of BLAS, as the test before says that they are set."""
    return {1 if blas._users else 2}


REAL = """
from threadpoolctl import threadpool_info, threadpool_limits
import numpy
from ser_hf.utils import blas
def threads():
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}
with threadpool_limits(limits=2, user_api="blas"):
    print(threads())
    with blas.one_thread():
        print(threads())
    print(threads())
"""


def test_libraries_have_one_thread_meanwhile():
    # a process of its own: libraries that others loaded here may keep to one thread
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["{2}", "{1}", "{2}"]


def test_one_thread_until_the_last_user_has_gone():
    first, second = blas.one_thread(), blas.one_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert threads() == {1}
    second.__exit__(None, None, None)
    assert threads() == {2}


def test_the_number_comes_back_behind_an_error():
    with pytest.raises(ZeroDivisionError), blas.one_thread():
        _ = 1 / 0
    assert threads() == {2}


def test_the_number_comes_back_behind_threads_that_overlap():
    together = threading.Barrier(4)

    def use():
        for _ in range(50):
            with blas.one_thread():
                pass
        together.wait()

    users = [threading.Thread(target=use) for _ in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert threads() == {2}


def test_a_fork_counts_anew():
    def child():
        with blas.one_thread():
            pass
        return blas._users

    with blas.one_thread():
        assert in_fork(child) == 0


class Watched:
    """A matrix that remembers the threads of the products it was part of."""

    __array_ufunc__ = None  # so that NumPy leaves the product to `__rmatmul__`

    def __init__(self, matrix):
        self.matrix, self.seen = matrix, []

    def __getattr__(self, name):
        return getattr(self.matrix, name)

    def __rmatmul__(self, other):
        self.seen.append(threads())
        return other @ self.matrix


@pytest.mark.parametrize(
    ("extractor", "holder", "name"),
    [
        (WhisperFeatureExtractor(chunk_length=2), "front_end", "_filters"),
        (SeamlessM4TFeatureExtractor(), "extractor", "mel_filters"),
    ],
    ids=["whisper", "w2v-bert"],
)
def test_mel_frames_take_one_thread(extractor, holder, name):
    front_end = front_end_of(extractor)
    expected = front_end.extract(CLIP)
    owner = front_end if holder == "front_end" else extractor
    watched = Watched(getattr(owner, name))
    setattr(owner, name, watched)
    np.testing.assert_array_equal(front_end.extract(CLIP), expected)
    assert watched.seen
    assert all(seen == {1} for seen in watched.seen)
    assert threads() == {2}


def test_resampling_takes_one_thread(monkeypatch):
    watched = Watched(resampling._filter_matrix(3, 1))
    monkeypatch.setattr(resampling, "_filter_matrix", lambda *rates: watched)
    resampling.resample(CLIP, 48_000)
    assert watched.seen
    assert all(seen == {1} for seen in watched.seen)
