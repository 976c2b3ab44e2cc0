"""Threads that run a model, and what becomes of them in a forked process.

A fork copies the memory of a process and of its threads only the one that forked. In the copy a
pool has no thread, OpenMP waits for threads that are gone, and a lock that another thread held
stays locked. `multiprocessing`, `DataLoader`, `Dataset.map` and gunicorn fork on Linux. So a fork
waits until no thread of a pool computes, and each pool of the copy starts new threads.
"""

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import joblib
import torch

from ser_hf.errors import UserError


class ForkError(UserError):
    """What was begun in another process and cannot go on in a forked one."""


class PoolFuture(Future):
    """The result of a function that runs in a pool; only the process that asked for it gets it."""

    def __init__(self) -> None:
        """Begin without a result."""
        super().__init__()
        self._process = os.getpid()

    def result(self, timeout: float | None = None) -> object:
        """Wait for the result.

        Raises:
            ForkError: in a forked process, where it was not there before the fork.
        """
        if self._process != os.getpid() and not self.done():
            raise ForkError("the prediction was begun before the fork: begin it in the forked process")
        return super().result(timeout)


class InferencePool:
    """Threads that run a model.

    On a CPU there is one thread for each core that the process may use, and torch computes with
    that thread alone: a clip waits for no other, and its logits are the same to the last bit
    however many clips run at a time. A GPU has one thread.
    """

    started = False
    """Whether there was any pool in this process."""

    def __init__(self, device: str, count: int | None = None) -> None:
        """Start the threads for a device, of a CPU `count`, or one for each core."""
        self.on_gpu = device != "cpu"
        self.count = 1 if self.on_gpu else count or joblib.cpu_count()
        self._forked = False
        self._start()
        _pools.add(self)
        InferencePool.started = True

    def submit(self, function: Callable, *arguments: object) -> PoolFuture:
        """Run a function in one of the threads.

        Raises:
            ForkError: on a GPU in a forked process.
        """
        if self._forked and self.on_gpu:
            raise ForkError(
                "a forked process cannot use the GPU of its parent: start it with "
                "multiprocessing.get_context('spawn'), or load the model on the CPU"
            )
        future = PoolFuture()
        self._threads.submit(self._run, future, function, arguments)
        return future

    def pause(self) -> None:
        """Begin no other function, and wait for those that run."""
        self._gate.clear()
        for _ in range(self.count):
            self._running.acquire()

    def resume(self) -> None:
        """Go on after `pause`."""
        for _ in range(self.count):
            self._running.release()
        self._gate.set()

    def restart(self) -> None:
        """Start new threads in a forked process; what waited for the old ones is lost."""
        self._forked = True
        self._start()

    def _start(self) -> None:
        # torch keeps this number for each thread: that of the caller stays
        initializer = None if self.on_gpu else lambda: torch.set_num_threads(1)
        self._threads = ThreadPoolExecutor(self.count, "predictor", initializer)
        self._running, self._gate = threading.Semaphore(self.count), threading.Event()
        self._gate.set()

    def _run(self, future: PoolFuture, function: Callable, arguments: tuple) -> None:
        self._gate.wait()
        with self._running:  # until the outcome is set: a fork must not copy a future that is locked
            if not future.set_running_or_notify_cancel():
                return
            _thread.works = True
            try:
                result = function(*arguments)
            except BaseException as error:  # whatever it is, the one who asks for the result gets it
                future.set_exception(error)
            else:
                future.set_result(result)
            finally:
                _thread.works = False


_pools: "weakref.WeakSet[InferencePool]" = weakref.WeakSet()
_forking = threading.Lock()  # one fork at a time: two would wait for each other's pauses
_paused: list[InferencePool] = []
_thread = threading.local()


def _before_fork() -> None:
    if getattr(_thread, "works", False):  # a function in a pool forks: it cannot wait for itself
        return
    _forking.acquire()
    _paused[:] = _pools
    for pool in _paused:
        pool.pause()


def _after_in_parent() -> None:
    if getattr(_thread, "works", False):
        return
    for pool in _paused:
        pool.resume()
    _paused.clear()
    _forking.release()


def _after_in_child() -> None:
    global _forking
    _forking = threading.Lock()
    _paused.clear()
    _thread.works = False
    if InferencePool.started:  # loading a model started OpenMP's threads, and more than one would wait for them
        torch.set_num_threads(1)
    for pool in _pools:
        pool.restart()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork; `subprocess` forks without these
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
