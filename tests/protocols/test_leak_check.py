"""Which pairs of sides are checked, and whom a model may be tested on."""

from dataclasses import dataclass

import numpy as np
import pytest
from helpers.splits import actors, picked

from ser_hf import protocols
from ser_hf.protocols import LeakError, base, leak_check
from ser_hf.protocols.builtin import PROTOCOLS


@dataclass
class Trained:
    """What a model's config remembers."""

    speakers: tuple[str, ...] | None
    protocol: str = "mine.csv"
    protocol_hash: str = "0123456789abcdef"
    fold: int = 3


def refusal(rows, split, trained, side="test"):
    with pytest.raises(LeakError) as caught:
        leak_check.refuse_seen(trained, "my-model", rows, split, side)
    return str(caught.value)


@pytest.mark.parametrize(
    ("seen", "named"),
    [
        (["ravdess-24", "someone"], "ravdess-24"),
        (["tess-yaf", "ravdess-21", "ravdess-01", "ravdess-22"], "ravdess-21, ravdess-22, tess-yaf"),
        (["ravdess-24", "ravdess-23", "ravdess-22", "ravdess-21"], "ravdess-21, ravdess-22, ravdess-23 …"),
    ],
)
def test_a_model_is_not_tested_on_whom_it_saw(rows, seen, named):
    split = protocols.split(rows)
    assert refusal(rows, split, Trained(tuple(seen))) == (
        f"'my-model' was trained under 'mine.csv' fold 3 on {named}, whom 'speaker' fold 0 tests: "
        f"use a model of that protocol and fold ({split.hash})"
    )


def test_a_model_is_not_calibrated_on_whom_it_saw(rows):
    split = protocols.split(rows)
    assert "on ravdess-17, whom 'speaker' fold 0 validates on: use" in refusal(
        rows, split, Trained(("ravdess-17", "ravdess-21")), "validation"
    )


@pytest.mark.parametrize(
    "trained",
    [
        Trained(None),
        Trained(("ravdess-01", "ravdess-17", "tess-oaf")),
        Trained(()),
        Trained(("ravdess-21",), protocol_hash=None),
    ],
    ids=["unknown speakers", "other speakers", "nobody", "the same split"],
)
def test_whom_a_model_may_be_tested_on(rows, trained):
    split = protocols.split(rows)
    if trained.protocol_hash is None:
        trained.protocol_hash = split.hash
    leak_check.refuse_seen(trained, "my-model", rows, split)


@pytest.mark.parametrize(("first", "second"), [("train", "test"), ("validation", "test"), ("train", "validation")])
@pytest.mark.parametrize("shares", [False, True])
def test_a_speaker_may_stand_in_training_and_validation_alone_and_on_request(rows, monkeypatch, first, second, shares):
    who = {"train": {"ravdess-01"}, "validation": {"ravdess-02"}, "test": {"ravdess-03"}}
    clips = {side: picked(rows, speaker=names) for side, names in who.items()}
    moved = clips[first].pop()
    clips[second] = [*clips[second], moved]

    def split(columns, fold, seed):
        return tuple(np.array(clips[side]) for side in base.SIDES)

    monkeypatch.setitem(PROTOCOLS, "one", base.Protocol(split, (), 1, validation_shares_speaker=shares))
    if shares and second == "validation":
        assert protocols.split(rows, "one").held_apart[0] == "speakers"
        return
    (name,) = who[first]
    with pytest.raises(LeakError, match=f"'one' leaks: {name} in {first} and in {second}; put each speaker on one"):
        protocols.split(rows, "one")


def test_one_recording_more_is_named(rows):
    tess = picked(rows, corpus={"tess"})
    one_more = rows.select([*tess, *picked(rows, speaker=actors(5))[:1]])
    split = protocols.split(one_more, "tess-oaf-yaf", extra_train_speakers=True)
    assert split.note == "Trained on 1 recordings (ravdess) beyond the protocol's, of voices that it does not test."
    assert len(one_more) - 1 in split.train
