import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.splits import actors, changed, picked, speakers

from ser_hf import protocols
from ser_hf.protocols import LeakError, ProtocolError, base
from ser_hf.protocols.builtin import EMOBOX_FOLDS, LUNA_FOLDS, PROTOCOLS


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


def three_corpora(rows):
    """Half of the RAVDESS actors as a corpus of its own, of two labels."""
    corpora, labels = np.array(rows["corpus"], dtype=object), np.array(rows["label"])
    corpora[np.isin(rows["speaker"], sorted(actors(*range(13, 25))))] = "emodb"
    kept = np.flatnonzero((corpora != "emodb") | np.isin(labels, [0, 1]))  # neutral and calm
    rows = rows.remove_columns("corpus").add_column("corpus", corpora.tolist(), feature=rows.features["corpus"])
    return rows.select(kept)


def test_every_corpus_is_left_out_in_turn(rows):
    rows = three_corpora(rows)
    splits = protocols.folds(rows, "leave-corpus-out")
    corpora, labels, sexes = (np.array(rows[name]) for name in ("corpus", "label", "sex"))
    assert [set(corpora[split.test]) for split in splits] == [{"emodb"}, {"ravdess"}, {"tess"}]
    for split, shared in zip(splits, ({0, 1}, set(range(8)), {0, 2, 3, 4, 5, 6, 7}), strict=True):
        assert set(corpora[split.train]) == set(corpora) - set(corpora[split.test])
        assert set(labels[split.test]) == shared
        assert set(labels[split.train]) <= shared
        assert not speakers(rows, split.train) & speakers(rows, split.validation)
        assert split.held_apart[0] == "speakers"
    chosen = speakers(rows, splits[2].validation)
    assert len(chosen) == 4  # of six women and six men of either corpus, a fifth is one
    assert set(sexes[splits[2].validation]) == {"female", "male"}
    assert protocols.split(rows, "leave-corpus-out", 2, seed=7).hash != splits[2].hash
    with pytest.raises(ProtocolError, match="fold 3 is not in 'leave-corpus-out': its folds are 0 to 2"):
        protocols.split(rows, "leave-corpus-out", 3)


def test_one_corpus_cannot_be_left_out(rows):
    tess = rows.select(picked(rows, corpus={"tess"}))
    with pytest.raises(ProtocolError, match="needs at least 2 corpora, the dataset holds tess: build it with another"):
        protocols.split(tess, "leave-corpus-out")
    with pytest.raises(ProtocolError, match="the dataset holds nothing"):
        protocols.split(rows.select([]), "leave-corpus-out")


def test_random_is_a_third_seeded_and_warns_that_it_leaks(rows):
    split = protocols.split(rows, "random")
    assert len(split.test) == int(np.ceil(len(rows) * 0.33))
    assert split == protocols.split(rows, "random")
    assert split.hash != protocols.split(rows, "random", seed=7).hash
    assert "leaks: 26 of 26 test speakers" in split.warning


def test_extra_train_speakers_are_in_neither_test_nor_validation(rows):
    for name, fold in (("emobox-ravdess", 2), ("tess-oaf-yaf", 0)):
        narrow, wide = protocols.split(rows, name, fold), protocols.split(rows, name, fold, extra_train_speakers=True)
        assert (wide.validation, wide.test) == (narrow.validation, narrow.test)
        assert wide.hash != narrow.hash
        assert set(narrow.train) < set(wide.train)
        assert not speakers(rows, wide.train) & speakers(rows, wide.test)
        assert f"Trained on {len(wide.train) - len(narrow.train):,} recordings" in wide.note
    folds = actors(*range(1, 25)) - actors(*EMOBOX_FOLDS[2], *EMOBOX_FOLDS[3])
    wide = protocols.split(rows, "emobox-ravdess", 2, extra_train_speakers=True)
    assert speakers(rows, wide.train) == folds | {"tess-oaf", "tess-yaf"}
    whole = protocols.split(rows, "speaker", extra_train_speakers=True)
    assert (whole.hash, whole.note) == (protocols.split(rows, "speaker").hash, None)  # it leaves out nothing


def test_extra_train_speakers_bring_no_copy_of_a_test_recording(rows):
    narrow = protocols.split(rows, "tess-oaf-yaf")
    extra = next(
        i for i in protocols.split(rows, "tess-oaf-yaf", extra_train_speakers=True).train if i not in narrow.train
    )
    sounds = rows["sha256"][:]
    copied = changed(rows, "sha256", rows["file"][extra], sounds[narrow.test[0]])
    assert extra not in protocols.split(copied, "tess-oaf-yaf", extra_train_speakers=True).train
    copied = changed(rows, "sha256", rows["file"][extra], sounds[narrow.validation[0]])
    assert extra not in protocols.split(copied, "tess-oaf-yaf", extra_train_speakers=True).train
    unknown = changed(rows, "speaker", rows["file"][extra], "")
    assert extra not in protocols.split(unknown, "tess-oaf-yaf", extra_train_speakers=True).train
    near = [[extra, narrow.validation[0]]]
    assert extra not in protocols.split(rows, "tess-oaf-yaf", near_duplicates=near, extra_train_speakers=True).train
    near = [[extra, extra + 1]]  # copies of one another are judged by none
    assert extra in protocols.split(rows, "tess-oaf-yaf", near_duplicates=near, extra_train_speakers=True).train


@pytest.mark.parametrize("shares", [False, True])
def test_extra_rows_are_of_validation_speakers_only_where_those_are_trained_on(rows, monkeypatch, shares):
    who, chosen, tested = (picked(rows, speaker=actors(number)) for number in (1, 2, 3))
    validation = who[:4] if shares else chosen[:4]

    def split(columns, fold, seed):
        return np.array(who[4:8]), np.array(validation), np.array(tested[:4])

    monkeypatch.setitem(PROTOCOLS, "some", base.Protocol(split, (), 1, validation_shares_speaker=shares))
    train = set(protocols.split(rows, "some", extra_train_speakers=True).train)
    assert set(who[8:]) <= train
    assert (set(chosen) <= train) == shares
    assert not train & set(chosen[4:] if not shares else who[:4])
    assert not train & set(tested)


def test_a_refit_trains_on_the_validation_side_and_on_nobody_who_is_tested(rows):
    for name, fold in (("emobox-ravdess", 2), ("speaker", 0), ("tess-oaf-yaf", 0)):
        usual, again = protocols.split(rows, name, fold), protocols.split(rows, name, fold, train_on_validation=True)
        assert (again.test, again.validation) == (usual.test, [])
        assert again.train == sorted(usual.train + usual.validation)
        assert again.hash != usual.hash
        assert "validation side" in again.note
    wide = protocols.split(rows, "emobox-ravdess", 2, train_on_validation=True, extra_train_speakers=True)
    assert speakers(rows, wide.train) == actors(*range(1, 25)) - actors(*EMOBOX_FOLDS[2]) | {"tess-oaf", "tess-yaf"}
    assert wide.held_apart == ("speakers", "samples")


def test_all_trains_on_everybody_and_is_for_a_refit_alone(rows):
    whole = protocols.split(rows, "all", train_on_validation=True)
    assert (whole.train, whole.validation, whole.test) == (list(range(len(rows))), [], [])
    assert [indices.dtype.kind for indices in whole.sides.values()] == ["i", "i", "i"]
    with pytest.raises(ProtocolError, match="holds out nobody"):
        protocols.split(rows, "all")


def test_hashes_name_the_split(rows):
    fixed = {name: protocol for name, protocol in PROTOCOLS.items() if protocol.folds is not None}
    every = [split for name in fixed for split in protocols.folds(rows, name)]
    assert len({split.hash for split in every}) == len(every) == sum(protocol.folds for protocol in fixed.values())
    split = protocols.split(rows, "ravdess-tess")
    sides = {"train": split.train, "validation": split.validation, "test": split.test}
    lines = [f"{side} {i} {Path(rows['file'][i]).stem}" for side, indices in sides.items() for i in indices]
    assert split.hash == hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert protocols.split(rows).hash == protocols.split(rows).hash
    dotted = [protocols.split(changed(rows, "file", rows["file"][0], name)).hash for name in ("a.b.wav", "a.c.wav")]
    assert dotted[0] != dotted[1]  # the ending alone does not count
    assert protocols.split(changed(rows, "file", rows["file"][0], "a.b.flac")).hash == dotted[0]


def test_a_speaker_on_both_sides_is_refused(rows, monkeypatch):
    def careless(columns, fold, seed):
        order = np.arange(len(columns["speaker"]))
        return order[::3], order[1::3], order[2::3]

    monkeypatch.setitem(PROTOCOLS, "careless", base.Protocol(careless, (), 1))
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
    with pytest.raises(ProtocolError, match=r"'speakers' is no protocol: did .* Choose one of speaker, random"):
        protocols.split(rows, "speakers")
    with pytest.raises(ProtocolError, match="folds are 0 to 5"):
        protocols.split(rows, "emobox-ravdess", fold=6)
    ravdess = rows.filter(lambda corpus: corpus == "ravdess", input_columns="corpus")
    with pytest.raises(
        ProtocolError, match=r"needs tess, the dataset holds ravdess: use emobox-ravdess or luna-ravdess"
    ):
        protocols.split(ravdess)
    assert len(protocols.split(ravdess, "luna-ravdess").test) == 5 * 16


def test_one_speaker_is_left_out_at_a_time(rows):
    splits = protocols.folds(rows, "loso-ravdess")
    assert [speakers(rows, split.test) for split in splits] == [actors(k) for k in range(1, 25)]
    assert sorted(i for split in splits for i in split.test) == picked(rows, corpus=["ravdess"])
    assert [speakers(rows, splits[k].validation) for k in (0, 21, 22, 23)] == [
        actors(2, 3),
        actors(23, 24),
        actors(24, 1),
        actors(1, 2),
    ]
    for split in splits:
        assert set(np.array(rows["sex"])[split.validation]) == {"female", "male"}
        assert len(speakers(rows, split.train)) == 21
        assert split.held_apart == ("speakers", "samples")


def test_the_sentence_is_new_and_the_voices_are_not(rows):
    song = changed(rows, "channel", "03-01-02-01-02-01-05.wav", "song")
    split = protocols.split(song, "sentence")
    statement_1, statement_2 = (picked(rows, corpus=["ravdess"], statement=[number]) for number in "12")
    assert split.test == statement_2
    assert sorted(split.train + split.validation) == statement_1
    assert speakers(rows, split.validation) == actors(17, 18, 19, 20)
    assert speakers(rows, split.train) == actors(*range(1, 17), *range(21, 25))
    assert split.warning == (
        "protocol 'sentence' leaks: 24 of 24 test speakers are in training or validation, too; "
        "only the sentence is new, the voices are not."
    )
    assert split.held_apart == ("samples", "sentences")


def test_across_corpora_only_the_labels_of_both_count(rows):
    song = changed(rows, "channel", "03-01-03-01-02-01-05.wav", "song")
    shared = [label for label in range(8) if label != 1]  # TESS has no calm
    split = protocols.split(song, "ravdess-tess")
    assert split.test == picked(rows, corpus=["tess"])
    assert split.validation == picked(rows, speaker=actors(17, 18, 19, 20), label=shared)
    assert split.train == picked(rows, speaker=actors(*range(1, 17), *range(21, 25)), label=shared)
    split = protocols.split(song, "tess-ravdess")
    assert (split.train, split.validation) == (picked(rows, speaker=["tess-oaf"]), picked(rows, speaker=["tess-yaf"]))
    assert split.test == picked(rows, corpus=["ravdess"], label=shared)
    sad = picked(rows, label=[3], corpus=["tess"])
    without = rows.select([i for i in range(len(rows)) if i not in sad])
    assert set(np.array(without["label"])[protocols.split(without, "tess-ravdess").test]) == set(shared) - {3}


@pytest.mark.parametrize("name", [name for name, protocol in PROTOCOLS.items() if not protocol.leaks])
def test_no_test_speaker_is_in_training(rows, name):
    for split in protocols.folds(rows, name, near_duplicates=[]):
        assert not speakers(rows, split.test) & speakers(rows, split.train + split.validation)
        assert not set(split.train) & set(split.validation)
        assert split.held_apart[:3] == ("speakers", "samples", "near duplicates")
        assert split.warning is None


def test_folds_gives_one_or_all(rows):
    every = [protocols.split(rows, "emobox-ravdess", fold) for fold in range(6)]
    assert protocols.folds(rows, "emobox-ravdess") == protocols.folds(rows, "emobox-ravdess", "all") == every
    assert protocols.folds(rows, "emobox-ravdess", "3") == protocols.folds(rows, "emobox-ravdess", 3) == [every[3]]
    assert protocols.folds(rows, "random", "all", 7) == [protocols.split(rows, "random", seed=7)]
    with pytest.raises(ProtocolError, match="fold all of 'emobox-ravdess' is not one split: give the number of a fold"):
        protocols.split(rows, "emobox-ravdess", "all")
    with pytest.raises(ProtocolError, match="fold 1 is not in 'speaker': its folds are 0 to 0"):
        protocols.split(rows, "speaker", 1)
    assert protocols.folds(rows, "random") == [protocols.split(rows, "random", seed=42)]
    for nonsense in ("6", -1, "two", "1.5", "", "²", "٣"):
        with pytest.raises(ProtocolError, match=rf"fold {nonsense} is not in 'emobox-ravdess': its folds are 0 to 5"):
            protocols.folds(rows, "emobox-ravdess", nonsense)


def test_near_duplicates_stand_on_one_side(rows):
    row = {name: rows["file"].index(f"03-01-01-01-01-01-{name}.wav") for name in ("01", "02", "17", "21", "22")}
    one_side = [[row["01"], row["02"]], [row["21"], row["22"]]]
    split = protocols.split(rows, near_duplicates=one_side)
    assert split.hash == protocols.split(rows).hash
    assert split.held_apart == ("speakers", "samples", "near duplicates")
    for actor, side in (("21", "test"), ("17", "validation")):
        message = (
            rf"'speaker' leaks: .*-01\.wav and .*-{actor}\.wav are the same recording \(near duplicates\), "
            f"in train and in {side}; remove one of the two recordings"
        )
        with pytest.raises(LeakError, match=message):
            protocols.folds(rows, near_duplicates=[*one_side, [row[actor], row["02"], row["01"]][::-1]])
    words = protocols.split(rows, "tess-oaf-yaf")
    with pytest.raises(LeakError, match=r"near duplicates.*in train and in validation"):
        protocols.split(rows, "tess-oaf-yaf", near_duplicates=[[words.train[0], words.validation[0]]])
    outside = protocols.split(rows, "tess-oaf-yaf", near_duplicates=[[words.train[0], row["01"]]])
    assert "near duplicates" in outside.held_apart


def test_a_leak_by_design_is_described(rows):
    random = protocols.split(rows, "random")
    near = [[random.train[0], random.test[0]]]
    split = protocols.split(rows, "random", near_duplicates=near)
    assert split.held_apart == ("samples",)
    assert [line.split(" cross: ")[0] for line in split.crosses] == ["speakers", "near duplicates", "sentences"]
    sentence = protocols.split(rows, "sentence")
    with pytest.raises(LeakError, match=r"'sentence' leaks: .* same recording"):
        protocols.split(rows, "sentence", near_duplicates=[[sentence.train[0], sentence.test[0]]])


def test_new_sentences_are_held_to_on_request(rows, custom):
    message = (
        r"'speaker' leaks: 2 statements of ravdess, 2 statements of tess in training or validation and in test; "
        "use ravdess-tess, tess-ravdess or sentence"
    )
    with pytest.raises(LeakError, match=message):
        protocols.split(rows, text_disjoint=True)
    chosen_on = {"test": {"file": "YAF_bar_sad"}, "validation": {"file": "OAF_bar_sad"}, "train": {"sex": "male"}}
    with pytest.raises(LeakError, match="1 statement of tess in training or validation and in test"):
        custom(chosen_on, ".json", text_disjoint=True)
    for name in ("sentence", "ravdess-tess", "tess-ravdess"):
        assert "sentences" in protocols.split(rows, name, text_disjoint=True).held_apart


def test_an_unknown_sentence_is_not_taken_for_a_new_one(rows, tmp_path):
    unknown = changed(rows, "statement", "YAF_bar_sad.wav", None)
    file = tmp_path / "words.json"
    sides = {"test": ("tess-yaf", "bar"), "validation": ("ravdess-01", "1"), "train": ("tess-oaf", "back")}
    written = {side: [{"speaker": who, "statement": what}] for side, (who, what) in sides.items()}
    file.write_text(json.dumps(written))
    assert "sentences" in protocols.split(unknown, str(file), text_disjoint=True).held_apart
    written["test"].append({"file": "YAF_bar_sad"})
    file.write_text(json.dumps(written))
    with pytest.raises(LeakError, match=r"the statement of YAF_bar_sad.wav is unknown and cannot be shown to be new"):
        protocols.split(unknown, str(file), text_disjoint=True)
    split = protocols.split(unknown, str(file))
    assert "sentences" not in split.held_apart
    assert split.crosses[0].startswith("sentences may cross: the statement of YAF_bar_sad.wav")
    both = changed(unknown, "statement", "OAF_bar_sad.wav", None)
    written["train"] = {"file": "OAF_bar_sad"}
    file.write_text(json.dumps(written))
    assert "the statement of OAF_bar_sad.wav is unknown" in protocols.split(both, str(file)).crosses[0]
    assert "sentences" in protocols.split(unknown, "ravdess-tess", text_disjoint=True).held_apart
    with pytest.raises(ProtocolError, match="some words of tess-yaf are unknown"):
        protocols.split(unknown, "tess-yaf-oaf")


def test_describe_counts_each_side(rows):
    lines = protocols.describe(rows, protocols.split(rows, near_duplicates=[])).splitlines()
    assert lines[0] == f"protocol speaker fold 0 ({protocols.split(rows).hash})"
    table = {line.split()[0]: line.split()[1:] for line in lines[lines.index("") + 1 :][:10]}
    # 16 actors with two statements of each of eight emotions; OAF with two words of each of seven
    assert table["train"] == ["ravdess", "female", "ravdess", "male", "tess", "female", "all"]
    assert table["calm"] == ["16", "16", "0", "32"]
    assert table["surprised"] == ["16", "16", "2", "34"]
    assert table["all"] == ["128", "128", "14", "270"]
    hours = sum(np.array(rows["duration"])[protocols.split(rows).test]) / 3600
    assert f"78 recordings, 5 speakers, {hours:.3f} hours" in lines
    assert lines[-2:] == [
        "held apart: speakers, samples, near duplicates",
        "sentences cross: 2 statements of ravdess, 2 statements of tess in training or validation and in test",
    ]
    assert len({len(line) for line in lines[2:12]}) == 1


def test_describe_names_what_is_shared_unknown_or_leaks(rows):
    nobody = rows.remove_columns("duration").map(lambda row: {"sex": None if row["corpus"] == "tess" else row["sex"]})
    text = protocols.describe(nobody, protocols.split(nobody, "tess-oaf-yaf"))
    assert "tess unknown" in text
    assert "\n7 recordings, 1 speaker\n" in text
    assert text.endswith("training and validation share tess-oaf")
    leaky = protocols.split(rows, "sentence")
    assert protocols.describe(rows, leaky).endswith(f"WARNING: {leaky.warning}")
    many = rows.select([i for i in range(len(rows)) for _ in range(12)])
    by_hand = protocols.Split([i for i in range(len(many)) if i % 12], [0], [12], "by hand", 0, "0")
    assert f"\n{len(rows) * 11:,} recordings, 26 speakers" in protocols.describe(many, by_hand)
