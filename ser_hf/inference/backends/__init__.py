"""Registry of backends: what a model runs on, behind one interface.

A new backend is a class with the members of `Backend`, a function that loads it, and an entry in
`BACKENDS`. The modules of the backends are imported when a model is loaded, so that the command
line can list the names without them.
"""

from collections.abc import Callable
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ser_hf.errors import UserError, choose_one

if TYPE_CHECKING:
    import numpy as np
    from transformers import FeatureExtractionMixin, PreTrainedConfig


class Backend(Protocol):
    """A loaded model; any number of threads may call it."""

    @property
    def name(self) -> str:
        """Key of `BACKENDS`; under `auto`, that of the backend which it chose."""
        ...

    @property
    def config(self) -> "PreTrainedConfig": ...
    @property
    def extractor(self) -> "FeatureExtractionMixin": ...
    @property
    def device(self) -> str: ...
    @property
    def batches(self) -> bool:
        """Whether clips of one length may share a batch: no prediction changes by more than
        rounding then."""
        ...

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of the weights (`ser_hf.models.loading.digest`), whatever they were
        rounded to on this backend."""
        ...

    def logits(self, features: "np.ndarray") -> "np.ndarray":
        """Logits of clips of one length.

        Args:
            features: unpadded, float32, shape `(clips, samples)` or `(clips, frames, dimensions)`.

        Returns:
            Float32 of shape `(clips, labels)`.
        """
        ...


@runtime_checkable
class EmbeddingBackend(Protocol):
    """A backend that also gives the embeddings behind its logits."""

    def outputs(self, features: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
        """Logits as `Backend.logits` gives them, and the embeddings, float32 `(clips, width)`."""
        ...


Loader = Callable[[str | PathLike, str | None, str | None], Backend]
"""Loads a model: its name, the device (None: a GPU where there is one), and the revision."""


def _load_auto(model: str | PathLike, device: str | None, revision: str | None) -> Backend:
    from ser_hf.inference.backends import auto_backend

    return auto_backend.load(model, device, revision)


def _load_torch(model: str | PathLike, device: str | None, revision: str | None, bfloat16: bool = False) -> Backend:
    from ser_hf.inference.backends import torch_backend  # torch takes seconds to import

    return torch_backend.load(model, device, revision, bfloat16)


def _load_onnx(model: str | PathLike, device: str | None, revision: str | None, int8: bool = False) -> Backend:
    from ser_hf.inference.backends import onnx_backend

    return onnx_backend.load(model, device, revision, int8)


BACKENDS: dict[str, Loader] = {
    "auto": _load_auto,
    "torch": _load_torch,
    "torch-bf16": partial(_load_torch, bfloat16=True),
    "onnx": _load_onnx,
    "onnx-int8": partial(_load_onnx, int8=True),
}
"""Loaders by the name of the backend; the first is the default."""


def load(
    model: str | PathLike, backend: str = "auto", device: str | None = None, revision: str | None = None
) -> Backend:
    """Load a fine-tuned model on a backend.

    Args:
        model: a folder that fine-tuning or `ser-hf export` wrote, or a Hub id.
        backend: a key of `BACKENDS`.
        device: for torch; a GPU where there is one if None.
        revision: a branch, tag or commit of a Hub id.

    Raises:
        UserError: where the model cannot be loaded or exported, or a package is missing.
    """
    if backend not in BACKENDS:
        raise UserError(f"'{backend}' is no backend: {choose_one(backend, BACKENDS)}")
    return BACKENDS[backend](model, device, revision)
