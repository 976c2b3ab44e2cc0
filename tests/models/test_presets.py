import torch
from transformers import AutoModelForAudioClassification

from ser_hf.models import loading
from ser_hf.training import setup


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
