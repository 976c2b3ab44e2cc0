"""Models as ONNX graphs on ONNX Runtime, in fp32 or int8.

A graph is written from the model's weights the first time, compared with torch, and kept in the
cache. Later loads neither build the model in torch nor export it.
"""

import hashlib
from os import PathLike
from pathlib import Path

import numpy as np
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoFeatureExtractor, FeatureExtractionMixin, PreTrainedConfig

from ser_hf.errors import UserError, first_line
from ser_hf.inference import onnx_graph
from ser_hf.inference.onnx_runtime import GRAPH_FILES, exported_backends, open_session, require
from ser_hf.models import loading
from ser_hf.utils import files

FORMAT = 2
"""Format of the graphs in the cache. Count it up when `onnx_graph.write_graph` writes others."""

_DESCRIPTION = ("config.json", "preprocessor_config.json", "processor_config.json")


class OnnxBackend:
    """A graph; the members are those of `ser_hf.inference.backends.Backend`.

    Any number of threads may call it. Each works alone on its own features.
    """

    device = "cpu"

    def __init__(
        self, graph: str | PathLike, config: PreTrainedConfig, extractor: FeatureExtractionMixin, batches: bool
    ) -> None:
        """Open a graph that `onnx_graph.write_graph` wrote.

        Args:
            graph: path of the file.
            config: of the model.
            extractor: of the model.
            batches: whether clips of one length may share a batch.

        Raises:
            UserError: for a file that cannot be read, or a graph with other inputs.
        """
        self.config, self.extractor, self.batches = config, extractor, batches
        self._graph = graph
        self._session, self._input = open_session(graph), extractor.model_input_names[0]
        inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]
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
        return self._session.get_modelmeta().custom_metadata_map[onnx_graph.DIGEST]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits `(clips, labels)` of unpadded features."""
        return self._session.run(["logits"], {self._input: features})[0]

    def outputs(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute logits `(clips, labels)` and embeddings `(clips, width)`.

        Raises:
            UserError: for a graph of an earlier format, which has no embeddings.
        """
        self._check_format()
        logits, embeddings = self._session.run(["logits", "embedding"], {self._input: features})
        return logits, embeddings

    def _check_format(self) -> None:
        if "embedding" not in self._outputs:
            raise UserError(f"'{self._graph}' gives no embeddings: write it again with `ser-hf export`")


def load(model: str | PathLike, device: str | None, revision: str | None, int8: bool = False) -> OnnxBackend:
    """Load a model whose graph lies in its folder or in the cache; else write the graph first.

    Raises:
        UserError: where it can be neither loaded nor exported, or a package is missing.
    """
    backend = "onnx-int8" if int8 else "onnx"
    if device not in (None, "cpu"):
        raise UserError(f"{backend} runs on the processor, not on '{device}': use --backend torch there")
    require("onnxruntime")
    folder = _model_folder(model, GRAPH_FILES[backend], revision)
    try:
        config, extractor = AutoConfig.from_pretrained(folder), AutoFeatureExtractor.from_pretrained(folder)
        weights = loading.weight_files(folder)
    except loading.LOADING_ERRORS as error:
        raise _cannot_load(model, error) from error
    loading.check_labels(model, config)
    graph = _cached_graph(model, folder, int8) if weights else folder / GRAPH_FILES[backend]
    if not graph.is_file():
        exported = exported_backends(folder)
        remedy = f"use --backend {exported[0]}" if exported else "give the folder that fine-tuning wrote"
        raise UserError(f"'{model}' holds neither model.safetensors nor {graph.name}: {remedy}")
    return OnnxBackend(graph, config, extractor, batches=not int8)  # int8 takes its scales from the whole batch


def _model_folder(model: str | PathLike, graph: str, revision: str | None) -> Path:
    """The folder of a model, or the snapshot of a Hub id: its safetensors, or else its graph."""
    if Path(model).is_dir() and not revision:
        return Path(model)
    loading.check_folder(model, revision)
    try:
        weights = [*loading.WEIGHTS, "model-*-of-*.safetensors"]
        folder = Path(snapshot_download(str(model), revision=revision, allow_patterns=[*_DESCRIPTION, *weights]))
        if not loading.weight_files(folder):
            snapshot_download(str(model), revision=folder.name, allow_patterns=[graph])
    except loading.LOADING_ERRORS as error:
        raise _cannot_load(model, error) from error
    return folder


def _cached_graph(model: str | PathLike, folder: Path, int8: bool) -> Path:
    """The cached graph of the weights in `folder`, written now where the cache has none."""
    key = hashlib.sha256(f"{FORMAT}".encode())
    described = (name for name in _DESCRIPTION if (folder / name).is_file())
    for name in (*described, *loading.weight_files(folder)):
        with (folder / name).open("rb") as file:
            key.update(hashlib.file_digest(file, "sha256").digest())
    graph = files.cache_dir("onnx") / f"{key.hexdigest()[:16]}-{'int8' if int8 else 'fp32'}.onnx"
    if graph.is_file():  # graphs are never changed, so that reading one needs no lock
        return graph
    require("onnx")
    with files.cache_lock(graph):
        if not graph.is_file():  # another process may have written it while this one waited
            commit = None if Path(model).is_dir() else folder.name
            onnx_graph.write_checked(*loading.load_for_prediction(model, commit), graph, int8=int8)
    return graph


def _cannot_load(model: str | PathLike, error: Exception) -> loading.ModelError:
    remedy = "give a Hub id or the folder that fine-tuning wrote"
    return loading.ModelError(f"model '{model}' cannot be loaded ({first_line(error)[:160]}): {remedy}")
