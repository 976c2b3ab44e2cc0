"""Labelling of archives: speed, memory, breaks, Ray, and the time that planning takes.

    python benchmarks/label.py --data DIR [--only speed memory kill ray plan cores]
        [--recordings 1000] [--model DIR] [--backend auto] [--rounds 4] [--stock 100]
        [--scratch DIR]

The archive is made of links to the recordings below --data, under other names. One recording in a
hundred is broken: text, a header without samples, nothing, or zeros. Links share their bytes, so
labelling does not reuse answers here (`reuse=False`), but in one row of the table that says so.

`speed` compares with a loop over `Predictor.predict` and with stock
`pipeline("audio-classification")` over a `KeyDataset`, in turn. Stock gets --stock unbroken
recordings a round, since it ends at the first broken one. Each contestant is a process of its own,
loaded and warm before the clock runs. `memory` labels a tenth of the archive and all of it. `kill`
ends a run by SIGKILL three times at random. `ray` has two actors of one core, of which one is
killed in another run. `plan` lists --listed files, and --synthetic entries that are no files.
`cores` gives the hours of sound that an hour of one core decodes and predicts, by the time of the
processor.

`speed` and `cores` use the bundled model, the others a small one of random weights, or all use
--model. The script exits with 1 where rows or labels differ, or memory grows by more than 10 %.
"""

import argparse
import io
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

PARTS = ("speed", "memory", "kill", "ray", "plan", "cores")
BROKEN = (b"These are no samples.\n" * 40, b"RIFF\x24\x00\x00\x00WAVEfmt ", b"", bytes(4096))
"""Bytes of recordings that nothing can decode."""
A_FOLDER = 1000  # recordings
FLUSH = 2.0  # seconds after which rows are written, so that a killed run leaves some
KILLS = 3
GROWTH = 1.10
PREDICTED, LOOP = "label", "loop over Predictor.predict"
REUSED, STOCK = "label, answers reused", "stock pipeline, batches of {}"


def make_archive(data: str, folder: Path, count: int) -> Path:
    """Link recordings under other names until there are `count`, one broken in a hundred."""
    from ser_hf import audio

    originals = [path for path in recordings_of(data) if Path(path).name[0] != "." and path.endswith(audio.SUFFIXES)]
    if not originals:
        sys.exit(f"--data '{data}' holds no recordings ({', '.join(audio.SUFFIXES)})")
    random.Random(0).shuffle(originals)
    for number in range(count):
        original = Path(originals[number % len(originals)])
        path = folder / f"{number // A_FOLDER:05d}" / f"call-{number:07d}{original.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 100 == 37:
            path.write_bytes(BROKEN[number // 100 % len(BROKEN)])
        else:
            path.symlink_to(original.resolve())
    return folder


def recordings_of(folder: str) -> list[str]:
    """The files of a folder, sorted."""
    return sorted(str(path) for path in Path(folder).rglob("*") if not path.is_dir())


@dataclass
class Clock:
    """An engine that says when the first answers of another one came, and how many."""

    engine: Any
    times: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def answers(self, units: Iterator, contents: Any) -> Iterator:
        """The answers of the engine."""
        for answers in self.engine.answers(units, contents):
            self.times.append(time.perf_counter())
            self.counts.append(len(answers.rows))
            yield answers

    def rate(self) -> float:
        """Recordings a second between the first answers and the last."""
        waited = self.times[-1] - self.times[0] if len(self.times) > 1 else 0
        return sum(self.counts[1:]) / waited if waited else 0.0


def run_label(folder: str, output: str, model: str, backend: str, reuse: bool, ray: bool = False) -> dict[str, Any]:
    """Label a folder; `seconds` are from the listing to the last file."""
    from ser_hf.inference.bulk import label, labeler

    began = time.perf_counter()
    choice = labeler.ModelChoice(model, backend=backend)
    loaded = labeler.Labeler(choice)
    loaded.predictor.warm()
    engine = loaded
    if ray:
        from ser_hf.inference.bulk import ray_engine

        engine = ray_engine.RayEngine(choice, workers=2, num_cpus=1)
    clock = Clock(engine)
    options = label.LabelOptions(reuse=reuse, flush_seconds=FLUSH)
    outcome = label.label([folder], output, choice, options, clock, loaded)
    reply = {"count": outcome.asked + outcome.copied, "seconds": outcome.seconds, "known": outcome.known}
    return reply | {"whole": time.perf_counter() - began, "rate": clock.rate() if clock.times else 0.0}


def run_loop(folder: str, output: str, model: str, backend: str) -> dict[str, Any]:
    """Ask for one recording after the other; the answers are written as JSON."""
    from ser_hf.errors import UserError
    from ser_hf.inference.predictor import Predictor

    predictor, answers = Predictor(model, backend=backend), {}
    predictor.warm()
    began = time.perf_counter()
    for path in recordings_of(folder):
        try:
            prediction = predictor.predict(path)
            answers[path] = [prediction["label"], prediction["score"]]
        except UserError:
            answers[path] = [None, None]
    seconds = time.perf_counter() - began
    Path(output).write_text(json.dumps(answers))
    return {"count": len(answers), "seconds": seconds}


def run_stock(folder: str, output: str, model: str, batch_size: int, count: int) -> dict[str, Any]:
    """Stock `pipeline` over a `KeyDataset` of the first unbroken recordings, decoded by ours."""
    from torch.utils.data import Dataset
    from transformers import logging, pipeline
    from transformers.pipelines.pt_utils import KeyDataset

    from ser_hf import audio

    paths = list(islice((path for path in recordings_of(folder) if Path(path).is_symlink()), count))

    class Recordings(Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, number: int) -> dict[str, Any]:
            return {"audio": {"raw": audio.load(paths[number]), "sampling_rate": audio.SAMPLING_RATE}}

    logging.set_verbosity_error()
    pipe = pipeline("audio-classification", model=model)
    pipe(Recordings()[0]["audio"] | {})
    began = time.perf_counter()
    rows = [row[0]["label"] for row in pipe(KeyDataset(Recordings(), "audio"), top_k=1, batch_size=batch_size)]
    seconds = time.perf_counter() - began
    Path(output).write_text(json.dumps(dict(zip(paths, rows, strict=True))))
    return {"count": len(rows), "seconds": seconds}


def run_plan(folder: str, output: str, synthetic: int) -> dict[str, Any]:
    """Read what has an answer and plan; `synthetic` entries are listed without a file system."""
    from ser_hf.inference.bulk import planning
    from ser_hf.inference.bulk.index import Index
    from ser_hf.inference.bulk.store import Store

    if synthetic:
        planning.list_inputs = lambda inputs, column: synthetic_entries(synthetic)
    before, began = peak(), time.perf_counter()
    index = Index(Store(output), "none")
    read = time.perf_counter() - began
    plan = planning.make_plan([folder], index, {}, None)
    return {"seconds": time.perf_counter() - began, "read": read, "known": plan.known, "count": plan.listed} | {
        "grown": peak() - before
    }


def synthetic_entries(count: int) -> Iterator:
    """Entries as a store lists them."""
    from ser_hf.inference.bulk.listing import Entry

    for number in range(count):
        yield Entry(f"s3://calls/{number // A_FOLDER:06d}/call-{number:09d}.wav", f"61234-{number:032x}", "recording")


def fill(output: str, entries: Iterator) -> None:
    """Write rows as if all entries were labelled."""
    from ser_hf.inference.bulk.rows import schema
    from ser_hf.inference.bulk.store import Store
    from ser_hf.labels import EMOTIONS

    columns, store = schema(list(EMOTIONS)), Store(output)
    with store.locked():
        store.write_manifest({"model": {"digest": "none"}})
        number = 0
        while block := list(islice(entries, 10_000)):
            rows = []
            for entry in block:
                number += 1
                scores = {name: random.random() for name in columns.names if name.startswith("score_")}
                answer = {"label": "happy", "score": 0.5, "abstained": False, "duration": 2.5, "channels": 1}
                row = {"file": entry.path, "stamp": entry.stamp, "sha256": f"{number:064x}", "model": "none"}
                rows.append(row | answer | scores)
            store.write_part(rows, columns)


def run_cores(folder: str, output: str, model: str, backend: str) -> dict[str, Any]:
    """Seconds of sound that a second of one core decodes, by format, and predicts."""
    import torch

    from ser_hf import audio
    from ser_hf.inference.predictor import Predictor

    torch.set_num_threads(1)
    paths = [path for path in recordings_of(folder) if Path(path).is_symlink()]
    rates, clips = {}, [audio.load(path) for path in paths]
    sound = sum(map(len, clips)) / audio.SAMPLING_RATE
    contents = {"as recorded": [Path(path).read_bytes() for path in paths]}
    for name, ending in {"WAV, 16 kHz": "WAV", "FLAC, 16 kHz": "FLAC", "MP3, 16 kHz": "MP3"}.items():
        contents[name] = [encoded(clip, ending, audio.SAMPLING_RATE) for clip in clips]
    for name, files in contents.items():
        began = time.process_time()
        for content in files:
            audio.load(content)
        size = sum(map(len, files)) / 1e6 / sound * 3600
        rates[f"decoding, {name}, {size:.0f} MB an hour"] = sound / (time.process_time() - began)
    predictor = Predictor(model, backend=backend, threads=1)
    predictor.warm()
    began = time.process_time()
    for clip in clips:
        predictor.predict({"array": clip, "sampling_rate": audio.SAMPLING_RATE})
    rates[f"model, {predictor.backend}"] = sound / (time.process_time() - began)
    return {"rates": rates}


def encoded(samples: np.ndarray, ending: str, rate: int) -> bytes:
    """Samples in a format."""
    soundfile.write(buffer := io.BytesIO(), samples, rate, format=ending)
    return buffer.getvalue()


def cores(args: argparse.Namespace, scratch: Path, model: str) -> bool:
    """The table of what one core does."""
    folder = str(make_archive(args.data, scratch / "cores", args.recordings))
    reply = run(scratch, "cores", folder=folder, output="", model=model, backend=args.backend)
    print("\n| one core | times real time |\n| --- | ---: |")
    for name, rate in reply["rates"].items():
        print(f"| {name} | {rate:,.0f} |")
    return True


TASKS = {"label": run_label, "loop": run_loop, "stock": run_stock, "plan": run_plan, "cores": run_cores}


def peak() -> float:
    """The most memory that this process took so far, MiB; ru_maxrss begins with the parent's."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def start(scratch: Path, task: str, **arguments: Any) -> subprocess.Popen:
    """Start a task in a process of its own; what it says goes to a log."""
    command = [sys.executable, __file__, "--task", json.dumps({"task": task, **arguments})]
    environment = os.environ | {"HF_HOME": str(scratch / "home"), "HF_HUB_OFFLINE": "1"}
    with (scratch / "log").open("a") as log:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)


def run(scratch: Path, task: str, **arguments: Any) -> dict[str, Any]:
    """The reply of a task in a process of its own."""
    began = time.perf_counter()
    process = start(scratch, task, **arguments)
    output = process.communicate()[0]
    if process.returncode:
        sys.exit(f"{task} ended with {process.returncode}: {(scratch / 'log').read_text()[-2000:]}")
    reply = reply_of(output)
    print(f"{task} {arguments}: {reply}", file=sys.stderr, flush=True)
    return reply | {"process": time.perf_counter() - began}


def reply_of(output: str) -> dict[str, Any]:
    """What a task said, among the lines that Ray prints."""
    (line,) = [line for line in output.splitlines() if line.startswith('{"')]
    return json.loads(line)


def read_rows(output: str) -> pa.Table:
    """All rows, sorted by file."""
    return pq.read_table(output).sort_by("file").combine_chunks()


def check_equal(first: str, second: str) -> bool:
    """Whether two outputs have the same rows in every column, but for their order."""
    one, two = read_rows(first), read_rows(second)
    if len(one) != len(two):
        print(f"NOT EQUAL: {len(one):,} rows and {len(two):,}")
        return False
    different = [name for name in one.column_names if not one[name].equals(two[name])]
    print(f"{len(one):,} rows: " + (f"NOT EQUAL in {', '.join(different)}" if different else "equal in all columns"))
    return not different


def spread(values: list[float], digits: int = 2) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def speed(args: argparse.Namespace, scratch: Path, model: str) -> bool:
    """The table of the contestants, and whether labels are those of `Predictor`."""
    common = {"model": model}
    tasks: dict[str, dict[str, Any]] = {
        PREDICTED: common | {"task": "label", "backend": args.backend, "reuse": False},
        REUSED: common | {"task": "label", "backend": args.backend, "reuse": True},
        LOOP: common | {"task": "loop", "backend": args.backend},
    }
    for size in (1, 8) if args.stock else ():
        tasks[STOCK.format(size)] = common | {"task": "stock", "batch_size": size, "count": args.stock}
    replies: dict[str, list[dict[str, Any]]] = {name: [] for name in tasks}
    equal, compared, same = True, 0, 0
    for place in range(args.rounds):
        folder = str(make_archive(args.data, scratch / f"speed-{place}", args.recordings // args.rounds))
        outputs = {name: str(scratch / f"out-{place}-{number}") for number, name in enumerate(tasks)}
        for name in list(tasks)[:: -1 if place % 2 else 1]:
            replies[name].append(run(scratch, folder=folder, output=outputs[name], **tasks[name]))
        asked = json.loads(Path(outputs[LOOP]).read_text())
        for name in (PREDICTED, REUSED):
            rows = read_rows(outputs[name])
            labels = dict(zip(rows["file"].to_pylist(), rows["label"].to_pylist(), strict=True))
            equal &= labels == {path: label for path, (label, _) in asked.items()}
        for size in (1, 8) if args.stock else ():
            stock = json.loads(Path(outputs[STOCK.format(size)]).read_text())
            same += sum(asked[path][0] == label for path, label in stock.items())
            compared += len(stock)
    print(
        f"\nspeed: {args.recordings:,} recordings in {args.rounds} rounds, {core_count()} cores, "
        f"{model}, {args.backend}"
    )
    print("| | recordings/s | label is faster | peak MiB |\n| --- | ---: | ---: | ---: |")
    best = [reply["count"] / reply["seconds"] for reply in replies[PREDICTED]]
    for name, runs in replies.items():
        rates = [reply["count"] / reply["seconds"] for reply in runs]
        ratios = [ours / rate for ours, rate in zip(best, rates, strict=True)]
        memory = max(reply["peak"] for reply in runs)
        print(f"| {name} | {spread(rates, 1)} | {spread(ratios)} | {memory:,.0f} |")
    print(f"labels as the loop's: {'all' if equal else 'NOT EQUAL'}; as stock's: {same:,} of {compared:,}")
    return equal


def memory(args: argparse.Namespace, scratch: Path, model: str) -> bool:
    """Peak memory at a tenth of the recordings, and at all of them."""
    peaks = []
    print("\n| recordings | seconds | recordings/s | peak MiB |\n| --- | ---: | ---: | ---: |")
    for count in (args.recordings // 10, args.recordings):
        folder = str(make_archive(args.data, scratch / f"memory-{count}", count))
        settings = {"model": model, "backend": args.backend, "reuse": False}
        reply = run(scratch, "label", folder=folder, output=str(scratch / f"memory-out-{count}"), **settings)
        peaks.append(reply["peak"])
        print(f"| {count:,} | {reply['seconds']:.1f} | {count / reply['seconds']:.1f} | {reply['peak']:,.0f} |")
    print(f"the second peak is {peaks[1] / peaks[0]:.3f} of the first", flush=True)
    return peaks[1] <= GROWTH * peaks[0]


def kill(args: argparse.Namespace, scratch: Path, model: str) -> bool:
    """An unbroken run, one that is killed three times, and a last one with nothing to do."""
    folder = str(make_archive(args.data, scratch / "kill", args.recordings))
    whole, broken = str(scratch / "kill-whole"), str(scratch / "kill-broken")
    settings = {"folder": folder, "model": model, "backend": args.backend, "reuse": False}
    unbroken = run(scratch, "label", output=whole, **settings)
    drawn, there = random.Random(args.seed), 0
    print(f"\nkilled: {args.recordings:,} recordings, {unbroken['seconds']:.1f} s without a break")
    for _ in range(KILLS):
        wanted = there + args.recordings * drawn.uniform(0.05, 0.25)
        process = start(scratch, "label", output=broken, **settings)
        while process.poll() is None and count_rows(broken) < wanted:
            time.sleep(0.1)
        time.sleep(drawn.uniform(0, FLUSH))  # anywhere between two files
        if process.poll() is not None:
            sys.exit("a run ended before it was killed: give more --recordings")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        there = count_rows(broken)
        print(f"killed at {there:,} rows", flush=True)
    last = run(scratch, "label", output=broken, **settings)
    print(f"the last run: {last['known']:,} known, {last['count']:,} asked, {last['seconds']:.1f} s")
    again = run(scratch, "label", output=broken, **settings)
    print(f"once more, nothing to do: {again['seconds']:.1f} s, with the start of the process {again['process']:.1f} s")
    return check_equal(whole, broken) and again["count"] == 0


def count_rows(output: str) -> int:
    """Rows of the files that are there."""
    return sum(pq.read_metadata(path).num_rows for path in Path(output).glob("part-*.parquet"))


def ray(args: argparse.Namespace, scratch: Path, model: str) -> bool:
    """Two actors against two threads in turn, and a run that loses one actor."""
    folder = str(make_archive(args.data, scratch / "ray", args.recordings))
    settings = {"folder": folder, "model": model, "backend": args.backend, "reuse": False}
    rates: dict[str, list[dict[str, Any]]] = {"local": [], "ray": []}
    for place in range(args.rounds):
        for name in list(rates)[:: -1 if place % 2 else 1]:
            output = str(scratch / f"ray-{name}-{place}")
            rates[name].append(run(scratch, "label", output=output, ray=name == "ray", **settings))
    print(f"\nray: {args.recordings:,} recordings, {args.rounds} rounds, {core_count()} cores, {model}, {args.backend}")
    print("| | recordings/s behind the first answers | with the listing, actors and writing |")
    print("| --- | ---: | ---: |")
    for name, runs in rates.items():
        whole = [reply["count"] / reply["seconds"] for reply in runs]
        print(f"| {name} | {spread([reply['rate'] for reply in runs], 1)} | {spread(whole, 1)} |")
    pairs = list(zip(rates["local"], rates["ray"], strict=True))
    steady = [local["rate"] / other["rate"] - 1 for local, other in pairs]
    started = [other["seconds"] - other["count"] / other["rate"] for _, other in pairs]
    print(f"overhead of Ray: {spread([100 * value for value in steady], 1)} %, and {spread(started, 1)} s to start")
    lost = str(scratch / "ray-lost")
    process = start(scratch, "label", output=lost, ray=True, **settings)
    killed = kill_an_actor(process, Path(lost))
    reply = reply_of(process.communicate()[0])
    print(f"actor {killed} was killed: {reply['count']:,} asked in {reply['seconds']:.1f} s", flush=True)
    local = str(scratch / "ray-local-0")
    return check_equal(local, str(scratch / "ray-ray-0")) and check_equal(local, lost)


def kill_an_actor(process: subprocess.Popen, output: Path) -> int:
    """Kill one of the two actors as soon as there are rows; its process number."""
    while process.poll() is None:
        time.sleep(0.2)
        if list(output.glob("part-*")):
            names = {child.pid: " ".join(child.cmdline()) for child in psutil.Process(process.pid).children(True)}
            actors = [pid for pid, name in names.items() if name.startswith("ray::") and "_Actor" in name]
            if len(actors) == 2:
                os.kill(actors[0], signal.SIGKILL)
                return actors[0]
    sys.exit("the run ended before two actors were there: give more --recordings")


def plan(args: argparse.Namespace, scratch: Path) -> bool:
    """Seconds and memory until the first recording is read, with no rows and with all of them."""
    from ser_hf.inference.bulk.listing import list_inputs

    right = True
    print("\n| listed | rows | seconds | of these to read the rows | MiB more |\n| --- | --- | ---: | ---: | ---: |")
    for count, synthetic in [(args.listed, 0), *((count, count) for count in args.synthetic)]:
        folder = scratch / f"plan-{count}"
        if not synthetic:
            make_empty(folder, count)
        output = scratch / f"plan-out-{count}-{synthetic}"
        for state in ("none", "all"):
            if state == "all":
                fill(str(output), synthetic_entries(count) if synthetic else list_inputs([str(folder)]))
            reply = run(scratch, "plan", folder=str(folder), output=str(output), synthetic=synthetic)
            right &= reply["count"] == count and reply["known"] == (count if state == "all" else 0)
            name = f"{count:,} {'entries' if synthetic else 'files'}"
            print(f"| {name} | {state} | {reply['seconds']:.1f} | {reply['read']:.1f} | {reply['grown']:,.0f} |")
    return right


def make_empty(folder: Path, count: int) -> None:
    """Files to be listed, without content."""
    for number in range(count):
        path = folder / f"{number // A_FOLDER:05d}" / f"call-{number:07d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def main() -> None:
    """Run the parts that were chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="a folder of recordings")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--recordings", type=int, default=1000)
    parser.add_argument("--model", help="for all parts")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--stock", type=int, default=100, help="recordings a round for stock; 0 leaves it out")
    parser.add_argument("--listed", type=int, default=200_000)
    parser.add_argument("--synthetic", type=int, nargs="*", default=[200_000, 1_000_000])
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
    parser.add_argument("--scratch", metavar="DIR", help="where archives are made; a temporary folder if not given")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        task = json.loads(args.task)
        reply = TASKS[task.pop("task")](**task)
        print(json.dumps(reply | {"peak": peak()}))
        return
    if args.data is None and set(args.only) != {"plan"}:
        parser.error("--data is needed")
    with tempfile.TemporaryDirectory(dir=args.scratch) as temporary:
        scratch, right = Path(temporary), True
        small = args.model or (set(args.only) & {"memory", "kill", "ray"} and make_small(scratch / "model"))
        for name in args.only:
            if name in ("speed", "cores"):
                right &= {"speed": speed, "cores": cores}[name](args, scratch, args.model or bundled())
            elif name == "plan":
                right &= plan(args, scratch)
            else:
                right &= {"memory": memory, "kill": kill, "ray": ray}[name](args, scratch, small)
    sys.exit(None if right else "something differs: see above")


def bundled() -> str:
    """The folder of the bundled model."""
    from importlib.resources import files

    return str(files("ser_hf") / "pretrained")


def make_small(folder: Path) -> str:
    """The model `tiny` with random weights: it takes little beside the decoding."""
    import predict_speed

    return predict_speed.make_model("tiny", folder)


if __name__ == "__main__":
    main()
