"""Where the layers of an encoder lie, the norm that follows them, and the modules of a head."""

import re

from torch import nn
from transformers import PreTrainedModel

from ser_hf.models.loading import ModelError

LAYER_NAME = re.compile(r"(?:^|\.)(?:encoder|audio_spectrogram_transformer)\.layers\.(\d+)\.")
"""Matches the name of a parameter of an encoder layer, and captures the number of the layer."""

HEAD_MODULES = ("projector", "classifier", "layer_weights")
"""Modules and parameters of a model that belong to its head."""


def encoder_layers(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """Find the list of the layers of a model's encoder.

    Returns:
        The module that owns the `torch.nn.ModuleList`, and the name of its attribute.

    Raises:
        ModelError: where it is not found.
    """
    base = model.base_model
    encoder = getattr(base, "encoder", None)
    for owner in (encoder, getattr(encoder, "encoder", None), base):
        for name in ("layers", "layer"):
            layers = getattr(owner, name, None)
            if isinstance(layers, nn.ModuleList) and len(layers) == model.config.num_hidden_layers:
                return owner, name
    raise ModelError(
        f"the layers of a {model.config.model_type} are not found: use --mode full, and leave out --keep_layers"
    )


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The layers of a model's encoder, from below.

    Raises:
        ModelError: where they are not found.
    """
    return getattr(*encoder_layers(model))


def final_norm(model: PreTrainedModel) -> str | None:
    """Name of the norm that follows the last layer; None where the layers end in norms."""
    if model.config.model_type == "audio-spectrogram-transformer":
        return f"{model.base_model_prefix}.layernorm"
    if model.config.model_type == "whisper":  # the classifier holds the encoder itself
        return "encoder.layer_norm"
    stable = getattr(model.config, "do_stable_layer_norm", False)
    return f"{model.base_model_prefix}.encoder.layer_norm" if stable else None
