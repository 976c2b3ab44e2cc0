"""Batches of clips whose recordings lie together in few row groups at any time."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ser_hf.training.sampler import PaddedLengthBatchSampler

Batches = Sequence[Sequence[int]]
"""Indices of the clips of each batch."""


class StreamSampler(PaddedLengthBatchSampler):
    """Batches in an order in which row groups are read once an epoch, with a bounded buffer.

    Each epoch shuffles the row groups. Their rows, in this order, are shared out evenly between
    processes, and pass a shuffle buffer, as that of `datasets.IterableDataset.shuffle`: it is
    shuffled when it is full, and half of it is handed on. What comes out is sorted by length within
    pools, and cut into steps, as in `PaddedLengthBatchSampler`; steps are shuffled within a pool.

    The order depends on the seed, the epoch and the process alone. It is known before anything is
    read, so that a resumed run needs no saved buffer.
    """

    def __init__(
        self,
        lengths: Callable[[int], np.ndarray],
        group_of: np.ndarray,
        steps: int,
        seed: int,
        buffer: int,
        follow: Callable[[Batches], None],
        accumulation: int = 1,
        processes: int = 1,
        rank: int = 0,
        shuffle_only: bool = False,
    ) -> None:
        """Plan.

        Args:
            lengths: seconds of each clip in an epoch, shape `(clips,)`.
            group_of: number of the row group of each clip, shape `(clips,)`.
            steps: of the optimiser an epoch.
            seed: of the order.
            buffer: clips that are shuffled together.
            follow: is told the batches of an epoch before the first of them is asked for.
            accumulation: micro-batches of a step on each process.
            processes: that share the rows.
            rank: of this process.
            shuffle_only: leave the clips in the order of the buffer, whatever their lengths.
        """
        super().__init__(lengths, steps, seed, accumulation=accumulation, shuffle_only=shuffle_only)
        self.group_of, self.buffer, self.follow = group_of, buffer, follow
        self.share = (rank, processes)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batches = list(super().__iter__())
        self.follow([[index for _, index in batch] for batch in batches])
        yield from batches

    def plan(self, epoch: int, seconds: np.ndarray) -> list[np.ndarray]:
        """Plan the clips of each step of this process in an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        order = buffered(self._part(rng), self.buffer, np.random.default_rng([self.seed, epoch, *self.share]))
        if self.shuffle_only:
            return np.array_split(order, self.steps)
        planned = []
        for steps in self.pooled(order, seconds):
            # the same draws on all processes, so that their steps of like lengths meet
            planned += [steps[i] for i in rng.permutation(len(steps))]
        return planned

    def _part(self, rng: np.random.Generator) -> np.ndarray:
        """The rows of this process, row group by row group."""
        turns = rng.permutation(int(self.group_of.max()) + 1)[self.group_of]
        rank, processes = self.share
        return np.array_split(np.argsort(turns, kind="stable"), processes)[rank]


def buffered(order: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Pass rows through a shuffle buffer, of which half is handed on whenever it is full.

    Args:
        order: numbers of rows as they are read, shape `(rows,)`.
        size: of the buffer; 1 leaves the order as it is.
        rng: generator of the order.

    Returns:
        The same numbers as they come out. A number leaves the buffer after at most `size` others
        entered behind it, or stays in it.
    """
    if size <= 1:
        return order
    passed, kept, at = [], order[:0], 0
    while at < len(order):
        entering = order[at : at + size - len(kept)]
        at += len(entering)
        buffer = rng.permutation(np.concatenate([kept, entering]))
        leaving = len(buffer) - size // 2 if at < len(order) else len(buffer)
        passed.append(buffer[:leaving])
        kept = buffer[leaving:]
    return np.concatenate([*passed, kept])
