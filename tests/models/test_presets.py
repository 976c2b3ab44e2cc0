import numpy as np
import torch
from transformers import AutoModelForAudioClassification

from ser_hf.cli.train import parse_finetune
from ser_hf.models import loading
from ser_hf.models.features import front_end_of
from ser_hf.training import setup


def test_the_model_of_50_frames_a_second_is_narrower_than_tiny_and_takes_the_spectrum_at_any_loudness():
    fine, extractor = loading.load_for_training("tiny-50")
    coarse, _ = loading.load_for_training("tiny")
    assert (extractor.hop_length, fine.config.feature_projection_input_dim) == (320, extractor.feature_size)
    rng = np.random.default_rng(0)
    clip = rng.normal(size=16_000).astype(np.float32) / 10
    darker = np.convolve(clip, np.ones(4) / 4, "same").astype(np.float32)
    sounds = (clip, clip * 3, clip / 1000, darker)
    inputs = [torch.from_numpy(front_end_of(extractor).extract(sound))[None] for sound in sounds]
    with torch.inference_mode():
        plain, louder, quieter, dark = (fine.eval()(features).logits for features in inputs)
    torch.testing.assert_close(louder, plain, atol=1e-4, rtol=0)
    torch.testing.assert_close(quieter, plain, atol=1e-3, rtol=0)
    assert (dark - plain).abs().max() > 0.01
    assert (fine.config.hidden_size, coarse.config.hidden_size) == (144, 192)
    assert 1.5e6 < sum(weight.numel() for weight in fine.parameters()) < 1.6e6
    assert parse_finetune(["--dataset", "d", "--model", "tiny-50"])[1].learning_rate == 6e-4


def test_a_model_that_masks_nothing_is_saved_without_a_vector_for_it(tmp_path):
    model, _ = loading.load_for_training("tiny")
    setup.drop_unused(model)
    assert hasattr(model.base_model, "masked_spec_embed")
    model.config.mask_time_prob = 0.0
    setup.drop_unused(model)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert info["unexpected_keys"] == info["missing_keys"] == set()
    frames = torch.zeros(1, 20, 320)
    torch.testing.assert_close(model.eval()(frames).logits, loaded.eval()(frames).logits)
