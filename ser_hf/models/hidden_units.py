"""The hidden units of an encoder's last feed-forward network, for a linear head to read.

A stock classifier reads the output of the encoder alone, whose width is a quarter of theirs. What a
head weighs the hidden units by can be folded into the stock model nevertheless. The last matrix of
the network adds it to its output, along directions in which that output hardly varies, and the
projector takes it from there. Stock transformers loads what is saved.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ser_hf.models.encoder_layers import layers_of
from ser_hf.models.loading import ModelError

_SHARE = 1.2e-3
"""Mean square over dimensions of all pooled readouts in the output, after the norm and its gain.

A larger one would change the norm of a frame. A smaller one would not stand out from what the
output holds along the same directions.
"""


_CONSTANT = 1e-6  # a smaller deviation, as a share of the largest mean, is rounding


@dataclass(frozen=True, eq=False)
class Readouts:
    """Linear functions of what `pooled` gives."""

    output: np.ndarray
    """Weights of the pooled output, shape `(readouts, width)`."""
    hidden: np.ndarray
    """Weights of the pooled hidden units, shape `(readouts, units)`."""
    norm: np.ndarray
    """Weights of the pooled inverse deviation, shape `(readouts,)`."""
    bias: np.ndarray
    """Shape `(readouts,)`."""

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Values `(clips, readouts)` of features `(clips, width + units + 1)`."""
        return features @ np.column_stack([self.output, self.hidden, self.norm]).T + self.bias


def check(model: PreTrainedModel) -> None:
    """Refuse a model whose last feed-forward network is not known.

    Raises:
        ModelError: for another architecture than Whisper, or a head that takes every layer.
    """
    kind = model.config.model_type
    if kind != "whisper":
        raise ModelError(f"the hidden units of a {kind} cannot be read by its head: leave out --hidden_units")
    if getattr(model.config, "use_weighted_layer_sum", False):
        raise ModelError("the head takes every layer, and no hidden units: leave out --hidden_units")


def sizes(model: PreTrainedModel) -> tuple[int, int]:
    """Width of the encoder, and number of hidden units."""
    last = layers_of(model)[-1].fc2
    return last.out_features, last.in_features


def pooled(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Means over all frames, as the stock head takes them, shape `(clips, width + units + 1)`.

    They are of the normalised output, of the hidden units over the deviation that the norm divides
    by, and of the inverse of that deviation. A change of the last matrix and of its bias adds to
    the first what it makes of the others.
    """
    last, norm = layers_of(model)[-1].fc2, model.base_model.encoder.layer_norm
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        last.register_forward_pre_hook(lambda _, inputs: seen.update(hidden=inputs[0].float())),
        norm.register_forward_pre_hook(lambda _, inputs: seen.update(before=inputs[0].float())),
        norm.register_forward_hook(lambda *given: seen.update(output=given[-1].float())),
    ]
    try:
        model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    inverse = (seen["before"].var(-1, unbiased=False, keepdim=True) + norm.eps).rsqrt()
    return torch.cat([seen["output"].mean(1), (seen["hidden"] * inverse).mean(1), inverse.mean(1)], dim=-1)


def centre_of(features: np.ndarray, width: int) -> np.ndarray:
    """Mean of each hidden unit, in units of the norm, over what `pooled` gave; shape `(units,)`."""
    return features[:, width:-1].sum(axis=0) / features[:, -1].sum()


def centred(features: np.ndarray, width: int, centre: np.ndarray) -> np.ndarray:
    """How far the hidden units are from their centre, over the norm; shape `(clips, units)`."""
    return features[:, width:-1] - centre * features[:, -1:]


def fold(model: PreTrainedModel, readouts: Readouts, features: np.ndarray, damaged: np.ndarray) -> Readouts:
    """Make the projector of a model give the standardised output and some readouts, in place.

    The output comes without the directions that carry the hidden units. What it holds along them is
    added to the readouts instead of what they take from there; all else in them is exact.

    Args:
        model: its projector is replaced.
        readouts: to fold.
        features: what `pooled` gave for the training clips, shape `(clips, width + units + 1)`.
        damaged: the same for augmented copies of them, of which there may be none. A direction that
            is quiet in whole clips alone would carry what noise adds to it.

    Returns:
        What the projector gives: first the output, then the readouts.
    """
    last, norm = layers_of(model)[-1].fc2, model.base_model.encoder.layer_norm
    width, units = sizes(model)
    gain = norm.weight.detach().cpu().double().numpy()
    output, seen = features[:, :width], np.concatenate([features, damaged])
    mean, deviation = output.mean(axis=0), output.std(axis=0)
    along = _quiet_directions(seen[:, :width], gain, len(readouts.bias))
    across = np.eye(width) - along @ along.T
    carried = seen[:, width:] @ np.column_stack([readouts.hidden, readouts.norm]).T
    level = np.sqrt(_SHARE * width / len(readouts.bias)) / np.maximum(carried.std(axis=0), np.finfo(np.float32).tiny)
    spread = along * level / gain[:, None]
    taken = readouts.output @ across + along.T / level[:, None]
    standardised = across / np.maximum(deviation, _CONSTANT * np.abs(mean).max())[:, None]
    projected = Readouts(
        np.concatenate([standardised, taken]),
        np.concatenate([np.zeros((width, units)), readouts.hidden]),
        np.concatenate([np.zeros(width), readouts.norm]),
        np.concatenate([-standardised @ mean, readouts.bias - (taken - readouts.output) @ mean]),
    )
    with torch.no_grad():
        # in half precision, as a Whisper is published, so that a file of half its size holds it
        weight = last.weight.cpu().double().numpy() + spread @ readouts.hidden
        last.weight.copy_(torch.from_numpy(weight).half())
        last.bias.copy_(torch.from_numpy(last.bias.cpu().double().numpy() + spread @ readouts.norm))
        model.config.classifier_proj_size = len(projected.bias)
        model.projector = nn.Linear(width, len(projected.bias)).to(last.weight.device)
        model.projector.weight.copy_(torch.from_numpy(projected.output))
        model.projector.bias.copy_(torch.from_numpy(projected.bias))
    return projected


def _quiet_directions(output: np.ndarray, gain: np.ndarray, count: int) -> np.ndarray:
    """Orthonormal directions `(width, count)` in which the output varies least.

    Along them, whatever is added before the norm has a mean of 0 over the dimensions, which the
    norm would else take away.
    """
    mean_of_added = (1 / gain) / np.linalg.norm(1 / gain)
    covariance = np.cov(output.T)
    keep = np.eye(len(gain)) - np.outer(mean_of_added, mean_of_added)
    last = np.trace(covariance) * np.outer(mean_of_added, mean_of_added)
    return np.linalg.eigh(keep @ covariance @ keep + last)[1][:, :count]
