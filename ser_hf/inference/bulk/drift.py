"""How far the recordings of a labelling lie from the clips that its model was trained on.

Of about `MEASURED` recordings, chosen by their content, the distance of the embedding is written
into their row. The embedding comes from the pass that predicts, so that none is computed twice.
"""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import cached_file

from ser_hf.inference import embedding_reference
from ser_hf.inference.backends import EmbeddingBackend
from ser_hf.inference.embedding_reference import EmbeddingReferenceError
from ser_hf.inference.predictor import Predictor

MEASURED = 500
"""Recordings of an output whose distance is measured, about: 1 % of them is then 0.4 to 2.3 %."""


class DistanceMeter:
    """Distances from the training clips of a model, where a reference of them lies beside it."""

    def __init__(self, predictor: Predictor) -> None:
        """Load the reference; `missing` says why there is none."""
        self.missing: str | None = None
        self._reference = None
        try:
            self._reference = embedding_reference.load_beside(predictor.name, predictor.revision)
            if self._reference is None:
                self.missing = f"no {embedding_reference.FILE} lies beside the model: {embedding_reference.REMEDY}"
            else:
                self._reference.check_model(predictor.session.backend.digest)
        except EmbeddingReferenceError as error:  # no reason to label nothing
            self._reference, self.missing = None, str(error)
        if self._reference is not None and not isinstance(predictor.session.backend, EmbeddingBackend):
            self._reference, self.missing = None, f"the backend {predictor.backend} gives no embeddings"

    def chooses(self, key: str | None, share: float) -> bool:
        """Whether the recording with this SHA-256 is among the share that is measured."""
        return self._reference is not None and key is not None and int(key[:8], 16) < share * 2**32

    def distance(self, embedding: np.ndarray) -> float:
        """Distance of an embedding, shape `(width,)`."""
        assert self._reference is not None  # else no recording is chosen
        return float(self._reference.distances(embedding[None])[0])

    def figures(self) -> dict[str, Any]:
        """What the manifest says of the reference: its figures, or why there is none."""
        return {"missing": self.missing} if self._reference is None else self._reference.figures()


def measured_share(recordings: int) -> float:
    """The share of so many recordings that is measured."""
    return min(1.0, MEASURED / max(recordings, 1))


def held_out_scores(model: str | PathLike, revision: str | None = None) -> dict[str, Any] | None:
    """The scores that a model gave to its test clips, in bins, by the `results.json` beside it.

    Returns:
        `protocol`, `clips`, and `bins` of `low`, `high`, `n`; None where no such file says so.
    """
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(model, "results.json", revision=revision or "main", **quiet)
    if path is None:
        return None
    try:
        results = json.loads(Path(path).read_text())
        bins = [{name: row[name] for name in ("low", "high", "n")} for row in results["reliability"]]
        return {"protocol": results["protocol"], "clips": results["n"], "bins": bins}
    except (ValueError, KeyError, TypeError):  # of another program
        return None
