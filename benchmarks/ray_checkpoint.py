"""What Ray Data's own checkpoints do after a break, beside the rows that labelling goes on by.

    python benchmarks/ray_checkpoint.py [--rows 1000] [--seconds 0.02] [--cores 8] [--scratch DIR]

A pipeline of Ray Data gives each row to an actor, which notes it and takes --seconds, and writes
Parquet with `CheckpointConfig`. The driver and all processes of Ray are killed by SIGKILL when half
of the rows are written, and the same pipeline runs again. The table says how many rows are twice in
the output or missing, how many were asked twice, and what a start costs. The last run has nothing
to do. --cores are those that Ray believes to have; the actors take two. A run that takes --patience
times as long as its work, and a minute, is given up. The script exits with 1 where one is, or where
a row is missing.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow.parquet as pq

ACTORS = 2
BATCH = 10


def run(folder: Path, rows: int, seconds: float, cores: int, checkpoints: bool) -> None:
    """The pipeline, in a process of its own."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.checkpoint import CheckpointConfig

    class Actor:
        def __call__(self, batch: dict) -> dict:
            with open(folder / "asked", "a") as asked:
                asked.write("".join(f"{number}\n" for number in batch["id"]))
            time.sleep(seconds * len(batch["id"]))
            return batch | {"label": ["happy"] * len(batch["id"])}

    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    if checkpoints:
        context.checkpoint_config = CheckpointConfig(
            id_column="id", checkpoint_path=str(folder / "checkpoints"), delete_checkpoint_on_success=False
        )
    data = ray.data.range(rows, override_num_blocks=rows // (BATCH * 5))
    data = data.map_batches(Actor, batch_size=BATCH, compute=ActorPoolStrategy(size=ACTORS), num_cpus=1)
    data.write_parquet(str(folder / "out"))


def start(folder: Path, args: argparse.Namespace, checkpoints: bool) -> subprocess.Popen:
    """Start the pipeline; what it says goes to a log."""
    settings = [str(folder), str(args.rows), str(args.seconds), str(args.cores), str(int(checkpoints))]
    with (folder / "log").open("a") as log:
        return subprocess.Popen([sys.executable, __file__, "--child", *settings], stdout=log, stderr=log)


def finish(folder: Path, args: argparse.Namespace, checkpoints: bool = True) -> float:
    """Seconds of a whole run."""
    began = time.perf_counter()
    process = start(folder, args, checkpoints)
    try:
        if process.wait(60 + args.patience * args.rows * args.seconds):
            sys.exit((folder / "log").read_text()[-3000:])
    except subprocess.TimeoutExpired:
        kill_all(process)
        rows = written(folder).total()
        print(f"given up after {time.perf_counter() - began:.0f} s: {asked(folder):,} asked, {rows:,} written")
        sys.exit(1)
    return time.perf_counter() - began


def kill_all(process: subprocess.Popen) -> None:
    """Kill a driver with every process that it started."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    process.wait()


def written(folder: Path) -> Counter[int]:
    """How often each row is in the output."""
    files = sorted((folder / "out").rglob("*.parquet"))
    return Counter(number for file in files for number in pq.read_table(file)["id"].to_pylist())


def asked(folder: Path) -> int:
    """Rows that actors were given, with those that were given twice."""
    path = folder / "asked"
    return len(path.read_text().split()) if path.exists() else 0


def main() -> None:
    """Run without a break, with one, and again with nothing to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.02, help="that an actor takes for a row")
    parser.add_argument("--cores", type=int, default=8, help="that Ray believes to have")
    parser.add_argument("--patience", type=float, default=5, help="times the work of a run")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        folder, rows, seconds, cores, checkpoints = args.child
        run(Path(folder), int(rows), float(seconds), int(cores), checkpoints == "1")
        return
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folders = {name: Path(scratch, name) for name in ("plain", "whole", "broken")}
        for folder in folders.values():
            folder.mkdir()
        ideal = args.rows * args.seconds / ACTORS
        plain = finish(folders["plain"], args, checkpoints=False)
        whole = finish(folders["whole"], args)
        broken = folders["broken"]
        process = start(broken, args, checkpoints=True)
        while sum(written(broken).values()) < args.rows / 2:
            if process.poll() is not None:
                sys.exit(f"a run ended before it was killed: {(broken / 'log').read_text()[-2000:]}")
            time.sleep(0.2)
        kill_all(process)
        there, noted = written(broken), asked(broken)
        resumed = finish(broken, args)
        rows, after = written(broken), asked(broken)
        again = finish(broken, args)
        last, in_the_end = written(broken), asked(broken)
    missing = args.rows - len(rows)
    print(f"\n{args.rows:,} rows, {ACTORS} actors, {ideal:.0f} s of work for each")
    print("| run | seconds | asked | in the output | twice | missing |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    print(f"| without checkpoints | {plain:.0f} | {args.rows:,} | {args.rows:,} | 0 | 0 |")
    print(f"| with checkpoints | {whole:.0f} | {args.rows:,} | {args.rows:,} | 0 | 0 |")
    print(f"| killed | | {noted:,} | {there.total():,} | {there.total() - len(there):,} | |")
    print(
        f"| resumed | {resumed:.0f} | {after - noted:,} | {rows.total():,} | {rows.total() - len(rows):,} "
        f"| {missing:,} |"
    )
    print(
        f"| again, nothing to do | {again:.0f} | {in_the_end - after:,} | {last.total():,} "
        f"| {last.total() - len(last):,} | {args.rows - len(last):,} |"
    )
    sys.exit(missing > 0)


if __name__ == "__main__":
    main()
