"""What a model runs on: torch in fp32 or bf16, or ONNX Runtime in fp32 or int8, behind one
method."""

import functools
import hashlib
import importlib.util
import json
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HOME
from transformers import AutoConfig, AutoFeatureExtractor, FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel

from ser_hf import BACKENDS
from ser_hf.errors import UserError
from ser_hf.models import loading

if TYPE_CHECKING:
    import onnxruntime
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy

from scipy.special import softmax

from ser_hf.models import features

FORMAT = 1
"""Of the graphs in the cache: a change of what `export.write_onnx` writes asks for another."""

_DESCRIPTION = ("config.json", "preprocessor_config.json", "processor_config.json")


class BackendError(UserError):
    """A backend that there is none of, or that cannot run a model."""


class Backend(Protocol):
    """A model that can be asked; any number of threads may ask it."""

    config: PreTrainedConfig
    extractor: FeatureExtractionMixin
    device: str
    together: bool
    """Whether clips of one length may share a batch: no answer changes by more than rounding
    then."""
    digest: str
    """Tells what answers from all others: by its weights, or its graph."""

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Float32 `(clips, labels)` for unpadded float32 features, `(clips, samples)` or `(clips,
        frames, dims)`."""
        ...


class TorchBackend:
    """A model in torch."""

    together = True

    def __init__(
        self, model: str | PathLike, device: str | None = None, half: bool = False, revision: str | None = None
    ) -> None:
        """Load a model onto a device, a GPU where there is one if None; `half` computes in
        bfloat16.

        Raises:
            UserError: where it cannot be loaded, or there is no such device.
        """
        self.device = _device(device)
        self.model, self.extractor, self.rule = loading.load_for_prediction(model, revision)
        self.config = self.model.config
        self.model.to(self.device)
        if half:
            _halve(self.model, torch.device(self.device).type)

    @functools.cached_property
    def digest(self) -> str:
        """Of `Backend`."""
        return loading.digest(self.model)

    @torch.inference_mode()
    def logits(self, features: np.ndarray) -> np.ndarray:
        """Of `Backend`."""
        # no mask: clips of one length have nothing to be masked, and the answer is that of an
        # all-ones mask
        return self.model(torch.from_numpy(features).to(self.device)).logits.float().cpu().numpy()


FILES = {"onnx": "model.onnx", "onnx-int8": "model_int8.onnx"}
"""What `ser-hf export` calls a graph, by the backend that runs it."""


class OnnxError(UserError):
    """A graph that cannot be made or run, or that does not answer as its model does."""


class OnnxBackend:
    """A graph that `export.write_onnx` wrote; any number of threads may ask it, each works alone on
    what it asks."""

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
        self._session, self._input = onnx_session(graph), extractor.model_input_names[0]
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
        """Float32 `(clips, labels)` for unpadded float32 features, `(clips, samples)` or `(clips,
        frames, dims)`."""
        return self._session.run(["logits"], {self._input: features})[0]


def onnx_session(graph: str | PathLike) -> "onnxruntime.InferenceSession":
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


def load(
    model: str | PathLike, backend: str = "torch", device: str | None = None, revision: str | None = None
) -> Backend:
    """A fine-tuned model on a backend.

    ONNX graphs are made from the model's weights the first time, checked against torch, and kept in
    `ser_hf` beside the Hub's cache; later loads neither build the model nor export it.

    Args:
        model: a folder that fine-tuning or `ser-hf export` wrote, or a Hub id.
        backend: of `ser_hf.BACKENDS`.
        device: for torch; a GPU where there is one if None.
        revision: a branch, tag or commit of a Hub id.

    Raises:
        UserError: where the model cannot be loaded or exported, or a package is missing.
    """
    if backend not in BACKENDS:
        raise BackendError(f"'{backend}' is no backend: choose one of {', '.join(BACKENDS)}")
    if backend in FILES:
        if device not in (None, "cpu"):
            raise BackendError(f"{backend} runs on the processor, not on '{device}': use --backend torch there")
        return _onnx(model, backend, revision)
    held = [name for name, file in FILES.items() if (Path(model) / file).is_file()]
    if held and not _weights(Path(model)):
        raise BackendError(f"'{model}' was exported, without torch's weights: use --backend {held[0]}")
    return TorchBackend(model, device, backend == "torch-bf16", revision)


def _device(name: str | None) -> str:
    """A device that is there; a GPU where there is one if None."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise BackendError(f"torch has no device '{name}' here: use cpu") from error
    return name


def _halve(model: PreTrainedModel, device: str) -> None:
    """Compute in bfloat16 what autocast does, whoever calls the model; its weights are cast once,
    not for each clip."""
    forward = model.forward

    @functools.wraps(forward)
    def in_bfloat16(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            return forward(*args, **kwargs)

    model.forward = in_bfloat16
    for one in model.modules():
        if isinstance(one, torch.nn.Linear | torch.nn.Conv1d) and "weight" in one._parameters:  # not weight norm's
            one.to(torch.bfloat16)


def _onnx(model: str | PathLike, backend: str, revision: str | None) -> OnnxBackend:
    require("onnxruntime")
    folder = _folder(model, FILES[backend], revision)
    try:
        config, extractor = AutoConfig.from_pretrained(folder), AutoFeatureExtractor.from_pretrained(folder)
        weights = _weights(folder)
    except loading.LOADING_ERRORS as error:
        raise _cannot_load(model, error) from error
    loading.check_labels(model, config)
    graph = _cached(model, folder, backend) if weights else folder / FILES[backend]
    if not graph.is_file():
        held = [name for name, file in FILES.items() if (folder / file).is_file()]
        remedy = f"use --backend {held[0]}" if held else "give the folder that fine-tuning wrote"
        raise BackendError(f"'{model}' holds neither model.safetensors nor {graph.name}: {remedy}")
    return OnnxBackend(graph, config, extractor, together=backend == "onnx")


def _folder(model: str | PathLike, graph: str, revision: str | None) -> Path:
    """A model's folder; for a Hub id the one of its snapshot, with safetensors in it, or else the
    graph."""
    if Path(model).is_dir() and not revision:
        return Path(model)
    loading.check_folder(model, revision)
    try:
        weights = [*loading.WEIGHTS, "model-*-of-*.safetensors"]
        folder = Path(snapshot_download(str(model), revision=revision, allow_patterns=[*_DESCRIPTION, *weights]))
        if not _weights(folder):
            snapshot_download(str(model), revision=folder.name, allow_patterns=[graph])
    except loading.LOADING_ERRORS as error:
        raise _cannot_load(model, error) from error
    return folder


def _weights(folder: Path) -> list[str]:
    """The names of the files that hold a model's weights; none where there are none."""
    one, index = (folder / name for name in loading.WEIGHTS)
    if one.is_file() or not index.is_file():
        return [one.name] if one.is_file() else []
    return [index.name, *sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def _cached(model: str | PathLike, folder: Path, backend: str) -> Path:
    """The graph of a model whose weights lie in `folder`, made where the cache has none."""
    found = hashlib.sha256(f"{FORMAT}".encode())
    for name in (*(name for name in _DESCRIPTION if (folder / name).is_file()), *_weights(folder)):
        with (folder / name).open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    kind = "int8" if backend == "onnx-int8" else "fp32"
    graph = Path(HF_HOME) / "ser_hf" / f"{found.hexdigest()[:16]}-{kind}.onnx"
    if not graph.is_file():
        require("onnx")
        from ser_hf.inference import export

        graph.parent.mkdir(parents=True, exist_ok=True)
        commit = None if Path(model).is_dir() else folder.name
        export.write_checked(*loading.load_for_prediction(model, commit), graph, int8=kind == "int8")
    return graph


def _cannot_load(model: str | PathLike, error: Exception) -> loading.ModelError:
    remedy = "give a Hub id or the folder that fine-tuning wrote"
    return loading.ModelError(f"model '{model}' cannot be loaded ({first_line(error)}): {remedy}")


class InferencePool:
    """A backend behind a pool of threads; any thread may ask.

    On a CPU each worker computes with one thread of its own: no clip waits for another's, and its
    answer is the same to the last bit however many are asked at a time. A GPU has one worker.
    """

    def __init__(self, backend: Backend) -> None:
        """Start the pool."""
        self.backend = backend
        self.on_gpu = getattr(backend, "device", "cpu") != "cpu"
        self.count = 1 if self.on_gpu else os.cpu_count() or 1
        # of torch's, and of the calling thread alone, which is one of the pool
        begin = None if self.on_gpu else lambda: torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self.count, "predictor", begin)

    def of(self, backend: Backend) -> "InferencePool":
        """The same threads, of another backend on the same device."""
        other = copy(self)
        other.backend = backend
        return other

    def ask(self, clips: list[np.ndarray]) -> Future[np.ndarray]:
        """Probabilities `(clips, labels)` of clips of one length, 16 kHz; of several only where
        `backend.together`."""
        return self._pool.submit(self._asked, clips)

    def run(self, function: Callable, *arguments: object) -> Future:
        """Anything else that should not take more than its core."""
        return self._pool.submit(function, *arguments)

    def _asked(self, clips: list[np.ndarray]) -> np.ndarray:
        made = np.stack([features.extract(self.backend.extractor, clip) for clip in clips])
        return softmax(self.backend.logits(made), axis=-1)
