"""What a CPU computes otherwise than a GPU: dropout by bytes, layer norms in float32."""

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "byte_dropout"
"""Our attention's name in transformers."""


class ByteDropout(nn.Module):
    """Dropout that spends one random byte on each value, an eighth of what `nn.Dropout` draws on a
    CPU.

    The chance is rounded to a 256th (0.1 to 0.1016), and what is left is scaled by that, so that
    the expectation stays.
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
    """Transformers' SDPA attention; in training, where SDPA falls back to plain products, with a
    byte for each weight.

    Args:
        module: that attends.
        query, key, value: shape `(batch, heads, frames, size of a head)`.
        attention_mask: True where a frame may be attended to, shape `(batch, 1, frames, frames)`.
        dropout: chance of each weight; 0 in evaluation.
        scaling: of the products; the inverse root of a head's size where None.
        kwargs: what else the model passes on.

    Returns:
        Shape `(batch, frames, heads, size of a head)`; no weights.
    """
    if not round(dropout * 256):
        return sdpa_attention_forward(module, query, key, value, attention_mask, 0.0, scaling, **kwargs)
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
    if attention_mask is not None:
        scores.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
    attended = _drop(scores.softmax(-1), round(dropout * 256)) @ value
    return attended.transpose(1, 2).contiguous(), None


def _drop(hidden: torch.Tensor, dropped: int) -> torch.Tensor:
    """Drop `dropped` of 256 values."""
    if not dropped:
        return hidden
    words = torch.empty(-(-hidden.numel() // 8), dtype=torch.int64, device=hidden.device)
    words.random_(torch.iinfo(torch.int64).min, None)
    kept = words.view(torch.uint8)[: hidden.numel()].view(hidden.shape) >= dropped
    return _Masked.apply(hidden, kept, 256 / (256 - dropped))


class _Masked(torch.autograd.Function):
    """Mask and scale in one pass each way; a byte a value is kept for the way back."""

    @staticmethod
    def forward(ctx, hidden: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:  # noqa: ANN001
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return torch.ops.aten.native_dropout_backward(hidden, kept, scale)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # noqa: ANN001
        return torch.ops.aten.native_dropout_backward(gradient, *ctx.saved_tensors, ctx.scale), None, None


def use_byte_dropout(model: PreTrainedModel) -> None:
    """`ByteDropout` in place of every `nn.Dropout` of a model, and in its attention; nothing that
    is saved changes."""
    for owner in list(model.modules()):
        for name, child in owner.named_children():
            if type(child) is nn.Dropout:
                setattr(owner, name, ByteDropout(child.p))
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)


def widen_norms(model: nn.Module, args: TrainingArguments) -> None:
    """Let every layer norm that is trained compute in its weights' precision; nothing that is saved
    changes."""
    if not args.bf16 or args.device.type != "cpu":
        return
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.weight is not None and module.weight.requires_grad:
            module.register_forward_pre_hook(_widened)


def _widened(norm: nn.LayerNorm, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (inputs[0].to(norm.weight.dtype),)
