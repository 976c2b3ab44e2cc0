"""One entry in a registry adds one: a made-up one of each, used as the commands use the others."""

import dataclasses
import json
import re
import shutil
from pathlib import PurePath

import numpy as np
import pytest
from huggingface_hub import DatasetCard
from transformers import AutoConfig, AutoFeatureExtractor, Wav2Vec2FeatureExtractor

from ser_hf import protocols
from ser_hf.cli.main import main
from ser_hf.data import dataset
from ser_hf.data.corpora import CORPORA, parse_name
from ser_hf.data.corpora.base import Corpus
from ser_hf.data.corpora.scan import scan_corpus
from ser_hf.errors import UserError
from ser_hf.evaluation import baselines, evaluate, metrics, reports
from ser_hf.inference.backends import BACKENDS
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import EMOTIONS
from ser_hf.models.features import FRONT_ENDS, FrontEnd
from ser_hf.models.loading import load_for_training
from ser_hf.models.padding import ignore_padding
from ser_hf.protocols.base import Protocol
from ser_hf.training import augmentation
from ser_hf.training.dataset import SpeechDataset, TrainingCollator, Variation

LABELS = {"W": "angry", "F": "happy", "N": "neutral"}


def parse_made_up(path):
    """`s03_W_2`: speaker, the first letter of a German emotion, take."""
    match = re.fullmatch(r"(s\d\d)_([WFN])_(\d)", PurePath(path).stem)
    return match and {
        "key": match[0],
        "channel": "speech",
        "emotion": LABELS[match[2]],
        "speaker": f"madeup-{match[1]}",
        "sex": "male",
        "intensity": None,
        "statement": None,
        "repetition": int(match[3]),
    }


MADE_UP = Corpus(
    name="madeup",
    title="MadeUp",
    parse=parse_made_up,
    inventory=lambda: {f"s0{n}_{label}_1": "speech" for n in (1, 2, 3) for label in LABELS},
    licence="MadeUp, Nobody (2024): CC BY 4.0",
    licence_id="cc-by-4.0",
    forbids_commercial_use=False,
    forbids_changed_forms=False,
    citation="@data{nobody2024madeup}",
    language="de",
    accent="Standard German",
    statements="none",
    expected_format=(16_000, 1),
)


def test_corpus(recordings, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(CORPORA, "madeup", MADE_UP)
    folder = tmp_path / "recordings"
    folder.mkdir()
    codes = {"W": "05", "F": "03", "N": "01"}
    names = [name for name in MADE_UP.inventory() if name != "s03_N_1"]
    for name in names:
        source = recordings[0] / "Actor_01" / f"03-01-{codes[name[4]]}-01-0{1 + int(name[2]) % 2}-01-01.wav"
        shutil.copy(source, folder / f"{name}.wav")

    assert parse_name(PurePath("s01_W_1.wav"))[0] == "madeup"
    assert [recording.key for recording in scan_corpus([folder], "madeup").recordings] == sorted(names)

    flags = ["--madeup", str(folder), "--ravdess", str(recordings[0] / "Actor_01")]
    assert main(["data", *flags, "--output", str(tmp_path / "dataset")]) == 0
    table = capsys.readouterr().out
    assert re.search(r"ravdess speech +madeup speech\n", table)
    assert re.search(r"angry +2 +3\n", table)
    assert "1 official recording(s) missing: s03_N_1" in table

    rows = dataset.load(tmp_path / "dataset")
    assert [row for row in rows["file"] if row.startswith("s0")] == [f"{name}.wav" for name in sorted(names)]
    report = json.loads((tmp_path / "dataset" / "audit.json").read_text())
    assert report["balance"]["madeup male"]["happy"] == 3

    card = DatasetCard.load(tmp_path / "dataset" / "README.md")
    assert (card.data.license, card.data.language) == (["cc-by-nc-sa-4.0", "cc-by-4.0"], ["en", "de"])
    for text in (
        "- MadeUp, Nobody (2024): CC BY 4.0",
        "@data{nobody2024madeup}",
        "in North American English and Standard German:",
        "every MadeUp voice is a man's, so that emotion, corpus and sex are confounded.",
        "RAVDESS forbids commercial use: keep this repository private.",
    ):
        assert text in card.text

    assert main(["audit", str(folder)]) == 3  # copies under many names
    printed = capsys.readouterr().out
    assert "madeup speech         8 of 9" in printed
    assert "s03_N_1 of madeup is not there" in printed


def test_a_corpus_can_forbid_nothing(recordings, tmp_path, monkeypatch):
    free = dataclasses.replace(CORPORA["ravdess"], forbids_commercial_use=False, licence="free", licence_id="cc0-1.0")
    monkeypatch.setitem(CORPORA, "ravdess", free)
    dataset.build(tmp_path / "out", {"ravdess": [recordings[0] / "Actor_01"]})
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == ["cc0-1.0"]
    assert "forbid" not in card.text
    assert "\nChanges: decoded, channels averaged" in card.text


def test_protocol(built, rows, monkeypatch, capsys, fails):
    def women_to_men(columns, fold, seed):
        sexes = [(columns["corpus"] == "ravdess") & (columns["sex"] == sex) for sex in ("female", "male")]
        train, test = sexes[::-1] if fold else sexes
        validation = train & np.isin(columns["speaker"], ["ravdess-01", "ravdess-02"])
        return tuple(np.flatnonzero(mask) for mask in (train & ~validation, validation, test))

    entry = Protocol(women_to_men, corpora=("ravdess",), folds=2)
    monkeypatch.setitem(protocols.PROTOCOLS, "women-men", entry)
    split = protocols.split(rows, "women-men", 1)
    assert set(rows.select(split.test)["sex"]) == {"female"}
    assert set(rows.select(split.validation)["speaker"]) == {"ravdess-01"}
    assert split.held_apart[:2] == ("speakers", "samples")
    assert main(["data", "splits", "--dataset", str(built), "--protocol", "women-men", "--fold", "all"]) == 0
    shown = capsys.readouterr().out
    assert f"protocol women-men fold 1 ({split.hash})" in shown
    assert "protocol women-men fold 0" in shown
    assert ", women-men, or a .yaml" in fails("data", "splits", "--dataset", built, "--protocol", "men-women")
    probabilities = np.eye(8)[np.array(rows.select(evaluate.rows_tested([split]))["label"])]
    results = evaluate.build_results(probabilities, rows, [split], "dataset", "model")
    assert results.headline().startswith("women-men fold 1: UAR 1.000")

    def careless(columns, fold, seed):
        train, validation, test = women_to_men(columns, fold, seed)
        return train, validation, np.append(test, train[:1])

    monkeypatch.setitem(protocols.PROTOCOLS, "women-men", dataclasses.replace(entry, split=careless))
    with pytest.raises(protocols.LeakError, match="'women-men' leaks: ravdess-04 in train and in test"):
        protocols.split(rows, "women-men")


def test_metric(rows, monkeypatch, tmp_path):
    def worst_recall(matrix):
        recall = np.diagonal(matrix, axis1=-2, axis2=-1) / np.maximum(matrix.sum(-1), 1)
        return recall.min(-1)

    monkeypatch.setitem(metrics.METRICS, "worst_recall", metrics.Metric(worst_recall, "classes"))
    split = protocols.split(rows, "sentence")
    predictions = np.array(rows.select(split.test)["label"])
    predictions[::4] = 0
    results = evaluate.build_results(np.eye(8, dtype=np.float32)[predictions], rows, [split], "d", "m")
    results.save(tmp_path / "results.json")
    saved = json.loads((tmp_path / "results.json").read_text())
    recall = min(row["recall"] for row in saved["per_class"].values())
    assert saved["further_metrics"] == {"worst_recall": recall}
    low, high = saved["ci95"]["worst_recall"]
    assert low < recall < high
    assert f", worst_recall {recall:.3f} on" in results.headline()
    assert f"| worst_recall | {recall:.3f} | {low:.3f} to {high:.3f} |" in reports.model_card(results, [])


def test_baseline(built, monkeypatch, tmp_path):
    def most_frequent(train, validation, test, seed):
        label = np.bincount(train[1]).argmax()
        return np.tile(np.eye(8, dtype=np.float32)[label], (len(test), 1)), {"label": int(label)}

    monkeypatch.setitem(baselines.BASELINES, "mfcc-most-frequent", baselines.Baseline("mfcc", most_frequent))
    output = tmp_path / "baseline"
    words = ["baseline", "mfcc-most-frequent", "--dataset", str(built), "--output", str(output)]
    assert main([*words, "--cache_dir", str(tmp_path / "cache")]) == 0
    saved = json.loads((output / "results.json").read_text())
    assert saved["model"] == "mfcc-most-frequent"
    assert saved["uar"] == saved["chance"]


class BackwardFrontEnd(FrontEnd):
    """Takes waveforms from their end."""

    def finish(self, prepared):
        return super().finish(prepared[::-1].copy())


def test_front_end(rows, models, clips, monkeypatch):
    backward = Predictor(models["layer"]).probabilities([clip[::-1].copy() for clip in clips[:3]])
    monkeypatch.setitem(FRONT_ENDS, Wav2Vec2FeatureExtractor, BackwardFrontEnd)
    predictor = Predictor(models["layer"])
    np.testing.assert_allclose(predictor.probabilities(clips[:3]), backward, atol=1e-6)
    scores = predictor.predict({"array": clips[0], "sampling_rate": 16_000})["scores"]
    assert list(scores.values()) == pytest.approx(backward[0], abs=1e-6)

    model, extractor = load_for_training(models["layer"])
    examples = SpeechDataset(rows, [0, 1], extractor, Variation(silence="random_trim", mixup=0.4))
    batch = TrainingCollator(extractor, ignore_padding(model))([examples[0, 0], examples[0, 1]])
    model(input_values=batch["input_values"], labels=batch["labels"]).loss.backward()
    assert model.classifier.weight.grad.abs().sum() > 0


class CertainBackend:
    """Predicts one label, whatever it is given."""

    name, device, batches, digest = "certain", "cpu", True, "0" * 16

    def __init__(self, model):
        self.config, self.extractor = AutoConfig.from_pretrained(model), AutoFeatureExtractor.from_pretrained(model)

    def logits(self, features):
        return np.tile(np.eye(8, dtype=np.float32)[3] * 99, (len(features), 1))


def test_backend(tuned, recordings, clips, monkeypatch, capsys, fails):
    monkeypatch.setitem(BACKENDS, "certain", lambda model, device, revision: CertainBackend(model))
    predictor = Predictor(tuned, backend="certain")
    assert predictor.probabilities(clips[:2]).argmax(axis=1).tolist() == [3, 3]
    talk = {"array": np.resize(np.concatenate(clips), 12 * 16_000), "sampling_rate": 16_000}
    assert predictor.predict(talk)["label"] == EMOTIONS[3]
    with pytest.raises(UserError, match="this backend gives no embeddings"):
        predictor.outputs(clips[:1])
    with pytest.raises(UserError, match="runs on certain, without torch's weights"):
        _ = predictor.model
    file = str(next(recordings[0].rglob("*.wav")))
    assert main(["predict", file, "--model", str(tuned), "--backend", "certain"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["label"] == EMOTIONS[3]
    assert "onnx-int8, certain" in fails("predict", file, "--model", str(tuned), "--backend", "sure")


def test_augmentation(monkeypatch):
    def flip(samples, rng, share=1.0):
        return samples * np.float32(-share)

    entry = augmentation.Step(flip, False, 0.5, 2.0, "a share from 0.5 to 2, such as flip:1")
    monkeypatch.setitem(augmentation.AUGMENTATIONS, "flip", entry)
    clip = np.linspace(-0.5, 0.5, 1_000, dtype=np.float32)
    flipped = augmentation.parse("flip:0.5", probability=1.0)(clip, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped, clip * np.float32(-0.5))
    assert augmentation.parse("flip,gaps").names(of_frames=False) == ["flip"]
    with pytest.raises(augmentation.AugmentError, match="'flip:9' is no strength of flip"):
        augmentation.parse("flip:9")
