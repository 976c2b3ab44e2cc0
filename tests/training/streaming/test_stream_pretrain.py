"""Pretraining on recordings that stay in Parquet: the same losses as in memory."""

import dataclasses

import pytest
from torch.utils.data import DataLoader

from ser_hf import protocols
from ser_hf.errors import UserError
from ser_hf.training.pretraining import objective, pretrain
from ser_hf.training.pretraining.config import PretrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def trainer_of(config, scratch):
    args = pretrain._arguments(config, scratch)
    args.logging_strategy, args.logging_steps, args.save_strategy = "steps", 1, "no"
    model, extractor, _ = objective.load(config.model, config.seed)
    return pretrain._trainer(config, args, *protocols.load_split(config), model, extractor)


@pytest.mark.parametrize(("kind", "buffer"), [("bert", 9), ("group", 30)])
def test_a_stream_pretrains_as_clips_in_memory_in_the_same_order(parquet, models, tmp_path, monkeypatch, kind, buffer):
    stream = PretrainConfig(
        dataset=str(parquet),
        model=str(models[kind]),
        output=str(tmp_path / "out"),
        epochs=2,
        batch_size=8,
        num_negatives=10,
        threads=1,
        bf16=False,
        streaming=True,
        shuffle_buffer=buffer,
    )
    ours = trainer_of(stream, tmp_path / "scratch")
    ours.train()
    theirs = trainer_of(dataclasses.replace(stream, streaming=False, shuffle_buffer=1000), tmp_path / "other")
    assert theirs.train_dataset.stream is None
    sampler = theirs.stream_sampler = ours.stream_sampler
    sampler.follow = lambda batches: None
    in_order = DataLoader(theirs.train_dataset, batch_sampler=sampler, collate_fn=theirs.data_collator)
    monkeypatch.setattr(theirs, "get_train_dataloader", lambda: in_order)
    theirs.train()
    ours, theirs = ([row["loss"] for row in each.state.log_history if "loss" in row] for each in (ours, theirs))
    assert len(ours) == 2 * len(sampler)
    assert ours == theirs


def test_a_buffer_without_a_stream_is_refused():
    with pytest.raises(UserError, match="--shuffle_buffer does nothing without --streaming true"):
        PretrainConfig(dataset="d", model="m", output="o", shuffle_buffer=7)
    with pytest.raises(UserError, match="--shuffle_buffer is 0: at least 1"):
        PretrainConfig(dataset="d", model="m", output="o", streaming=True, shuffle_buffer=0)
