"""Prediction speed: stock `pipeline("audio-classification")` against ours, alternately, on the same
clips and weights.

    python benchmarks/predict_speed.py --dataset DIR [--models base tiny | --model DIR] [--clips
        1000] [--rounds 4] [--backends torch torch-bf16 onnx onnx-int8] [--minutes 30]

`base` is a 12-layer wav2vec2-base, `tiny` the project's own small model, both of random weights
whose last layer is centred, so that clips differ in their labels; --model is a trained one. Clips
are encoded bytes, which `ser_hf.audio` decodes for all, within the time. Every contestant is a
process of its own, with a peak memory of its own, asked in turn while the others wait. One
recording of --minutes is asked whole; stock is also given it in the windows that ours takes (4 s
every 2 s; ours leaves out those without voice). Start-up is a fresh process to its first answer.

Exits with 1 where answers differ: fp32 must give the labels of stock at batch size 1, int8 99.5 %
of them; on random weights, where labels hang by a hair, int8 must keep probabilities within 0.01.
"""

import argparse
import json
import os
import pickle
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ser_hf import BACKENDS

GOALS = {"onnx": 2.4, "onnx-int8": 3.5}  # times the better stock setting, at base size
STOCK = ("stock, alone", "stock, 8 together")
WINDOW, HOP, RATE = 64_000, 32_000, 16_000
GIVEN_UP = 1800  # seconds after which no answer is waited for


class Stock:
    """The stock pipeline, as its documentation calls it."""

    def __init__(self, model: str, batch_size: int) -> None:
        """Load it."""
        from transformers import logging, pipeline

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.pipe, self.batch_size = pipeline("audio-classification", model=model), batch_size

    def clips(self, sources: list[bytes]) -> list[dict]:
        """Scores by label of each recording."""
        from ser_hf import audio

        return self._ask(audio.load(source) for source in sources)

    def whole(self, path: str) -> list[dict]:
        """The same of one recording, at once."""
        return self.clips([Path(path).read_bytes()])

    def windows(self, path: str) -> list[dict]:
        """The same of every window of a recording."""
        from ser_hf import audio

        samples = audio.load(path)
        starts = range(0, max(1, len(samples) - WINDOW + 1), HOP)
        return self._ask(samples[start : start + WINDOW] for start in starts)

    def _ask(self, clips: Iterator[np.ndarray]) -> list[dict]:
        sources = ({"raw": clip, "sampling_rate": RATE} for clip in clips)
        asked = self.pipe(sources, top_k=None, batch_size=self.batch_size)
        return [{one["label"]: one["score"] for one in answer} for answer in asked]


class Ours:
    """The predictor on one of its backends."""

    def __init__(self, model: str, backend: str) -> None:
        """Load it."""
        from ser_hf.inference.predictor import Predictor

        self.predictor = Predictor(model, backend=backend)

    def clips(self, sources: list[bytes]) -> list[dict]:
        """Scores by label of each recording."""
        return [answer["scores"] for answer in self.predictor.each(sources)]

    def whole(self, path: str) -> list[dict]:
        """The same of one recording, of any length."""
        return [self.predictor.predict(path)["scores"]]


def serve(name: str, model: str, clips: str, limit: int) -> None:
    """A contestant's process: a line of JSON asks, a line answers; at most so many bytes of memory,
    if not 0."""
    replies, sys.stdout = sys.stdout, sys.stderr
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    asked = Stock(model, 1 if name == STOCK[0] else 8) if name in STOCK else Ours(model, name)
    asked.clips(pickle.loads(Path(clips).read_bytes())[:1])
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        what, source = json.loads(line)
        given = pickle.loads(Path(source).read_bytes()) if what == "clips" else source
        began = time.perf_counter()
        try:
            reply = {"answers": getattr(asked, what)(given)}
        except (RuntimeError, MemoryError) as error:  # torch's, for memory that it cannot have
            reply = {"failed": str(error).splitlines()[0][:160]}
        reply["seconds"] = time.perf_counter() - began
        # not ru_maxrss: it begins with the parent's
        reply["peak"] = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
        print(json.dumps(reply), file=replies, flush=True)


class Process:
    """A contestant that waits to be asked."""

    def __init__(self, name: str, model: str, clips: Path, limit: int = 0) -> None:
        """Start it and wait for its first answer; the ONNX graphs are kept beside the clips."""
        here = [sys.executable, __file__, "--serve", name, model, str(clips), str(limit)]
        environment = os.environ | {"HF_HOME": str(clips.parent), "HF_HUB_OFFLINE": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(here, env=environment, **pipes)
        if not self._process.stdout.readline():
            sys.exit(f"{name} does not start: see above")

    def ask(self, what: str, source: Path) -> dict:
        """`answers`, `seconds` and `peak` in MiB; or how it `failed`."""
        (give_up := threading.Timer(GIVEN_UP, self._process.kill)).start()
        print(json.dumps([what, str(source)]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        give_up.cancel()
        nothing = {"failed": f"killed, or no answer in {GIVEN_UP} s", "seconds": GIVEN_UP, "peak": 0}
        return json.loads(line) if line else nothing

    def end(self) -> None:
        """Let it go."""
        self._process.kill()
        self._process.communicate()


def make_model(size: str, folder: Path) -> str:
    """A model of random weights, its last layer centred on a few voices."""
    import torch
    from transformers import AutoModelForAudioClassification, Wav2Vec2Config, Wav2Vec2FeatureExtractor

    from ser_hf.inference import export
    from ser_hf.labels import ID2LABEL, LABEL2ID
    from ser_hf.models import features, loading, presets

    torch.manual_seed(0)
    if size == "tiny":
        model, extractor = loading.load_for_training(presets.TINY)
    else:
        config = Wav2Vec2Config(id2label=ID2LABEL, label2id=LABEL2ID)
        model, extractor = AutoModelForAudioClassification.from_config(config), Wav2Vec2FeatureExtractor()
    with torch.inference_mode():
        made = [torch.from_numpy(features.extract(extractor, clip))[None] for clip in export.voices()]
        model.classifier.bias -= torch.cat([model.eval()(one).logits for one in made]).mean(0)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)


def make_inputs(args: argparse.Namespace, folder: Path) -> tuple[list[Path], Path, float]:
    """The encoded clips of each round, one long recording of clips after each other, the seconds of
    all clips."""
    import soundfile

    from ser_hf import audio
    from ser_hf.data import dataset

    rows = dataset.load(args.dataset)
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    chosen = [rows[number]["audio"]["bytes"] for number in order[: args.clips]]
    parts, recording = [folder / f"clips-{place}.pickle" for place in range(args.rounds)], folder / "recording.wav"
    for place, part in enumerate(parts):
        part.write_bytes(pickle.dumps(chosen[place :: args.rounds]))
    wanted, place = args.minutes * 60 * RATE, 0
    with soundfile.SoundFile(recording, "w", RATE, 1, "PCM_16") as file:
        while file.tell() < wanted:
            file.write(audio.load(rows[order[place % len(order)]]["audio"]))
            place += 1
    return parts, recording, sum(len(audio.load(clip)) for clip in chosen) / RATE


def spread(values: list[float], digits: int = 2) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def rounds(asked: dict[str, tuple[Process, str]], sources: list[Path]) -> dict[str, list[dict]]:
    """Everybody is asked its question of each source in turn, the other way round in every second
    round."""
    replies: dict[str, list[dict]] = {name: [] for name in asked}
    for place, source in enumerate(sources):
        for name in list(asked)[:: -1 if place % 2 else 1]:
            process, what = asked[name]
            reply = process.ask(what, source)
            replies[name].append(reply)
            done = reply.get("failed") or f"{reply['seconds']:.1f} s"
            print(f"round {place + 1}, {what}, {name}: {done}", file=sys.stderr, flush=True)
    return replies


def check(name: str, found: list[dict], wanted: list[dict], trained: bool) -> tuple[str, bool]:
    """How far answers agree with stock's, in words, and whether far enough."""
    same = sum(max(a, key=a.get) == max(b, key=b.get) for a, b in zip(found, wanted, strict=True))
    moved = max(abs(a[label] - b[label]) for a, b in zip(found, wanted, strict=True) for label in b)
    exact = same == len(wanted) or name not in ("torch", "onnx")
    near = name != "onnx-int8" or (same >= 0.995 * len(wanted) if trained else moved <= 0.01)
    return f"{same} of {len(wanted)}, {moved:.1e}", exact and near


def compare_clips(processes: dict[str, Process], parts: list[Path], seconds: float, size: str) -> bool:
    """The table of the clips, a part of them in each round; whether all agree as they must."""
    replies, rights = rounds({name: (one, "clips") for name, one in processes.items()}, parts), []
    told = {name: [answer for run in runs for answer in run["answers"]] for name, runs in replies.items()}
    wanted, best = (
        told[STOCK[0]],
        [min(a["seconds"], b["seconds"]) for a, b in zip(*map(replies.get, STOCK), strict=True)],
    )
    print(f"\n{size}: {len(wanted)} clips, {seconds:,.0f} s of sound, in {len(parts)} rounds, {os.cpu_count()} cores")
    print("| | clips/s | times real time | times the better stock | peak MiB | labels as stock's alone, furthest |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, runs in replies.items():
        took = [run["seconds"] for run in runs]
        ratios = [stock / mine for stock, mine in zip(best, took, strict=True)]
        words, right = check(name, told[name], wanted, size not in ("base", "tiny"))
        rights.append(right or name in STOCK)
        rate, real = spread([len(run["answers"]) / run["seconds"] for run in runs]), seconds / sum(took)
        print(f"| {name} | {rate} | {real:,.0f} | {spread(ratios)} | {runs[-1]['peak']:,.0f} | {words} |")
        if size == "base" and name in GOALS:
            reached = "reached" if statistics.median(ratios) >= GOALS[name] else "not reached"
            print(f"{name}: {GOALS[name]} times the better stock is {reached}", file=sys.stderr)
    return all(rights)


def compare_long(processes: dict[str, Process], args: argparse.Namespace, recording: Path) -> None:
    """The table of the long recording: ours whole, and stock in windows."""
    asked = {f"{STOCK[1]}, windows": (processes[STOCK[1]], "windows")}
    asked |= {name: (process, "whole") for name, process in processes.items() if name not in STOCK}
    replies = rounds(asked, [recording] * args.long_rounds)
    print(f"\none recording of {args.minutes:g} minutes")
    print("| | seconds | times real time | peak MiB |\n| --- | ---: | ---: | ---: |")
    for name, runs in replies.items():
        took = [run["seconds"] for run in runs]
        real = args.minutes * 60 / statistics.median(took)
        print(f"| {name} | {spread(took, 1)} | {real:,.0f} | {runs[-1]['peak']:,.0f} |")


def stock_whole(model: str, clips: Path, recording: Path) -> None:
    """The last line of that table: stock given all of it at once, in four fifths of the memory that
    is free."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") * 8 // 10
    process = Process(STOCK[0], model, clips, memory)
    reply = process.ask("whole", recording)
    process.end()
    result = reply.get("failed", "done")
    print(f"| stock, whole, in {memory / 2**30:.0f} GiB | {reply['seconds']:.1f} | {result} | {reply['peak']:,.0f} |")


def start_up(names: list[str], model: str, clips: Path) -> None:
    """Seconds of a fresh process to its first answer, twice: ONNX graphs are made and kept in the
    first."""
    print("\n| fresh process to its first answer | seconds | once more |\n| --- | ---: | ---: |")
    for name in names:
        took = []
        for _ in range(2):
            began = time.perf_counter()
            process = Process(name, model, clips)
            took.append(time.perf_counter() - began)
            process.end()
        print(f"| {name} | {took[0]:.1f} | {took[1]:.1f} |", flush=True)


def main() -> None:
    """Compare, for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", metavar="DIR", required="--serve" not in sys.argv)
    parser.add_argument("--models", nargs="*", choices=("base", "tiny"), default=["base", "tiny"])
    parser.add_argument("--model", metavar="DIR", help="a trained one, instead of --models")
    parser.add_argument("--backends", nargs="*", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=4, help="in each of which a part of the clips is asked")
    parser.add_argument("--long_rounds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(*args.serve[:3], int(args.serve[3]))
    names, right = [*STOCK, *args.backends], True
    with tempfile.TemporaryDirectory() as temporary:
        parts, recording, seconds = make_inputs(args, Path(temporary))
        for size in [args.model] if args.model else args.models:
            model = args.model or make_model(size, Path(temporary) / size)
            start_up(names, model, parts[0])
            processes = {name: Process(name, model, parts[0]) for name in names}
            right &= compare_clips(processes, parts, seconds, size)
            compare_long(processes, args, recording)
            for process in processes.values():
                process.end()
            stock_whole(model, parts[0], recording)
    return None if right else sys.exit("answers differ from stock's: see the last column of the first table")


if __name__ == "__main__":
    main()
