"""Layer norms in float32 while a CPU trains in bf16: its autocast leaves them in bf16, where a GPU's does not.

The gradients of a norm's weights are sums over all frames of a batch, which bf16 cannot add up: of the model in the box
they are off by up to 33 %, and in float32 by 2 % (`benchmarks/bf16_norms.py`). Group norms add up well in bf16, too.
"""

import torch
from torch import nn
from transformers import TrainingArguments


def widen(model: nn.Module, args: TrainingArguments) -> None:
    """Let every layer norm that is trained compute in its weights' precision; nothing that is saved changes."""
    if not args.bf16 or args.device.type != "cpu":
        return
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.weight is not None and module.weight.requires_grad:
            module.register_forward_pre_hook(_widened)


def _widened(norm: nn.LayerNorm, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (inputs[0].to(norm.weight.dtype),)
