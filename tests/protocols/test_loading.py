"""What the settings of a command ask for reaches the split."""

import pytest

from ser_hf import protocols
from ser_hf.errors import UserError
from ser_hf.protocols import LeakError, loading
from ser_hf.protocols.settings import SplitSettings


@pytest.fixture
def groups(monkeypatch):
    """Near duplicates that are found in the dataset: none, until a test adds some."""
    groups = []
    monkeypatch.setattr(loading, "near_duplicates_of", lambda rows: groups)
    return groups


def test_all_folds_or_one(built, rows, groups):
    loaded, splits = loading.load_splits(SplitSettings(dataset=built, protocol="emobox-ravdess", fold="all"))
    assert loaded["file"][:] == rows["file"][:]
    assert [split.fold for split in splits] == [0, 1, 2, 3, 4, 5]
    assert splits[0].held_apart == ("speakers", "samples", "near duplicates")
    one = loading.load_split(SplitSettings(dataset=built, protocol="emobox-ravdess", fold="4"))[1]
    assert one == splits[4]
    with pytest.raises(UserError, match="--fold is all: one fold is needed here, give its number"):
        loading.load_split(SplitSettings(dataset=built, protocol="emobox-ravdess", fold="all"))


def test_every_setting_reaches_the_split(built, rows, groups):
    random = SplitSettings(dataset=built, protocol="random", split_seed=7)
    assert loading.load_split(random)[1].test == protocols.split(rows, "random", seed=7).test
    settings = SplitSettings(dataset=built, protocol="tess-oaf-yaf")
    usual = loading.load_split(settings)[1]
    settings.extra_train_speakers = True
    wide = loading.load_split(settings)[1]
    assert (set(usual.train) < set(wide.train), wide.validation) == (True, usual.validation)
    settings.train_on_validation = True
    assert loading.load_split(settings)[1].validation == []
    with pytest.raises(LeakError, match="statements of ravdess"):
        loading.load_split(SplitSettings(dataset=built, text_disjoint=True))
    groups.append([usual.train[0], usual.test[0]])
    with pytest.raises(LeakError, match="near duplicates"):
        loading.load_split(settings)
