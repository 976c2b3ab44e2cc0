"""ONNX Runtime: its session, its errors, and the names of exported graphs."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ser_hf.errors import UserError, first_line
from ser_hf.utils import packages

if TYPE_CHECKING:
    import onnxruntime

GRAPH_FILES = {"onnx": "model.onnx", "onnx-int8": "model_int8.onnx"}
"""File that `ser-hf export` writes, by the backend that runs it."""


def exported_backends(folder: Path) -> list[str]:
    """Backends whose graph lies in a folder."""
    return [name for name, file in GRAPH_FILES.items() if (folder / file).is_file()]


def open_session(graph: str | PathLike) -> "onnxruntime.InferenceSession":
    """Open a graph that runs in the thread that calls it and in no other.

    Raises:
        UserError: for a file that ONNX Runtime cannot read, or where it is not installed.
    """
    require("onnxruntime")
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # where somebody imported it before ser_hf said so
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    options.enable_mem_pattern = False  # it keeps a plan for every length of clip, and saves no time
    # fused with the addition before it, a layer norm takes five times as long as both do
    slower = ["SkipLayerNormFusion"]
    try:
        return onnxruntime.InferenceSession(str(graph), options, ["CPUExecutionProvider"], disabled_optimizers=slower)
    except runtime_errors() as error:
        raise UserError(f"'{graph}' cannot be read ({first_line(error)[:160]}): remove it and export again") from error


def require(*names: str) -> None:
    """Refuse to begin where a package is missing.

    Raises:
        UserError: with the line that installs it.
    """
    for name in names:
        packages.require("ONNX", name)


def runtime_errors() -> tuple[type[Exception], ...]:
    """Errors that ONNX Runtime raises for a graph; they have no common base class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile)
    return (*kinds, state.NotImplemented, state.RuntimeException)
