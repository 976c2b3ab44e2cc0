"""A model for a browser: graphs for ONNX Runtime Web, in the layout of transformers.js.

`onnx/model.onnx` and `onnx/model_quantized.onnx` are named as transformers.js looks for them,
beside `config.json` and `preprocessor_config.json`. Its stock `audio-classification` pipeline runs
the architectures that it knows. A Whisper it does not know; the page of the export runs it.
"""

import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ser_hf.audio import voice_activity
from ser_hf.errors import UserError
from ser_hf.inference import adaptation_head
from ser_hf.inference.backends.onnx_graph import OPSET, write_checked
from ser_hf.inference.backends.onnx_runtime import require
from ser_hf.models import loading
from ser_hf.models.features import front_end_of
from ser_hf.models.seen_speakers import SeenSpeakers

GRAPH, SMALL_GRAPH = "onnx/model.onnx", "onnx/model_quantized.onnx"
VOICE_GRAPH = "onnx/voice_activity.onnx"
KNOWN_EXTRACTORS = (
    "ASTFeatureExtractor",
    "SeamlessM4TFeatureExtractor",
    "Wav2Vec2FeatureExtractor",
    "WhisperFeatureExtractor",
)
"""Feature extractors that the page has from transformers.js."""
_HALVED = 1024  # values from which a tensor is stored in 16 bits


def write_web_model(model: str | PathLike, folder: Path, revision: str | None = None) -> dict[str, Any]:
    """Write the graphs of a model, its config, its preprocessor and its licence texts.

    Args:
        model: a folder that fine-tuning wrote, or a Hub id.
        folder: exists, and is filled.
        revision: of a Hub id.

    Returns:
        Settings of the page: `labels`, `abstain_below`, `longest` (samples of a clip, None where
        any length is one), `input` (name of the features), `digest`, `graphs` and
        `adaptation_head`. Of the graphs, `int8` is None where that one did not pass its check, and
        `int8_refused` then says why.

    Raises:
        UserError: where the model cannot be loaded or exported, or a browser has no such features.
    """
    require("onnx", "onnxruntime")
    loaded, extractor, rule = loading.load_for_prediction(model, revision)
    kind = type(extractor).__name__
    if kind not in KNOWN_EXTRACTORS:
        raise UserError(f"'{model}' needs a {kind}, which no browser has: export it without --web")
    (folder / "onnx").mkdir()
    write_checked(loaded, extractor, rule, folder / GRAPH)
    store_in_half(folder / GRAPH)
    refused = None
    try:
        write_checked(loaded, extractor, rule, folder / SMALL_GRAPH, int8=True)
        store_in_half(folder / SMALL_GRAPH)
    except UserError as error:
        refused = str(error)
    write_voice_graph(folder / VOICE_GRAPH)
    loaded.config.save_pretrained(folder)
    extractor.save_pretrained(folder)
    loading.copy_licences(model, folder)
    head = adaptation_head.load_beside(model, revision)
    labels = [loaded.config.id2label[number] for number in range(loaded.config.num_labels)]
    graphs = {"fp32": GRAPH, "int8": None if refused else SMALL_GRAPH, "voice": VOICE_GRAPH}
    return {
        "labels": labels,
        "abstain_below": SeenSpeakers.of(loaded.config).abstain_below or 0.0,
        "longest": front_end_of(extractor).longest,
        "input": extractor.model_input_names[0],
        "digest": loading.digest(loaded),
        "graphs": graphs | ({"int8_refused": refused} if refused else {}),
        "adaptation_head": None if head is None else _as_lists(head),
    }


def store_in_half(path: Path) -> None:
    """Store tensors of a graph in 16 bits where none of their values changes by it.

    A node that casts them stands before each, which ONNX Runtime folds away at loading.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = onnx.load(path)
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _HALVED:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name, stored = tensor.name, f"{tensor.name}_half"
        tensor.CopyFrom(numpy_helper.from_array(half, stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    onnx.save(graph, path)


def write_voice_graph(path: Path) -> None:
    """Write the network that finds voice: frames and a state in, probabilities and a state out."""
    network = voice_activity.network()
    frames = torch.zeros(2, voice_activity.CONTEXT + voice_activity.FRAME)
    state = torch.zeros(1, 1, 128)
    options = {"opset_version": OPSET, "dynamo": False, "input_names": ["frames", "hidden", "cell"]}
    options["output_names"] = ["probabilities", "next_hidden", "next_cell"]
    options["dynamic_axes"] = {"frames": {0: "frames"}, "probabilities": {0: "frames"}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter: that it traces, and that it is not the newest
        torch.onnx.export(_Voice(network).eval(), (frames, state, state.clone()), path, **options)


class _Voice(torch.nn.Module):
    """The network with its state as plain tensors."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor) -> tuple[torch.Tensor, ...]:
        probabilities, (hidden, cell) = self.network.probabilities(frames, (hidden, cell))
        return probabilities, hidden, cell


def _as_lists(head: adaptation_head.AdaptationHead) -> dict[str, list]:
    return {
        name: np.round(getattr(head, name).astype(float), 7).tolist() for name in ("weight", "bias", "mean", "spread")
    }
