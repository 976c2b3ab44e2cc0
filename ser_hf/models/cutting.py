"""Models cut smaller: a shorter window of input, and fewer layers of the encoder."""

import math

import numpy as np
from torch import nn
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    WhisperFeatureExtractor,
)

from ser_hf.models.encoder_layers import encoder_layers
from ser_hf.models.loading import ModelError

SHORTEST_WINDOW = 4
"""Seconds of a window at least: long recordings are predicted in windows of this length."""

FITTING_SHARE = 0.995
"""Share of the training clips that a window fits where none is asked for."""

_FRAMES_A_POSITION = 2  # Whisper's second convolution has a stride of 2


def window_of(config: PreTrainedConfig) -> int | None:
    """Whole seconds of the fixed window of a model, or None where its input has any length."""
    return config.max_source_positions // 50 if config.model_type == "whisper" else None


def choose_window(durations: np.ndarray, config: PreTrainedConfig, asked: int | None = None) -> int | None:
    """Choose the window of a model for its training clips.

    Args:
        durations: seconds of the training clips, shape `(clips,)`.
        config: of the model.
        asked: whole seconds; None for the smallest window that fits `FITTING_SHARE` of the clips.

    Returns:
        Whole seconds from `SHORTEST_WINDOW` to the window of the model; None for a model without a
        fixed window.

    Raises:
        ModelError: for a window that the model cannot have.
    """
    own = window_of(config)
    if asked is None:
        if own is None:
            return None
        fitting = math.ceil(np.quantile(durations, FITTING_SHARE, method="inverted_cdf"))
        return min(own, max(SHORTEST_WINDOW, fitting))
    if own is None:
        raise ModelError(f"--window is {asked}, but a {config.model_type} takes clips of any length: leave it out")
    shortest = min(SHORTEST_WINDOW, own)
    if not shortest <= asked <= own:
        raise ModelError(f"--window is {asked}, but the model's is {own} s: give {shortest} to {own}")
    return asked


def cut_window(model: PreTrainedModel, extractor: WhisperFeatureExtractor, seconds: int) -> WhisperFeatureExtractor:
    """Cut a Whisper model, in place, and its extractor to a shorter window.

    The table of positions keeps its first rows, and is not trained: it holds sinusoids. Stock
    transformers loads what is saved afterwards.

    Args:
        model: with an encoder of Whisper.
        extractor: of the model; it stays as it is.
        seconds: of the window, at most that of the model.

    Returns:
        The extractor of the shorter window, which pads the waveform to it.
    """
    encoder = model.base_model.encoder
    positions = seconds * extractor.sampling_rate // (_FRAMES_A_POSITION * extractor.hop_length)
    table = encoder.embed_positions
    table.weight = nn.Parameter(table.weight.detach()[:positions].clone(), requires_grad=False)
    table.num_embeddings = encoder.max_source_positions = model.config.max_source_positions = positions
    return type(extractor).from_dict({**extractor.to_dict(), "chunk_length": seconds})


def keep_layers(model: PreTrainedModel, count: int) -> None:
    """Remove the layers of the encoder above the first `count`, in place.

    The config follows, and so do the weights of a head that sums up all layers
    (`use_weighted_layer_sum`), which keep their first values.

    Raises:
        ModelError: for a count that is not from 1 to the number of layers, or an encoder whose
            layers are not found.
    """
    owner, name = encoder_layers(model)
    layers = getattr(owner, name)
    if not 1 <= count <= len(layers):
        raise ModelError(f"--keep_layers is {count}, but the model has {len(layers)} layers: give 1 to {len(layers)}")
    setattr(owner, name, layers[:count])
    model.config.num_hidden_layers = count
    if (weights := getattr(model, "layer_weights", None)) is not None:
        model.layer_weights = nn.Parameter(weights.detach()[: count + 1].clone())
