"""ONNX graphs of models in ONNX Runtime, on the processor."""

import hashlib
import importlib.util
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from transformers import FeatureExtractionMixin, PreTrainedConfig

from ser_hf.errors import UserError

if TYPE_CHECKING:
    import onnxruntime

FILES = {"onnx": "model.onnx", "onnx-int8": "model_int8.onnx"}
"""What `ser-hf export` calls a graph, by the backend that runs it."""


class OnnxError(UserError):
    """A graph that cannot be made or run, or that does not answer as its model does."""


class OnnxBackend:
    """A graph that `export.write_onnx` wrote; any number of threads may ask it, each works alone on what it asks."""

    device = "cpu"

    def __init__(
        self, graph: str | PathLike, config: PreTrainedConfig, extractor: FeatureExtractionMixin, together: bool
    ) -> None:
        """Open it; `together` as `backends.Backend` has it.

        Raises:
            OnnxError: for a file that cannot be read, or a graph with other inputs.
        """
        self.config, self.extractor, self.together = config, extractor, together
        self._graph = Path(graph)
        self._session, self._input = session(graph), extractor.model_input_names[0]
        taken = [one.name for one in self._session.get_inputs()]
        if taken != [self._input] or [one.name for one in self._session.get_outputs()] != ["logits"]:
            raise OnnxError(
                f"'{graph}' takes {', '.join(taken)}, not {self._input} alone: write it with `ser-hf export`"
            )

    @cached_property
    def digest(self) -> str:
        """Of `backends.Backend`."""
        with self._graph.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Float32 `(clips, labels)` for unpadded float32 features, `(clips, samples)` or `(clips, frames, dims)`."""
        return self._session.run(["logits"], {self._input: features})[0]


def session(graph: str | PathLike) -> "onnxruntime.InferenceSession":
    """A graph ready to run, in the thread that asks and no other.

    Raises:
        OnnxError: for a file that ONNX Runtime cannot read, or where it is not installed.
    """
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    options.enable_mem_pattern = False  # a plan for every length that was ever asked, which saves no time
    # fused with the addition before it, a layer norm takes five times as long as both do
    slower = ["SkipLayerNormFusion"]
    try:
        return onnxruntime.InferenceSession(str(graph), options, ["CPUExecutionProvider"], disabled_optimizers=slower)
    except runtime_errors() as error:
        raise OnnxError(f"'{graph}' cannot be read ({first_line(error)}): remove it and export again") from error


def require(*packages: str) -> None:
    """Complain of a missing package before work.

    Raises:
        OnnxError: with the line that installs it.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise OnnxError(f"ONNX needs the package {package}: pip install -e '.[onnx]'")


def runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a graph; it has no common base class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile)
    return (*kinds, state.NotImplemented, state.RuntimeException)


def first_line(error: Exception) -> str:
    """What an error says, for a message of one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:160]
