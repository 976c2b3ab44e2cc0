"""Sharpness-aware minimisation: descend from where the loss is worst nearby, towards flat ground.

Foret, Kleiner, Mobahi and Neyshabur, "Sharpness-aware minimization for efficiently improving generalization" (ICLR
2021), algorithm 1. On unseen speakers flat minima answer better. It is enough to do it late in a training (Zhou, Wang,
Mao, Li and Yan, "Sharpness-aware minimization efficiently selects flatter minima late in training", ICLR 2025).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def ascended(model: nn.Module, radius: float) -> Iterator[None]:
    """The weights moved `radius` along their gradient, which is emptied; as they were again at the end.

    The gradient of the loss that is computed within is the one to descend along.

    Args:
        model: with the gradient of the step's loss in its parameters.
        radius: Euclidean length of the move, ρ of the paper; 0.05 to 0.2 are usual.
    """
    moved = [one for one in model.parameters() if one.grad is not None]
    length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm([one.grad for one in moved])))
    kept = [one.detach().clone() for one in moved]
    with torch.no_grad():
        torch._foreach_add_(moved, torch._foreach_mul([one.grad for one in moved], radius / (length + 1e-12)))
    for one in moved:
        one.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moved, kept)
