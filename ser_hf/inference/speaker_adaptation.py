"""What a model makes of one voice, from a few of its clips without labels.

A model takes one voice for sad and another for angry, whatever they feel. An adaptation moves the
logits so that, over the clips given, its answers are spread evenly over the labels, and mixes them
with where the clips themselves cluster, since a voice that moves all alike says little of how often
each is meant. The clips should hold several emotions, best all of them about as often, or one of
them is taken for the voice.
"""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.special import log_softmax, softmax

from ser_hf.errors import UserError

SUFFIX = ".safetensors"
_KIND = "ser_hf voice 2"  # the first had no weight
PRIOR = 4.0
"""Clips that are counted beside those of the voice, and of which nothing is known: few clips move
an answer little."""

CLUSTERED = 0.3
"""Of an answer is what the clusters say."""

_ROUNDS, _FLOOR = 40, 1e-3  # a share of answers below the floor counts as it: a label may be missing among the clips
_STEPS = 10  # of expectation maximisation
_CENTRE, _SHARE, _SPREAD = 2.0, 2.0, 3.0  # clips that a cluster's centre and share, and the spread of all, begin with


class AdaptationError(UserError):
    """A model that cannot be adapted, or an adaptation that is not of this model."""


@dataclass(frozen=True, eq=False)
class Adaptation:
    """A voice, as one model hears it."""

    weight: np.ndarray
    """By which logits are multiplied, float32 `(labels, labels)`."""
    offset: np.ndarray
    """Which is added then, float32 `(labels,)`; its mean is 0."""
    clips: int
    model: str
    """Digest of the model that heard them (`ser_hf.inference.backends.Backend.digest`)."""

    def moved(self, logits: np.ndarray) -> np.ndarray:
        """Logits `(clips, labels)` of the model as those for this voice."""
        return logits @ self.weight.T + self.offset

    def check_model(self, digest: str) -> None:
        """Refuse a model whose logits the adaptation was not fitted to.

        Raises:
            AdaptationError: for another `digest` (`ser_hf.inference.backends.Backend`).
        """
        if self.model != digest:
            raise AdaptationError("the voice was heard by another model, or on another backend: adapt this one again")

    def save(self, path: str | PathLike) -> None:
        """Write a small safetensors file, which holds no sound.

        Raises:
            AdaptationError: for a name without `.safetensors`, or a folder that does not exist.
        """
        check_name(path)
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        says = {"kind": _KIND, "clips": str(self.clips), "model": self.model}
        try:
            save_file({"weight": self.weight, "offset": self.offset}, partial, metadata=says)
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
                if says.get("kind") == _KIND:
                    return cls(file.get_tensor("weight"), file.get_tensor("offset"), int(says["clips"]), says["model"])
        except (OSError, SafetensorError) as error:
            raise AdaptationError(f"'{path}' cannot be read ({error}): give what --save_voice wrote") from error
        raise AdaptationError(f"'{path}' holds no voice that can be used: adapt to its clips again")


def check_name(path: str | PathLike) -> None:
    """Complain of where a voice is to be kept, before any is heard.

    Raises:
        AdaptationError: for a name without `.safetensors`, or a folder that does not exist.
    """
    path = Path(path)
    if path.suffix != SUFFIX or path.is_dir() or not path.parent.is_dir():
        raise AdaptationError(f"'{path}' cannot be written: name a {SUFFIX} file in a folder that exists")


def fit(logits: np.ndarray, digest: str, clustered: float = CLUSTERED) -> Adaptation:
    """A voice from a calibrated model's logits `(clips, labels)` of at least one of its clips;
    `digest` is the model's.

    Two answers are mixed, as logarithms. One moves the logits evenly: found is the offset b for
    which the mean of `softmax(logits + b)` over the n clips and `PRIOR` even answers is even, the
    correction of a classifier to other class shares (Saerens, Latinne and Decaestecker 2002), the
    shares given. The other, whose part is `clustered`, asks to which label's cluster a clip
    belongs: Gaussians of one covariance in the space of the logits, of any sizes, found from the
    answers by expectation maximisation (McLachlan and Peel 2000). Both are linear, and applied by n
    / (n + `PRIOR`).
    """
    logits = np.asarray(logits, dtype=np.float64)
    clips, labels = logits.shape
    applied = clips / (clips + PRIOR)
    offset, clustered = _even(logits) * applied, clustered * applied
    centring = np.eye(labels) - 1 / labels
    weight, constant = _clusters(logits @ centring, logits + offset, clustered)
    weight = (1 - clustered) * np.eye(labels) + clustered * centring @ weight @ centring
    offset = centring @ ((1 - clustered) * offset + clustered * constant)
    return Adaptation(np.float32(weight), np.float32(offset), clips, digest)


def _even(logits: np.ndarray) -> np.ndarray:
    """The offset `(labels,)` that spreads answers evenly."""
    clips, labels = logits.shape
    offset = np.zeros(labels)
    for _ in range(_ROUNDS):
        shares = (softmax(logits + offset, axis=1).sum(axis=0) + PRIOR / labels) / (clips + PRIOR)
        offset += (np.log(1 / labels + _FLOOR) - np.log(shares + _FLOOR)) / 2
    return offset - offset.mean()


def _clusters(places: np.ndarray, answers: np.ndarray, trusted: float) -> tuple[np.ndarray, np.ndarray]:
    """The discriminant of a cluster for each label: scores are `places @ weight.T + constant`.

    Args:
        places: of clips, shape `(clips, dimensions)`.
        answers: logits that the clusters begin with, and that share in them throughout, shape
            `(clips, labels)`.
        trusted: the share of the clusters.

    Returns:
        The weight `(labels, dimensions)` and the constant `(labels,)`.
    """
    clips, dimensions = places.shape
    belongs, middle = softmax(answers, axis=1), places.mean(axis=0)
    for _ in range(_STEPS):
        sizes = belongs.sum(axis=0)
        centres = (belongs.T @ places + _CENTRE * middle) / (sizes + _CENTRE)[:, None]
        away = places[:, None] - centres
        spread = np.einsum("nk,nki,nkj->ij", belongs, away, away) / clips
        even = max(np.trace(spread) / dimensions, _FLOOR) * np.eye(dimensions)
        weight = np.linalg.solve((clips * spread + _SPREAD * even) / (clips + _SPREAD), centres.T).T
        constant = np.log(sizes + _SHARE) - (weight * centres).sum(axis=1) / 2
        scores = log_softmax(places @ weight.T + constant, axis=1)
        belongs = softmax((1 - trusted) * log_softmax(answers, axis=1) + trusted * scores, axis=1)
    return weight, constant
