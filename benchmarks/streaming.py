"""Memory and losses of training on recordings that stay in Parquet, at ten times the data, too.

The training clips of DATASET are multiplied by links to a shard that holds them; validation and
test stay as they are. Each row of the table is a process of its own: it trains some steps, and then
reads one whole epoch as it would for training. In the same run it is checked that

- streaming has the loss of clips in memory at every step, in the same order of batches;
- an epoch holds every training clip once, and every row group is read once.

    .venv/bin/python benchmarks/streaming.py DATASET [--times 10] [--steps 40] [--model tiny]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 64


def multiplied(dataset: Path, folder: Path, times: int) -> None:
    """Write a Parquet dataset whose training clips are those of another one, so many times."""
    from ser_hf import protocols
    from ser_hf.data import streaming

    split = protocols.split(streaming.load(dataset))
    table = pa.concat_tables(pq.read_table(file) for file in sorted(dataset.glob("data/*.parquet")))
    (folder / "data").mkdir(parents=True)
    pq.write_table(table, folder / "data" / "train-000.parquet", row_group_size=ROW_GROUP)
    first = folder / "data" / "train-001.parquet"
    for number in range(1, times):
        path = folder / "data" / f"train-{number:03d}.parquet"
        if path == first:
            pq.write_table(table.take(pa.array(split.train)), path, row_group_size=ROW_GROUP)
        else:
            os.link(first, path)


def losses(trainer: object) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def run(settings: argparse.Namespace) -> dict:
    """Train, and read an epoch; what was measured."""
    from ser_hf import protocols
    from ser_hf.cli.output import quiet_transformers
    from ser_hf.cli.train import parse_finetune
    from ser_hf.data import references, streaming
    from ser_hf.training import setup
    from ser_hf.training.streaming.sampler import StreamSampler

    quiet_transformers()
    imported = peak()
    folder = tempfile.mkdtemp()
    words = ["--dataset", settings.child, "--model", settings.model, "--output_dir", folder, "--bf16", "false"]
    words += ["--max_steps", str(settings.steps), "--logging_strategy", "steps", "--logging_steps", "1"]
    words += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    words += ["--patience", "0", "--report_to", "none", "--head_start", "false", "--threads", "1"]
    # a stream does not know the shortest voice, which bounds the masks where silence is cut
    words += ["--silence", "keep", "--cache_frozen", "false", *(["--streaming", "true"] if settings.streaming else [])]
    config, args = parse_finetune(words)
    started = time.perf_counter()
    rows, split = protocols.load_split(config)
    prepared = setup.prepare(config, args, rows, split)
    train, sampler = prepared.trainer.train_dataset, prepared.trainer.recipe.sampler
    ready, seconds = peak(), time.perf_counter() - started
    if settings.order:  # clips in memory, in the order of the stream
        group_of = references.places(streaming.load(settings.child).select(split.train))[1]
        lengths = train.unvaried_lengths()  # what a stream knows before it decodes
        sampler = StreamSampler(
            lambda epoch: lengths, group_of, sampler.steps, sampler.seed, settings.buffer, lambda batches: None
        )
        prepared.trainer.recipe.sampler = prepared.watch.sampler = sampler
    prepared.trainer.train()
    trained = peak()
    started, trained_on, read = time.perf_counter(), [], []
    if settings.streaming:
        whole = references.RowGroup.read
        references.RowGroup.read = lambda group: read.append(group) or whole(group)
        sampler.epoch = 1
        for batch in sampler:
            trained_on += [index for _, index in batch if train[_, index]["features"].size]
        assert sorted(trained_on) == list(range(len(split.train))), "an epoch holds every clip once"
        assert len(read) == len(set(read)), "a row group is read once"
    return {
        "clips": len(split.train),
        "losses": losses(prepared.trainer),
        "kept": train.stream.most_kept if settings.streaming else 0,
        "groups": len(read),
        "imported": imported,
        "ready": ready,
        "ready_seconds": seconds,
        "trained": trained,
        "peak": peak(),
        "epoch_seconds": time.perf_counter() - started,
    }


def peak() -> float:
    """The most memory that this process held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(settings: argparse.Namespace, folder: Path, *flags: str) -> dict:
    command = [sys.executable, __file__, str(settings.dataset), "--child", str(folder)]
    command += ["--steps", str(settings.steps), "--model", settings.model, "--buffer", str(settings.buffer), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder that `ser-hf data` wrote")
    parser.add_argument("--times", type=int, default=10, help="of the training clips in the larger dataset")
    parser.add_argument("--steps", type=int, default=40, help="trained of each")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--buffer", type=int, default=1000, help="clips that are shuffled together")
    parser.add_argument("--in_memory", action="store_true", help="also the larger one in memory")
    for hidden in ("--child", "--streaming", "--order"):
        parser.add_argument(hidden, help=argparse.SUPPRESS, **({} if hidden == "--child" else {"action": "store_true"}))
    settings = parser.parse_args()
    if settings.child:
        print(json.dumps(run(settings)))
        return
    with tempfile.TemporaryDirectory(dir=settings.dataset.parent) as folder:
        once, larger = Path(folder, "once"), Path(folder, "times")
        multiplied(settings.dataset, once, 1)
        multiplied(settings.dataset, larger, settings.times)
        runs = {
            "in memory, the order of the stream": measure(settings, once, "--order"),
            "streaming": measure(settings, once, "--streaming"),
            f"streaming, {settings.times} times": measure(settings, larger, "--streaming"),
        }
        if settings.in_memory:
            runs[f"in memory, {settings.times} times"] = measure(settings, larger)
    print("| training | clips | peak MB | of it imports | read before step 1 s | one epoch read s | clips kept |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, row in runs.items():
        cells = (f"{row['clips']:,}", f"{row['peak']:,.0f}", f"{row['imported']:,.0f}", f"{row['ready_seconds']:.1f}")
        print(f"| {name} | {' | '.join(cells)} | {row['epoch_seconds']:.0f} | {row['kept']:,} |")
    memory, stream, many = list(runs.values())[:3]
    difference = np.abs(np.array(memory["losses"]) - stream["losses"]).max()
    print(f"losses of {len(stream['losses'])} steps differ by at most {difference:.2g} of those in memory")
    print(f"peak at {settings.times} times the data: {many['peak'] / stream['peak'] - 1:+.1%}")
    assert difference < 1e-6, "streaming trains as clips in memory do"
    assert many["kept"] < settings.buffer + 1_000, "memory does not grow with the data"


if __name__ == "__main__":
    main()
