"""Faster kernels for training on a CPU: dropout from random bytes, layer norms in float32."""

import torch
from torch import nn
from torch.autograd.function import FunctionCtx
from transformers import AttentionInterface, PreTrainedModel, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "byte_dropout"
"""Name under which transformers registers our attention."""


class ByteDropout(nn.Module):
    """Dropout that draws one random byte a value, an eighth of what `nn.Dropout` draws on a CPU.

    The probability is rounded to a 256th (0.1 to 0.1016). The scale of the values that stay follows
    the rounded probability, so that the expectation is unchanged.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.dropped = round(p * 256)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Drop values of a tensor of any shape."""
        return _drop(hidden, self.dropped) if self.training else hidden


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """SDPA attention of transformers, with dropout of the weights from random bytes in training.

    With dropout, SDPA itself falls back to plain products on a CPU, so that nothing is lost.

    Args:
        module: the attention module.
        query, key, value: shape `(batch, heads, frames, size of a head)`.
        attention_mask: True where a frame may be attended to, shape `(batch, 1, frames, frames)`.
        dropout: probability of dropping a weight; 0 in evaluation.
        scaling: factor of the products; the inverse root of a head's size where None.
        kwargs: further arguments of the model, passed on to SDPA.

    Returns:
        The outputs, shape `(batch, frames, heads, size of a head)`, and None for the weights.
    """
    if not round(dropout * 256):
        return sdpa_attention_forward(module, query, key, value, attention_mask, 0.0, scaling, **kwargs)
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
    if attention_mask is not None:
        scores.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
    attended = _drop(scores.softmax(-1), round(dropout * 256)) @ value
    return attended.transpose(1, 2).contiguous(), None


def _drop(hidden: torch.Tensor, dropped: int) -> torch.Tensor:
    """Drop each value with a probability of `dropped` / 256, and scale the others."""
    if not dropped:
        return hidden
    words = torch.empty(-(-hidden.numel() // 8), dtype=torch.int64, device=hidden.device)
    words.random_(torch.iinfo(torch.int64).min, None)
    mask = words.view(torch.uint8)[: hidden.numel()].view(hidden.shape) >= dropped
    return _Masked.apply(hidden, mask, 256 / (256 - dropped))


class _Masked(torch.autograd.Function):
    """Mask and scale in one pass, forward and backward; the mask of one byte a value is saved."""

    @staticmethod
    def forward(ctx: FunctionCtx, hidden: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return torch.ops.aten.native_dropout_backward(hidden, mask, scale)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return torch.ops.aten.native_dropout_backward(gradient, *ctx.saved_tensors, ctx.scale), None, None


def use_byte_dropout(model: PreTrainedModel) -> None:
    """Replace every `nn.Dropout` of a model, and the dropout of its attention, by `ByteDropout`.

    Nothing that is saved changes.
    """
    for owner in list(model.modules()):
        for name, child in owner.named_children():
            if type(child) is nn.Dropout:
                setattr(owner, name, ByteDropout(child.p))
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)


def widen_norms(model: nn.Module, args: TrainingArguments) -> None:
    """Make trained layer norms compute in the precision of their weights, in bf16 on a CPU.

    Nothing that is saved changes.
    """
    if not args.bf16 or args.device.type != "cpu":
        return
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.weight is not None and module.weight.requires_grad:
            module.register_forward_pre_hook(_widened)


def _widened(norm: nn.LayerNorm, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (inputs[0].to(norm.weight.dtype),)
