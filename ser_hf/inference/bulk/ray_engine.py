"""Actors of a Ray cluster that label, each with a model of its own."""

import logging
import pickle
import signal
import socket
import threading
from collections.abc import Container, Iterator
from dataclasses import replace
from itertools import islice

import ray
from ray.data import ActorPoolStrategy, DataContext

from ser_hf.errors import UserError, first_line
from ser_hf.inference.bulk.labeler import Answers, Labeler, ModelChoice, Unit
from ser_hf.inference.bulk.reading import LostSource

_WAVE = 4_096
"""Units that Ray Data is given at a time: it holds all of them in memory."""
_CONNECTED = 10  # seconds in which a cluster must answer


class RayEngine:
    """Ray Data over units: `map_batches` with an actor class.

    An actor or a machine that dies costs the units that it had, which Ray Data gives to another.
    """

    def __init__(
        self,
        choice: ModelChoice,
        address: str | None = None,
        workers: int | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
    ) -> None:
        """Connect to a cluster, or start Ray on this machine.

        Args:
            choice: the model of each actor.
            address: `HOST:PORT` of a cluster, `ray://HOST:PORT`, or `auto` on one of its machines.
            workers: actors; as many as fit if None.
            num_cpus: cores of an actor, whose model runs in as many threads; one if None.
            num_gpus: GPUs of an actor.

        Raises:
            UserError: where the cluster does not answer, or is too small for one actor.
        """
        _connect(address)
        self._cpus, self._gpus = num_cpus or 1, num_gpus or 0
        threads = choice.threads or max(1, int(self._cpus))
        self._choice = replace(choice, threads=threads, readers=choice.readers or 2 * threads)
        there = ray.cluster_resources()
        fit = int(there.get("CPU", 0) // self._cpus)
        if self._gpus:
            fit = min(fit, int(there.get("GPU", 0) // self._gpus))
        if fit < 1 or fit < (workers or 1):
            raise UserError(
                f"{workers or 1} actors with {self._cpus:g} cores and {self._gpus:g} GPUs each do not fit the cluster "
                f"of {there.get('CPU', 0):g} and {there.get('GPU', 0):g}: lower --workers, --num_cpus or --num_gpus"
            )
        self._workers = workers or fit

    def answers(self, units: Iterator[Unit], contents: Container[str]) -> Iterator[Answers]:
        """The answers of units, in any order.

        Args:
            units: what to read.
            contents: SHA-256 digests of bytes that need not be asked; actors get a copy.

        Raises:
            UserError: where actors cannot load the model, or files that they cannot reach.
        """
        contents = getattr(contents, "contents", contents)
        known = ray.put(contents) if getattr(contents, "places", ()) else None
        while wave := list(islice(units, _WAVE)):
            items = [{"unit": pickle.dumps(unit)} for unit in wave]
            answered = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                _Actor,
                batch_size=1,
                fn_constructor_kwargs={"choice": self._choice, "known": known},
                compute=ActorPoolStrategy(min_size=self._workers, max_size=self._workers),
                num_cpus=self._cpus,
                num_gpus=self._gpus,
            )
            for batch in answered.iter_batches(batch_size=None):
                for content in batch["answers"]:
                    answers = pickle.loads(content)
                    if isinstance(answers, UserError):
                        raise answers
                    yield answers


class _Actor:
    """A process of the cluster with a model."""

    def __init__(self, choice: ModelChoice, known: "ray.ObjectRef | None") -> None:
        self._error: UserError | None = None
        self._known = frozenset() if known is None else ray.get(known)
        try:
            self._labeler = Labeler(choice)
        except UserError as error:  # Ray would start the actor again and again
            self._error = UserError(f"a Ray actor cannot load the model: {error}")

    def __call__(self, batch: dict) -> dict:
        return {"answers": [pickle.dumps(self._answers(pickle.loads(unit))) for unit in batch["unit"]]}

    def _answers(self, unit: Unit) -> Answers | UserError:
        if self._error is not None:
            return self._error
        joined = Answers()
        try:
            for answers in self._labeler.answers([unit], self._known):
                joined.lost += answers.lost
                joined.rows += answers.rows
                joined.repeated += answers.repeated
                joined.finished += answers.finished
        except LostSource as error:
            return error
        return joined


def _connect(address: str | None) -> None:
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if ray.is_initialized():
        return
    if address not in (None, "auto"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"--address is '{address}': HOST:PORT, ray://HOST:PORT or auto is needed")
        try:  # Ray itself waits for minutes
            socket.create_connection((host, int(port)), timeout=_CONNECTED).close()
        except OSError as error:
            raise UserError(
                f"no Ray cluster answers at '{address}' ({error.strerror or first_line(error)}): check --address"
            ) from None
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, TimeoutError, OSError) as error:
        raise UserError(f"Ray does not start or answer at '{address or 'this machine'}': {first_line(error)}") from None
    finally:
        # Ray leaves its own for good. Processes that are forked later inherit it, and a pool that
        # ends one of them while it begins to wait would wait for it for ever.
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)
