"""Adaptation of a model to one voice, by a few of its clips without labels.

A model predicts sad for one voice and angry for another, whatever they express. Where the model has
an adaptation head (`ser_hf.inference.adaptation_head`), an adaptation standardises the embeddings
by the clips of the voice and lets that head predict.

It then moves the logits in two ways, and mixes both. The first spreads the predictions for the
clips evenly over the labels. The second takes for each clip the label of its cluster, since the
shares of the labels among the clips need not be even. The clips should hold several emotions, best
all of them about as often. A single emotion would be taken for a trait of the voice.
"""

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.special import log_softmax, softmax

from ser_hf.errors import UserError
from ser_hf.inference.adaptation_head import AdaptationHead
from ser_hf.utils import files

SUFFIX = ".safetensors"
_KIND = "ser_hf voice 3"  # format of the file; the second had no weight for embeddings
PRIOR = 4.0
"""Clips with even predictions that are counted beside those of the voice, so that few clips move
the logits little."""

FEWEST_CLIPS = 5
"""Clips that all given recordings of one speaker must have, where they are adapted to
themselves."""

CLUSTERED = 0.3
"""Weight of the clusters in an adapted prediction."""

EVEN, EVEN_WITH_HEAD = 1.0, 0.5
"""Share of the offset that spreads the predictions evenly; half of it where the adaptation head
knows the voice already, since emotions may be missing (`studies/adaptation_curve.py`)."""

HEAD_CLIPS = 2.0
"""Clips for which the model's own logits count beside those of the adaptation head."""

_ROUNDS = 40  # of the search for the offset
_FLOOR = 1e-3  # smaller shares of a label count as this: it may be missing among the clips
_STEPS = 10  # of expectation maximisation
# prior counts of clips: for the centre and the share of each cluster, and for their covariance
_CENTRE, _SHARE, _SPREAD = 2.0, 2.0, 3.0


class AdaptationError(UserError):
    """A model that cannot be adapted, or an adaptation that is not of this model."""


@dataclass(frozen=True, eq=False)
class Adaptation:
    """How the logits of one model are moved for one voice."""

    weight: np.ndarray
    """Matrix that multiplies the logits, float32 `(labels, labels)`."""
    offset: np.ndarray
    """Added after that, float32 `(labels,)`."""
    embedding_weight: np.ndarray | None
    """Matrix that multiplies the embeddings, float32 `(labels, width)`; None without a head."""
    clips: int
    """Number of clips that it was fitted to."""
    model: str
    """Digest of the model whose logits it was fitted to (`Backend.digest`)."""

    def moved(self, logits: np.ndarray, embeddings: np.ndarray | None = None) -> np.ndarray:
        """Move logits of the model to those for this voice.

        Args:
            logits: shape `(clips, labels)`.
            embeddings: of the same clips, shape `(clips, width)`; needed where there is an
                `embedding_weight`.
        """
        moved = logits @ self.weight.T + self.offset
        return moved if self.embedding_weight is None else moved + embeddings @ self.embedding_weight.T

    def check_model(self, digest: str) -> None:
        """Refuse a model whose logits the adaptation was not fitted to.

        Raises:
            AdaptationError: for another `digest` (`ser_hf.inference.backends.Backend`).
        """
        if self.model != digest:
            raise AdaptationError("the voice was fitted to another model: adapt this one again")

    def save(self, path: str | PathLike) -> None:
        """Write a small safetensors file, which holds no sound.

        Raises:
            AdaptationError: for a name without `.safetensors`, or a folder that does not exist.
        """
        check_name(path)
        metadata = {"kind": _KIND, "clips": str(self.clips), "model": self.model}
        tensors = {"weight": self.weight, "offset": self.offset, "embedding_weight": self.embedding_weight}
        with files.replacing(path) as partial:
            save_file({name: value for name, value in tensors.items() if value is not None}, partial, metadata=metadata)

    @classmethod
    def load(cls, path: str | PathLike) -> "Adaptation":
        """Read what `save` wrote.

        Raises:
            AdaptationError: for anything else.
        """
        try:
            with safe_open(os.path.expanduser(path), "numpy") as file:
                written = file.metadata() or {}
                if written.get("kind") == _KIND:
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                    return cls(
                        **{"embedding_weight": None} | tensors, clips=int(written["clips"]), model=written["model"]
                    )
        except (OSError, SafetensorError) as error:
            raise AdaptationError(f"'{path}' cannot be read ({error}): give what --save_voice wrote") from error
        raise AdaptationError(f"'{path}' holds no voice that can be used: adapt to its clips again")


def check_name(path: str | PathLike) -> None:
    """Refuse a path for an adaptation, before any clip is predicted.

    Raises:
        AdaptationError: for a name without `.safetensors`, or a folder that does not exist.
    """
    path = Path(os.path.expanduser(path))
    if path.suffix != SUFFIX or os.path.isdir(path) or not os.path.isdir(path.parent):
        raise AdaptationError(f"'{path}' cannot be written: name a {SUFFIX} file in a folder that exists")


def fit_with_head(
    head: AdaptationHead,
    logits: np.ndarray,
    embeddings: np.ndarray,
    digest: str,
    even: float = EVEN_WITH_HEAD,
    clustered: float = CLUSTERED,
) -> Adaptation:
    """Fit an adaptation to the embeddings of at least one clip of a voice.

    The logits of the head for the standardised embeddings are mixed with the model's own, by
    n / (n + `HEAD_CLIPS`) of n clips. `fit` then moves the mixture. All of it is linear in the
    embeddings and the logits.

    Args:
        head: of the model.
        logits: of a calibrated model, shape `(clips, labels)`.
        embeddings: of the same clips, shape `(clips, width)`.
        digest: of the model.
        even: of `fit`, like `clustered`.
        clustered: weight of the clusters.
    """
    logits, embeddings = (np.asarray(values, dtype=np.float64) for values in (logits, embeddings))
    share = len(logits) / (len(logits) + HEAD_CLIPS)
    weight, bias = (share * values for values in head.for_voice(embeddings))
    mixed = (1 - share) * logits + embeddings @ weight.T + bias
    moving = fit(mixed, digest, even, clustered)
    return Adaptation(
        weight=np.float32((1 - share) * moving.weight),
        offset=np.float32(moving.weight @ bias + moving.offset),
        embedding_weight=np.float32(moving.weight @ weight),
        clips=moving.clips,
        model=digest,
    )


def fit(logits: np.ndarray, digest: str, even: float = EVEN, clustered: float = CLUSTERED) -> Adaptation:
    """Fit an adaptation to the logits of at least one clip of a voice.

    Two predictions are mixed, as logarithms. The first moves the logits by an offset b. It is the
    one for which the mean of `softmax(logits + b)`, over the n clips and `PRIOR` even predictions,
    is even: the correction of a classifier to other class shares (Saerens, Latinne and Decaestecker
    2002), where the shares are given. The second is the label of a clip's cluster. The clusters are
    Gaussians of one covariance in the space of the logits, with shares of their own, fitted to
    the predictions by expectation maximisation (McLachlan and Peel 2000). Both are linear, and
    applied by n / (n + `PRIOR`).

    Args:
        logits: of a calibrated model, shape `(clips, labels)`.
        digest: of the model.
        even: share of the offset that is applied.
        clustered: weight of the second prediction.
    """
    logits = np.asarray(logits, dtype=np.float64)
    clips, labels = logits.shape
    applied = clips / (clips + PRIOR)
    offset, clustered = _even(logits) * applied * even, clustered * applied
    centring = np.eye(labels) - 1 / labels
    weight, constant = _clusters(logits @ centring, logits + offset, clustered)
    weight = (1 - clustered) * np.eye(labels) + clustered * centring @ weight @ centring
    offset = centring @ ((1 - clustered) * offset + clustered * constant)
    return Adaptation(np.float32(weight), np.float32(offset), None, clips, digest)


def _even(logits: np.ndarray) -> np.ndarray:
    """The offset `(labels,)` that spreads the predictions evenly over the labels."""
    clips, labels = logits.shape
    offset = np.zeros(labels)
    for _ in range(_ROUNDS):
        shares = (softmax(logits + offset, axis=1).sum(axis=0) + PRIOR / labels) / (clips + PRIOR)
        offset += (np.log(1 / labels + _FLOOR) - np.log(shares + _FLOOR)) / 2
    return offset - offset.mean()


def _clusters(points: np.ndarray, logits: np.ndarray, weight_of_clusters: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit a cluster to each label: its scores are `points @ weight.T + constant`.

    Args:
        points: of clips, shape `(clips, dimensions)`.
        logits: from which the clusters start, and which share in them at each step, shape
            `(clips, labels)`.
        weight_of_clusters: against that of `logits`.

    Returns:
        The weight `(labels, dimensions)` and the constant `(labels,)`.
    """
    clips, dimensions = points.shape
    memberships, mean = softmax(logits, axis=1), points.mean(axis=0)
    for _ in range(_STEPS):
        sizes = memberships.sum(axis=0)
        centres = (memberships.T @ points + _CENTRE * mean) / (sizes + _CENTRE)[:, None]
        residuals = points[:, None] - centres
        covariance = np.einsum("nk,nki,nkj->ij", memberships, residuals, residuals) / clips
        prior = max(np.trace(covariance) / dimensions, _FLOOR) * np.eye(dimensions)
        weight = np.linalg.solve((clips * covariance + _SPREAD * prior) / (clips + _SPREAD), centres.T).T
        constant = np.log(sizes + _SHARE) - (weight * centres).sum(axis=1) / 2
        scores = log_softmax(points @ weight.T + constant, axis=1)
        mixed = (1 - weight_of_clusters) * log_softmax(logits, axis=1) + weight_of_clusters * scores
        memberships = softmax(mixed, axis=1)
    return weight, constant
