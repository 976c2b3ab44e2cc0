"""Prediction speed: stock `pipeline("audio-classification")` against ours, alternately, on the same
clips and weights.

    [taskset -c 0] python benchmarks/predict_speed.py --dataset DIR
        [--models base tiny whisper | --model DIR] [--clips 1000] [--rounds 4]
        [--backends auto torch torch-bf16 onnx onnx-int8] [--minutes 30]

`base` is a 12-layer wav2vec2-base, `tiny` the project's own small model, `whisper` two layers of
whisper-tiny's shape with a window of 5 s. They have random weights whose last layer is centred, so
that clips differ in their labels. --model is a trained model. Clips are encoded bytes, which
`ser_hf.audio` decodes for all, within the measured time. Every contestant is a process with a peak
memory of its own. They predict in turn while the others wait.

A Whisper with a window is measured against the same layers at 30 s, too, which is what stock
transformers makes of a Whisper. Labels are compared with stock's at the window, since those of the
30 s model are another model's.

One recording of --minutes is predicted as a whole. Stock also gets it in the windows that ours
takes (4 s every 2 s; ours leaves out windows without voice). Start-up is a fresh process to its
first answer.

The script exits with 1 where answers differ. fp32 must give the labels of stock at batch size 1,
int8 and `auto` 99.5 % of them. Labels of random weights have tiny margins, so there int8 must keep
probabilities within 0.01.
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

from ser_hf.inference.backends import BACKENDS

GOALS = {"base": {"onnx": 2.4, "onnx-int8": 3.5}, "whisper": {"torch": 5.0, "onnx-int8": 10.0}}
"""Times the better stock setting, for a Whisper that of 30 s."""
STOCK = {"stock, alone": 1, "stock, 8 together": 8}
AT_30_S = {"stock at 30 s, alone": 1, "stock at 30 s, 8 together": 8}
"""Clips in a batch of each stock contestant, on the model itself and on its layers at 30 s."""
ALONE, TOGETHER = STOCK
RANDOM = ("base", "tiny", "whisper")
WINDOW, HOP, RATE = 64_000, 32_000, 16_000
TIMEOUT = 1800  # seconds


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

        return self._predict(audio.load(source) for source in sources)

    def recording(self, path: str) -> list[dict]:
        """The same of one recording, at once."""
        return self.clips([Path(path).read_bytes()])

    def windows(self, path: str) -> list[dict]:
        """The same of every window of a recording."""
        from ser_hf import audio

        samples = audio.load(path)
        starts = range(0, max(1, len(samples) - WINDOW + 1), HOP)
        return self._predict(samples[start : start + WINDOW] for start in starts)

    def _predict(self, clips: Iterator[np.ndarray]) -> list[dict]:
        sources = ({"raw": clip, "sampling_rate": RATE} for clip in clips)
        predictions = self.pipe(sources, top_k=None, batch_size=self.batch_size)
        return [{row["label"]: row["score"] for row in rows} for rows in predictions]


class Ours:
    """The predictor on one of its backends."""

    def __init__(self, model: str, backend: str) -> None:
        """Load it."""
        from ser_hf.inference.predictor import Predictor

        self.predictor = Predictor(model, backend=backend)

    def clips(self, sources: list[bytes]) -> list[dict]:
        """Scores by label of each recording."""
        return [answer["scores"] for answer in self.predictor.each(sources)]

    def recording(self, path: str) -> list[dict]:
        """The same of one recording, of any length."""
        return [self.predictor.predict(path)["scores"]]


def make_contestant(name: str, model: str) -> Stock | Ours:
    """The stock pipeline for a name of stock, ours for the name of a backend."""
    sizes = STOCK | AT_30_S
    return Stock(model, sizes[name]) if name in sizes else Ours(model, name)


def serve(name: str, model: str, clips: str, limit: int) -> None:
    """A contestant's process: reads requests and writes replies, one line of JSON each.

    `limit` is the most bytes of memory that it may take; 0 means no limit.
    """
    replies, sys.stdout = sys.stdout, sys.stderr
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    contestant = make_contestant(name, model)
    contestant.clips(pickle.loads(Path(clips).read_bytes())[:1])
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        task, source = json.loads(line)
        data = pickle.loads(Path(source).read_bytes()) if task == "clips" else source
        began = time.perf_counter()
        try:
            reply = {"answers": getattr(contestant, task)(data)}
        except (RuntimeError, MemoryError) as error:  # torch's, for memory that it cannot have
            reply = {"failed": str(error).splitlines()[0][:160]}
        reply["seconds"] = time.perf_counter() - began
        # not ru_maxrss: it begins with the parent's
        reply["peak"] = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
        print(json.dumps(reply), file=replies, flush=True)


class Process:
    """A contestant that waits for requests."""

    def __init__(self, name: str, model: str, clips: Path, limit: int = 0) -> None:
        """Start it and wait for its first answer; the ONNX graphs are kept beside the clips."""
        command = [sys.executable, __file__, "--serve", name, model, str(clips), str(limit)]
        environment = os.environ | {"HF_HOME": str(clips.parent), "HF_HUB_OFFLINE": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)
        if not self._process.stdout.readline():
            sys.exit(f"{name} does not start: see above")

    def request(self, task: str, source: Path) -> dict:
        """`answers`, `seconds` and `peak` in MiB; or how it `failed`."""
        (timer := threading.Timer(TIMEOUT, self._process.kill)).start()
        print(json.dumps([task, str(source)]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        timer.cancel()
        nothing = {"failed": f"killed, or no answer in {TIMEOUT} s", "seconds": TIMEOUT, "peak": 0}
        return json.loads(line) if line else nothing

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()


def make_model(size: str, folder: Path) -> str:
    """A model of random weights, its last layer centred on a few voices."""
    import torch
    from transformers import (
        AutoModelForAudioClassification,
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        WhisperConfig,
        WhisperFeatureExtractor,
    )

    from ser_hf.inference.backends import onnx_graph
    from ser_hf.labels import ID2LABEL, LABEL2ID
    from ser_hf.models import loading, presets
    from ser_hf.models.features import front_end_of

    torch.manual_seed(0)
    if size == "tiny":
        model, extractor = loading.load_for_training(presets.TINY)
    elif size == "whisper":
        shape = {"encoder_layers": 2, "d_model": 384, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
        config = WhisperConfig(**shape, max_source_positions=250, id2label=ID2LABEL, label2id=LABEL2ID)
        model = AutoModelForAudioClassification.from_config(config)
        extractor = WhisperFeatureExtractor(chunk_length=5)
    else:
        config = Wav2Vec2Config(id2label=ID2LABEL, label2id=LABEL2ID)
        model, extractor = AutoModelForAudioClassification.from_config(config), Wav2Vec2FeatureExtractor()
    with torch.inference_mode():
        clips = [torch.from_numpy(front_end_of(extractor).extract(clip))[None] for clip in onnx_graph.check_clips()]
        model.classifier.bias -= torch.cat([model.eval()(clip).logits for clip in clips]).mean(0)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)


def at_30_seconds(model: str, folder: Path) -> str | None:
    """The stock classifier of a windowed Whisper's layers at 30 s; None for another architecture.

    The sinusoids of the positions are those of stock transformers, of which a window is the start.
    """
    import torch
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification

    config = AutoConfig.from_pretrained(model)
    if config.model_type != "whisper":
        return None
    weights = AutoModelForAudioClassification.from_pretrained(model, dtype=torch.float32).state_dict()
    window = config.max_source_positions
    config.max_source_positions = 1500
    whole = AutoModelForAudioClassification.from_config(config, dtype=torch.float32)
    positions = whole.state_dict()["encoder.embed_positions.weight"].clone()
    positions[:window] = weights["encoder.embed_positions.weight"]
    whole.load_state_dict(weights | {"encoder.embed_positions.weight": positions})
    whole.save_pretrained(folder)
    extractor = AutoFeatureExtractor.from_pretrained(model)
    type(extractor)(feature_size=extractor.feature_size, chunk_length=30).save_pretrained(folder)
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
    length, place = args.minutes * 60 * RATE, 0
    with soundfile.SoundFile(recording, "w", RATE, 1, "PCM_16") as file:
        while file.tell() < length:
            file.write(audio.load(rows[order[place % len(order)]]["audio"]))
            place += 1
    return parts, recording, sum(len(audio.load(clip)) for clip in chosen) / RATE


def spread(values: list[float], digits: int = 2) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def run_rounds(requests: dict[str, tuple[Process, str]], sources: list[Path]) -> dict[str, list[dict]]:
    """Replies of every contestant to each source, in turn; every second round in reverse order."""
    replies: dict[str, list[dict]] = {name: [] for name in requests}
    for place, source in enumerate(sources):
        for name in list(requests)[:: -1 if place % 2 else 1]:
            process, task = requests[name]
            reply = process.request(task, source)
            replies[name].append(reply)
            done = reply.get("failed") or f"{reply['seconds']:.1f} s"
            print(f"round {place + 1}, {task}, {name}: {done}", file=sys.stderr, flush=True)
    return replies


def check_agreement(name: str, scores: list[dict], stock: list[dict], trained: bool) -> tuple[str, bool]:
    """How far scores agree with stock's, in words, and whether far enough."""
    equal = sum(max(a, key=a.get) == max(b, key=b.get) for a, b in zip(scores, stock, strict=True))
    distance = max(abs(a[label] - b[label]) for a, b in zip(scores, stock, strict=True) for label in b)
    exact = equal == len(stock) or name not in ("torch", "onnx")
    near = name not in ("onnx-int8", "auto") or (equal >= 0.995 * len(stock) if trained else distance <= 0.01)
    return f"{equal} of {len(stock)}, {distance:.1e}", exact and near


def compare_clips(processes: dict[str, Process], parts: list[Path], seconds: float, size: str) -> bool:
    """The table of the clips, a part of them in each round; whether all agree as they must.

    Args:
        processes: contestants by name.
        parts: files of encoded clips, one a round.
        seconds: of sound in all clips.
        size: a name of --models, or the folder of a trained model.
    """
    replies, agreements = run_rounds({name: (process, "clips") for name, process in processes.items()}, parts), []
    scores = {name: [answer for run in runs for answer in run["answers"]] for name, runs in replies.items()}
    stock, long = scores[ALONE], AT_30_S.keys() <= replies.keys()
    goals = GOALS["whisper"] if long else GOALS.get(size, {})
    others = AT_30_S if long else STOCK
    best = [min(a["seconds"], b["seconds"]) for a, b in zip(*map(replies.get, others), strict=True)]
    cores = len(os.sched_getaffinity(0))
    print(f"\n{size}: {len(stock)} clips, {seconds:,.0f} s of sound, in {len(parts)} rounds, {cores} cores")
    print(
        f"| | clips/s | times real time | times the better stock{' at 30 s' if long else ''} | peak MiB "
        "| labels as stock's alone, furthest |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, runs in replies.items():
        durations = [run["seconds"] for run in runs]
        ratios = [fastest / duration for fastest, duration in zip(best, durations, strict=True)]
        words, agrees = check_agreement(name, scores[name], stock, size not in RANDOM)
        words = "another model" if name in AT_30_S else words
        agreements.append(agrees or name in STOCK or name in AT_30_S)
        rate, real = spread([len(run["answers"]) / run["seconds"] for run in runs]), seconds / sum(durations)
        print(f"| {name} | {rate} | {real:,.0f} | {spread(ratios)} | {runs[-1]['peak']:,.0f} | {words} |")
        if name in goals:
            reached = "reached" if statistics.median(ratios) >= goals[name] else "not reached"
            print(f"{name}: {goals[name]} times the better stock is {reached}", file=sys.stderr)
    return all(agreements)


def compare_long(processes: dict[str, Process], args: argparse.Namespace, recording: Path) -> None:
    """The table of the long recording: ours whole, and stock in windows."""
    requests = {f"{TOGETHER}, windows": (processes[TOGETHER], "windows")}
    ours = {name: process for name, process in processes.items() if name not in STOCK | AT_30_S}
    requests |= {name: (process, "recording") for name, process in ours.items()}
    replies = run_rounds(requests, [recording] * args.long_rounds)
    print(f"\none recording of {args.minutes:g} minutes")
    print("| | seconds | times real time | peak MiB |\n| --- | ---: | ---: | ---: |")
    for name, runs in replies.items():
        durations = [run["seconds"] for run in runs]
        real = args.minutes * 60 / statistics.median(durations)
        print(f"| {name} | {spread(durations, 1)} | {real:,.0f} | {runs[-1]['peak']:,.0f} |")


def stock_whole(model: str, clips: Path, recording: Path) -> None:
    """The last line of that table: stock takes all at once, in four fifths of free memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") * 8 // 10
    process = Process(ALONE, model, clips, memory)
    reply = process.request("recording", recording)
    process.end()
    result = reply.get("failed", "done")
    print(f"| stock, whole, in {memory / 2**30:.0f} GiB | {reply['seconds']:.1f} | {result} | {reply['peak']:,.0f} |")


def start_up(models: dict[str, str], clips: Path) -> None:
    """Seconds of a fresh process to its first answer, twice: the first one exports ONNX graphs."""
    print("\n| fresh process to its first answer | seconds | once more |\n| --- | ---: | ---: |")
    for name, model in models.items():
        durations = []
        for _ in range(2):
            began = time.perf_counter()
            process = Process(name, model, clips)
            durations.append(time.perf_counter() - began)
            process.end()
        print(f"| {name} | {durations[0]:.1f} | {durations[1]:.1f} |", flush=True)


def main() -> None:
    """Compare, for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", metavar="DIR", required="--serve" not in sys.argv)
    parser.add_argument("--models", nargs="*", choices=RANDOM, default=["base", "tiny"])
    parser.add_argument("--model", metavar="DIR", help="a trained one, instead of --models")
    parser.add_argument("--backends", nargs="*", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=4, help="each takes a part of the clips")
    parser.add_argument("--long_rounds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(*args.serve[:3], int(args.serve[3]))
    agree = True
    with tempfile.TemporaryDirectory() as temporary:
        parts, recording, seconds = make_inputs(args, Path(temporary))
        for size in [args.model] if args.model else args.models:
            model = args.model or make_model(size, Path(temporary) / size)
            models = dict.fromkeys([*STOCK, *args.backends], model)
            long = at_30_seconds(model, Path(temporary) / "at-30-s")
            models |= dict.fromkeys(AT_30_S, long) if long else {}
            start_up(models, parts[0])
            processes = {name: Process(name, folder, parts[0]) for name, folder in models.items()}
            agree &= compare_clips(processes, parts, seconds, size)
            compare_long(processes, args, recording)
            for process in processes.values():
                process.end()
            if not long:  # a Whisper reads the start of a recording and no more
                stock_whole(model, parts[0], recording)
    return None if agree else sys.exit("answers differ from stock's: see the last column of the first table")


if __name__ == "__main__":
    main()
