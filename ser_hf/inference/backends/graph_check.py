"""The check of a graph on the processor that runs it.

Processors compute int8 products with different instructions, and a graph may come from another
machine. So each graph carries the features of a few synthetic clips with torch's logits. The first
load on a processor compares its own logits with those, and keeps the result.
"""

import base64
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from ser_hf.errors import UserError, first_line
from ser_hf.inference.backends.onnx_runtime import runtime_errors
from ser_hf.utils import files, processor, zip_reader

if TYPE_CHECKING:
    import onnxruntime

MAX_DIFFERENCE = {"onnx": 1e-4, "onnx-int8": 0.1}
"""How far a probability may be from torch's, by backend."""

CLEAR_LEAD = 0.05
"""Lead of a label in torch above which int8 may not change it."""

EXPECTED = "ser_hf check"
"""Key in a graph's metadata: features and torch's logits for them, as `packed` writes them."""

FORMAT = 1
"""Format of what is kept. Count it up when the check changes."""


def packed(features: Iterable[np.ndarray], logits: np.ndarray) -> str:
    """Features of clips, each `(time, …)`, and torch's logits `(clips, labels)`, as text."""
    arrays = {f"features_{number}": clip for number, clip in enumerate(features)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, logits=logits, **arrays)
    return base64.b64encode(buffer.getvalue()).decode()


def unpacked(text: str) -> tuple[list[np.ndarray], np.ndarray]:
    """The features and logits of `packed`.

    Raises:
        ValueError: for another text.
    """
    try:
        with np.load(io.BytesIO(base64.b64decode(text, validate=True)), allow_pickle=False) as arrays:
            features = [arrays[f"features_{number}"].astype(np.float32) for number in range(len(arrays) - 1)]
            return features, arrays["logits"]
    except (KeyError, *zip_reader.BROKEN) as error:
        raise ValueError(str(error)) from error


def differences(torch_logits: np.ndarray, other_logits: np.ndarray) -> dict:
    """Compare the probabilities of logits, each of shape `(clips, labels)`.

    Returns:
        `clips`, their number; `max_difference` of a probability; `same_labels`, the share of clips
        with the same label; `changed`, how many of the other clips had a label that led by
        `CLEAR_LEAD` or more.
    """
    expected, actual = softmax(torch_logits, axis=-1), softmax(other_logits, axis=-1)
    same, ranked = expected.argmax(-1) == actual.argmax(-1), np.sort(expected, axis=-1)
    return {
        "clips": len(same),
        "max_difference": float(np.abs(expected - actual).max()),
        "same_labels": float(same.mean()),
        "changed": int((~same & (ranked[:, -1] - ranked[:, -2] >= CLEAR_LEAD)).sum()),
    }


def refuse_difference(figures: dict, backend: str, where: str = "") -> None:
    """Refuse a graph that differs from torch.

    Args:
        figures: of `differences`.
        backend: `onnx` or `onnx-int8`.
        where: a phrase of the message, with a space before it.

    Raises:
        UserError: with the figures.
    """
    largest = MAX_DIFFERENCE[backend]
    near = figures["max_difference"] <= largest  # False for NaN
    if not near or figures["changed"]:
        raise UserError(
            f"{backend} moves a probability by {figures['max_difference']:.2g}{where} (at most {largest:g} is "
            f"allowed) and changes {figures['changed']} of {figures['clips']} labels that led by {CLEAR_LEAD} or more "
            f"(none may change): use {'onnx or torch-bf16' if backend == 'onnx-int8' else 'torch'} instead"
        )


def run(session: "onnxruntime.InferenceSession", features: Iterable[np.ndarray]) -> np.ndarray:
    """Logits `(clips, labels)` of clips, each run alone.

    Raises:
        UserError: where the graph fails on a clip.
    """
    input_name, logits = session.get_inputs()[0].name, []
    for clip in features:
        try:
            logits.append(session.run(["logits"], {input_name: clip[None]})[0][0])
        except runtime_errors() as error:
            reason = first_line(error)[:160]
            raise UserError(f"the graph fails on features {clip.shape} ({reason}): use --backend torch") from error
    return np.array(logits)


def check(session: "onnxruntime.InferenceSession", graph: Path, backend: str) -> None:
    """Compare a graph with the logits that it carries, once a processor.

    The result is kept for the file, the processor and the version of ONNX Runtime. Where the cache
    cannot be written, each load compares anew and says so.

    Raises:
        UserError: where the graph differs from torch on this processor.
    """
    expected = session.get_modelmeta().custom_metadata_map.get(EXPECTED)
    if expected is None:
        print(
            f"'{graph}' cannot be compared with torch on this processor: write it again with `ser-hf export`",
            file=sys.stderr,
        )
        return
    conditions, figures = _conditions(graph), None
    with _unwritable_is_said(graph), files.cache_lock(record := _record(conditions)):
        figures = _read(record)
        if figures is None:
            figures = _figures(session, graph, expected)
            _write(record, figures, conditions)
    if figures is None:
        figures = _figures(session, graph, expected)
    refuse_difference(figures, backend, " on this processor")


def _figures(session: "onnxruntime.InferenceSession", graph: Path, expected: str) -> dict:
    try:
        features, logits = unpacked(expected)
    except ValueError as error:
        raise UserError(f"'{graph}' cannot be checked ({error}): write it again with `ser-hf export`") from error
    return differences(logits, run(session, features))


def keep(graph: Path, figures: dict) -> None:
    """Keep that a graph was compared with torch on this processor, as far as the cache can be
    written.

    Args:
        graph: path of the file.
        figures: of `differences`.
    """
    conditions = _conditions(graph)
    with _unwritable_is_said(graph):
        _write(_record(conditions), figures, conditions)


@contextmanager
def _unwritable_is_said(graph: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        print(f"the check of '{graph}' cannot be kept ({error.strerror}): each start repeats it", file=sys.stderr)


def _write(record: Path, figures: dict, conditions: dict[str, object]) -> None:
    with files.replacing(record) as partial:
        partial.write_text(json.dumps({"figures": figures, "conditions": conditions}, indent=2))


def _record(conditions: dict[str, object]) -> Path:
    key = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]
    return files.cache_dir("graph_checks") / f"{key}.json"


def _conditions(graph: Path) -> dict[str, object]:
    """All that a check depends on."""
    import onnxruntime

    with graph.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    version = onnxruntime.__version__
    return {"format": FORMAT, "graph": digest, "processor": processor.name(), "onnxruntime": version}


def _read(record: Path) -> dict | None:
    try:
        return dict(json.loads(record.read_text())["figures"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # what is cut off or misshapen is written anew
        return None
