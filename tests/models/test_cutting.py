"""Shorter windows of Whisper and fewer layers of any encoder, as stock transformers loads them."""

import numpy as np
import pytest
import torch
import transformers
from helpers.small import make_whisper
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from ser_hf.labels import ID2LABEL
from ser_hf.models import cutting
from ser_hf.models.encoder_layers import encoder_layers
from ser_hf.models.loading import ModelError, load_for_training


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return make_whisper(tmp_path_factory.mktemp("whisper"))


def noise(seconds):
    return np.random.default_rng(0).normal(size=round(16_000 * seconds)).astype(np.float32) * 0.1


def test_a_cut_window_is_loaded_by_the_stock_pipeline_and_says_the_same(whisper, tmp_path):
    model, extractor = load_for_training(whisper)
    table = model.encoder.embed_positions.weight.detach().clone()
    cut = cutting.cut_window(model, extractor, 5)
    assert (extractor.chunk_length, cut.chunk_length) == (30, 5)
    assert (cut.n_samples, cut.nb_max_frames, model.config.max_source_positions) == (80_000, 500, 250)
    torch.testing.assert_close(model.encoder.embed_positions.weight, table[:250], rtol=0, atol=0)
    assert not model.encoder.embed_positions.weight.requires_grad
    assert cutting.window_of(model.config) == 5
    model.save_pretrained(tmp_path)
    cut.save_pretrained(tmp_path)
    features = cut(noise(2), sampling_rate=16_000, return_tensors="pt")["input_features"]
    assert features.shape == (1, 80, 500)
    with torch.no_grad():
        expected = model.eval()(features).logits[0].softmax(-1)
    answer = pipeline("audio-classification", model=str(tmp_path), top_k=None)(
        {"raw": noise(2), "sampling_rate": 16_000}
    )
    assert {row["label"]: row["score"] for row in answer} == pytest.approx(
        {ID2LABEL[i]: float(p) for i, p in enumerate(expected)}, abs=1e-6
    )


@pytest.mark.parametrize(("longest", "expected"), [(1.0, 4), (4.0, 4), (4.1, 5), (6.0, 6), (29.5, 30), (40.0, 30)])
def test_a_window_fits_nearly_all_training_clips(longest, expected):
    config = transformers.WhisperConfig()
    durations = np.r_[np.full(198, 1.0), longest, 60.0]  # one clip of 200 may be longer
    assert cutting.choose_window(durations, config) == expected


def test_a_window_that_the_model_cannot_have_is_refused():
    durations, config = np.array([3.0]), transformers.WhisperConfig(max_source_positions=300)
    assert cutting.choose_window(durations, config, 6) == 6
    for asked in (3, 7):
        with pytest.raises(ModelError, match=f"--window is {asked}, but the model's is 6 s: give 4 to 6"):
            cutting.choose_window(durations, config, asked)
    assert cutting.choose_window(durations, transformers.Wav2Vec2Config()) is None
    with pytest.raises(ModelError, match="--window is 5, but a wav2vec2 takes clips of any length"):
        cutting.choose_window(durations, transformers.Wav2Vec2Config(), 5)


SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
SMALL_CONVOLUTIONS = {"conv_dim": (16, 16), "conv_kernel": (10, 8), "conv_stride": (10, 8)}
SMALL_POSITIONS = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
WAVES = {**SMALL_CONVOLUTIONS, **SMALL_POSITIONS}
FAMILIES = {
    "Wav2Vec2": WAVES,
    "Hubert": WAVES,
    "WavLM": WAVES,
    "UniSpeechSat": WAVES,
    "Wav2Vec2Conformer": WAVES,
    "SEWD": {**WAVES, "squeeze_factor": 1},
    "Data2VecAudio": SMALL_CONVOLUTIONS,
    "Wav2Vec2Bert": {"feature_projection_input_dim": 32, "conv_depthwise_kernel_size": 5},
    "AST": {"max_length": 64, "num_mel_bins": 32},
    "Whisper": {
        "d_model": 16,
        "encoder_layers": 3,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_layers": 1,
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lower_layers_are_kept_and_load_in_transformers(family, tmp_path):
    sizes = {} if family == "Whisper" else SIZES
    config = getattr(transformers, f"{family}Config")(**sizes, **FAMILIES[family], num_labels=3)
    if family not in ("AST",):
        config.use_weighted_layer_sum = True
    model = AutoModelForAudioClassification.from_config(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if hasattr(model, "layer_weights"):
        model.layer_weights.data = torch.arange(4.0)
    cutting.keep_layers(model, 2)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert loaded.config.num_hidden_layers == 2
    owner, name = encoder_layers(loaded)
    assert len(getattr(owner, name)) == 2
    for key, tensor in loaded.state_dict().items():
        expected = torch.arange(3.0) if key == "layer_weights" else before[key]
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


def test_layers_that_are_not_there_cannot_be_kept(whisper):
    model, _ = load_for_training(whisper)
    for count in (0, 4):
        with pytest.raises(ModelError, match=f"--keep_layers is {count}, but the model has 3 layers: give 1 to 3"):
            cutting.keep_layers(model, count)
    assert AutoFeatureExtractor.from_pretrained(whisper).chunk_length == 30
