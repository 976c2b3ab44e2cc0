"""The order of a stream, and that each row group is read once for a bounded number of clips."""

import numpy as np
import pytest

from ser_hf.data import references, streaming
from ser_hf.training.streaming.reader import StreamReader
from ser_hf.training.streaming.sampler import StreamSampler, buffered

GROUPS = np.repeat(np.arange(50), 8)  # 400 clips
SECONDS = np.random.default_rng(0).uniform(1, 5, 400)


def batches_of(epoch=0, rank=0, processes=1, steps=24, accumulation=1, buffer=40, seed=3, shuffle_only=False):
    told = []
    how = {"accumulation": accumulation, "processes": processes, "rank": rank, "shuffle_only": shuffle_only}
    sampler = StreamSampler(lambda epoch: SECONDS, GROUPS, steps, seed, buffer, told.append, **how)
    sampler.epoch = epoch
    batches = list(sampler)
    assert len(batches) == len(sampler) == steps * accumulation
    assert {key[0] for batch in batches for key in batch} == {epoch}
    batches = [[index for _, index in batch] for batch in batches]
    assert told == [batches]
    return batches


def flat(batches):
    return [index for batch in batches for index in batch]


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("shuffle_only", [False, True])
def test_processes_hear_disjoint_clips_and_all_of_them(processes, accumulation, shuffle_only):
    how = {"processes": processes, "accumulation": accumulation, "shuffle_only": shuffle_only}
    of_rank = [flat(batches_of(rank=rank, **how)) for rank in range(processes)]
    assert sorted(flat(of_rank)) == list(range(400))
    assert np.ptp([len(clips) for clips in of_rank]) <= 1
    groups = [set(GROUPS[clips]) for clips in of_rank]
    assert sum(map(len, groups)) <= 50 + processes - 1  # a row group at most is shared by neighbours


def test_epochs_and_seeds_have_orders_of_their_own_and_keep_them():
    first = batches_of()
    assert first == batches_of()
    for other in (batches_of(epoch=1), batches_of(seed=4), batches_of(buffer=41)):
        assert flat(other) != flat(first)
        assert sorted(flat(other)) == sorted(flat(first))


def test_batches_hold_clips_of_like_length():
    def waste(batches):
        return 1 - SECONDS.sum() / sum(len(batch) * SECONDS[batch].max() for batch in batches)

    assert waste(batches_of()) < 0.12
    assert waste(batches_of(shuffle_only=True)) > 2.5 * waste(batches_of())


@pytest.mark.parametrize("size", [1, 2, 7, 400, 1000])
def test_the_buffer_passes_every_row_and_holds_no_more_than_its_size(size):
    order = np.arange(400)
    passed = buffered(order, size, np.random.default_rng(0))
    assert sorted(passed) == list(order)
    read, most = 0, 0
    for done, row in enumerate(passed):
        read = max(read, row + 1)
        most = max(most, read - done)
    assert most <= size
    if size >= 400:
        assert (passed != order).mean() > 0.9


@pytest.fixture(scope="module")
def stream(parquet):
    return streaming.load(parquet).select(range(60))


@pytest.mark.parametrize(("threads", "skipped"), [(0, 0), (2, 0), (2, 5), (0, 11)])
def test_each_row_group_is_read_once_and_few_clips_are_kept(stream, monkeypatch, threads, skipped):
    read = []
    whole = references.RowGroup.read
    monkeypatch.setattr(references.RowGroup, "read", lambda group: read.append(group) or whole(group))
    reader = StreamReader(stream, lambda encoded: encoded["path"], threads)
    names = [references.recording(row)["path"] for row in stream["audio"]]
    sampler = StreamSampler(lambda epoch: np.ones(60), reader.group_of, 12, 0, 12, reader.follow)
    for epoch in range(2):
        sampler.epoch = epoch
        read.clear()
        batches = [[index for _, index in batch] for batch in sampler][skipped:]
        for index in flat(batches):
            assert reader[index] == names[index]
        assert len(read) == len(set(read)) == len({reader.group_of[index] for index in flat(batches)})
    # the buffer, a pool of 8 steps of 5 clips, the rest of a row group, and the batches read ahead
    assert reader.most_kept <= 12 + 40 + 6
    assert reader[flat(batches)[0]] == names[flat(batches)[0]]  # out of the order


def test_a_fault_in_a_thread_reaches_the_one_who_asks(stream):
    def broken(encoded):
        raise ValueError(encoded["path"])

    reader = StreamReader(stream, broken, threads=1)
    reader.follow([[0, 1], [2]])
    with pytest.raises(ValueError, match="flac"):
        reader[0]
    reader.follow([[1], [0]])  # waits for what runs
    with pytest.raises(ValueError, match="flac"):
        reader[1]
