import numpy as np
import pytest

from ser_hf.training.sampler import PaddedLengthBatchSampler, steps_for

SECONDS = np.random.default_rng(0).uniform(1, 5, 403)


def budget(steps=24, seed=3, seconds=SECONDS, **how):
    return PaddedLengthBatchSampler(lambda epoch: seconds, steps, seed, **how)


def micro_batches(sampler, epoch=0):
    """Indices of each micro-batch of an epoch."""
    sampler.epoch = epoch
    batches = list(sampler)
    assert {key[0] for batch in batches for key in batch} == {epoch}
    return [[index for _, index in batch] for batch in batches]


def padded(batches, seconds=SECONDS):
    return np.array([len(batch) * seconds[batch].max() for batch in batches])


def steps_of(accumulation=1, processes=1, epoch=0, **how):
    """The clips of each optimiser step, united over ranks and micro-batches."""
    ranks = [
        micro_batches(budget(accumulation=accumulation, processes=processes, rank=rank, **how), epoch)
        for rank in range(processes)
    ]
    starts = range(0, len(ranks[0]), accumulation)
    return [
        sorted(i for batches in ranks for batch in batches[start : start + accumulation] for i in batch)
        for start in starts
    ]


@pytest.mark.parametrize("shuffle_only", [False, True])
@pytest.mark.parametrize("steps", [1, 7, 24, 403])
def test_an_epoch_holds_every_clip_once(steps, shuffle_only):
    batches = micro_batches(budget(steps, shuffle_only=shuffle_only))
    assert len(batches) == len(budget(steps)) == steps
    assert sorted(i for batch in batches for i in batch) == list(range(403))


def test_steps_take_equal_padded_seconds():
    ours, shuffled = padded(micro_batches(budget())), padded(micro_batches(budget(shuffle_only=True)))
    assert ours.std() / ours.mean() < 0.1
    by_count = [len(batch) for batch in micro_batches(budget(shuffle_only=True))]
    assert np.ptp(by_count) <= 1
    assert np.ptp([len(batch) for batch in micro_batches(budget())]) > 5
    assert ours.std() < shuffled.std()
    assert ours.mean() < 0.85 * shuffled.mean()


def test_equal_padded_seconds_within_a_pool():
    seconds = np.exp(np.random.default_rng(1).normal(1, 0.25, 800))
    ours = padded(micro_batches(budget(8, seconds=seconds)), seconds)
    shuffled = padded(micro_batches(budget(8, seconds=seconds, shuffle_only=True)), seconds)
    assert np.ptp(ours) / ours.mean() < 0.1
    assert np.ptp(shuffled) / shuffled.mean() > 2 * np.ptp(ours) / ours.mean()


def test_padding_is_far_less_than_in_random_batches():
    def waste(shuffle_only):
        return 1 - SECONDS.sum() / padded(micro_batches(budget(shuffle_only=shuffle_only))).sum()

    assert waste(False) < 0.1
    assert waste(True) > 3 * waste(False)


@pytest.mark.parametrize(("accumulation", "processes"), [(2, 1), (4, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("shuffle_only", [False, True])
def test_a_step_holds_the_same_however_it_is_shared(accumulation, processes, shuffle_only):
    for epoch in (0, 5):
        alone = steps_of(epoch=epoch, shuffle_only=shuffle_only)
        shared = steps_of(accumulation, processes, epoch, shuffle_only=shuffle_only)
        assert shared == alone


def test_processes_get_neighbours_in_length_and_like_work():
    ranks = [micro_batches(budget(12, accumulation=2, processes=2, rank=rank)) for rank in (0, 1)]
    one, two = padded(ranks[0]), padded(ranks[1])
    assert np.abs(one / two - 1).mean() < 0.15
    apart = [SECONDS[b].mean() - SECONDS[a].mean() for a, b in zip(*ranks, strict=True)]
    assert 0 < np.mean(apart) < 1  # of 4 seconds in all


@pytest.mark.parametrize("how", [{}, {"shuffle_only": True}, {"weights": np.linspace(0.1, 1, 403)}])
def test_the_order_depends_on_seed_and_epoch_alone(how):
    first = micro_batches(budget(**how))
    assert micro_batches(budget(**how)) == first
    assert micro_batches(budget(seed=4, **how)) != first
    sampler = budget(**how)
    assert micro_batches(sampler, epoch=1) != first
    assert micro_batches(sampler, epoch=0) == first


def test_the_order_of_steps_does_not_go_by_length():
    means = [SECONDS[batch].mean() for batch in micro_batches(budget(8))]
    assert means != sorted(means)
    assert np.ptp(means) > 2  # within one pool the steps do differ in length


def test_weights_draw_in_proportion():
    weights = np.ones(403)
    weights[:100] = 6  # 600 of 903
    drawn = np.array([i for e in range(20) for batch in micro_batches(budget(weights=weights), e) for i in batch])
    assert len(drawn) == 20 * 403
    assert (drawn < 100).mean() == pytest.approx(600 / 903, abs=0.02)
    assert np.bincount(drawn, minlength=403)[:100].min() > 10  # 27 of each are expected
    none = np.r_[np.zeros(200), np.ones(203)]
    assert min(i for batch in micro_batches(budget(weights=none)) for i in batch) >= 200


def test_lengths_are_those_of_the_epoch():
    """Each epoch is cut by its own lengths: what is long in one may be short in the next."""
    asked = []

    def lengths(epoch):
        asked.append(epoch)
        return SECONDS if epoch == 0 else SECONDS[::-1]

    sampler = PaddedLengthBatchSampler(lengths, 24, 0)
    micro_batches(sampler, 0)
    later = micro_batches(sampler, 1)
    assert asked == [0, 1]
    assert padded(later, SECONDS[::-1]).sum() < 0.9 * padded(later, SECONDS).sum()


@pytest.mark.parametrize(("limit", "parts"), [(20, 1), (40, 2), (80, 3), (25, 4)])
def test_a_budget_in_seconds_is_kept(limit, parts):
    steps = steps_for(SECONDS, limit, parts)
    assert SECONDS.sum() / (limit * parts) <= steps < 1.6 * SECONDS.sum() / (limit * parts)  # and it is used
    sampler = budget(steps, seed=0, accumulation=parts)
    for epoch in range(8):
        assert padded(micro_batches(sampler, epoch)).max() <= limit + 1e-9


def test_a_budget_below_the_clips_gives_one_clip_a_batch():
    assert steps_for(np.full(12, 5.0), 4, 2) == 6
    assert steps_for(np.full(12, 5.0), 1_000, 2) == 1


@pytest.mark.parametrize("clips", [12, 13, 17, 29])
@pytest.mark.parametrize(("accumulation", "processes"), [(1, 3), (2, 2), (3, 4)])
@pytest.mark.parametrize("how", [{}, {"shuffle_only": True}, {"weights": np.linspace(1, 9, 50)}])
def test_few_clips_leave_no_batch_empty(clips, accumulation, processes, how):
    seconds = np.exp(np.random.default_rng(clips).normal(0, 1.5, clips))
    how = {name: value[:clips] if name == "weights" else value for name, value in how.items()}
    steps = clips // (accumulation * processes)
    for rank in range(processes):
        sampler = budget(steps, seconds=seconds, accumulation=accumulation, processes=processes, rank=rank, **how)
        for epoch in range(3):
            batches = micro_batches(sampler, epoch)
            assert len(batches) == len(sampler) == steps * accumulation
            assert all(batches)
