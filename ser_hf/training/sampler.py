"""Which clips share a batch: steps of equal padded seconds, shared out between processes."""

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

POOL = 8
"""Optimiser steps whose clips are sorted together: more saves padding, less mixes better."""

TRIED = 16
"""A number of steps is taken when so many shuffled epochs keep to the budget."""


class PaddedLengthBatchSampler(Sampler):
    """Batches of `(epoch, index)` with about the same padded seconds each, not as many clips each.

    Each epoch shuffles the clips, sorts them by length within pools, and cuts every pool into
    optimiser steps of equal padded length; a step is cut likewise into `processes` × `accumulation`
    micro-batches. What a step holds depends on the seed, the epoch and the number of steps alone:
    one process, two, and accumulated gradients see the same steps. The processes of one
    accumulation step get neighbours in length, so that none waits for another.
    """

    def __init__(
        self,
        lengths: Callable[[int], np.ndarray],
        steps: int,
        seed: int,
        weights: np.ndarray | None = None,
        accumulation: int = 1,
        processes: int = 1,
        rank: int = 0,
        shuffle_only: bool = False,
    ) -> None:
        """Plan.

        Args:
            lengths: seconds of each clip in an epoch, shape `(clips,)`.
            steps: of the optimiser an epoch.
            seed: of the order.
            weights: chance of each clip to be drawn, with replacement, shape `(clips,)`; each once
                where None.
            accumulation: micro-batches of a step on each process.
            processes: that share a step.
            rank: of this process.
            shuffle_only: leave the clips in random order, whatever their lengths, as a stock
                Trainer does.
        """
        self.lengths, self.steps, self.seed, self.weights = lengths, steps, seed, weights
        self.accumulation, self.processes, self.rank, self.shuffle_only = accumulation, processes, rank, shuffle_only
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, parts = self.epoch, self.processes * self.accumulation
        seconds = self.lengths(epoch)
        for step in self.plan(epoch, seconds):
            runs = np.array_split(step, parts) if self.shuffle_only else _cut(step, seconds[step], parts)
            for run in runs[self.rank :: self.processes]:
                yield [(epoch, int(index)) for index in run]

    def plan(self, epoch: int, seconds: np.ndarray) -> list[np.ndarray]:
        """Plan the clips of each optimiser step of an epoch, the shortest first."""
        rng = np.random.default_rng([self.seed, epoch])
        clips = len(seconds)
        if self.weights is None:
            order = rng.permutation(clips)
        else:
            order = rng.choice(clips, clips, p=self.weights / self.weights.sum())
        if self.shuffle_only:
            return np.array_split(order, self.steps)
        steps = [step for pool in self.pooled(order, seconds) for step in pool]
        return [steps[i] for i in rng.permutation(len(steps))]

    def pooled(self, order: np.ndarray, seconds: np.ndarray) -> Iterator[list[np.ndarray]]:
        """Sort the clips of each pool by length, and cut them into steps, the shortest first.

        Args:
            order: of the clips, of which each pool takes the next ones.
            seconds: of each clip.
        """
        # At least half of the mean number of clips: a step then does not depend on how it is
        # shared, unless there are more micro-batches than that.
        least = max((len(order) // self.steps + 1) // 2, self.processes * self.accumulation)
        for pool, share in zip(*self._pools(order), strict=True):
            pool = pool[np.argsort(seconds[pool], kind="stable")]
            yield _cut(pool, seconds[pool], share, least)

    def _pools(self, order: np.ndarray) -> tuple[list[np.ndarray], list[int]]:
        count = -(-self.steps // POOL)
        shares = [len(part) for part in np.array_split(np.arange(self.steps), count)]
        ends = np.round(np.cumsum(shares) / self.steps * len(order)).astype(int)
        return np.split(order, ends[:-1]), shares


def steps_for(seconds: np.ndarray, budget: float, parts: int) -> int:
    """Find the fewest optimiser steps an epoch whose micro-batches keep to a budget.

    All micro-batches of `TRIED` shuffled epochs have to keep to it.

    Args:
        seconds: of each clip at its longest, shape `(clips,)`.
        budget: padded seconds of a micro-batch.
        parts: micro-batches of a step, over accumulation and processes.
    """
    steps, epoch = max(1, int(np.ceil(seconds.sum() / (budget * parts)))), 0
    while steps * parts < len(seconds):
        plan = PaddedLengthBatchSampler(lambda epoch: seconds, steps, 0, accumulation=parts).plan(epoch, seconds)
        micro = [part for step in plan for part in _cut(step, seconds[step], parts)]
        if max(len(part) * seconds[part].max() for part in micro) > budget:
            steps, epoch = max(steps + 1, int(steps * 1.02)), 0
            continue
        epoch += 1
        if epoch == TRIED:
            return steps
    return max(1, len(seconds) // parts)


def _cut(clips: np.ndarray, seconds: np.ndarray, parts: int, least: int = 1) -> list[np.ndarray]:
    """Cut clips, sorted by length, into `parts` runs of nearly equal padded seconds.

    Padded seconds are the number of clips times the longest. Bisection finds the smallest budget
    with which greedy filling needs no more than `parts` runs. Two repairs follow: where filling
    needed fewer runs, the runs of most clips are split; then every start moves so far that each run
    has at least `least` clips, as far as there are enough.
    """
    if parts == 1:
        return [clips]
    low, high = 0.0, len(clips) * float(seconds.max())
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_fill(seconds, middle, least)) <= parts else (middle, high)
    starts = _fill(seconds, high, least)
    while len(starts) < parts:
        ends = [*starts[1:], len(clips)]
        widest = max(range(len(starts)), key=lambda i: ends[i] - starts[i])
        starts.insert(widest + 1, (starts[widest] + ends[widest]) // 2)
    least = min(least, len(clips) // parts)
    for place in range(1, parts):
        enough = max(starts[place], starts[place - 1] + least)
        starts[place] = min(enough, len(clips) - least * (parts - place))  # leave enough for the runs that follow
    return np.split(clips, starts[1:])


def _fill(seconds: np.ndarray, budget: float, least: int) -> list[int]:
    """Fill runs with clips while they fit, `least` in any case, and return where each starts.

    The last run may have fewer than `least`.
    """
    starts, start = [0], 0
    for place in range(len(seconds)):
        count = place - start
        if count >= least and (count + 1) * seconds[place] > budget:
            starts.append(place)
            start = place
    return starts
