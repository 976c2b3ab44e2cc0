"""Where the embeddings of a model's training clips lie, and how far from them another clip lies.

The distance is that of Mahalanobis, from one Gaussian over all training clips (Lee et al. 2018, "A
simple unified framework for detecting out-of-distribution samples", with one class). A clip is
outside where it lies farther than 99 % of the clips of speakers that the Gaussian was not fitted
to. The file lies beside the weights as `embedding_reference.safetensors`.
`ser_hf.evaluation.embedding_reference` fits it.
"""

from dataclasses import dataclass
from os import PathLike

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ser_hf.errors import UserError
from ser_hf.models import loading

FILE = "embedding_reference.safetensors"
"""Name of the file in a model's folder and on the Hub."""
REMEDY = "write it with `ser-hf calibrate`, or with scripts/add_reference.py"

_KIND = "ser_hf embedding reference 1"  # format of the file
_TENSORS = ("mean", "directions", "variances")
_FIGURES = ("residual", "threshold", "quantile", "shrinkage", "share", "highest_share")
_COUNTS = ("clips", "speakers")


class EmbeddingReferenceError(UserError):
    """A file that holds no reference, or one of another model."""


@dataclass(frozen=True, eq=False)
class EmbeddingReference:
    """A Gaussian over embeddings, in its first principal directions and the mean of all others."""

    mean: np.ndarray
    """Float32 `(width,)`."""
    directions: np.ndarray
    """Principal directions of the shrunken covariance, float16 `(directions, width)`."""
    variances: np.ndarray
    """Along those, float32 `(directions,)`."""
    residual: float
    """Variance along each other direction, their mean."""
    threshold: float
    """Distance beyond which a clip lies outside."""
    quantile: float
    """Share of the held-out clips that lie within the threshold."""
    shrinkage: float
    """Of the covariance towards a multiple of the identity (Ledoit and Wolf 2004)."""
    held_out: str
    """Which clips `share` is of: `validation`, or `cross-fitted`, the training clips themselves."""
    share: float
    """Share of the held-out clips outside."""
    highest_share: float
    """The same of the one speaker of whom most are outside."""
    clips: int
    """Held-out clips."""
    speakers: int
    """Held-out speakers."""
    model: str
    """Digest of the weights that gave the embeddings (`ser_hf.models.loading.digest`)."""

    def distances(self, embeddings: np.ndarray) -> np.ndarray:
        """Mahalanobis distances `(clips,)` of embeddings `(clips, width)`."""
        return mahalanobis(embeddings, self.mean, np.float64(self.directions), self.variances, self.residual)

    def figures(self) -> dict[str, float | int | str]:
        """What a report says of the reference, without its tensors."""
        names = (*_FIGURES, "held_out", *_COUNTS)
        return {name: getattr(self, name) for name in names}

    def check_model(self, digest: str) -> None:
        """Refuse a model whose embeddings the reference is not of.

        Raises:
            EmbeddingReferenceError: for another `digest`.
        """
        if self.model != digest:
            raise EmbeddingReferenceError(f"{FILE} belongs to other weights than those beside it: {REMEDY}")

    def save(self, path: str | PathLike) -> None:
        """Write a small safetensors file."""
        metadata = {"kind": _KIND, "model": self.model}
        metadata |= {name: str(value) for name, value in self.figures().items()}
        save_file({name: getattr(self, name) for name in _TENSORS}, path, metadata=metadata)

    @classmethod
    def load(cls, path: str | PathLike) -> "EmbeddingReference":
        """Read what `save` wrote.

        Raises:
            EmbeddingReferenceError: for anything else.
        """
        try:
            with safe_open(path, "numpy") as file:
                written = file.metadata() or {}
                if written.get("kind") == _KIND:
                    tensors = {name: file.get_tensor(name) for name in _TENSORS}
                    figures = {name: float(written[name]) for name in _FIGURES}
                    counts = {name: int(written[name]) for name in _COUNTS}
                    texts = {name: written[name] for name in ("held_out", "model")}
                    return cls(**{**tensors, **figures, **counts, **texts})
        except (OSError, SafetensorError) as error:
            raise EmbeddingReferenceError(f"'{path}' cannot be read ({error}): {REMEDY}") from error
        raise EmbeddingReferenceError(f"'{path}' holds no reference of embeddings: {REMEDY}")


def mahalanobis(
    embeddings: np.ndarray, mean: np.ndarray, directions: np.ndarray, variances: np.ndarray, residual: float
) -> np.ndarray:
    """Distances `(clips,)` under a Gaussian of some directions and one variance for all others."""
    centred = np.asarray(embeddings, dtype=np.float64) - mean
    along = centred @ directions.T
    rest = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0)
    return np.sqrt((along**2 / variances).sum(axis=1) + rest / residual)


def load_beside(model: str | PathLike, revision: str | None = None) -> EmbeddingReference | None:
    """The reference in the folder or the repository of a model; None where there is none.

    Args:
        model: a folder or a Hub id whose model has been loaded.
        revision: a branch, tag or commit of a Hub id.

    Raises:
        EmbeddingReferenceError: for a file that holds none.
    """
    path = loading.file_beside(model, FILE, revision)
    return None if path is None else EmbeddingReference.load(path)
