"""Models as ONNX graphs on ONNX Runtime, in fp32 or int8.

A graph is written from the model's weights the first time, compared with torch, and kept in the
cache. Later loads neither build the model in torch nor export it. The first load on another
processor compares the graph with the logits of torch that it carries.
"""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoFeatureExtractor, FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel

from ser_hf.errors import UserError
from ser_hf.inference.backends import graph_check, onnx_graph
from ser_hf.inference.backends.onnx_runtime import GRAPH_FILES, exported_backends, open_session, require
from ser_hf.models import loading
from ser_hf.utils import files, progress

FORMAT = 5
"""Format of the graphs in the cache. Count it up when `onnx_graph.write_graph` writes others."""

CACHE_BYTES = 2**31
"""Bytes of all graphs in the cache; those not used for longest make room for a new one."""

_DESCRIPTION = ("config.json", "preprocessor_config.json", "processor_config.json")


class OnnxBackend:
    """A graph; the members are those of `ser_hf.inference.backends.Backend`.

    Any number of threads may call it. Each works alone on its own features.
    """

    device = "cpu"

    def __init__(
        self,
        name: str,
        graph: str | PathLike,
        config: PreTrainedConfig,
        extractor: FeatureExtractionMixin,
        source: "ModelSource",
    ) -> None:
        """Open a graph that `onnx_graph.write_graph` wrote.

        Args:
            name: `onnx` or `onnx-int8`.
            graph: path of the file.
            config: of the model.
            extractor: of the model.
            source: of the model.

        Raises:
            UserError: for a file that cannot be read, or a graph with other inputs.
        """
        self.name, self.config, self.extractor = name, config, extractor
        self.batches = name != "onnx-int8"  # it takes its scales from the whole batch
        self._graph, self._source = Path(graph), source
        self.session, self._input = open_session(graph), extractor.model_input_names[0]
        inputs = [value.name for value in self.session.get_inputs()]
        self._outputs = [value.name for value in self.session.get_outputs()]
        if inputs != [self._input] or "logits" not in self._outputs:
            raise UserError(
                f"'{graph}' takes {', '.join(inputs)}, not {self._input} alone: write it with `ser-hf export`"
            )

    @property
    def digest(self) -> str:
        """Digest of the weights that the graph was written from.

        Raises:
            UserError: for a graph of an earlier format, which does not tell.
        """
        self._check_format()
        return self.session.get_modelmeta().custom_metadata_map[onnx_graph.DIGEST]

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model in torch, loaded beside the graph; changing it changes no prediction.

        Raises:
            UserError: for a folder with the graph alone.
        """
        if not self._source.weights:
            raise UserError(f"'{self._source.name}' was exported, without torch's weights: give the model itself")
        return loading.load_for_prediction(self._source.name, self._source.commit)[0]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits `(clips, labels)` of unpadded features."""
        return self.session.run(["logits"], {self._input: features})[0]

    def outputs(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute logits `(clips, labels)` and embeddings `(clips, width)`.

        Raises:
            UserError: for a graph of an earlier format, which has no embeddings.
        """
        self._check_format()
        logits, embeddings = self.session.run(["logits", "embedding"], {self._input: features})
        return logits, embeddings

    def _check_format(self) -> None:
        if "embedding" not in self._outputs:
            raise UserError(f"'{self._graph}' gives no embeddings: write it again with `ser-hf export`")


@dataclass(frozen=True)
class ModelSource:
    """Where the files of a model lie."""

    name: str
    """A folder, or a Hub id."""
    folder: Path
    """That folder, or the snapshot of the Hub id."""
    weights: list[str]
    """Files of the weights in it; none in a folder that was exported."""

    @classmethod
    def of(cls, model: str | PathLike, revision: str | None, graphs: Iterable[str] = GRAPH_FILES) -> "ModelSource":
        """Find a model, and download it where it is on the Hub: its weights, or else its graph.

        Args:
            model: a folder or a Hub id.
            revision: of a Hub id.
            graphs: backends whose graphs a Hub id without weights may give.

        Raises:
            UserError: where there is no such model.
        """
        if Path(model).is_dir() and not revision:
            folder = Path(model)
        else:
            loading.check_folder(model, revision)
            folder = _snapshot(model, revision, graphs)
        try:
            return cls(str(model), folder, loading.weight_files(folder))
        except loading.LOADING_ERRORS as error:
            raise _cannot_load(model, error) from error

    @property
    def commit(self) -> str | None:
        """The commit of a Hub id."""
        return None if Path(self.name).is_dir() else self.folder.name

    @cached_property
    def digest(self) -> str:
        """Digest of the description and of the files of the weights: 64 hexadecimal digits."""
        digest = hashlib.sha256()
        described = (name for name in _DESCRIPTION if (self.folder / name).is_file())
        for name in (*described, *self.weights):
            with (self.folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def load(model: str | PathLike, device: str | None, revision: str | None, int8: bool = False) -> OnnxBackend:
    """Load a model whose graph lies in its folder or in the cache; else write the graph first.

    Raises:
        UserError: where it can be neither loaded nor exported, or a package is missing.
    """
    backend = "onnx-int8" if int8 else "onnx"
    if device not in (None, "cpu"):
        raise UserError(f"{backend} runs on the processor, not on '{device}': use --backend torch there")
    require("onnxruntime")
    source = ModelSource.of(model, revision, [backend])
    if source.weights and not _graph_file(source, backend).is_file():
        progress.say(f"the graph of '{source.name}' is written and compared with torch, which takes seconds")
    return load_source(source, backend)


def load_source(source: ModelSource, backend: str, graphs: Path | None = None) -> OnnxBackend:
    """Load a model that was found already.

    Args:
        source: of the model.
        backend: `onnx` or `onnx-int8`.
        graphs: folder for the graph of a model with weights; that in the cache where None.

    Raises:
        UserError: as `load`.
    """
    folder = source.folder
    try:
        config, extractor = AutoConfig.from_pretrained(folder), AutoFeatureExtractor.from_pretrained(folder)
    except loading.LOADING_ERRORS as error:
        raise _cannot_load(source.name, error) from error
    loading.check_labels(source.name, config)
    graph = _cached_graph(source, backend, graphs) if source.weights else folder / GRAPH_FILES[backend]
    if not graph.is_file():
        exported = exported_backends(folder)
        remedy = f"use --backend {exported[0]}" if exported else "give the folder that fine-tuning wrote"
        raise UserError(f"'{source.name}' holds neither model.safetensors nor {graph.name}: {remedy}")
    loaded = OnnxBackend(backend, graph, config, extractor, source)
    if graphs is None:  # those of a temporary folder were compared when they were written
        graph_check.check(loaded.session, graph, backend)
    return loaded


def _snapshot(model: str | PathLike, revision: str | None, graphs: Iterable[str]) -> Path:
    """The snapshot of a Hub id: its safetensors, or else its graphs."""
    try:
        weights = [*loading.WEIGHTS, "model-*-of-*.safetensors"]
        folder = Path(snapshot_download(str(model), revision=revision, allow_patterns=[*_DESCRIPTION, *weights]))
        if not loading.weight_files(folder):
            exported = [GRAPH_FILES[name] for name in graphs]
            snapshot_download(str(model), revision=folder.name, allow_patterns=exported)
    except loading.LOADING_ERRORS as error:
        shown = f"{model}' at '{revision}" if revision else model
        raise _cannot_load(shown, error) from error
    return folder


def _cached_graph(source: ModelSource, backend: str, graphs: Path | None) -> Path:
    """The graph of the weights, written now where the cache, or the folder `graphs`, has none."""
    graph = _graph_file(source, backend, graphs)
    if graph.is_file():  # graphs are never changed, so that reading one needs no lock
        with suppress(OSError):  # of a cache that cannot be written
            os.utime(graph)
        return graph
    require("onnx")
    with files.cache_lock(graph):
        if not graph.is_file():  # another process may have written it while this one waited
            loaded = loading.load_for_prediction(source.name, source.commit)
            figures = onnx_graph.write_checked(*loaded, graph, int8=backend == "onnx-int8")
            if graphs is None:
                graph_check.keep(graph, figures)
            _make_room(graph)
    return graph


def _graph_file(source: ModelSource, backend: str, graphs: Path | None = None) -> Path:
    """Where the graph of the weights lies, or would lie."""
    key = hashlib.sha256(f"{FORMAT} {source.digest}".encode()).hexdigest()[:16]
    precision = "int8" if backend == "onnx-int8" else "fp32"
    return (graphs or files.cache_dir("onnx")) / f"{key}-{precision}.onnx"


def _make_room(graph: Path) -> None:
    """Remove the graphs beside a new one that were not used for longest, down to `CACHE_BYTES`."""
    found = []
    for path in graph.parent.glob("[!.]*.onnx"):  # a dot: another process writes it
        with suppress(FileNotFoundError):  # another process may make room, too
            found.append((path != graph, -path.stat().st_mtime, path.stat().st_size, path))
    total = 0
    for is_older, _, size, path in sorted(found):
        total += size
        if is_older and total > CACHE_BYTES:
            path.unlink(missing_ok=True)


def _cannot_load(model: str | PathLike, error: Exception) -> loading.ModelError:
    return loading.cannot_load(model, error, "give a Hub id or the folder that fine-tuning wrote")
