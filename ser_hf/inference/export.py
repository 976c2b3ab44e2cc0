"""Models as ONNX graphs, in fp32 or with int8 matrix products, and the gate that compares them with
torch.

Convolutions stay in fp32: one int8 scale for all frames of a clip leaves nothing of the quiet ones,
and the layer norm behind a waveform's convolutions brings the rounding errors up to full size.
"""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax
from torch import nn
from transformers import FeatureExtractionMixin, PreTrainedModel

from ser_hf import audio
from ser_hf.audio import synthesis
from ser_hf.data import dataset
from ser_hf.inference.backends import FILES, OnnxError, first_line, onnx_session, require, runtime_errors
from ser_hf.labels import EMOTIONS
from ser_hf.models import features, loading
from ser_hf.utils import files

OPSET = 17
"""The first with layer norm as one operator."""

LARGEST = 2**31 - 2**24
"""Bytes of weights; an ONNX file is a protocol buffer, which ends at 2 GiB."""

FARTHEST = {"onnx": 1e-4, "onnx-int8": 0.1}
"""How far a probability may be from torch's, by backend."""

LEAD = 0.05
"""How far a label leads in torch before int8 may not change it; others hang by a hair."""

VOICES = 16
"""Synthetic clips that the gate listens to where it is given none."""


def export(
    model: str | PathLike, output: str | PathLike, int8: bool = False, clips: Iterable[np.ndarray] | None = None
) -> dict:
    """Write a folder that `Predictor` runs without torch's weights, if its answers pass the gate.

    Args:
        model: a folder that fine-tuning wrote, or a Hub id.
        output: gets `model.onnx` or `model_int8.onnx`, `config.json`, `preprocessor_config.json`
            and `export.json`.
        int8: matrix products in int8.
        clips: waveforms of shape `(samples,)` at 16 kHz, to compare it with torch on; synthetic
            voices where None.

    Returns:
        What `export.json` holds: `model`, `digest` of its weights, `backend`, `gate` (of
        `compare`), and the versions of what wrote it.

    Raises:
        OnnxError: where it cannot be exported, or answers otherwise; nothing is written then.
        UserError: where the model cannot be loaded, or `output` exists.
    """
    files.refuse_existing(output)
    require("onnx", "onnxruntime")
    import onnx
    import onnxruntime

    loaded, extractor, rule = loading.load_for_prediction(model)
    backend = "onnx-int8" if int8 else "onnx"
    with files.new_folder(output) as folder:
        gate = write_checked(loaded, extractor, rule, folder / FILES[backend], int8, clips)
        loaded.config.save_pretrained(folder)
        extractor.save_pretrained(folder)
        # not where it lies on this machine: the folder may be pushed
        name = Path(model).resolve().name if Path(model).exists() else str(model)
        found = {"model": name, "digest": loading.digest(loaded), "backend": backend, "gate": gate}
        found |= {"opset": OPSET, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
        (folder / "export.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def clips_of(name: str, count: int = 200, seed: int = 0) -> list[np.ndarray]:
    """Waveforms of a dataset's clips, drawn at random.

    Args:
        name: a folder that `ser-hf data` wrote, or a Hub id.
        count: at most so many.
        seed: of the draw.

    Raises:
        UserError: where there is no such dataset.
    """
    rows = dataset.load(name)
    drawn = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [audio.load(rows[int(number)]["audio"]) for number in drawn]


def write_checked(
    model: PreTrainedModel,
    extractor: FeatureExtractionMixin,
    rule: str,
    path: Path,
    int8: bool = False,
    clips: Iterable[np.ndarray] | None = None,
) -> dict:
    """`write_onnx`, for a model whose graph answers as it does.

    Args:
        clips: of `export`; the others are those of `write_onnx`.

    Returns:
        The figures of the gate, of `compare`.

    Raises:
        OnnxError: as `write_onnx`, or with the figures, where the answers differ; nothing is
            written then.
    """
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        partial = Path(temporary) / path.name
        write_onnx(model, extractor, rule, partial, int8)
        gate = compare(model, extractor, partial, voices() if clips is None else clips)
        _judge(gate, "onnx-int8" if int8 else "onnx")
        partial.replace(path)
    return gate


def write_onnx(
    model: PreTrainedModel, extractor: FeatureExtractionMixin, rule: str, path: Path, int8: bool = False
) -> None:
    """Write a model as an ONNX graph from its first input, unpadded, to `logits`; any number of
    clips, of any length.

    Args:
        model: as `modeling.load_for_prediction` gives it, like the next two; it is left as it was.
        extractor: names the input.
        rule: the padding rule; with `fixed length` the graph has that length.
        path: written when it is complete.
        int8: the products of activations and weights in int8, the activations' scale taken from
            each batch.

    Raises:
        OnnxError: for an architecture that cannot be exported, or a model of more than 2 GB.
    """
    size = sum(weight.numel() * 4 for weight in model.parameters())
    if size > LARGEST:
        raise OnnxError(f"{size / 2**30:.1f} GiB of weights do not fit an ONNX file (2 GiB): use --backend torch-bf16")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        traced, quantised = Path(temporary) / "traced.onnx", Path(temporary) / "quantised.onnx"
        _trace(model, extractor, rule, traced)
        if int8:
            _quantise(traced, quantised)
        (quantised if int8 else traced).replace(path)


def compare(model: PreTrainedModel, extractor: FeatureExtractionMixin, path: Path, clips: Iterable[np.ndarray]) -> dict:
    """How near a graph's answers are to torch's.

    Args:
        model: as `modeling.load_for_prediction` gives it, like its extractor.
        extractor: of the model.
        path: of the graph.
        clips: waveforms of shape `(samples,)` at 16 kHz, asked one at a time.

    Returns:
        `clips`, `max_difference` of a probability, `same_labels`, the share of clips with the same
        label, and how many of the others `changed` although their label led by `LEAD` or more.

    Raises:
        OnnxError: where the graph fails on a clip.
    """
    running = onnx_session(path)
    graph_input = running.get_inputs()[0].name
    wanted, found = [], []
    for clip in clips:
        made = features.extract(extractor, clip)[None]
        with torch.inference_mode():
            wanted.append(model(torch.from_numpy(made)).logits[0].numpy())
        try:
            found.append(running.run(["logits"], {graph_input: made})[0][0])
        except runtime_errors() as error:
            length = audio.duration(clip)
            raise OnnxError(f"the graph fails on {length} s ({first_line(error)}): use --backend torch") from error
    torchs, graphs = softmax(wanted, axis=-1), softmax(found, axis=-1)
    same, ranked = torchs.argmax(-1) == graphs.argmax(-1), np.sort(torchs, axis=-1)
    return {
        "clips": len(same),
        "max_difference": float(np.abs(torchs - graphs).max()),
        "same_labels": float(same.mean()),
        "changed": int((~same & (ranked[:, -1] - ranked[:, -2] >= LEAD)).sum()),
    }


def voices(count: int = VOICES) -> Iterable[np.ndarray]:
    """Synthetic clips of 0.1 s to some 5 s, every emotion in turn; always the same."""
    rng = np.random.default_rng(0)
    for number in range(count):
        voice = synthesis.SyntheticVoice.of(f"gate-{number // len(EMOTIONS)}", female=number % 2 == 0)
        syllables = rng.integers(0, 5, size=2 + number % 16).tolist()
        clip = synthesis.say(voice, EMOTIONS[number % len(EMOTIONS)], syllables, rng).astype(np.float32)
        yield clip[: int(audio.MIN_SECONDS * audio.SAMPLING_RATE)] if number == 0 else clip


def _judge(gate: dict, backend: str) -> None:
    near = gate["max_difference"] <= FARTHEST[backend]  # NaN is not
    if not near or gate["changed"]:
        raise OnnxError(
            f"{backend} moves a probability by {gate['max_difference']:.2g} (at most {FARTHEST[backend]:g} is allowed) "
            f"and changes {gate['changed']} of {gate['clips']} labels that led by {LEAD} or more (none may change): "
            f"use {'onnx or torch-bf16' if backend == 'onnx-int8' else 'torch'} instead"
        )


class _Logits(nn.Module):
    """A model's logits for features without padding."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.model(clips).logits


def _trace(model: PreTrainedModel, extractor: FeatureExtractionMixin, rule: str, path: Path) -> None:
    name = extractor.model_input_names[0]
    noise = np.random.default_rng(0).normal(size=2 * audio.SAMPLING_RATE).astype(np.float32)
    made = torch.from_numpy(features.extract(extractor, noise))
    axes = {name: {0: "clips"} | ({} if rule == "fixed length" else {1: "time"}), "logits": {0: "clips"}}
    how = {"dynamo": False, "input_names": [name], "output_names": ["logits"], "dynamic_axes": axes}
    wrapped = _Logits(model).eval()  # the exporter would leave the model in the mode of its wrapper
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that it is not the newest exporter, and that Python's conditions are traced
        try:
            torch.onnx.export(wrapped, (torch.stack([made, made]),), path, opset_version=OPSET, **how)
        except (RuntimeError, TypeError, ValueError) as error:  # what operators and tracing raise
            kind = model.config.model_type
            raise OnnxError(f"a {kind} cannot be exported ({first_line(error)}): use --backend torch") from error


def _quantise(traced: Path, quantised: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # unsigned weights take a third longer; a scale for each output costs nothing
    kinds = {"op_types_to_quantize": ["MatMul", "Gemm"], "weight_type": QuantType.QInt8, "per_channel": True}
    with _root_logger_quiet():
        quantize_dynamic(traced, quantised, **kinds)


@contextmanager
def _root_logger_quiet() -> Iterator[None]:
    """Without what is logged to the root logger itself, but for errors, and without the handler
    that this would add."""
    handler, root = logging.NullHandler(), logging.getLogger()

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    root.addHandler(handler)
    root.addFilter(is_error)
    try:
        yield
    finally:
        root.removeFilter(is_error)
        root.removeHandler(handler)
