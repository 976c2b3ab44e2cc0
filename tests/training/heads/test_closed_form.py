"""A head in closed form on a frozen Whisper, through the command line."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.small import make_whisper
from scipy.special import softmax
from transformers import AutoFeatureExtractor, pipeline

from ser_hf import audio, protocols
from ser_hf.cli.main import main
from ser_hf.data import dataset
from ser_hf.evaluation.results import PredictionTable, Results
from ser_hf.inference.adaptation_head import FILE, AdaptationHead
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import LABEL2ID
from ser_hf.models import hidden_units, loading
from ser_hf.models.features import front_end_of
from ser_hf.training import augmentation
from ser_hf.training.heads import closed_form, pooled_features

pytestmark = pytest.mark.usefixtures("all_undrawn")

AUGMENT = ["--augment", "tempo:0.1,hiss:10-30,speed:0.1", "--augmented_copies", "1"]


@pytest.fixture(scope="module")
def built(few):
    return few


@pytest.fixture(scope="module")
def rows(few):
    return dataset.load(few)


@pytest.fixture(scope="module")
def command(built, tmp_path_factory):
    """A run on one backbone and one cache, into a folder."""
    base = tmp_path_factory.mktemp("closed_form")
    backbone = make_whisper(base / "backbone", layers=2)

    def line(folder, *flags):
        words = ["--dataset", built, "--model", backbone, "--output_dir", folder, "--cache_dir", base / "cache"]
        words += ["--mode", "probe", "--head", "closed_form", "--keep_layers", "1", "--bf16", "false"]
        return ["finetune", *map(str, words), "--threads", "1", *flags]

    return line


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "model"
    assert main(command(folder, *AUGMENT, "--group_weights", "corpus=tess:0.5")) == 0
    return folder


def test_stock_transformers_says_what_was_tested(run, rows):
    split = protocols.split(rows, "speaker")
    table = PredictionTable.read(run / "predictions.csv")
    assert table.files.tolist() == rows.select(split.test)["file"]
    stock = pipeline("audio-classification", model=str(run), top_k=None)
    for number in (0, len(split.test) // 2):
        clip = audio.load(rows[split.test[number]]["audio"])
        scores = {row["label"]: row["score"] for row in stock({"raw": clip, "sampling_rate": 16_000})}
        found = [scores[label] for label in stock.model.config.id2label.values()]
        np.testing.assert_allclose(found, table.probabilities[number], atol=2e-3)
    assert table.probabilities.std(0).mean() > 0.02


def test_the_backbone_stays_as_it_was(run, command):
    backbone = loading.load_for_training(command("x")[4])[0].state_dict()
    model = Predictor(run, backend="torch").model.state_dict()
    kept = [name for name in model if name.startswith("encoder.layers.0") or ".conv" in name]
    assert len(kept) > 10
    assert all((model[name] == backbone[name]).all() for name in kept)


def test_the_record_names_the_settings_and_the_start(run):
    results = Results.load(run / "results.json")
    settings = results.training["settings"]
    assert settings["head"] == "closed_form"
    assert (settings["augmented_copies"], settings["group_weights"]) == (1, "corpus=tess:0.5")
    assert "learning_rate" not in settings
    assert results.training["head_start"]["chosen_on"] == "validation"
    assert results.training["head_start"]["kept"]


def test_a_voice_is_adapted_to_by_its_own_head(run, rows):
    embeddings = np.load(run / "embeddings.npy")
    split = protocols.split(rows, "speaker")
    predictor = Predictor(run, backend="torch")
    clip = audio.load(rows[split.test[3]]["audio"])
    np.testing.assert_allclose(predictor.outputs([clip])[1][0], embeddings[3], atol=0.05)
    assert predictor.adapt([clip]).adaptation is not None


def test_other_folds_and_everybody_read_the_cache(run, command, tmp_path, capsys):
    """The features of a whole dataset serve every protocol of it."""
    everybody = ["--protocol", "all", "--train_on_validation", "true"]
    assert main(command(tmp_path / "all", *everybody, *AUGMENT)) == 0
    said = capsys.readouterr().out
    assert "trained on everybody, tested on nobody" in said
    assert "held-out training speakers" in said
    assert main(command(tmp_path / "tess", "--protocol", "tess-oaf-yaf", *AUGMENT)) == 0
    said = capsys.readouterr().out
    assert said.count("from the cache") == 2
    assert "computed" not in said
    assert not (tmp_path / "all" / "results.json").exists()
    assert json.loads((tmp_path / "all" / "config.json").read_text())["ser_hf"]["protocol"] == "all"
    assert main(command(tmp_path / "all", *everybody)) == 2  # it holds a run


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--pooling", "attentive"], "--head closed_form pools as stock heads do: leave out --pooling attentive"),
        (["--augment", "hiss"], "--augment does nothing to --head closed_form without --augmented_copies: give both"),
        (["--augmented_copies", "2"], "--augmented_copies is 2, but nothing is augmented: give --augment"),
        (["--group_weights", "tess:1"], "--group_weights 'tess:1' is no group: write "),
        (["--mixup", "0.2"], "--mixup does nothing in --mode probe, only in full, partial, lora: leave it out"),
    ],
)
def test_flags_that_do_nothing_are_refused(command, tmp_path, capsys, flags, said):
    assert main(command(tmp_path / "model", *flags)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.fixture(scope="module")
def hidden(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hidden") / "model"
    assert main(command(folder, *AUGMENT, "--hidden_units", "true")) == 0
    return folder


def test_hidden_units_are_in_the_stock_model(hidden, command, rows):
    """Stock transformers says what was tested, though its projector reads the output alone."""
    split = protocols.split(rows, "speaker")
    table = PredictionTable.read(hidden / "predictions.csv")
    stock = pipeline("audio-classification", model=str(hidden), top_k=None)
    width = stock.model.config.d_model + 8
    assert (stock.model.projector.out_features, stock.model.classifier.in_features) == (width, width)
    numbers = range(0, len(split.test), 4)
    clips = [{"raw": audio.load(rows[split.test[number]]["audio"]), "sampling_rate": 16_000} for number in numbers]
    found = [{row["label"]: row["score"] for row in each} for each in stock(clips)]
    found = np.array([[scores[label] for label in stock.model.config.id2label.values()] for scores in found])
    logits = [np.log(each) for each in (found, table.probabilities[numbers])]
    differ, size = (np.linalg.norm(each - each.mean(1, keepdims=True)) for each in (logits[0] - logits[1], logits[1]))
    assert differ < 0.06 * size  # figures are of the fit where the saved model is within 5 % of it
    assert table.probabilities.std(0).mean() > 0.02
    backbone, saved = loading.load_for_training(command("x")[4])[0].state_dict(), stock.model.state_dict()
    changed = {name for name in saved if "encoder" in name and "positions" not in name}
    changed = {name for name in changed if not saved[name].equal(backbone[name])}
    assert changed == {"encoder.layers.0.fc2.weight", "encoder.layers.0.fc2.bias"}


def test_the_embedding_is_the_output_and_the_logits(hidden, rows):
    embeddings, table = np.load(hidden / "embeddings.npy"), PredictionTable.read(hidden / "predictions.csv")
    centred = [values - values.mean(1, keepdims=True) for values in (embeddings[:, -8:], np.log(table.probabilities))]
    temperature = centred[0].std() / centred[1].std()
    np.testing.assert_allclose(softmax(embeddings[:, -8:] / temperature, axis=1), table.probabilities, atol=0.02)
    predictor = Predictor(hidden, backend="torch")
    clip = audio.load(rows[protocols.split(rows, "speaker").test[3]]["audio"])
    found = predictor.outputs([clip])[1][0]  # the embeddings are of the fit, as the figures are
    assert np.linalg.norm(found - embeddings[3]) < 0.1 * np.linalg.norm(embeddings[3])
    head = AdaptationHead.load(hidden / FILE)
    assert head.weight.shape == (8, embeddings.shape[1])
    assert np.abs(head.weight[:, -8:]).max() > 0.01


def test_the_fit_is_folded(hidden, command, tmp_path, capsys):
    """The fit knows nothing of the saved model, which a wrong fold would contradict."""
    assert Results.load(hidden / "results.json").uar > 0.5
    assert main(command(tmp_path / "tess", "--protocol", "tess-oaf-yaf", "--hidden_units", "true")) == 0
    said = re.search(r"the saved model differs from the fit by ([\d.]+)%", capsys.readouterr().out)
    assert 0 < float(said[1]) < 40
    # the other corpus has no calm clips, and one speaker alone was left to train on
    table = PredictionTable.read(tmp_path / "tess" / "predictions.csv")
    assert table.probabilities[:, LABEL2ID["calm"]].max() < 0.05
    head = AdaptationHead.load(tmp_path / "tess" / FILE)
    assert np.isfinite(head.weight).all()


def test_where_all_clips_are_longer_than_the_window_none_is_compared(command, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(closed_form, "front_end_of", lambda _: SimpleNamespace(longest=1_600))
    assert main(command(tmp_path / "model")) == 0
    split = protocols.split(rows, "speaker")
    table = PredictionTable.read(tmp_path / "model" / "predictions.csv")
    predictor = Predictor(tmp_path / "model", backend="torch")
    logits, _ = predictor.outputs([audio.load(rows[split.test[0]]["audio"])])
    np.testing.assert_allclose(softmax(logits[0]), table.probabilities[0], atol=1e-3)


def test_a_model_that_hidden_units_change_is_refused(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hidden_units, "_SHARE", 30.0)
    assert main(command(tmp_path / "loud", "--hidden_units", "true")) == 2
    assert "leave out --hidden_units" in capsys.readouterr().err
    assert not (tmp_path / "loud" / "model.safetensors").exists()


def test_hidden_units_belong_to_a_closed_form(built, tmp_path, capsys):
    for mode in (["--mode", "full"], ["--mode", "probe"]):
        line = ["finetune", "--dataset", str(built), "--output_dir", str(tmp_path / "x"), "--hidden_units", "true"]
        assert main([*line, *mode]) == 2
        assert "--hidden_units" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["bert", "whisper"])
@pytest.mark.parametrize("augment", ["band:3400-7000", "gaps:0.3", "tract:0.06,band:500-900,gaps:0.1"])
def test_mel_frames_of_copies_are_changed_as_those_of_training_clips_are(augment, model, models, command):
    extractor = AutoFeatureExtractor.from_pretrained(models["bert"] if model == "bert" else command("x")[4])
    changes, front_end = augmentation.parse(augment, probability=1.0), front_end_of(extractor)
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    inputs = SimpleNamespace(extractor=extractor, args=SimpleNamespace(seed=3))
    found = pooled_features._augmented_features(inputs, changes, 2)(samples, "ab" * 32)
    rng = np.random.default_rng([3, 2, int("ab" * 6, 16)])
    rate = audio.SAMPLING_RATE / front_end.hop
    mel = changes.of_frames(front_end.prepare(samples), rng, front_end.bin_frequencies, rate)
    np.testing.assert_array_equal(found, front_end.finish(mel))
