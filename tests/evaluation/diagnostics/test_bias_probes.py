import json
import warnings

import numpy as np
import pytest
from scipy.stats import entropy

from ser_hf.evaluation.diagnostics import bias_probes
from ser_hf.protocols.base import columns_of


def clips(n=600, speakers=12, width=16, seed=0):
    """Embeddings that say nothing, and columns in which nothing depends on anything but who
    speaks."""
    rng = np.random.default_rng(seed)
    who = np.arange(n) % speakers
    columns = {
        "label": rng.integers(0, 8, n),
        "corpus": np.where(who < speakers // 2, "one", "two"),
        "speaker": np.array([f"s{i:02d}" for i in who]),
        "sex": np.where(who % 2, "female", "male"),
        "duration": rng.uniform(1, 5, n),
        "channel": np.full(n, "speech"),
    }
    return rng.standard_normal((n, width)), columns


def test_embeddings_that_say_nothing():
    embeddings, columns = clips()
    found = bias_probes.probe(embeddings, columns)
    assert json.loads(json.dumps(found)) == found
    assert found["n"] == found["probed"] == 600
    for name, classes in (("corpus", 2), ("speaker", 12), ("sex", 2)):
        its = found["probes"][name]
        assert its["measure"] == "balanced accuracy"
        assert its["classes"] == classes
        assert its["chance"] == 1 / classes
        assert its["score"] == pytest.approx(its["chance"], abs=0.08)
    assert found["probes"]["duration"]["measure"] == "R²"
    assert found["probes"]["duration"]["score"] == pytest.approx(0, abs=0.05)
    assert found["warnings"] == []


@pytest.mark.parametrize("name", ["corpus", "sex", "duration"])
def test_what_is_planted_is_found_and_nothing_else(name):
    embeddings, columns = clips()
    values = columns[name] if name == "duration" else (columns[name] == columns[name][0]) * 4.0
    embeddings[:, 0] = values + 0.1 * embeddings[:, 0]
    columns["label"] = (columns["corpus"] == "one") * 2 + (np.arange(600) // 12) % 2  # a corpus, two emotions
    found = bias_probes.probe(embeddings, columns)
    assert found["probes"][name]["score"] > 0.98
    assert found["probes"][name]["folds"] == "5 folds that hold 12 speakers apart"
    assert all(found["probes"][other]["score"] < 0.65 for other in {"corpus", "sex", "duration"} - {name})
    assert [text.split(" can be read")[0] for text in found["warnings"]] == [f"The {name}"]
    if name == "corpus":
        assert found["warnings"] == [
            "The corpus can be read from the embeddings (balanced accuracy 1.00, chance 0.50), and tells 50 % of the "
            "emotion: part of the accuracy across corpora may be the corpus."
        ]


def test_a_corpus_that_tells_nothing_of_the_emotion_is_no_warning():
    embeddings, columns = clips()
    embeddings[:, 0] = columns["corpus"] == "one"
    found = bias_probes.probe(embeddings, columns)
    assert found["probes"]["corpus"]["score"] == 1
    assert found["emotion_from_corpus"]["entropy_share"] < bias_probes.MIN_ENTROPY_SHARE
    assert found["warnings"] == []


def test_a_voice_alone_does_not_pass_for_what_its_speaker_is():
    """Who speaks is all that these embeddings hold; folds over clips would read corpus and sex from
    it without fail."""
    scores = {"corpus": [], "sex": []}
    for seed in range(3):
        embeddings, columns = clips(n=240, speakers=24, width=24, seed=seed)
        voices = np.random.default_rng(seed).standard_normal((24, 24))
        embeddings = 0.01 * embeddings + voices[np.arange(240) % 24]
        columns["duration"] = 1 + np.random.default_rng(seed).permutation(24)[np.arange(240) % 24] / 24
        found = bias_probes.probe(embeddings, columns, seed=seed)
        assert found["probes"]["speaker"]["score"] > 0.99
        assert found["probes"]["speaker"]["folds"] == "5 folds over clips"
        assert found["probes"]["duration"]["score"] < 0.3
        assert [text.split(" can be read")[0] for text in found["warnings"]] == ["The speaker"]
        for name, of_seed in scores.items():
            of_seed.append(found["probes"][name]["score"])
    assert all(np.mean(of_seed) < 0.6 for of_seed in scores.values())


@pytest.mark.parametrize("speakers", [4, 5, 12])
def test_folds_hold_speakers_apart_and_have_every_class_on_both_sides(speakers):
    embeddings, columns = clips(speakers=speakers)
    its = bias_probes._Property("sex", columns["sex"], columns["speaker"], embeddings)
    keep, folds, _ = bias_probes._by_speaker(its, seed=0)
    assert len(keep) == 600
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(600))
    for train, test in folds:
        assert not set(columns["speaker"][train]) & set(columns["speaker"][test])
        assert set(columns["sex"][train]) == set(columns["sex"][test]) == {"female", "male"}


def test_a_class_of_one_speaker_is_read_over_clips_and_said_so():
    embeddings, columns = clips()
    lone = columns["speaker"] == "s00"
    columns["corpus"] = np.where(lone, "lone", "rest")
    embeddings += 3 * lone[:, None]
    its = bias_probes.probe(embeddings, columns)["probes"]["corpus"]
    assert its["score"] > 0.98
    assert its["folds"] == "5 folds over clips: 'lone' has fewer than two speakers, whose voice may be what is read"


def test_what_cannot_be_asked_says_why():
    embeddings, columns = clips(n=60)
    columns |= {
        "corpus": np.full(60, "one"),
        "sex": np.full(60, ""),
        "speaker": np.full(60, "one-unknown"),
        "duration": np.full(60, 2.0),
    }
    found = bias_probes.probe(embeddings, columns)
    reasons = {name: its["folds"] for name, its in found["probes"].items()}
    assert reasons == {
        "corpus": "cannot be asked: one corpus only (one)",
        "sex": "cannot be asked: no sex is known",
        "speaker": "cannot be asked: no speaker is known",
        "duration": "cannot be asked: all clips are equally long",
    }
    assert all(its["score"] is None for its in found["probes"].values())
    assert found["warnings"] == []


def test_speakers_of_a_few_clips_and_unknown_sexes_are_left_out():
    embeddings, columns = clips()
    columns["speaker"][:3] = "rare"
    columns["sex"][columns["speaker"] == "s01"] = ""
    probes = bias_probes.probe(embeddings, columns)["probes"]
    assert probes["speaker"]["classes"] == 12
    assert probes["speaker"]["folds"] == "5 folds over clips (1 of 13 have too few and are left out)"
    assert probes["sex"]["classes"] == 2


@pytest.mark.parametrize(("clips_of_one", "share"), [(100, 100), (70, 70)])
def test_durations_that_are_mostly_of_one_speaker(clips_of_one, share):
    embeddings, columns = clips(n=100)
    columns["speaker"][:clips_of_one] = "one"
    embeddings[:, 3] = columns["duration"]
    its = bias_probes.probe(embeddings, columns)["probes"]["duration"]
    assert its["score"] > 0.98
    assert its["folds"] == f"5 folds over clips: {share} % of them are of one speaker (one)"


def test_what_the_corpus_tells_by_hand():
    labels = np.array([0] * 6 + [1] * 2 + [1] * 1 + [2] * 3)
    corpora = np.array(["a"] * 8 + ["b"] * 4)
    found = bias_probes.from_corpus(labels, corpora)
    assert found["accuracy"] == 9 / 12
    assert found["accuracy_without"] == 6 / 12
    assert found["uar"] == pytest.approx((6 / 6 + 3 / 3) / 3)
    assert found["uar_without"] == 1 / 3
    whole, inside = entropy([6, 3, 3]), 8 / 12 * entropy([6, 2]) + 4 / 12 * entropy([1, 3])
    assert found["entropy_share"] == pytest.approx((whole - inside) / whole)


def test_what_one_corpus_and_one_emotion_tell():
    labels = np.array([2, 2, 5, 7])
    found = bias_probes.from_corpus(labels, np.full(4, "a"))
    assert found == {
        "accuracy": 0.5,
        "accuracy_without": 0.5,
        "uar": 1 / 3,
        "uar_without": 1 / 3,
        "entropy_share": pytest.approx(0, abs=1e-12),
    }
    assert bias_probes.from_corpus(np.full(4, 3), np.array(["a", "a", "b", "b"]))["entropy_share"] == 0


def test_many_clips_are_drawn_from_and_nothing_is_said_on_the_console(monkeypatch):
    monkeypatch.setattr(bias_probes, "MOST_CLIPS", 300)
    embeddings, columns = clips()
    embeddings[:, 0] *= 1e4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bias_probes.probe(embeddings, columns, seed=3)
        assert found == bias_probes.probe(embeddings, columns, seed=3)
    assert found["n"] == 600
    assert found["probed"] == 300


def test_the_columns_of_a_dataset_will_do(rows):
    columns = columns_of(rows)
    embeddings = np.random.default_rng(0).standard_normal((len(rows), 8))
    found = bias_probes.probe(embeddings, columns)
    assert found["probes"]["speaker"]["classes"] == 26
    assert found["probes"]["corpus"]["folds"] == "2 folds that hold 26 speakers apart"
    assert found["emotion_from_corpus"]["entropy_share"] > 0
