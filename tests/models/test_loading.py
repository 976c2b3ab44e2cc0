import copy
import json
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.small import make_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from ser_hf.inference.predictor import Predictor
from ser_hf.labels import EMOTIONS
from ser_hf.models import loading, padding
from ser_hf.models.features import Collator, front_end_of
from ser_hf.models.loading import ModelError
from ser_hf.models.padding import MaskedGroupNorm


def noise(samples, seed):
    return np.random.default_rng(seed).normal(size=samples).astype(np.float32) * 0.1


CLIPS = [noise(n, seed) for seed, n in enumerate((16_000, 48_000, 30_123, 20_960, 9_990))]


def padded_probabilities(model, extractor, rule, clips):
    """Probabilities of one padded batch."""
    front_end = front_end_of(extractor)
    batch = Collator(extractor, rule)([{"features": front_end.extract(clip)} for clip in clips])
    with torch.inference_mode():
        return model(**batch).logits.softmax(-1).numpy()


@pytest.mark.parametrize("kind", ["bert", "group", "layer"])
def test_a_prediction_does_not_depend_on_other_clips(models, kind):
    predictor, loaded = Predictor(models[kind], backend="torch"), loading.load_for_prediction(models[kind])
    together = predictor.probabilities(CLIPS)
    alone = np.concatenate([predictor.probabilities([clip]) for clip in CLIPS])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(padded_probabilities(*loaded, CLIPS), alone, atol=1e-5)
    assert np.abs(np.diff(alone, axis=0)).max() > 1e-4  # the clips themselves do differ


def test_without_the_rule_padding_would_leak(models):
    model = AutoModelForAudioClassification.from_pretrained(models["group"]).eval()
    extractor = AutoFeatureExtractor.from_pretrained(models["group"])
    together = padded_probabilities(model, extractor, "attention mask", CLIPS)
    alone = np.concatenate([padded_probabilities(model, extractor, "none", [clip]) for clip in CLIPS])
    assert np.abs(together - alone).max() > 1e-3


def test_a_copy_keeps_its_padding_rule(models):
    model = AutoModelForAudioClassification.from_pretrained(models["group"]).eval()
    padding.ignore_padding(model)
    copied = copy.deepcopy(model)
    values, mask = torch.randn(2, 16_000), torch.ones(2, 16_000, dtype=torch.long)
    mask[1, 9_000:] = 0
    with torch.inference_mode():
        alone = model(values[1:, :9_000]).logits
        padded = copied(values * mask, attention_mask=mask).logits[1:]
    torch.testing.assert_close(padded, alone, atol=1e-6, rtol=0)


def test_masked_group_norm_is_group_norm_on_what_is_valid():
    torch.manual_seed(0)
    stock, masked = nn.GroupNorm(4, 4), MaskedGroupNorm(4, 4)
    nn.init.normal_(stock.weight)
    nn.init.normal_(stock.bias)
    masked.load_state_dict(stock.state_dict())
    hidden = torch.randn(2, 4, 10)
    torch.testing.assert_close(masked(hidden), stock(hidden))
    masked.frames = [6, 10]
    torch.testing.assert_close(masked(hidden)[:1, :, :6], stock(hidden[:1, :, :6]))
    assert not masked(hidden)[0, :, 6:].any()
    torch.testing.assert_close(masked(hidden)[1:], stock(hidden[1:]))


def test_the_rule_is_named_and_leaves_the_state_dict(models):
    for kind, rule in (("group", "masked group norm"), ("layer", "attention mask"), ("bert", "attention mask")):
        model = AutoModelForAudioClassification.from_pretrained(models[kind])
        before = list(model.state_dict())
        assert padding.ignore_padding(model) == rule
        assert list(model.state_dict()) == before


def test_models_that_mix_padding_in_behind_the_mask_take_one_clip_at_a_time(tmp_path):
    config = Wav2Vec2ConformerConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16, 16),
        conv_kernel=(10, 8),
        conv_stride=(20, 16),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        id2label=dict(enumerate(EMOTIONS)),
    )
    model = AutoModelForAudioClassification.from_config(config)
    assert padding.ignore_padding(model) == padding.ALONE
    model.classifier.weight.data *= 50
    model.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path)
    predictor = Predictor(tmp_path, backend="torch")
    alone = np.concatenate([predictor.probabilities([clip]) for clip in CLIPS])
    np.testing.assert_allclose(predictor.probabilities(CLIPS), alone, atol=1e-6)


def test_half_precision_weights_are_loaded_in_full(models, tmp_path):
    AutoModelForAudioClassification.from_pretrained(models["layer"]).half().save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path)
    half, full = (Predictor(folder, backend="torch") for folder in (tmp_path, models["layer"]))
    np.testing.assert_allclose(half.probabilities(CLIPS), full.probabilities(CLIPS), atol=0.02)
    assert loading.load_for_training(tmp_path)[0].dtype == torch.float32


def test_tiny_and_a_backbone_get_the_eight_labels(tmp_path):
    tiny, _ = loading.load_for_training("tiny", seed=3)
    again, _ = loading.load_for_training("tiny", seed=3)
    assert sum(p.numel() for p in tiny.parameters()) == 2_735_560
    assert all(torch.equal(a, b) for a, b in zip(tiny.parameters(), again.parameters(), strict=True))
    make_model("group", tmp_path)
    config = Wav2Vec2Config.from_pretrained(tmp_path)
    backbone = Wav2Vec2Model(config)
    backbone.save_pretrained(tmp_path)  # a pretrained model has no head
    model, _ = loading.load_for_training(tmp_path)
    assert list(model.config.id2label.values()) == list(tiny.config.id2label.values()) == list(EMOTIONS)
    torch.testing.assert_close(
        model.wav2vec2.feature_projection.projection.weight, backbone.feature_projection.projection.weight
    )
    assert loading.freeze_feature_encoder(model)
    frozen = [p.requires_grad for p in model.wav2vec2.feature_extractor.parameters()]
    assert not any(frozen)
    assert not loading.freeze_feature_encoder(tiny)


def test_models_that_cannot_answer_are_refused(models, tmp_path):
    folder = make_model("bert", tmp_path / "m")
    weights = load_file(folder / "model.safetensors")

    save_file(
        {k: v for k, v in weights.items() if "classifier" not in k}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ModelError, match=r"no trained weights for classifier\.bias"):
        loading.load_for_prediction(folder)

    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(8)}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="labels without a meaning"):
        loading.load_for_prediction(folder)

    config["id2label"] = dict(enumerate(EMOTIONS))
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))
    with pytest.raises(ModelError, match="give a single-label classifier"):
        loading.load_for_prediction(folder)

    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:2000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        loading.load_for_prediction(folder)

    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        loading.load_for_prediction(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        loading.load_for_prediction(folder)
    with pytest.raises(ModelError, match="does not exist"):
        loading.load_for_prediction(tmp_path / "nothing" / "here")
    with pytest.raises(ModelError, match=r"cannot be loaded .*--model tiny"):
        loading.load_for_training("nobody/nothing")


def test_time_masks_fit_the_shortest_clip():
    model, _ = loading.load_for_training("tiny")
    loading.fit_masking(model, 3)
    assert model.config.mask_time_length == 3
    loading.fit_masking(model, 50)
    assert model.config.mask_time_length == 3


def test_frames_are_counted_as_the_encoder_makes_them(models):
    model = AutoModelForAudioClassification.from_pretrained(models["group"])
    hidden = model.wav2vec2(torch.zeros(1, 16_000)).last_hidden_state
    assert padding.frames_of(model, 16_000) == hidden.shape[1]


@pytest.mark.parametrize("kind", ["bert", "group", "layer"])
def test_the_last_layer_makes_the_logits_of_the_embeddings(models, kind):
    predictor = Predictor(models[kind], batch_size=3, backend="torch")
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal(size).astype(np.float32) / 9 for size in (9000, 16_000, 12_345, 8000, 20_000)]
    logits, embeddings = predictor.outputs(clips)
    last = loading.last_linear(predictor.model)
    with torch.inference_mode():
        np.testing.assert_allclose(last(torch.from_numpy(embeddings)).numpy(), logits, atol=1e-5)
    alone = np.concatenate([predictor.outputs([clip])[1] for clip in clips])
    np.testing.assert_allclose(embeddings, alone, atol=1e-5)  # in the order of the clips
    with ThreadPoolExecutor(4) as threads:  # each thread gets the embeddings of its own clips
        for again in threads.map(predictor.outputs, [clips] * 4):
            np.testing.assert_allclose(again[1], embeddings, atol=1e-6)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(predictor.probabilities(clips), shares, atol=1e-6)
    assert not last._forward_pre_hooks


def test_a_model_without_a_last_linear_layer_is_refused():
    config = types.SimpleNamespace(num_labels=8, model_type="odd")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4))
    model.config = config
    with pytest.raises(ModelError, match="a odd has no linear layer of 8 labels"):
        loading.last_linear(model)
