import numpy as np
import pytest
from sklearn.metrics import accuracy_score, recall_score
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from ser_hf.evaluation import bootstrap, metrics, results
from ser_hf.labels import EMOTIONS


@pytest.fixture
def answers():
    """References, probabilities and columns of 400 clips of ten speakers in two corpora."""
    rng = np.random.default_rng(3)
    references = rng.integers(0, 8, 400)
    probabilities = rng.dirichlet(np.ones(8), 400) + np.eye(8)[references] * rng.random((400, 1))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    speaker = np.array([f"s{number}" for number in rng.integers(0, 10, 400)])
    columns = {
        "speaker": speaker,
        "corpus": np.where(speaker < "s5", "a", "b"),
        "sex": np.where(speaker < "s2", "", "f"),
    }
    return references, probabilities, columns


def test_groups_are_what_scikit_learn_says_of_their_clips(answers):
    references, probabilities, columns = answers
    found = results.score(references, probabilities, columns)
    assert set(found["per_corpus"]) == {"a", "b"}
    assert set(found["per_sex"]) == {"unknown", "f"}  # no sex known is a group of its own
    assert "per_channel" not in found
    for kind in ("corpus", "speaker"):
        for name, row in found[f"per_{kind}"].items():
            mask = columns[kind] == name
            said = probabilities.argmax(1)[mask]
            assert row["n"] == mask.sum()
            assert abs(row["accuracy"] - accuracy_score(references[mask], said)) < 1e-12
            present = np.unique(references[mask])
            uar = recall_score(references[mask], said, labels=present, average="macro", zero_division=0)
            assert abs(row["uar"] - uar) < 1e-12
    assert found["per_corpus"]["a"]["speakers"] == 5
    assert found["per_speaker"]["s1"]["ci95"] is None
    mask = columns["corpus"] == "a"
    bounds, _ = bootstrap.speaker_intervals(references[mask], probabilities.argmax(1)[mask], columns["speaker"][mask])
    assert found["per_corpus"]["a"]["ci95"] == {name: bounds[name] for name in ("accuracy", "uar")}


def test_the_metric_says_the_same_with_all_and_less_with_less(answers):
    references, probabilities, columns = answers
    said = probabilities.argmax(1)
    metric = results.SpeechEmotion()
    few = metric.compute(predictions=said, references=references)
    assert few["uar"] == metrics.scores(metrics.confusion(references, said))["uar"]
    assert set(few) == {*metrics.METRICS, "per_class", "confusion_matrix"}
    more = metric.compute(predictions=said, references=references, speakers=columns["speaker"])
    assert more["ci95"] == bootstrap.speaker_intervals(references, said, columns["speaker"])[0]
    everything = metric.compute(
        predictions=said,
        references=references,
        probabilities=probabilities,
        speakers=columns["speaker"],
        corpus=columns["corpus"],
        sex=columns["sex"],
    )
    assert everything == results.score(references, probabilities, columns)
    assert set(everything["per_class"]) == set(EMOTIONS)


def test_the_evaluator_of_the_evaluate_library_takes_the_metric(tuned, rows, monkeypatch):
    import transformers
    from datasets import Dataset
    from evaluate import evaluator

    from ser_hf import audio
    from ser_hf.inference.predictor import Predictor

    some = rows.select(range(0, 384, 30))
    clips = [audio.load(row["audio"]) for row in some]
    data = Dataset.from_dict(
        {"audio": [{"array": clip, "sampling_rate": 16_000} for clip in clips], "label": some["label"]}
    ).with_format("numpy")
    # a model would not do: the evaluator asks transformers for TFPreTrainedModel, which version 5
    # no longer has
    pipe = transformers.pipeline(
        "audio-classification",
        model=AutoModelForAudioClassification.from_pretrained(tuned),
        feature_extractor=AutoFeatureExtractor.from_pretrained(tuned),
    )
    monkeypatch.setattr(transformers, "TFPreTrainedModel", type("Gone", (), {}), raising=False)
    found = evaluator("audio-classification").compute(
        model_or_pipeline=pipe,
        data=data,
        metric=results.SpeechEmotion(),
        input_column="audio",
        label_mapping={emotion: index for index, emotion in enumerate(EMOTIONS)},
    )
    said = Predictor(tuned).probabilities(clips).argmax(1)
    assert found["uar"] == metrics.scores(metrics.confusion(np.array(some["label"]), said))["uar"]
