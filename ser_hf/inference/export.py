"""Folders with a model as an ONNX graph, which needs neither torch's weights nor the exporter."""

import json
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ser_hf.inference import adaptation_head, embedding_reference
from ser_hf.inference.backends.onnx_graph import OPSET, write_checked
from ser_hf.inference.backends.onnx_runtime import GRAPH_FILES, require
from ser_hf.models import loading
from ser_hf.utils import files


def export(
    model: str | PathLike, output: str | PathLike, int8: bool = False, clips: Iterable[np.ndarray] | None = None
) -> dict:
    """Write a folder that `Predictor` runs without torch's weights, if its graph passes the check.

    Args:
        model: a folder that fine-tuning wrote, or a Hub id.
        output: gets `model.onnx` or `model_int8.onnx`, `config.json`, `preprocessor_config.json`,
            `export.json`, and of the model its licence
            texts, adaptation head and reference of embeddings, if it has them.
        int8: matrix products in int8.
        clips: waveforms of shape `(samples,)` at 16 kHz, on which the graph is compared with torch;
            synthetic voices where None.

    Returns:
        What `export.json` holds: `model`, `digest` of its weights, `backend`, `check` (of
        `ser_hf.inference.backends.onnx_graph.compare`), and the versions of what wrote it.

    Raises:
        UserError: where the model cannot be loaded or exported, where the graph differs from torch,
            or where `output` exists; nothing is written then.
    """
    files.refuse_existing(output)
    require("onnx", "onnxruntime")
    import onnx
    import onnxruntime

    loaded, extractor, rule = loading.load_for_prediction(model)
    backend = "onnx-int8" if int8 else "onnx"
    with files.new_folder(output) as folder:
        check = write_checked(loaded, extractor, rule, folder / GRAPH_FILES[backend], int8, clips)
        loaded.config.save_pretrained(folder)
        extractor.save_pretrained(folder)
        loading.copy_licences(model, folder)
        if (head := adaptation_head.load_beside(model)) is not None:
            head.save(folder / adaptation_head.FILE)
        if (reference := embedding_reference.load_beside(model)) is not None:
            reference.save(folder / embedding_reference.FILE)
        # the name alone, without where it lies on this machine: the folder may be pushed
        name = Path(model).resolve().name if Path(model).exists() else str(model)
        report: dict[str, Any] = {"model": name, "digest": loading.digest(loaded), "backend": backend, "check": check}
        report |= {"opset": OPSET, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
        (folder / "export.json").write_text(json.dumps(report, indent=2) + "\n")
    return report
