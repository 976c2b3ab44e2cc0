"""Models as ONNX graphs, in fp32 or with int8 matrix products, and their comparison with torch.

Convolutions stay in fp32. One int8 scale for all frames of a clip leaves nothing of the quiet
frames, and the layer norm behind the convolutions brings the rounding errors up to full size. The
head stays in fp32, too: after pooling it takes no time.

Rounded weights move the embeddings of all clips in one direction. The mean of that error over a few
clips is taken back (bias correction, Nagel et al. 2019).
"""

import logging
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from transformers import FeatureExtractionMixin, PreTrainedModel

from ser_hf import audio
from ser_hf.audio import synthesis
from ser_hf.errors import UserError, first_line
from ser_hf.inference.backends import graph_check
from ser_hf.inference.backends.onnx_runtime import open_session
from ser_hf.labels import EMOTIONS
from ser_hf.models import loading
from ser_hf.models.features import front_end_of
from ser_hf.utils import files

if TYPE_CHECKING:
    import onnx

OPSET = 17
"""The first with layer norm as one operator."""

MAX_BYTES = 2**31 - 2**24
"""Bytes of weights at most; an ONNX file is a protocol buffer, which ends at 2 GiB."""

FULL_PRECISION = r"/model/encoder/layers\.(\d+/(self_attn/(k|v|out)_proj|fc2)|0/fc1)/MatMul"
"""Nodes of a Whisper that stay in fp32: int8 moves its probabilities most there. The last of them
may hold what the head makes of hidden units, in finer steps than its own."""

DIGEST = "ser_hf weights"
"""Key in a graph's metadata: the digest of the weights that it was written from."""

CHECK_CLIPS = 16
"""Synthetic clips of the check where it is given none."""

CARRIED_CLIPS = 8
"""The first of these clips, one of each emotion; a graph carries their features."""


def write_checked(
    model: PreTrainedModel,
    extractor: FeatureExtractionMixin,
    rule: str,
    path: Path,
    int8: bool = False,
    clips: Iterable[np.ndarray] | None = None,
) -> dict:
    """Write a graph, compare it with torch, and keep it only if it passes.

    Args:
        model: of `write_graph`, like `extractor`, `rule`, `path` and `int8`.
        extractor: of the model.
        rule: the padding rule.
        path: written when the graph has passed.
        int8: matrix products in int8.
        clips: waveforms of shape `(samples,)` at 16 kHz; synthetic voices where None.

    Returns:
        The figures of `graph_check.differences`.

    Raises:
        UserError: as `write_graph`, or with the figures, where the logits differ; nothing is
            written then.
    """
    with files.replacing(path) as partial:
        write_graph(model, extractor, rule, partial, int8)
        figures = compare(model, extractor, partial, check_clips() if clips is None else clips)
        graph_check.refuse_difference(figures, "onnx-int8" if int8 else "onnx")
    return figures


def write_graph(
    model: PreTrainedModel, extractor: FeatureExtractionMixin, rule: str, path: Path, int8: bool = False
) -> None:
    """Write a model as an ONNX graph from its unpadded first input to `logits` and `embedding`.

    The graph takes any number of clips of any length. `embedding` holds the inputs of the last
    linear layer, shape `(clips, width)`. The metadata hold the digest of the weights, and what
    `graph_check.check` compares.

    Args:
        model: as `ser_hf.models.loading.load_for_prediction` gives it, like the next two; it is
            left as it was.
        extractor: names the input.
        rule: the padding rule; with `fixed length` the graph has that length.
        path: written when it is complete.
        int8: products of activations and weights in int8, but for the head and
            `FULL_PRECISION`; the scale of the activations is taken from each batch.

    Raises:
        UserError: for an architecture that cannot be exported, or a model of more than 2 GB.
    """
    size = sum(weight.numel() * 4 for weight in model.parameters())
    if size > MAX_BYTES:
        raise UserError(f"{size / 2**30:.1f} GiB of weights do not fit an ONNX file (2 GiB): use --backend torch-bf16")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        traced, quantised = Path(temporary) / "traced.onnx", Path(temporary) / "quantised.onnx"
        _trace(model, extractor, rule, traced)
        if int8:
            _quantise(traced, quantised)
        written = quantised if int8 else traced
        correction = _mean_error(quantised, traced, extractor) if int8 else None
        _complete(
            written, {DIGEST: loading.digest(model), graph_check.EXPECTED: _expected(model, extractor)}, correction
        )
        written.replace(path)


def compare(model: PreTrainedModel, extractor: FeatureExtractionMixin, path: Path, clips: Iterable[np.ndarray]) -> dict:
    """Compare the predictions of a graph with those of torch.

    Args:
        model: as `ser_hf.models.loading.load_for_prediction` gives it, like its extractor.
        extractor: of the model.
        path: of the graph.
        clips: waveforms of shape `(samples,)` at 16 kHz; one is run at a time.

    Returns:
        The figures of `graph_check.differences`.

    Raises:
        UserError: where the graph fails on a clip.
    """
    session, front_end = open_session(path), front_end_of(extractor)
    torch_logits, graph_logits = [], []
    for clip in clips:
        features = [front_end.extract(clip)]
        torch_logits.append(_torch_logits(model, features))
        graph_logits.append(graph_check.run(session, features))
    return graph_check.differences(np.concatenate(torch_logits), np.concatenate(graph_logits))


def _torch_logits(model: PreTrainedModel, features: Iterable[np.ndarray]) -> np.ndarray:
    """Torch's logits `(clips, labels)` of clips, each run alone."""
    with torch.inference_mode():
        return np.concatenate([model(torch.from_numpy(clip[None])).logits.numpy() for clip in features])


def check_clips(count: int = CHECK_CLIPS) -> Iterable[np.ndarray]:
    """Synthetic clips of 0.1 s to some 5 s, every emotion in turn; the same ones at each call."""
    rng = np.random.default_rng(0)
    for number in range(count):
        # the name is the seed of the voice: another one gives other clips and other figures
        voice = synthesis.SyntheticVoice.of(f"gate-{number // len(EMOTIONS)}", female=number % 2 == 0)
        syllables = rng.integers(0, 5, size=2 + number % 16).tolist()
        clip = synthesis.synthesize(voice, EMOTIONS[number % len(EMOTIONS)], syllables, rng).astype(np.float32)
        yield clip[: int(audio.MIN_SECONDS * audio.SAMPLING_RATE)] if number == 0 else clip


class _Outputs(nn.Module):
    """A model's logits for features without padding, and the inputs of its last linear layer.

    `correction` is added to those inputs. The frames are averaged before the projector instead of
    after it, which is the same and costs one frame's product.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        # values of no weight: the exporter lets equal tensors share one, and these are replaced
        values = 1e-12 * torch.arange(1, loading.last_linear(model).in_features + 1)
        self.correction = nn.Parameter(values, requires_grad=False)

    def forward(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs: list[torch.Tensor] = []

        def keep(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            inputs.append(args[0] + self.correction)
            return (inputs[0],)

        hooks = [loading.last_linear(self.model).register_forward_pre_hook(keep)]
        if isinstance(projector := getattr(self.model, "projector", None), nn.Linear):
            hooks.append(projector.register_forward_pre_hook(lambda _, args: (args[0].mean(1, keepdim=True),)))
        try:
            # without a copy, the name `embedding` could go to a tensor that has one
            return self.model(clips).logits, inputs[0].clone()
        finally:
            for hook in hooks:
                hook.remove()


def _trace(model: PreTrainedModel, extractor: FeatureExtractionMixin, rule: str, path: Path) -> None:
    name = extractor.model_input_names[0]
    noise = np.random.default_rng(0).normal(size=2 * audio.SAMPLING_RATE).astype(np.float32)
    features = torch.from_numpy(front_end_of(extractor).extract(noise))
    outputs = ["logits", "embedding"]
    axes = {name: {0: "clips"} | ({} if rule == "fixed length" else {1: "time"})}
    axes |= {output: {0: "clips"} for output in outputs}
    options = {"dynamo": False, "input_names": [name], "output_names": outputs, "dynamic_axes": axes}
    wrapped = _Outputs(model).eval()  # the exporter would leave the model in the mode of its wrapper
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that it is not the newest exporter, and that Python's conditions are traced
        try:
            torch.onnx.export(wrapped, (torch.stack([features, features]),), path, opset_version=OPSET, **options)
        except (RuntimeError, TypeError, ValueError) as error:  # what operators and tracing raise
            kind = model.config.model_type
            reason = first_line(error)[:160]
            raise UserError(f"a {kind} cannot be exported ({reason}): use --backend torch") from error


def _expected(model: PreTrainedModel, extractor: FeatureExtractionMixin) -> str:
    """Features of a few clips, rounded to float16 for size, with torch's logits for them."""
    front_end = front_end_of(extractor)
    features = [front_end.extract(clip).astype(np.float16) for clip in islice(check_clips(), CARRIED_CLIPS)]
    return graph_check.packed(features, _torch_logits(model, (clip.astype(np.float32) for clip in features)))


def _complete(path: Path, properties: dict[str, str], correction: np.ndarray | None) -> None:
    """Write metadata and the correction of the embeddings into a graph."""
    import onnx

    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, properties)
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == "correction")
    values = np.zeros(tensor.dims, dtype=np.float32) if correction is None else correction
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, "correction"))
    onnx.save(graph, path)


def _quantise(traced: Path, quantised: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # unsigned weights would take half as long again; a scale for each output costs nothing
    kinds = {"weight_type": QuantType.QInt8, "reduce_range": True, "per_channel": True}
    kept = full_precision_nodes(onnx.load(traced))
    with _root_logger_quiet():
        quantize_dynamic(traced, quantised, op_types_to_quantize=["MatMul"], nodes_to_exclude=kept, **kinds)
    round_finely(quantised, traced)


def full_precision_nodes(traced: "onnx.ModelProto", pattern: str = FULL_PRECISION) -> list[str]:
    """Names of the nodes that stay in fp32: what follows pooling, and what matches a pattern."""
    nodes = traced.graph.node
    # ONNX Runtime makes a MatMul of this name of each Gemm first
    kept = [f"{node.name}_MatMul" for node in nodes if node.op_type == "Gemm"]
    return kept + [
        node.name for node in nodes if node.name.startswith("/model/projector/") or re.fullmatch(pattern, node.name)
    ]


def round_finely(quantised: Path, traced: Path) -> None:
    """Replace the weights of 7 bits of a quantised graph by those that `rounded` gives."""
    import onnx

    graph, exact = onnx.load(quantised), {tensor.name: tensor for tensor in onnx.load(traced).graph.initializer}
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        name = node.input[1].removesuffix("_quantized") if node.op_type == "MatMulInteger" else ""
        if name in exact and len(exact[name].dims) == 2:  # others keep 7 bits
            values = rounded(onnx.numpy_helper.to_array(exact[name]))
            for suffix, value in zip(("_quantized", "_scale"), values, strict=True):
                tensors[name + suffix].CopyFrom(onnx.numpy_helper.from_array(value, name + suffix))
    onnx.save(graph, quantised)


def rounded(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round weights to int8, so that no sum of two products leaves 16 bits.

    AVX2, and AVX-512 without VNNI, add two neighbouring products of a uint8 and an int8 in 16 bits,
    and clip what is larger. That takes two neighbours of one sign whose magnitudes add up to more
    than 128. Here the scale of an output is the finest without such neighbours. It is about 1.4
    times as fine as that of weights of 7 bits, which cannot have them either.

    Args:
        weights: shape `(inputs, outputs)`.

    Returns:
        The weights in int8, and the scales of the outputs, float32 of shape `(outputs,)`.
    """
    padded = np.pad(weights, [(0, len(weights) % 2), (0, 0)])
    positive, negative = np.maximum(padded, 0), np.maximum(-padded, 0)
    pairs = np.maximum(positive[::2] + positive[1::2], negative[::2] + negative[1::2])
    # rounding adds 1 to a sum at most
    scales = np.maximum(np.abs(weights).max(axis=0), pairs.max(axis=0)) / 127
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales


def _mean_error(quantised: Path, traced: Path, extractor: FeatureExtractionMixin) -> np.ndarray:
    """What rounding takes from the embeddings, `(width,)`: a mean over clips not of the check."""
    sessions, front_end = [open_session(path) for path in (traced, quantised)], front_end_of(extractor)
    errors = []
    for clip in islice(check_clips(2 * CHECK_CLIPS), CHECK_CLIPS, None):
        inputs = {extractor.model_input_names[0]: front_end.extract(clip)[None]}
        exact, rounded = (session.run(["embedding"], inputs)[0] for session in sessions)
        errors.append(exact - rounded)
    return np.concatenate(errors).mean(axis=0)


@contextmanager
def _root_logger_quiet() -> Iterator[None]:
    """Keep the root logger quiet but for errors, and without the handler that logging would add."""
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
