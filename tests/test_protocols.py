import numpy as np
import pytest

from ser_hf import protocols
from ser_hf.protocols import EMOBOX_FOLDS, LUNA_FOLDS, PROTOCOLS, LeakError, ProtocolError


def speakers(rows, indices):
    return set(np.array(rows["speaker"])[indices])


def actors(*numbers):
    return {f"ravdess-{n:02d}" for n in numbers}


def test_the_default_protocol(rows):
    split = protocols.split(rows)
    assert speakers(rows, split.test) == actors(21, 22, 23, 24) | {"tess-yaf"}
    assert speakers(rows, split.validation) == actors(17, 18, 19, 20)
    assert speakers(rows, split.train) == actors(*range(1, 17)) | {"tess-oaf"}
    assert split.warning is None
    assert sorted(split.train + split.validation + split.test) == list(range(len(rows)))


@pytest.mark.parametrize(("name", "folds"), [("emobox-ravdess", EMOBOX_FOLDS), ("luna-ravdess", LUNA_FOLDS)])
def test_published_folds_test_every_actor_once(rows, name, folds):
    assert sorted(actor for fold in folds for actor in fold) == list(range(1, 25))
    for number, fold in enumerate(folds):
        split = protocols.split(rows, name, fold=number)
        assert speakers(rows, split.test) == actors(*fold)
        sides = [speakers(rows, side) for side in (split.train, split.validation, split.test)]
        assert set.union(*sides) == actors(*range(1, 25))
        assert sum(map(len, sides)) == 24


def test_tess_protocols_hold_words_apart_for_validation(rows):
    split = protocols.split(rows, "tess-oaf-yaf")
    assert speakers(rows, split.train) == speakers(rows, split.validation) == {"tess-oaf"}
    assert speakers(rows, split.test) == {"tess-yaf"}
    words = np.array(rows["statement"])
    assert not set(words[split.train]) & set(words[split.validation])


def test_random_is_a_third_seeded_and_says_that_it_leaks(rows):
    split = protocols.split(rows, "random")
    assert len(split.test) == int(np.ceil(len(rows) * 0.33))
    assert split == protocols.split(rows, "random")
    assert split.hash != protocols.split(rows, "random", seed=7).hash
    assert "leaks: 26 of 26 test speakers" in split.warning


def test_hashes_name_the_split(rows):
    hashes = {protocols.split(rows, name, fold).hash for name, p in PROTOCOLS.items() for fold in range(p.folds)}
    assert len(hashes) == sum(p.folds for p in PROTOCOLS.values())
    assert protocols.split(rows).hash == protocols.split(rows).hash


def changed(rows, column, file, value):
    values = list(rows[column])
    values[rows["file"].index(file)] = value
    return rows.remove_columns(column).add_column(column, values, feature=rows.features[column])


def test_a_speaker_on_both_sides_is_refused(rows, monkeypatch):
    def careless(columns, fold, seed):
        order = np.arange(len(columns["speaker"]))
        return order[::3], order[1::3], order[2::3]

    monkeypatch.setitem(PROTOCOLS, "careless", protocols.Protocol(careless, (), 1))
    with pytest.raises(LeakError, match=r"'careless' leaks: tess-oaf, tess-yaf in train and in test"):
        protocols.split(rows, "careless")


def test_the_same_samples_on_both_sides_are_refused(rows):
    trained = rows["sha256"][rows["file"].index("03-01-01-01-01-01-01.wav")]
    leaky = changed(rows, "sha256", "03-01-01-01-01-01-21.wav", trained)
    with pytest.raises(LeakError, match=r"01-01-01\.wav and .*-21\.wav hold the same samples"):
        protocols.split(leaky)
    same_voice = changed(rows, "sha256", "03-01-02-01-01-01-01.wav", trained)
    assert protocols.split(same_voice).hash == protocols.split(rows).hash


def test_what_does_not_fit_is_refused(rows):
    with pytest.raises(ProtocolError, match="'speakers' is no protocol: choose one of speaker, random"):
        protocols.split(rows, "speakers")
    with pytest.raises(ProtocolError, match="folds are 0 to 5"):
        protocols.split(rows, "emobox-ravdess", fold=6)
    ravdess = rows.filter(lambda corpus: corpus == "ravdess", input_columns="corpus")
    with pytest.raises(
        ProtocolError, match=r"needs tess, the dataset holds ravdess: use emobox-ravdess or luna-ravdess"
    ):
        protocols.split(ravdess)
    assert len(protocols.split(ravdess, "luna-ravdess").test) == 5 * 16
