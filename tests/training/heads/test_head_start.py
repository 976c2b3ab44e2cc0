"""The head start: what is fitted, that stock heads compute it, and that no run ends below it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from ser_hf import audio, protocols
from ser_hf.evaluation import calibration, reports
from ser_hf.evaluation.results import Results
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import ID2LABEL, LABEL2ID
from ser_hf.models import loading
from ser_hf.models.discriminant import Moments, discriminants
from ser_hf.models.padding import MaskedGroupNorm, ignore_padding
from ser_hf.training import feature_cache, finetune, modes, setup
from ser_hf.training.config import FinetuneConfig, training_arguments
from ser_hf.training.heads import discriminant_head, head_start
from ser_hf.training.heads.pooled_features import _classifier_inputs, _in_halves
from ser_hf.training.inputs import TrainingInputs
from ser_hf.training.recovery import TrainingError
from ser_hf.training.trainer import by_epoch

LABELS = {"id2label": ID2LABEL, "label2id": LABEL2ID}


def clusters(clips, width=12, labels=8, seed=0):
    """Features around a centre for each label, one of them of a mean far above its deviation."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(clips) % labels
    centres = np.random.default_rng(9).normal(size=(labels, width))
    features = centres[numbers] + rng.normal(size=(clips, width))
    features[:, 0] = features[:, 0] * 0.02 + 3
    return features, numbers


def test_a_standardised_head_is_the_analysis_of_standardised_features():
    features, labels = clusters(160)
    standardised = (features - features.mean(0)) / features.std(0)
    for head, (coefficients, intercept) in zip(
        discriminant_head.fit(features, labels), discriminants(Moments.of(standardised, labels)), strict=True
    ):
        np.testing.assert_allclose(head.logits(features), standardised @ coefficients.T + intercept, atol=1e-9)


def test_labels_without_clips_are_never_answered():
    features, labels = clusters(60, labels=2)
    for regression in discriminant_head.fit(features, labels * 5 + 1):
        logits = regression.logits(features)
        assert set(logits.argmax(1)) == {1, 6}
        assert (logits[:, [0, 2, 3, 4, 5, 7]] < logits[:, [1, 6]].min() - 1).all()
    assert (logits.argmax(1) == labels * 5 + 1).mean() > 0.9
    with pytest.raises(TrainingError, match=r"^all clips to train on are 'calm': .* --head_start false$"):
        list(discriminant_head.fit(features, np.ones(60, dtype=int)))


def test_a_constant_feature_is_left_out():
    features, labels = clusters(80)
    features[:, 4] = 7 + np.random.default_rng(0).normal(size=80) * 1e-6  # rounding of a float32
    regression = next(discriminant_head.fit(features, labels))
    assert regression.scale[4] == 0
    assert (regression.scale[:4] > 0).all()
    assert np.isfinite(regression.logits(features)).all()


def test_the_classifier_is_chosen_and_tempered_on_validation():
    train, validation = clusters(64, seed=1), clusters(160, seed=2)
    choice = discriminant_head.choose(train, validation, None, np.repeat(["a", "b"], 32))
    start, head = choice.start, choice.head
    recalls = []
    for each in discriminant_head.fit(*train):
        hits = each.logits(validation[0]).argmax(1) == validation[1]
        recalls.append(np.mean([hits[validation[1] == label].mean() for label in range(8)]))
    best = list(discriminant_head.fit(*train))[int(np.argmax(recalls))]
    assert start.shrinkage == best.shrinkage
    assert start.uar == pytest.approx(max(recalls))
    assert (head.logits(validation[0]).argmax(1) == validation[1]).mean() == pytest.approx(max(recalls))
    temperature = calibration.fit_temperature(best.logits(validation[0]), validation[1])
    np.testing.assert_allclose(head.logits(validation[0]) * temperature, best.logits(validation[0]), rtol=1e-3)
    assert f"shrinkage {start.shrinkage:g}, validation UAR {start.uar:.3f} before training" in str(start)


def test_without_validation_no_speaker_judges_itself():
    """A feature that tells the label of each known speaker, differently, is worth nothing."""
    rng = np.random.default_rng(0)
    labels, speakers = np.tile(np.arange(8), 40), np.repeat(np.arange(8), 40)
    # one cluster for each speaker and label: linear over known speakers, of no use for others
    features = np.eye(64)[speakers * 8 + labels] + rng.normal(size=(320, 64)) * 0.05
    nothing = np.zeros((0, 64)), np.zeros(0, dtype=int)
    choice = discriminant_head.choose((features, labels), nothing, None, speakers)
    start, head = choice.start, choice.head
    # what judges is said by classifiers without the speaker
    hits = choice.held_out.argmax(1) == labels
    assert np.mean([hits[labels == label].mean() for label in range(8)]) == pytest.approx(start.uar)
    # answers that are no better than chance get the flattest scores
    assert np.abs(head.logits(features)).max() < 1
    assert (start.chosen_on, start.uar < 0.3) == ("held-out training speakers", True)
    start = discriminant_head.choose((features, labels), nothing, None, np.zeros(320)).start
    assert (start.chosen_on, start.uar > 0.9) == ("held-out training clips", True)
    assert "UAR on held-out training clips" in str(start)


class OnDisk:
    """Features that say how many rows of them were in memory at once."""

    def __init__(self, features):
        self.features, self.most = features, 0

    def __getitem__(self, rows):
        self.most = max(self.most, len(rows))
        return self.features[rows]


@pytest.mark.parametrize("clips_of_validation", [160, 0])
def test_a_classifier_of_rows_on_disk_is_that_of_rows_in_memory(monkeypatch, clips_of_validation):
    features, labels = clusters(320)
    validation = tuple(part[:clips_of_validation] for part in clusters(160, seed=2))
    both = np.concatenate([features, features + 0.1]), np.tile(labels, 2)
    weights, speakers = np.repeat([1.0, 0.3], 320), np.repeat(np.arange(8), 40)
    expected = discriminant_head.choose(both, validation, weights, speakers)
    monkeypatch.setattr(discriminant_head, "_CHUNK", 50)
    on_disk = OnDisk(both[0])
    choice = discriminant_head.choose((on_disk, both[1]), validation, weights, speakers)
    assert on_disk.most == 50
    assert choice.start == expected.start
    np.testing.assert_allclose(choice.head.coefficients, expected.head.coefficients, rtol=1e-6)
    np.testing.assert_allclose(choice.held_out, expected.held_out, rtol=1e-6)


def test_copies_are_fitted_and_never_judge():
    features, labels = clusters(320)
    speakers, nothing = np.repeat(np.arange(8), 40), (np.zeros((0, 12)), np.zeros(0, dtype=int))
    alone = discriminant_head.choose((features, labels), nothing, None, speakers).start
    noise = np.random.default_rng(5).normal(size=features.shape) * 3
    both = np.concatenate([features, noise]), np.tile(labels, 2)
    weights = np.repeat([1.0, 1e-9], 320)
    light = discriminant_head.choose(both, nothing, weights, speakers)
    assert light.start.uar == pytest.approx(alone.uar, abs=0.02)
    # the copies change what is fitted once they weigh something, but not the clips that judge it
    heavy = discriminant_head.choose(both, nothing, np.ones(640), speakers)
    assert heavy.start.uar < alone.uar
    assert np.abs(heavy.head.logits(features) - light.head.logits(features)).max() > 0.5


def test_clips_judge_by_their_weights():
    """Half of the clips has features that say nothing, and hardly any weight."""
    features, labels = clusters(320)
    speakers, nothing = np.tile(np.arange(5), 64), (np.zeros((0, 12)), np.zeros(0, dtype=int))
    features[160:] = np.random.default_rng(1).normal(size=(160, 12))
    weights = np.repeat([1.0, 0.01], 160)
    start = discriminant_head.choose((features, labels), nothing, weights, speakers).start
    evenly = discriminant_head.choose((features, labels), nothing, None, speakers).start
    assert start.uar > evenly.uar + 0.2


def few(split, every):
    """One in so many clips of training and validation, and one of the test."""
    return replace(split, train=split.train[::every], validation=split.validation[::every], test=split.test[:1])


def networks():
    """Each kind of head: pooled over valid frames, over all, over layers; none to standardise."""
    whisper = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    whisper |= {"classifier_proj_size": 8, "max_source_positions": 250, "num_mel_bins": 80}
    ast = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ast |= {"num_mel_bins": 32, "max_length": 400}
    return {
        "whisper": (WhisperConfig(**whisper, **LABELS), WhisperFeatureExtractor(chunk_length=5)),
        "layers": (
            WhisperConfig(**whisper, **LABELS, use_weighted_layer_sum=True),
            WhisperFeatureExtractor(chunk_length=5),
        ),
        "ast": (ASTConfig(**ast, **LABELS), ASTFeatureExtractor(num_mel_bins=32, max_length=400)),
    }


@pytest.mark.parametrize("kind", ["whisper", "layers", "ast", "group", "layer", "bert"])
def test_the_stock_model_answers_as_the_analysis_does(models, rows, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(discriminant_head, "SHRINKAGES", (0.9,))  # or rounding would be magnified, of so few clips
    if kind in models:
        config, extractor = AutoConfig.from_pretrained(models[kind]), AutoFeatureExtractor.from_pretrained(models[kind])
        config.classifier_proj_size = 8
    else:
        config, extractor = networks()[kind]
    torch.manual_seed(0)
    model = AutoModelForAudioClassification.from_config(config)
    ignore_padding(model)
    split = few(protocols.split(rows, "speaker"), 13)
    settings = FinetuneConfig(dataset="d", model="some/backbone", cache_dir=str(tmp_path / "cache"), balance="label")
    args = training_arguments(settings, output_dir=str(tmp_path / "run"), bf16=False, use_cpu=True)
    start = head_start.begin(TrainingInputs(settings, args, rows, split, model, extractor))
    assert start.chosen_on == "validation"
    assert "projector.weight" not in model.state_dict() or model.config.classifier_proj_size == 16

    # What the analysis says of the inputs of the stock head, pooled by hand.
    pooled = {"train": [], "validation": []}
    for norm in (module for module in model.eval().modules() if isinstance(module, MaskedGroupNorm)):
        norm.frames = None  # of the last batch: the base model is called here, past the hook that sets it
    for side, values in pooled.items():
        for clip in rows.select(getattr(split, side))["audio"]:
            batch = extractor(audio.load(clip), sampling_rate=16_000, return_tensors="pt")
            with torch.inference_mode():
                base = model.encoder if kind in ("whisper", "layers") else model.base_model
                inputs = batch[extractor.model_input_names[0]]
                out = base(inputs, output_hidden_states=True)
                hidden = torch.stack(out.hidden_states).mean(0) if kind == "layers" else out.last_hidden_state
                values.append((model.classifier.layernorm(out.pooler_output) if kind == "ast" else hidden.mean(1))[0])
    train, validation = (torch.stack(side).double().numpy() for side in pooled.values())
    labels = np.array(rows.select(split.train)["label"])
    _, group, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights = len(labels) / len(counts) / counts[group]
    reference = next(
        head for head in discriminant_head.fit(train, labels, weights) if head.shrinkage == start.shrinkage
    )

    model.save_pretrained(tmp_path / "saved")
    extractor.save_pretrained(tmp_path / "saved")
    predictor = Predictor(tmp_path / "saved", backend="torch")
    clips = [audio.load(clip) for clip in rows.select(split.validation)["audio"]]
    found = np.array([[each["scores"][name] for name in ID2LABEL.values()] for each in predictor.predict(clips)])
    logits = reference.logits(validation)
    bounds = tuple(np.log(discriminant_head._TEMPERATURES))
    labels = np.array(rows.select(split.validation)["label"])
    expected = softmax(logits / calibration.likeliest_temperature(logits, labels, bounds, 1e-4), axis=1)
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_other_seeds_and_folds_find_the_features(rows, models, tmp_path, capsys):
    settings = FinetuneConfig(dataset="d", model="some/backbone", cache_dir=str(tmp_path / "cache"))
    args = training_arguments(settings, output_dir=str(tmp_path / "run"), bf16=False, use_cpu=True)
    extractor = AutoFeatureExtractor.from_pretrained(models["group"])
    split = few(protocols.split(rows, "speaker"), 29)
    made = []
    for seed in (0, 1):
        model = AutoModelForAudioClassification.from_pretrained(models["group"])
        torch.manual_seed(seed)
        model.classifier.reset_parameters()
        made.append(head_start.begin(TrainingInputs(settings, args, rows, split, model, extractor)))
        split = replace(split, train=split.test + split.train[1:], test=split.train[:1])
        said = capsys.readouterr().out
        assert ("from the cache" in said) == (seed == 1)
    assert len(made) == 2


@pytest.fixture(scope="module")
def encoder(models, tmp_path_factory):
    """A pretrained encoder without a head."""
    folder = tmp_path_factory.mktemp("encoder")
    Wav2Vec2Model.from_pretrained(models["group"]).save_pretrained(folder)
    AutoFeatureExtractor.from_pretrained(models["group"]).save_pretrained(folder)
    return folder


def test_a_new_head_begins_there_and_a_trained_one_is_kept(models, encoder):
    def wanted(folder, **settings):
        model, _ = loading.load_for_training(folder)
        return head_start.wanted(FinetuneConfig(dataset="d", model=str(folder), **settings), model)

    assert wanted(encoder)
    assert not wanted(encoder, head_start=False)
    assert not wanted(models["group"])
    assert wanted(models["group"], head_start=True)
    assert not wanted("tiny")


def prepared_run(rows, encoder, folder, mode="full", **settings):
    config = FinetuneConfig(dataset="d", model=str(encoder), mode=mode, cache_dir=str(folder / "cache"), threads=1)
    settings = {"bf16": False, "use_cpu": True, "report_to": [], "num_train_epochs": 2, **settings}
    args = training_arguments(config, output_dir=str(folder / "run"), **settings)
    return setup.prepare(config, args, rows, few(protocols.split(rows, "speaker"), 13))


def test_training_never_ends_below_its_start(rows, encoder, tmp_path, capsys):
    """A rate that spoils everything: the model is the regression, and says so."""
    prepared = prepared_run(rows, encoder, tmp_path, learning_rate=0.3)
    finetune._train(prepared, None)
    start, history = prepared.start, by_epoch(prepared.trainer.state.log_history)
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert history[0]["eval_uar"] == pytest.approx(start.uar, abs=1e-6)
    assert max(row["eval_uar"] for row in history[1:]) <= start.uar
    figures = {"shrinkage": start.shrinkage, "uar": start.uar, "chosen_on": "validation"}
    assert prepared.head_start() == {**figures, "kept": True}
    assert "no epoch was better than the head start, which is kept" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} >= {"checkpoint-0"}
    model = prepared.trained.finished()
    assert not (model.projector.weight - model.projector.weight.diag().diag()).any()
    backbone = Wav2Vec2Model.from_pretrained(encoder).state_dict()
    learnt = {key for key, value in model.wav2vec2.state_dict().items() if not torch.equal(value, backbone[key])}
    assert not learnt


def test_a_better_epoch_wins(rows, encoder, tmp_path, monkeypatch):
    """A start that answers by a label that validation lacks, a little above the others."""
    validation = few(protocols.split(rows, "speaker"), 13).validation
    lacking = min(set(range(8)) - set(rows.select(validation)["label"]))

    def put(model, regression):
        model.classifier.bias.data[lacking] = 0.01

    monkeypatch.setattr(head_start, "_check", lambda *_: None)
    monkeypatch.setattr(head_start, "put", put)
    prepared = prepared_run(rows, encoder, tmp_path, learning_rate=1e-2, num_train_epochs=3)
    finetune._train(prepared, None)
    uars = [row["eval_uar"] for row in by_epoch(prepared.trainer.state.log_history)]
    assert max(uars) > uars[0] == 0
    assert not prepared.head_start()["kept"]
    assert prepared.trainer.evaluate()["eval_uar"] == max(uars)


def test_a_run_that_began_is_not_judged_again(rows, encoder, tmp_path):
    """Resumed at its first checkpoint, which is the start, it ends with the same weights."""
    whole = prepared_run(rows, encoder, tmp_path / "whole")
    whole.trainer.train()
    begun = prepared_run(rows, encoder, tmp_path / "parts", save_total_limit=9)
    begun.trainer.train()
    resumed = prepared_run(rows, encoder, tmp_path / "parts")
    resumed.trainer.train(resume_from_checkpoint=str(tmp_path / "parts" / "run" / "checkpoint-0"))
    assert [row["epoch"] for row in by_epoch(resumed.trainer.state.log_history)] == [0, 1, 2]
    assert all(
        torch.equal(a, b) for a, b in zip(*(run.trained.model.parameters() for run in (whole, resumed)), strict=True)
    )


def test_the_card_tells_the_start(tuned, tmp_path):
    results = Results.load(tuned / "results.json")
    assert "analysis of the frozen features" not in reports.model_card(results, [])
    start = {"shrinkage": 0.1, "uar": 0.7123, "chosen_on": "validation", "kept": True}
    results.training["head_start"] = start
    assert "UAR 0.712 on validation. No epoch was better, and that is the model." in reports.model_card(results, [])


@pytest.mark.parametrize("mode", ["full", "lora", "partial"])
def test_each_mode_begins_there(rows, models, tmp_path, mode):
    config = AutoConfig.from_pretrained(models["group"])
    config.num_hidden_layers = 2
    torch.manual_seed(0)
    Wav2Vec2Model(config).save_pretrained(tmp_path / "encoder")
    AutoFeatureExtractor.from_pretrained(models["group"]).save_pretrained(tmp_path / "encoder")
    prepared = prepared_run(rows, tmp_path / "encoder", tmp_path, mode)
    assert prepared.trainer.evaluate()["eval_uar"] == pytest.approx(prepared.start.uar, abs=1e-6)


def test_the_head_computes_in_float32_under_autocast(models):
    model = AutoModelForAudioClassification.from_pretrained(models["group"]).eval()
    modes.widen_head(model)
    hidden = torch.randn(2, 3, 16) * 0.01 + 1
    with torch.autocast("cpu", torch.bfloat16):
        found = model.classifier(model.projector(hidden))
    expected = model.classifier(model.projector(hidden))
    assert torch.equal(found, expected)
    assert type(modes.TrainableModel(model, None).finished().projector) is torch.nn.Linear


def test_features_are_kept_more_finely_than_half_precision(models, rows, tmp_path):
    model, extractor = loading.load_for_training(models["layer"])
    ignore_padding(model)
    cache, _ = feature_cache.feature_cache(
        rows.select([0]), "x", model, extractor, lambda batch: _in_halves(_classifier_inputs(model, batch)), tmp_path
    )
    kept = cache[rows[0]["sha256"]][0].sum(0)
    with torch.inference_mode():
        inputs = extractor(audio.load(rows[0]["audio"]), sampling_rate=16_000, return_tensors="pt")["input_values"]
        exact = model.eval().projector(model.wav2vec2(inputs).last_hidden_state).mean(1)[0].numpy()
    np.testing.assert_allclose(kept, exact, rtol=1e-5, atol=1e-6)
