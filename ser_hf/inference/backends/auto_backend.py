"""The backend `auto`: the fastest whose predictions agree with torch on this machine.

The candidates compute in fp32. They predict the same synthetic voices in turn, by one thread, as a
`Predictor` runs them. The choice is kept for the processor, the model and the versions of what
computes. Reduced precision changes labels, so that `torch-bf16` and `onnx-int8` are asked for by
name.
"""

import hashlib
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from ser_hf import BUNDLED_MODEL, __version__
from ser_hf.errors import UserError
from ser_hf.inference.backends import Backend, graph_check, onnx_backend, onnx_graph, torch_backend
from ser_hf.inference.backends.onnx_backend import ModelSource
from ser_hf.inference.backends.onnx_runtime import exported_backends
from ser_hf.models import loading
from ser_hf.models.features import front_end_of
from ser_hf.utils import files, processor

CANDIDATES = ("onnx",)
"""Backends that are compared with torch."""

MAX_DIFFERENCE = graph_check.MAX_DIFFERENCE["onnx"]
"""How far a probability may be from torch's."""

MARGIN = 1.05
"""Times as fast as torch that a backend must be: the exact answers of stock are worth 5 %."""

CLIPS, FEWEST_CLIPS = 8, 3
"""Synthetic clips of the comparison, one of each emotion; how many a slow model runs at least."""

SECONDS = 10.0
"""Time after which the comparison ends with fewer clips."""

FORMAT = 1
"""Format of what is kept. Count it up when the comparison or the candidates change."""


@dataclass(frozen=True)
class Choice:
    """The backend that `auto` stands for, and why."""

    backend: str
    reason: str
    """One line."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """What a backend made of the clips."""

    logits: np.ndarray
    """Shape `(clips, labels)`."""
    seconds: np.ndarray
    """Of each clip, shape `(clips,)`."""


def load(model: str | PathLike, device: str | None, revision: str | None) -> Backend:
    """Load a model on the backend that `choose` chooses.

    Raises:
        UserError: where torch cannot load it.
    """
    return choose(model, device, revision)[1]


def choose(model: str | PathLike, device: str | None = None, revision: str | None = None) -> tuple[Choice, Backend]:
    """Choose a backend for a model, and load the model on it.

    The first use of a model on a machine compares the backends, which takes seconds, and says so on
    stderr. One process at a time does that. Where the cache cannot be written, each use compares.

    Args:
        model: a folder or a Hub id.
        device: torch alone runs on others than `cpu`; on a GPU where there is one if None.
        revision: of a Hub id.

    Raises:
        UserError: where torch cannot load the model.
    """
    if device is None and torch.cuda.is_available() and not _is_graph_alone(Path(model)):
        device = "cuda"
    if device not in (None, "cpu"):
        loaded = torch_backend.load(model, device, revision)
        return Choice("torch", f"the device is {loaded.device}"), loaded
    if importlib.util.find_spec("onnxruntime") is None:
        reason = "onnxruntime is not installed: pip install onnxruntime"
        return Choice("torch", reason), torch_backend.load(model, "cpu", revision)
    source = ModelSource.of(model, revision)
    if not source.weights:
        exported = exported_backends(source.folder)
        if not exported:  # torch says what is missing
            return Choice("torch", "there is no graph"), torch_backend.load(model, "cpu", revision)
        return Choice(exported[0], "the model is this graph alone"), _load(exported[0], source)
    try:
        return _kept(source)
    except OSError as error:
        print(f"the comparison of backends cannot be kept ({error.strerror}): each start repeats it", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory(prefix="ser_hf-graphs-") as graphs:
            return _compare(source, Path(graphs))
    except OSError as error:
        return Choice("torch", f"no graph can be written: {error.strerror}"), _load("torch", source)


def measure(
    backends: dict[str, Backend], clips: Iterable[np.ndarray], clock: Callable[[], float] = time.perf_counter
) -> dict[str, Measurement]:
    """Run clips on backends in turn, each alone, in one thread that this function starts.

    The first clip is run once more before, so that no backend pays for its first call. After
    `SECONDS` the rest of the clips is left out, but for the first `FEWEST_CLIPS`.

    Args:
        backends: by name; all take the features of the first one.
        clips: waveforms of shape `(samples,)` at 16 kHz, at least one.
        clock: in seconds.
    """

    def run() -> dict[str, Measurement]:
        front_end = front_end_of(next(iter(backends.values())).extractor)
        logits: dict[str, list[np.ndarray]] = {name: [] for name in backends}
        seconds: dict[str, list[float]] = {name: [] for name in backends}
        end = clock() + SECONDS
        for number, clip in enumerate(clips):
            if number >= FEWEST_CLIPS and clock() > end:
                break
            features = front_end.extract(clip)[None]
            if number == 0:
                for backend in backends.values():
                    backend.logits(features)
            for name, backend in backends.items():
                begun = clock()
                logits[name].append(backend.logits(features)[0])
                seconds[name].append(clock() - begun)
        return {name: Measurement(np.stack(logits[name]), np.array(seconds[name])) for name in backends}

    with ThreadPoolExecutor(1, initializer=lambda: torch.set_num_threads(1)) as thread:
        return thread.submit(run).result()


def decide(measured: dict[str, Measurement], refused: dict[str, str]) -> Choice:
    """Choose the fastest backend that agrees with torch: it has the same labels, and probabilities.

    The speed is the median over the clips of torch's time divided by that of the backend.

    Args:
        measured: by backend, with `torch` among them.
        refused: why others were not measured, by backend.
    """
    reasons, speeds, differences = dict(refused), {}, {}
    for name, measurement in measured.items():
        if name == "torch":
            continue
        figures = graph_check.differences(measured["torch"].logits, measurement.logits)
        differences[name] = figures["max_difference"]
        speed = float(np.median(measured["torch"].seconds / measurement.seconds))
        if not figures["max_difference"] <= MAX_DIFFERENCE:  # NaN, too
            reasons[name] = f"moves a probability by {figures['max_difference']:.2g}, {MAX_DIFFERENCE:g} is allowed"
        elif figures["same_labels"] < 1:
            changed = round((1 - figures["same_labels"]) * figures["clips"])
            reasons[name] = f"changes {changed} of {figures['clips']} labels"
        elif speed < MARGIN:
            reasons[name] = f"{speed:.2f} times as fast as torch"
        else:
            speeds[name] = speed
    if not speeds:
        return Choice("torch", "; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
    best = max(speeds, key=speeds.__getitem__)
    return Choice(
        best, f"{speeds[best]:.2f} times as fast as torch, probabilities within {differences[best]:.1g} of torch's"
    )


def _is_graph_alone(folder: Path) -> bool:
    return bool(exported_backends(folder)) and not loading.weight_files(folder)


def _kept(source: ModelSource) -> tuple[Choice, Backend]:
    """The kept choice, or else a comparison, which is kept."""
    conditions = _conditions(source)
    key = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]
    path = files.cache_dir("backends") / f"{key}.json"
    choice = _read(path)
    if choice is None:
        with files.cache_lock(path):
            choice = _read(path)  # another process may have written it while this one waited
            if choice is None:
                choice, loaded = _compare(source)
                with files.replacing(path) as partial:
                    partial.write_text(json.dumps({"choice": asdict(choice), "conditions": conditions}, indent=2))
                return choice, loaded
    return choice, _load(choice.backend, source)


def _conditions(source: ModelSource) -> dict[str, object]:
    """All that a choice depends on."""
    versions = {name: _version(name) for name in ("torch", "transformers", "onnx", "onnxruntime")}
    conditions = {
        "format": FORMAT,
        "graphs": onnx_backend.FORMAT,
        "model": source.digest,
        "processor": processor.name(),
    }
    return conditions | versions | {"ser_hf": __version__}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # as of onnxruntime where onnxruntime-gpu stands for it
        return None


def _read(path: Path) -> Choice | None:
    try:
        return Choice(**json.loads(path.read_text())["choice"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # what is cut off or misshapen is written anew
        return None


def _compare(source: ModelSource, graphs: Path | None = None) -> tuple[Choice, Backend]:
    """Compare the backends; `graphs` is that of `onnx_backend.load_source`."""
    model = "the bundled model" if Path(source.name) == BUNDLED_MODEL else f"'{source.name}'"
    print(f"the backends of {model} are compared on this machine, which takes seconds", file=sys.stderr)
    loaded, refused = {}, {}
    for name in CANDIDATES:  # before torch: writing a graph loads the model, too
        try:
            loaded[name] = _load(name, source, graphs)
        except UserError as error:
            refused[name] = str(error)
    loaded["torch"] = _load("torch", source)
    choice = decide(measure(loaded, onnx_graph.check_clips(CLIPS)), refused)
    return choice, loaded[choice.backend]


def _load(name: str, source: ModelSource, graphs: Path | None = None) -> Backend:
    if name == "torch":
        return torch_backend.load(source.name, "cpu", source.commit)
    return onnx_backend.load_source(source, name, graphs)
