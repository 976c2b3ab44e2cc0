"""What int8 graphs of a Whisper cost in agreement with fp32 and in speed, and what AVX2 answers.

    [taskset -c 0] python studies/int8_graphs.py --dataset DIR [--model DIR] [--clips 200]
        [--emulated 10] [--rounds 15]

Candidates differ in their weights and in the matrices that they quantise. Agreement is measured on
real clips, after the mean error over synthetic voices was taken back. `--emulated` of these clips
are also run by an emulation of the int8 products of AVX2, with the same scales and weights. Speed
is the processor time of one clip; the graphs run in turn.
"""

import argparse
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from ser_hf.cli import publish
from ser_hf.inference.backends import graph_check, onnx_graph, onnx_runtime
from ser_hf.models import loading
from ser_hf.models.features import front_end_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the emulation, which the tests hold
from helpers.saturation import saturating

LAST = r"/model/encoder/layers\.2/fc2/MatMul"
OURS = onnx_graph.FULL_PRECISION
CANDIDATES = {
    "8 bits": (LAST, {"weight_type": QuantType.QInt8}),
    "8 bits, unsigned": (LAST, {"weight_type": QuantType.QUInt8}),
    "7 bits": (LAST, {"weight_type": QuantType.QInt8, "reduce_range": True}),
    "7 bits, one scale a matrix": (LAST, {"weight_type": QuantType.QInt8, "reduce_range": True, "per_channel": False}),
    "pairs limited": (LAST, None),
    "7 bits, queries and inner matrices": (OURS, {"weight_type": QuantType.QInt8, "reduce_range": True}),
    "pairs limited, queries and inner matrices": (OURS, None),
}
"""Nodes that stay in fp32, and options of `quantize_dynamic`; None for `onnx_graph.rounded`."""


def embeddings(session: object, features: list[np.ndarray]) -> np.ndarray:
    """Embeddings `(clips, width)` of clips, each run alone."""
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(["embedding"], {name: clip[None]})[0] for clip in features])


def main() -> None:
    """Write every candidate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", default="ser_hf/pretrained")
    for name, count in (("clips", 200), ("emulated", 10), ("rounds", 15)):
        parser.add_argument(f"--{name}", type=int, default=count)
    args = parser.parse_args()
    model, extractor, rule = loading.load_for_prediction(args.model)
    front_end, last = front_end_of(extractor), loading.last_linear(model)
    weight, bias = (values.detach().numpy() for values in (last.weight, last.bias))
    features = [front_end.extract(clip) for clip in publish.drawn_clips(args.dataset, args.clips)]
    voices = [front_end.extract(clip) for clip in islice(onnx_graph.check_clips(32), 16, None)]
    with tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "traced.onnx"
        onnx_graph._trace(model, extractor, rule, traced)
        sessions = {"fp32": onnx_runtime.open_session(traced)}
        exact, mean = embeddings(sessions["fp32"], features), embeddings(sessions["fp32"], voices).mean(axis=0)
        for name, (kept, options) in CANDIDATES.items():
            path = Path(folder) / f"{len(sessions)}.onnx"
            write(traced, path, kept, options)
            session = sessions[name] = onnx_runtime.open_session(path)
            shift = mean - embeddings(session, voices).mean(axis=0)
            answers = {"here": (session, features)}
            if args.emulated:
                answers["AVX2"] = saturating(onnx.load(path)), features[: args.emulated]
            for place, (runner, clips) in answers.items():
                ours = (embeddings(runner, clips) + shift) @ weight.T + bias
                print(name, place, graph_check.differences((exact @ weight.T + bias)[: len(clips)], ours), flush=True)
        seconds = {name: [] for name in sessions}
        for _ in range(args.rounds):
            for name, session in sessions.items():
                begun = time.process_time()
                embeddings(session, features[:2])
                seconds[name].append(time.process_time() - begun)
    for name, taken in seconds.items():
        ratio = statistics.median(full / other for full, other in zip(seconds["fp32"], taken, strict=True))
        print(f"{name}: {ratio:.2f} times as fast as fp32")


def write(traced: Path, path: Path, kept: str, options: dict | None) -> None:
    """Quantise a traced graph."""
    kinds = {"per_channel": True, **(options or {"weight_type": QuantType.QInt8, "reduce_range": True})}
    nodes = onnx_graph.full_precision_nodes(onnx.load(traced), kept)
    quantize_dynamic(traced, path, op_types_to_quantize=["MatMul"], nodes_to_exclude=nodes, **kinds)
    if options is None:
        onnx_graph.round_finely(path, traced)


if __name__ == "__main__":
    main()
