"""A second head of a model, for embeddings that are standardised by the clips of one voice.

It lies beside the weights as `adaptation_head.safetensors`, which stock transformers ignores.
`ser_hf.evaluation.adaptation_head` trains it.
"""

from dataclasses import dataclass
from os import PathLike

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ser_hf.errors import UserError
from ser_hf.models import loading

FILE = "adaptation_head.safetensors"
"""Name of the file in a model's folder and on the Hub."""

MEAN_CLIPS, SPREAD_CLIPS = 2.0, 20.0
"""Clips that the training speakers' mean, and their standard deviation, count for beside those of a
voice."""

_KIND = "ser_hf adaptation head 1"  # format of the file
_TENSORS = ("weight", "bias", "mean", "spread")


class AdaptationHeadError(UserError):
    """A file that holds no adaptation head, or one of another model."""


@dataclass(frozen=True, eq=False)
class AdaptationHead:
    """A linear classifier of embeddings that are standardised by speaker."""

    weight: np.ndarray
    """Float32 `(labels, width)`, divided by the temperature, as is the bias."""
    bias: np.ndarray
    """Float32 `(labels,)`."""
    mean: np.ndarray
    """Mean of the training speakers' means, float32 `(width,)`."""
    spread: np.ndarray
    """Root mean square of the training speakers' standard deviations, float32 `(width,)`."""
    model: str
    """Digest of the weights that gave the embeddings (`ser_hf.models.loading.digest`)."""
    shrinkage: float
    """Of the covariance towards a multiple of the identity, 0 to 1."""
    temperature: float
    """That weight and bias were divided by."""

    def statistics(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation `(width,)` of a voice.

        Both are shrunk to those of the training speakers, so that few clips change them little.

        Args:
            embeddings: of at least one clip of the voice, shape `(clips, width)`.
        """
        share = len(embeddings) / (len(embeddings) + MEAN_CLIPS)
        mean = share * embeddings.mean(axis=0) + (1 - share) * self.mean
        share = len(embeddings) / (len(embeddings) + SPREAD_CLIPS)
        variance = share * ((embeddings - mean) ** 2).mean(axis=0) + (1 - share) * self.spread**2
        return mean, np.sqrt(variance)

    def for_voice(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The head for embeddings of a voice as they are.

        Args:
            embeddings: of `statistics`.

        Returns:
            Weight `(labels, width)` and bias `(labels,)`.
        """
        mean, spread = self.statistics(np.asarray(embeddings, dtype=np.float64))
        weight = self.weight / spread
        return weight, self.bias - weight @ mean

    def check_model(self, digest: str) -> None:
        """Refuse a model whose embeddings the head was not trained on.

        Raises:
            AdaptationHeadError: for another `digest`.
        """
        if self.model != digest:
            raise AdaptationHeadError(
                f"{FILE} belongs to other weights than those beside it: remove it, or write it again "
                "with `ser-hf calibrate`"
            )

    def save(self, path: str | PathLike) -> None:
        """Write a small safetensors file."""
        metadata = {"kind": _KIND, "model": self.model}
        metadata |= {"shrinkage": f"{self.shrinkage:g}", "temperature": f"{self.temperature:.6g}"}
        save_file({name: np.float32(getattr(self, name)) for name in _TENSORS}, path, metadata=metadata)

    @classmethod
    def load(cls, path: str | PathLike) -> "AdaptationHead":
        """Read what `save` wrote.

        Raises:
            AdaptationHeadError: for anything else.
        """
        try:
            with safe_open(path, "numpy") as file:
                written = file.metadata() or {}
                if written.get("kind") == _KIND:
                    tensors = {name: file.get_tensor(name) for name in _TENSORS}
                    figures = {name: float(written[name]) for name in ("shrinkage", "temperature")}
                    return cls(**tensors, model=written["model"], **figures)
        except (OSError, SafetensorError) as error:
            raise AdaptationHeadError(f"'{path}' cannot be read ({error}): remove it") from error
        raise AdaptationHeadError(f"'{path}' holds no adaptation head: remove it")


def load_beside(model: str | PathLike, revision: str | None = None) -> AdaptationHead | None:
    """The adaptation head in the folder or the repository of a model; None where there is none.

    Args:
        model: a folder or a Hub id whose model has been loaded.
        revision: a branch, tag or commit of a Hub id.

    Raises:
        AdaptationHeadError: for a file that holds none.
    """
    path = loading.file_beside(model, FILE, revision)
    return None if path is None else AdaptationHead.load(path)
