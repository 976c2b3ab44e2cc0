"""Recordings read from their row groups in the order in which a sampler asks for them."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import datasets
import numpy as np

from ser_hf.data import references
from ser_hf.training.streaming.sampler import Batches

Clip = TypeVar("Clip")

_NEVER = -1  # turn of a clip that is not asked for


class StreamReader(Generic[Clip]):
    """Clips whose recordings are read a row group at a time, and kept until they are asked for.

    A row group is read when the first of its clips is asked for. Of its recordings those are kept
    that are asked for later. With the batches of a `StreamSampler` these are no more than its
    buffer and a pool of steps. Clips that a resumed run skips are not read.
    """

    def __init__(self, rows: datasets.Dataset, decode: Callable[[dict], Clip], threads: int = 0) -> None:
        """Take the rows of a side.

        Args:
            rows: with references in the column `audio`.
            decode: makes a clip of an entry of that column, on several threads.
            threads: that read and decode the next batch meanwhile; none where 0.
        """
        self._decode = decode
        self.groups, self.group_of, self._place = references.places(rows)
        by_group = np.argsort(self.group_of, kind="stable")
        counts = np.bincount(self.group_of, minlength=len(self.groups))
        self._members = np.split(by_group, np.cumsum(counts)[:-1])
        self._kept: dict[int, dict] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(threads) if threads else None
        self._ahead: dict[int, Future] = {}
        self.most_kept = 0
        """The most recordings that were kept at a time."""
        self.follow([])

    def follow(self, batches: Batches) -> None:
        """Expect to be asked for these batches, one after the other, each clip once."""
        for future in self._ahead.values():
            if not future.cancel():
                future.exception()  # waits, so that no thread reads by the old order
        self._ahead, self._kept = {}, {}
        self._order = np.array([index for batch in batches for index in batch], dtype=int)
        self._turns = np.full(len(self.group_of), _NEVER)
        self._turns[self._order] = np.arange(len(self._order))
        self._ends = np.cumsum([len(batch) for batch in batches])
        self._now = self._submitted = 0

    def __getitem__(self, index: int) -> Clip:
        """The clip of a row; the next in the order, or any one out of it."""
        turn = int(self._turns[index])
        if turn < self._now:  # out of the order
            return self._decode(self._recording_at(index))
        self._now = turn
        threads = self._threads
        clip = self._decode(self._take(index)) if threads is None else self._read_ahead(threads, index, turn)
        self._now = turn + 1
        return clip

    def _read_ahead(self, threads: ThreadPoolExecutor, index: int, turn: int) -> Clip:
        # to the end of the batch after this one
        batch = int(np.searchsorted(self._ends, turn, side="right"))
        end = int(self._ends[min(batch + 1, len(self._ends) - 1)])
        for later in self._order[max(turn, self._submitted) : end].tolist():
            self._ahead[later] = threads.submit(lambda row: self._decode(self._take(row)), later)
        self._submitted = max(self._submitted, end)
        return self._ahead.pop(index).result()

    def _recording_at(self, index: int) -> dict:
        return self.groups[self.group_of[index]].read()[int(self._place[index])].as_py()

    def _take(self, index: int) -> dict:
        """The recording of a clip, which is not kept any longer."""
        with self._lock:
            if index not in self._kept:
                group = int(self.group_of[index])
                recordings = self.groups[group].read()
                for row in self._members[group].tolist():
                    if self._turns[row] >= self._now:
                        self._kept[row] = recordings[int(self._place[row])].as_py()
                self.most_kept = max(self.most_kept, len(self._kept))
            return self._kept.pop(index)
