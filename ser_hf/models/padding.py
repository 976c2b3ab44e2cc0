"""Padding rules: how a prediction is kept independent of the other clips of a batch."""

import inspect

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

ALONE = "one clip at a time"
"""Rule of architectures that no padding may reach."""

MASKABLE = frozenset({"wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "wav2vec2-bert"})
"""Architectures whose valid frames do not depend on masked ones."""


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm over time that takes its statistics over the valid frames of each clip.

    wav2vec2-base and its kin normalise the output of the first convolution over time, padding
    included. With stock `nn.GroupNorm` a prediction depends on the longest clip of the batch. This
    one has the same parameters and state dict, and the same output for an unpadded clip.
    """

    frames: list[int] | None = None  # valid frames of each clip of the running batch
    kernel, stride = 1, 1  # of the convolution that is normalised

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalise `(batch, channels, frames)`; zeros where frames are not valid."""
        if self.frames is None:
            return super().forward(hidden)
        norm, length = super().forward, hidden.shape[-1]
        # clip by clip: masked sums over the batch took five times as long on a CPU
        clips = [norm(clip[None, :, :valid]) for clip, valid in zip(hidden, self.frames, strict=True)]
        return torch.cat([functional.pad(clip, (0, length - clip.shape[-1])) for clip in clips])


def padding_rule(model: PreTrainedModel) -> str:
    """Name the rule that keeps padding out of a model's predictions.

    Returns:
        `fixed length` where every clip becomes the same number of frames; `masked group norm` or
        `attention mask` for the architectures of `MASKABLE`; `one clip at a time` for all others,
        since some mix masked frames in again behind the mask.
    """
    fixed = model.config.model_type == "audio-spectrogram-transformer"  # it can mask patches, not frames
    if fixed or "attention_mask" not in inspect.signature(model.forward).parameters:
        return "fixed length"
    if model.config.model_type not in MASKABLE or getattr(model.config, "conv_pos_batch_norm", False):
        return ALONE
    return "masked group norm" if _group_norms(model) else "attention mask"


def ignore_padding(model: PreTrainedModel) -> str:
    """Apply the padding rule to a model, in place, and return its name (`padding_rule`)."""
    rule = padding_rule(model)
    if rule == "masked group norm" and not any(isinstance(module, MaskedGroupNorm) for module in model.modules()):
        model.register_forward_pre_hook(_count_frames, with_kwargs=True)
    for layer in _group_norms(model) if rule == "masked group norm" else []:
        norm = layer.layer_norm
        if isinstance(norm, MaskedGroupNorm):  # the rule was applied before
            continue
        layer.layer_norm = MaskedGroupNorm(norm.num_groups, norm.num_channels, norm.eps)
        layer.layer_norm.load_state_dict(norm.state_dict())
        layer.layer_norm.kernel, layer.layer_norm.stride = layer.conv.kernel_size[0], layer.conv.stride[0]
    return rule


def _group_norms(model: PreTrainedModel) -> list[nn.Module]:
    """The convolutional layers that normalise each channel over time."""
    return [
        module
        for module in model.modules()
        if isinstance(norm := getattr(module, "layer_norm", None), nn.GroupNorm)
        and hasattr(module, "conv")
        and norm.num_groups == norm.num_channels
    ]


def frames_of(model: PreTrainedModel, feature_length: int) -> int:
    """Number of encoder frames of a clip with so many samples or mel frames."""
    for owner in (model, model.base_model):
        if hasattr(owner, "_get_feat_extract_output_lengths"):
            return int(owner._get_feat_extract_output_lengths(torch.tensor(feature_length)))
    return feature_length


def _count_frames(model: nn.Module, args: tuple, kwargs: dict) -> None:
    """Tell the group norms the valid frames of each clip, before a forward pass.

    The norms are found in the model that is called, not kept: it may be a copy.
    """
    mask = kwargs.get("attention_mask")
    lengths = None if mask is None or bool(mask.all()) else mask.sum(-1)
    for norm in (module for module in model.modules() if isinstance(module, MaskedGroupNorm)):
        norm.frames = None if lengths is None else ((lengths - norm.kernel) // norm.stride + 1).tolist()
