"""What a model makes of one voice, from a few of its clips without labels.

Speakers differ in where their embeddings lie and how far they spread, whatever they feel. An adaptation replaces both
by those of a typical speaker, before the last layer. The clips should hold several emotions, or one of them is taken
for the voice.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn
from transformers import PreTrainedModel

from ser_hf import modeling
from ser_hf.errors import UserError

SUFFIX = ".safetensors"
PRIOR = 4.0
"""Clips of the typical speaker that are counted beside those of the voice: few clips move it little."""

_FLOOR = 1e-4  # of a standard deviation: a dimension that never moves says nothing


class AdaptationError(UserError):
    """A model that cannot be adapted, or an adaptation that is not of this model."""


@dataclass(frozen=True, eq=False)
class Adaptation:
    """A voice, as one model hears it."""

    mean: np.ndarray
    """Of its embeddings, float32 `(width,)`, drawn to the typical speaker's as far as clips are few."""
    sd: np.ndarray
    """Likewise."""
    clips: int
    model: str
    """Digest of the weights that heard them (`modeling.digest`)."""

    def save(self, path: str | PathLike) -> None:
        """Write a small safetensors file, which holds no sound.

        Raises:
            AdaptationError: for a name without `.safetensors`, or a folder that does not exist.
        """
        check_name(path)
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        says = {"kind": "ser_hf voice", "clips": str(self.clips), "model": self.model}
        try:
            save_file({"mean": self.mean, "sd": self.sd}, partial, metadata=says)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | PathLike) -> "Adaptation":
        """Read what `save` wrote.

        Raises:
            AdaptationError: for anything else.
        """
        try:
            with safe_open(path, "numpy") as file:
                says = file.metadata() or {}
                if says.get("kind") == "ser_hf voice":
                    return cls(file.get_tensor("mean"), file.get_tensor("sd"), int(says["clips"]), says["model"])
        except (OSError, SafetensorError) as error:
            raise AdaptationError(f"'{path}' cannot be read ({error}): give what --save_voice wrote") from error
        raise AdaptationError(f"'{path}' holds no voice: give what --save_voice wrote")


def check_name(path: str | PathLike) -> None:
    """Complain of where a voice is to be kept, before any is heard.

    Raises:
        AdaptationError: for a name without `.safetensors`, or a folder that does not exist.
    """
    path = Path(path)
    if path.suffix != SUFFIX or path.is_dir() or not path.parent.is_dir():
        raise AdaptationError(f"'{path}' cannot be written: name a {SUFFIX} file in a folder that exists")


def typical(embeddings: np.ndarray, speakers: Sequence[str]) -> dict[str, list[float]]:
    """The typical speaker: means over speakers of their mean and standard deviation, for a model's config.

    Args:
        embeddings: shape `(clips, width)`, best of speakers that the model was not trained on.
        speakers: of each clip.

    Returns:
        `mean` and `sd`, each of `width` numbers.
    """
    names = np.array(speakers)
    each = [embeddings[names == one] for one in np.unique(names)]
    mean, sd = (np.mean([statistic(one, axis=0) for one in each], axis=0) for statistic in (np.mean, np.std))
    return {"mean": [float(f"{one:.5g}") for one in mean], "sd": [float(f"{one:.5g}") for one in sd]}


def fit(model: PreTrainedModel, embeddings: np.ndarray, digest: str) -> Adaptation:
    """A voice from embeddings `(clips, width)` of at least one of its clips; `digest` is the model's.

    With n clips and `PRIOR` k, the mean is `(n m + k M) / (n + k)` and the variance `((n - 1) v + k V) / (n - 1 + k)`;
    m and v are the clips' (v unbiased), M and V those of the typical speaker.

    Raises:
        AdaptationError: for a model that knows no typical speaker.
    """
    usual_mean, usual_sd = _typical_of(model)
    clips = len(embeddings)
    spread = (clips - 1) * embeddings.var(axis=0, ddof=1) if clips > 1 else 0.0
    mean = (clips * embeddings.mean(axis=0) + PRIOR * usual_mean) / (clips + PRIOR)
    variance = (spread + PRIOR * usual_sd**2) / (clips - 1 + PRIOR)
    return Adaptation(np.float32(mean), np.float32(np.sqrt(variance)), clips, digest)


def adapted(model: PreTrainedModel, voice: Adaptation, digest: str) -> PreTrainedModel:
    """The model as it answers for a voice; it shares all but its last layer with `model`, whose `digest` is given.

    Raises:
        AdaptationError: for a voice that another model heard.
    """
    if voice.model != digest:
        raise AdaptationError("the voice was heard by a model of other weights: adapt this one on the clips again")
    usual_mean, usual_sd = _typical_of(model)
    scale = torch.from_numpy(np.float32(usual_sd / np.maximum(voice.sd, _FLOOR)))
    shift = torch.from_numpy(np.float32(usual_mean)) - torch.from_numpy(voice.mean) * scale
    last = modeling.last_linear(model)
    with torch.no_grad():
        moved = nn.Linear(last.in_features, last.out_features).to(last.weight)
        moved.weight.copy_(last.weight * scale.to(last.weight))
        moved.bias.copy_(last.weight @ shift.to(last.weight) + (0 if last.bias is None else last.bias))
    return _with_another(model, last, moved)


def headless(model: PreTrainedModel) -> PreTrainedModel:
    """A model whose logits are the embeddings that its last layer takes; it shares everything else."""
    return _with_another(model, modeling.last_linear(model), nn.Identity())


def _typical_of(model: PreTrainedModel) -> tuple[np.ndarray, np.ndarray]:
    found = (getattr(model.config, "ser_hf", None) or {}).get("typical_speaker")
    if found is None:
        raise AdaptationError("the model knows no typical speaker to adapt to: run `ser-hf calibrate` on it first")
    return np.array(found["mean"]), np.array(found["sd"])


def _with_another(module: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """A module in which `new` stands for `old`; what does not contain it is shared."""
    if module is old:
        return new
    if not any(one is old for one in module.modules()):
        return module
    other = copy.copy(module)
    other._modules = {name: _with_another(child, old, new) for name, child in module._modules.items()}
    return other
