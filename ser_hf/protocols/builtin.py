"""The built-in protocols: which rows each of them puts on which side."""

from functools import partial

import numpy as np
from sklearn.model_selection import train_test_split

from ser_hf.protocols.base import Columns, IndexArrays, Protocol, ProtocolError

EMOBOX_FOLDS = ((1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23), (3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22))
"""Test actors of the six RAVDESS folds of EmoBox (Ma et al. 2024, arXiv:2406.07162)."""

LUNA_FOLDS = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))
"""Test actors of the five subject-wise RAVDESS folds of Luna-Jiménez et al. (2022, Applied Sciences
12(1):327)."""


def _actors(columns: Columns, *actors: int) -> np.ndarray:
    return np.isin(columns["speaker"], [f"ravdess-{actor:02d}" for actor in actors])


def _indices(*masks: np.ndarray) -> IndexArrays:
    train, validation, test = map(np.flatnonzero, masks)
    return train, validation, test


def _speaker(columns: Columns, fold: int, seed: int) -> IndexArrays:
    test = _actors(columns, 21, 22, 23, 24) | (columns["speaker"] == "tess-yaf")
    validation = _actors(columns, *_VALIDATION)
    return _indices(~test & ~validation, validation, test)


def _random(columns: Columns, fold: int, seed: int) -> IndexArrays:
    if len(columns["speaker"]) < 4:
        raise ProtocolError(f"'random' needs at least 4 recordings: the dataset holds {len(columns['speaker'])}")
    remaining, test = train_test_split(np.arange(len(columns["speaker"])), test_size=0.33, random_state=seed)
    train, validation = train_test_split(remaining, test_size=0.1, random_state=seed)
    return np.sort(train), np.sort(validation), np.sort(test)


def _ravdess_folds(
    columns: Columns, fold: int, seed: int, folds: tuple[tuple[int, ...], ...], validation_folds: int = 1
) -> IndexArrays:
    speech = (columns["corpus"] == "ravdess") & (columns["channel"] == "speech")
    following = [folds[(fold + step) % len(folds)] for step in range(1, validation_folds + 1)]
    test, validation = (speech & _actors(columns, *actors) for actors in (folds[fold], np.concatenate(following)))
    return _indices(speech & ~test & ~validation, validation, test)


def _between_tess_actresses(columns: Columns, fold: int, seed: int, train: str, test: str) -> IndexArrays:
    trained = columns["speaker"] == train
    words = np.unique(columns["statement"][trained])
    if "" in words:  # the name of a file gives the word, and copies may have other names
        raise ProtocolError(f"some words of {train} are unknown, so that none can be kept apart: use 'speaker'")
    held_out = np.random.default_rng(seed).permutation(words)[: max(1, len(words) // 5)]
    validation = trained & np.isin(columns["statement"], held_out)
    return _indices(trained & ~validation, validation, columns["speaker"] == test)


def _sentence(columns: Columns, fold: int, seed: int) -> IndexArrays:
    first, second = ((columns["corpus"] == "ravdess") & (columns["statement"] == number) for number in "12")
    validation = first & _actors(columns, *_VALIDATION)
    return _indices(first & ~validation, validation, second)


def _between_corpora(columns: Columns, fold: int, seed: int, train: str) -> IndexArrays:
    ravdess, tess = (columns["corpus"] == corpus for corpus in _RAVDESS_AND_TESS)
    shared = np.isin(columns["label"], np.intersect1d(columns["label"][ravdess], columns["label"][tess]))
    trained, test = (ravdess, tess) if train == "ravdess" else (tess, ravdess)
    validation = trained & (_actors(columns, *_VALIDATION) | (columns["speaker"] == "tess-yaf"))
    return _indices(shared & trained & ~validation, shared & validation, shared & test)


def _leave_corpus_out(columns: Columns, fold: int, seed: int) -> IndexArrays:
    corpora = np.unique(columns["corpus"])
    if len(corpora) < 2:
        held = ", ".join(corpora.tolist()) or "nothing"
        raise ProtocolError(
            f"'{LEAVE_CORPUS_OUT}' needs at least 2 corpora, the dataset holds {held}: "
            "build it with another (`ser-hf data --other`)"
        )
    test = columns["corpus"] == corpora[fold]
    shared = np.isin(columns["label"], np.intersect1d(columns["label"][test], columns["label"][~test]))
    chosen = np.isin(columns["speaker"], _validation_speakers(columns, np.delete(corpora, fold), seed))
    return _indices(shared & ~test & ~chosen, shared & ~test & chosen, shared & test)


def _validation_speakers(columns: Columns, corpora: np.ndarray, seed: int) -> list[str]:
    """A fifth of the women and of the men of each corpus, at least one speaker of two or more."""
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for corpus in corpora:
        rows = columns["corpus"] == corpus
        speakers, first = np.unique(columns["speaker"][rows], return_index=True)
        order = rng.permutation(len(speakers))
        sexes = columns["sex"][rows][first][order]
        groups = [speakers[order][sexes == sex] for sex in np.unique(sexes)]
        fifths = [speaker for group in groups for speaker in group[: len(group) // 5].tolist()]
        chosen += fifths or speakers[order][: int(len(speakers) > 1)].tolist()
    return chosen


def _all_speakers(columns: Columns, fold: int, seed: int) -> IndexArrays:
    return np.arange(len(columns["speaker"])), np.array([], dtype=int), np.array([], dtype=int)


LEAVE_CORPUS_OUT = "leave-corpus-out"
_RAVDESS_AND_TESS = ("ravdess", "tess")
_VALIDATION = (17, 18, 19, 20)
_ONE_BY_ONE = tuple((actor,) for actor in range(1, 25))
_SAME_SPEAKERS = "are in training or validation, too; only the sentence is new, the voices are not."
PROTOCOLS: dict[str, Protocol] = {
    "speaker": Protocol(_speaker, _RAVDESS_AND_TESS, 1),
    "random": Protocol(_random, (), 1, leaks=("speakers", "samples", "near duplicates")),
    "emobox-ravdess": Protocol(partial(_ravdess_folds, folds=EMOBOX_FOLDS), ("ravdess",), 6),
    "luna-ravdess": Protocol(partial(_ravdess_folds, folds=LUNA_FOLDS), ("ravdess",), 5),
    "loso-ravdess": Protocol(partial(_ravdess_folds, folds=_ONE_BY_ONE, validation_folds=2), ("ravdess",), 24),
    "tess-oaf-yaf": Protocol(partial(_between_tess_actresses, train="tess-oaf", test="tess-yaf"), ("tess",), 1, True),
    "tess-yaf-oaf": Protocol(partial(_between_tess_actresses, train="tess-yaf", test="tess-oaf"), ("tess",), 1, True),
    "sentence": Protocol(_sentence, ("ravdess",), 1, leaks=("speakers",), warning=_SAME_SPEAKERS),
    "ravdess-tess": Protocol(partial(_between_corpora, train="ravdess"), _RAVDESS_AND_TESS, 1),
    "tess-ravdess": Protocol(partial(_between_corpora, train="tess"), _RAVDESS_AND_TESS, 1),
    LEAVE_CORPUS_OUT: Protocol(_leave_corpus_out, (), None),
}
"""The registry of protocols by name.

Protocols with folds validate on the actors of the next fold, `loso-ravdess` on those of the next
two. `tess-oaf-yaf` and `tess-yaf-oaf` validate on a fifth of the words, `leave-corpus-out` on a
fifth of the speakers of each corpus that it trains on.
"""

ALL, ALL_SPEAKERS = "all", Protocol(_all_speakers, (), 1)
"""The protocol that trains on all speakers and tests none, for a recipe that other runs tested."""
