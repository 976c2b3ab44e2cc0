"""The padding rule: what keeps an answer independent of the other clips of a batch."""

import inspect

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    PreTrainedModel,
)

ALONE = "one clip at a time"
MASKABLE = frozenset({"wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "wav2vec2-bert"})
"""Architectures in which masked frames change nothing."""


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm over time that takes its statistics over the valid frames of each clip.

    wav2vec2-base and its kin normalise the first convolution's output over all of time, padding
    included, so that a clip's answer depends on the longest clip of its batch. Same parameters,
    same state dict, and the same answer for an unpadded clip as `nn.GroupNorm`.
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
    """How padding is kept out of a model's answer.

    Returns:
        `fixed length` where every clip becomes the same number of frames, `masked group norm` or
        `attention mask` for architectures that are known to hear nothing of what is masked, `one
        clip at a time` for all others: some mix padding in again behind the mask.
    """
    if "attention_mask" not in inspect.signature(model.forward).parameters:
        return "fixed length"
    if model.config.model_type not in MASKABLE or getattr(model.config, "conv_pos_batch_norm", False):
        return ALONE
    return "masked group norm" if _group_norms(model) else "attention mask"


def ignore_padding(model: PreTrainedModel) -> str:
    """Give a model its padding rule, in place, and name it as `padding_rule` does."""
    rule = padding_rule(model)
    if rule == "masked group norm" and not any(isinstance(one, MaskedGroupNorm) for one in model.modules()):
        model.register_forward_pre_hook(_count_frames, with_kwargs=True)
    for layer in _group_norms(model) if rule == "masked group norm" else []:
        norm = layer.layer_norm
        if isinstance(norm, MaskedGroupNorm):  # it has its rule already
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
    """Encoder frames that a clip of so many features becomes."""
    for owner in (model, model.base_model):
        if hasattr(owner, "_get_feat_extract_output_lengths"):
            return int(owner._get_feat_extract_output_lengths(torch.tensor(feature_length)))
    return feature_length


def _count_frames(model: nn.Module, args: tuple, kwargs: dict) -> None:
    """Before a forward pass; the norms are looked for in the model that is called, which may be a
    copy."""
    mask = kwargs.get("attention_mask")
    lengths = None if mask is None or bool(mask.all()) else mask.sum(-1)
    for norm in (module for module in model.modules() if isinstance(module, MaskedGroupNorm)):
        norm.frames = None if lengths is None else ((lengths - norm.kernel) // norm.stride + 1).tolist()
