"""Load a dataset and split it: what every command that splits does first."""

from typing import TYPE_CHECKING

from ser_hf.data import dataset, streaming
from ser_hf.errors import UserError
from ser_hf.protocols.base import Split
from ser_hf.protocols.near_duplicates import known_near_duplicates, near_duplicates_of
from ser_hf.protocols.settings import SplitSettings
from ser_hf.protocols.splitting import folds

if TYPE_CHECKING:
    import datasets


def load_splits(settings: SplitSettings) -> "tuple[datasets.Dataset, list[Split]]":
    """Load a dataset, find its near duplicates, and split it by one fold or all folds.

    Of a streamed dataset the recordings are references. Near duplicates are looked for in whole
    recordings, so that those of a streamed dataset are known only where they were found before.

    Returns:
        The rows of the dataset, and the splits, whose numbers index them.

    Raises:
        UserError: for a dataset or protocol that does not fit.
        LeakError: for a split that leaks.
    """
    if settings.streaming:
        rows = streaming.load(settings.dataset)
        near_duplicates = known_near_duplicates(rows)
    else:
        rows = dataset.load(settings.dataset)
        near_duplicates = near_duplicates_of(rows)
    splits = folds(
        rows,
        settings.protocol,
        settings.fold,
        settings.split_seed,
        near_duplicates=near_duplicates,
        text_disjoint=settings.text_disjoint,
        extra_train_speakers=settings.extra_train_speakers,
        train_on_validation=settings.train_on_validation,
    )
    return rows, splits


def load_split(settings: SplitSettings) -> "tuple[datasets.Dataset, Split]":
    """Load a dataset and split it by one fold, as `load_splits` does.

    Of a streamed dataset the rows hold the recordings of validation and test.

    Raises:
        UserError: where the settings ask for all folds, and as `load_splits`.
    """
    if settings.fold == "all":
        raise UserError("--fold is all: one fold is needed here, give its number")
    rows, (split,) = load_splits(settings)
    if settings.streaming:
        rows = streaming.with_recordings(rows, split.validation + split.test)
    return rows, split
