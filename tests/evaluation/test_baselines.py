import dataclasses
import sys

import numpy as np
import opensmile
import pytest
import scipy.fft
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ser_hf import audio, protocols
from ser_hf.data import acoustic_features
from ser_hf.errors import UserError
from ser_hf.evaluation import baselines, metrics
from ser_hf.labels import EMOTIONS


@pytest.fixture(scope="module")
def small(rows):
    """A split of few clips: openSMILE takes its time."""
    split = protocols.split(rows, "speaker")
    few = {"train": split.train[::7], "validation": split.validation[::7], "test": split.test[::7]}
    return dataclasses.replace(split, **few)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def answer(rows, small, cache, monkeypatch):
    """Probabilities and settings of a baseline on `small`, with one cache for all."""

    monkeypatch.setattr(baselines, "EPOCHS", 5)  # of the network

    def run(name, data=rows, split=small, seed=42):
        return baselines.predict_baseline(name, data, split, seed, cache)

    return run


@pytest.fixture
def clusters():
    """Draw a side of eight overlapping classes in 40 dimensions."""

    def draw(seed, classes=range(8), clips=20, spread=4.0):
        rng = np.random.default_rng(seed)
        labels = np.repeat(list(classes), clips)
        centres = np.random.default_rng(0).normal(size=(8, 40))
        values = centres[labels] + rng.normal(size=(len(labels), 40)) * spread
        return values.astype(np.float32), labels

    return draw


def relabelled(rows, places, rng):
    """The dataset with the labels at some places shuffled."""
    labels = np.array(rows["label"])
    labels[places] = rng.permutation(labels[places])
    return rows.remove_columns("label").add_column("label", labels.tolist())


def slaney_mels():
    """Triangles of unit area on the scale of Slaney's Auditory Toolbox: linear to 1 kHz, then
    logarithmic."""
    mels = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 130)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    bins = np.arange(1025) * 16_000 / 2048
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])[:, None]


def test_mfcc_are_those_of_the_published_definition(rows):
    samples = audio.load(rows[7]["audio"])
    padded = np.pad(samples.astype(np.float64), 1024)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2048)[::512]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2 @ slaney_mels().T
    decibels = 10 * np.log10(np.maximum(power, 1e-10))
    expected = scipy.fft.dct(np.maximum(decibels, decibels.max() - 80), norm="ortho")[:, :40].mean(0)
    got = acoustic_features.mfcc(samples)
    assert got.shape == (40,)
    np.testing.assert_allclose(got, expected, atol=0.01)
    assert np.abs(expected).max() > 50


def test_egemaps_are_88_and_loudness_rises_with_gain(rows):
    samples = audio.load(rows[7]["audio"])
    names = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals).feature_names
    loudness = names.index("loudness_sma3_amean")
    soft, loud = acoustic_features.egemaps(samples * np.float32(0.1)), acoustic_features.egemaps(samples)
    assert soft.shape == loud.shape == (88,)
    assert np.isfinite([soft, loud]).all()
    assert loud[loudness] > 1.5 * soft[loudness]
    pitch = names.index("F0semitoneFrom27.5Hz_sma3nz_amean")
    assert loud[pitch] == pytest.approx(soft[pitch], abs=0.5)


def test_full_scale_does_not_wrap_round():
    square = np.sign(np.sin(2 * np.pi * 220 * np.arange(16_000) / 16_000)).astype(np.float32)
    np.testing.assert_allclose(
        acoustic_features.egemaps(square), acoustic_features.egemaps(square * 0.9999), rtol=0.05, atol=0.05
    )


def test_features_come_in_the_order_of_rows_and_each_sound_is_computed_once(rows, tmp_path, monkeypatch):
    loaded, load = [], audio.load
    monkeypatch.setattr(audio, "load", lambda source: loaded.append(1) or load(source))
    values = acoustic_features.features(rows.select([9, 3, 9]), "mfcc", tmp_path)
    assert len(loaded) == 2
    expected = [acoustic_features.mfcc(load(rows[place]["audio"])) for place in (9, 3, 9)]
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, atol=1e-3)
    assert np.abs(values[0] - values[1]).max() > 1


def test_what_is_known_is_not_decoded_again(rows, tmp_path, monkeypatch):
    first = acoustic_features.features(rows.select(range(4)), "mfcc", tmp_path)
    cache = f"acoustics-mfcc-v{acoustic_features.VERSION}.npz"
    assert {path.name for path in tmp_path.iterdir()} == {cache, f"{cache}.lock"}
    loaded, load = [], audio.load
    monkeypatch.setattr(audio, "load", lambda source: loaded.append(1) or load(source))
    more = acoustic_features.features(
        rows.select([3, 4, 0]), "mfcc", tmp_path
    )  # another dataset that shares two sounds
    assert len(loaded) == 1
    np.testing.assert_array_equal(more[[0, 2]], first[[3, 0]])
    monkeypatch.setattr(audio, "load", None)
    np.testing.assert_array_equal(acoustic_features.features(rows.select([3, 4, 0]), "mfcc", tmp_path), more)


def test_a_changed_sound_is_computed_anew(rows, tmp_path):
    def softer(row):
        pcm = audio.to_pcm(audio.load(row["audio"]) * np.float32(0.1))
        return {"audio": {"bytes": audio.to_flac(pcm), "path": None}, "sha256": "changed"}

    one = rows.select([0])
    before = acoustic_features.features(one, "mfcc", tmp_path)[0]
    after = acoustic_features.features(one.map(softer), "mfcc", tmp_path)[0]
    assert after[0] < before[0] - 50  # the first coefficient is the level


def test_features_that_are_no_numbers_are_refused_and_not_kept(rows, tmp_path, monkeypatch):
    monkeypatch.setitem(acoustic_features._FEATURES, "mfcc", lambda: lambda samples: np.full(40, np.nan))
    with pytest.raises(acoustic_features.AcousticsError, match="NaN or infinite: remove the recording") as error:
        acoustic_features.features(rows.select([2]), "mfcc", tmp_path)
    assert rows[2]["file"] in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_missing_opensmile_is_one_line_that_installs_it(rows, small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(UserError) as error:
        baselines.predict_baseline("egemaps-svm", rows, small, cache_dir=tmp_path)
    assert str(error.value) == "eGeMAPS needs the package opensmile: pip install 'ser-hf[baselines]'"


def test_unknown_names_are_refused_with_those_there_are(rows, small):
    with pytest.raises(UserError, match=r"'mfcc-forest' is no baseline: .*hoose one of egemaps-svm, .*, mfcc-svm$"):
        baselines.predict_baseline("mfcc-forest", rows, small)
    with pytest.raises(UserError, match="'mel' are no features: choose one of mfcc, egemaps"):
        acoustic_features.features(rows, "mel")


def test_one_emotion_is_not_enough(rows, small, answer):
    labels = np.array(rows["label"])
    split = dataclasses.replace(small, train=[place for place in small.train if labels[place] == 2])
    with pytest.raises(UserError, match="mfcc-svm needs two emotions to train on"):
        answer("mfcc-svm", split=split)


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_emotions_never_seen_are_never_answered(name, rows, small, answer):
    labels = np.array(rows["label"])
    unseen = [EMOTIONS.index("calm"), EMOTIONS.index("fearful")]
    sides = {
        side: [row for row in getattr(small, side) if labels[row] not in unseen] for side in ("train", "validation")
    }
    probabilities, settings = answer(name, split=dataclasses.replace(small, **sides))
    assert probabilities.shape == (len(small.test), 8)
    assert probabilities.dtype == np.float32
    assert (probabilities[:, unseen] == 0).all()
    assert (np.delete(probabilities, unseen, axis=1) > 0).any(0).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert settings


@pytest.mark.parametrize("name", ["egemaps-logistic", "mfcc-cnn", "mfcc-svm"])
def test_labels_of_the_test_side_are_not_used_and_those_of_training_are(name, rows, small, answer):
    rng = np.random.default_rng(0)
    expected, settings = answer(name)
    untouched, same = answer(name, relabelled(rows, small.test, rng))
    np.testing.assert_array_equal(untouched, expected)
    assert same == settings
    for side in ("train", "validation"):  # what is tested was fitted on both
        assert np.abs(answer(name, relabelled(rows, getattr(small, side), rng))[0] - expected).max() > 0.01


@pytest.mark.parametrize("name", ["mfcc-cnn", "mfcc-mlp"])
def test_a_seed_repeats_and_another_one_does_not(name, answer):
    first = answer(name)[0]
    np.testing.assert_array_equal(answer(name)[0], first)
    assert np.abs(answer(name, seed=43)[0] - first).max() > 1e-3


@pytest.mark.parametrize("classes", [(0, 1, 2, 4, 7), (3, 5)], ids=["many", "two"])
def test_the_likeliest_emotion_is_what_the_support_vector_machine_answers(clusters, classes):
    train, validation, test = (clusters(seed, classes) for seed in range(3))
    probabilities, settings = baselines.BASELINES["mfcc-svm"].predict(train, validation, test[0], 0)
    machine = SVC(C=settings["C"], gamma=settings["gamma"] / 40, class_weight="balanced", break_ties=True)
    both = np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]])
    expected = make_pipeline(StandardScaler(), machine).fit(*both).predict(test[0])
    np.testing.assert_array_equal(probabilities.argmax(1), expected)
    assert 0 < (expected != test[1]).mean() < 0.8  # neither easy nor hopeless


def test_settings_are_those_of_the_best_validation_uar(clusters):
    train, validation, test = (clusters(seed) for seed in range(3))
    settings = baselines.BASELINES["egemaps-logistic"].predict(train, validation, test[0], 0)[1]
    found = {}
    for strength in baselines.BASELINES["egemaps-logistic"].predict.grid["C"]:
        model = baselines.BASELINES["egemaps-logistic"].predict.fit({"C": strength}, train, 0)
        np.testing.assert_allclose(model[0].mean_, train[0].mean(0), atol=1e-4)  # scaled by training alone
        found[strength] = float(metrics.scores(metrics.confusion(validation[1], model.predict(validation[0])))["uar"])
    assert settings["C"] == max(found, key=found.get)
    assert settings["validation_uar"] == pytest.approx(max(found.values()), abs=1e-4)
    assert len(set(found.values())) > 1


def test_the_temperature_makes_a_side_likeliest(clusters):
    train, validation, _ = (clusters(seed) for seed in range(3))
    model = baselines.BASELINES["mfcc-svm"].predict.fit({"C": 10, "gamma": 1}, train, 0)
    decisions = model.decision_function(validation[0])

    def likelihood(temperature):
        shares = np.exp(decisions / temperature)
        return np.log((shares / shares.sum(1, keepdims=True))[np.arange(len(decisions)), validation[1]]).mean()

    best = baselines.decision_temperature(model, validation)
    assert likelihood(best) > max(likelihood(best * 1.1), likelihood(best / 1.1))


def test_the_network_is_that_of_the_notebooks():
    model = baselines.network(filters=(64,))
    assert [type(layer).__name__ for layer in model] == ["Conv1d", "ReLU", "Dropout", "Flatten", "Linear"]
    assert [sum(part.numel() for part in model[place].parameters()) for place in (0, 4)] == [384, 20_488]
    assert sum(part.numel() for part in baselines.network().parameters()) == 384 + 2 * 20_544 + 20_488
    assert model(torch.zeros(3, 1, 40)).tolist() == [[0.0] * 8] * 3  # Keras' biases begin at 0


def test_the_network_learns_and_leaves_the_random_state_alone(clusters):
    train, test, told = clusters(0, spread=1.0), clusters(1, spread=1.0), []
    state = torch.get_rng_state()
    model = baselines.train_network(train, 1, 10, lambda model: told.append(model.training))
    assert torch.equal(torch.get_rng_state(), state)
    assert told == [False] * 10
    probabilities = baselines.network_probabilities(model, test[0], np.arange(8))
    assert (probabilities.argmax(1) == test[1]).mean() > 0.9
