"""What built-in protocols draw and count, on columns made by hand."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from ser_hf.protocols import ProtocolError
from ser_hf.protocols.builtin import PROTOCOLS


def table(rows, **constant):
    """Columns of rows, each a mapping; every other column has one value."""
    names = {name for row in rows for name in row}
    columns = {name: np.array([row[name] for row in rows]) for name in names}
    return columns | {name: np.full(len(rows), value) for name, value in constant.items()}


def voices(corpus, women, men):
    """One recording of each speaker, men first, though the names of women come first."""
    sexes = {f"{corpus}-w{n}": "female" for n in range(women)} | {f"{corpus}-x{n}": "male" for n in range(men)}
    return [{"corpus": corpus, "speaker": name, "sex": sex} for name, sex in sorted(sexes.items(), reverse=True)]


@pytest.mark.parametrize("number", [4, 10, 100, 101])
def test_random_is_drawn_as_scikit_learn_draws(number):
    sides = PROTOCOLS["random"].split({"speaker": np.full(number, "a")}, 0, 7)
    rest, test = train_test_split(np.arange(number), test_size=0.33, random_state=7)
    train, validation = train_test_split(rest, test_size=0.1, random_state=7)
    for side, drawn in zip(sides, (train, validation, test), strict=True):
        assert side.tolist() == sorted(drawn)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_random_needs_four_recordings(number):
    with pytest.raises(ProtocolError, match=rf"at least 4 recordings: the dataset holds {number}$"):
        PROTOCOLS["random"].split({"speaker": np.full(number, "a")}, 0, 42)


@pytest.mark.parametrize(
    ("women", "men", "chosen"),
    [(10, 5, {"female": 2, "male": 1}), (6, 4, {"female": 1}), (0, 24, {"male": 4}), (4, 4, 1), (1, 1, 1), (1, 0, 0)],
)
def test_a_fifth_of_the_women_and_of_the_men_of_each_corpus_validates(women, men, chosen):
    """One speaker where that is nobody, and nobody where there is one alone."""
    columns = table([*voices("left", 3, 3), *voices("other", women, men), *voices("third", 5, 5)], label=0)
    train, validation, test = PROTOCOLS["leave-corpus-out"].split(columns, 0, 42)
    assert set(columns["corpus"][test]) == {"left"}
    assert sorted([*train, *validation, *test]) == list(range(len(columns["corpus"])))
    held = validation[columns["corpus"][validation] == "other"]
    if isinstance(chosen, dict):
        sexes, counts = np.unique(columns["sex"][held], return_counts=True)
        assert dict(zip(sexes.tolist(), counts.tolist(), strict=True)) == chosen
    else:
        assert len(held) == chosen
    third = columns["sex"][validation[columns["corpus"][validation] == "third"]]
    assert sorted(third) == ["female", "male"]
    drawn = {tuple(PROTOCOLS["leave-corpus-out"].split(columns, 0, seed)[1].tolist()) for seed in range(5)}
    assert len(drawn) > 1


@pytest.mark.parametrize(("fold", "left"), [(0, "a"), (1, "b"), (2, "c")])
def test_labels_that_the_corpus_left_out_does_not_share_are_left_out(fold, left):
    labels = {"a": (0, 1, 2), "b": (1, 2, 3), "c": (2, 4)}
    rows = [
        {"corpus": corpus, "speaker": f"{corpus}-{n}", "sex": "", "label": label}
        for corpus, own in labels.items()
        for n in range(3)
        for label in own
    ]
    columns = table(rows)
    train, validation, test = PROTOCOLS["leave-corpus-out"].split(columns, fold, 42)
    shared = set(labels[left]) & {label for corpus, own in labels.items() if corpus != left for label in own}
    used = [row for row in range(len(rows)) if rows[row]["label"] in shared]
    assert test.tolist() == [row for row in used if rows[row]["corpus"] == left]
    assert sorted([*train, *validation]) == [row for row in used if rows[row]["corpus"] != left]
    assert {rows[row]["label"] for row in validation} == shared


@pytest.mark.parametrize(("corpora", "held"), [([], "nothing"), (["tess"], "tess"), (["x"] * 5, "x")])
def test_one_corpus_cannot_be_left_out(corpora, held):
    columns = table([], corpus="") if not corpora else table(voices(corpora[0], len(corpora), 0), label=0)
    assert PROTOCOLS["leave-corpus-out"].fold_number("leave-corpus-out", 0, columns) == 0
    with pytest.raises(ProtocolError, match=f"needs at least 2 corpora, the dataset holds {held}: "):
        PROTOCOLS["leave-corpus-out"].split(columns, 0, 42)


@pytest.mark.parametrize(("number", "held_out"), [(2, 1), (4, 1), (9, 1), (10, 2), (200, 40)])
def test_a_fifth_of_the_words_validates(number, held_out):
    words = [f"word{n:03d}" for n in range(number)]
    rows = [{"speaker": who, "statement": word} for who in ("tess-oaf", "tess-yaf", "x") for word in words * 2]
    columns = table(rows)
    train, validation, test = PROTOCOLS["tess-yaf-oaf"].split(columns, 0, 42)
    spoken = [set(columns["statement"][side]) for side in (train, validation)]
    assert (len(spoken[0]), len(spoken[1])) == (number - held_out, held_out)
    assert spoken[0] | spoken[1] == set(words)
    assert len(train) + len(validation) == len(test) == 2 * number
    assert set(columns["speaker"][test]) == {"tess-oaf"}
    drawn = np.random.default_rng(42).permutation(words)[:held_out]
    assert spoken[1] == set(drawn)


@pytest.mark.parametrize("name", ["emobox-ravdess", "luna-ravdess", "loso-ravdess"])
def test_published_folds_take_the_speech_of_ravdess_alone(name):
    kinds = [("ravdess", "speech"), ("ravdess", "song"), ("other", "speech")]
    rows = [
        {"corpus": corpus, "channel": channel, "speaker": f"ravdess-{actor:02d}"}
        for corpus, channel in kinds
        for actor in range(1, 25)
    ]
    for fold in (0, 2, 4):
        sides = PROTOCOLS[name].split(table(rows), fold, 42)
        assert sorted(np.concatenate(sides)) == list(range(24))


@pytest.mark.parametrize("fold", [0, 1])
def test_two_corpora_are_enough_to_leave_one_out(fold):
    columns = table([*voices("a", 2, 2), *voices("b", 2, 2)], label=0)
    train, validation, test = PROTOCOLS["leave-corpus-out"].split(columns, fold, 42)
    assert set(columns["corpus"][test]) == {"ab"[fold]}
    assert set(columns["corpus"][[*train, *validation]]) == {"ba"[fold]}
