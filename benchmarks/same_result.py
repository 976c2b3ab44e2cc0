"""Validation UAR of the fast recipe and of the stock one, from the same seeds, on untrimmed clips.

    python benchmarks/same_result.py --dataset DIR [--seeds 3] [--epochs 4] [--jobs 2]

Every run is a process with one thread, `--jobs` at a time. Model, split, epochs, batch size and
schedule are the same. Stock runs in fp32, ours in bf16 where the machine has it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
ARMS = {"stock": [], "ours": [], "ours, silence kept": ["--silence", "keep"]}


def run(arm: str, seed: int, dataset: str, model: str, epochs: int) -> list[float]:
    """Validation UAR after each epoch."""
    common = ["--dataset", dataset, "--model", model, "--seed", str(seed), "--threads", "1"]
    if arm == "stock":
        command = [sys.executable, str(FOLDER / "stock_recipe.py"), *common, "--epochs", str(epochs)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return json.loads(out.strip().splitlines()[-1])["uar"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ser_hf.cli.main", "finetune", *common, *ARMS[arm], "--patience", "0"]
        command += ["--num_train_epochs", str(epochs), "--output_dir", f"{folder}/model"]
        subprocess.run(command, capture_output=True, text=True, check=True)
        return [row["eval_uar"] for row in json.loads(Path(folder, "model", "history.json").read_text())]


def main() -> None:
    """Run all arms from all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first_seed", type=int, default=42)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["stock", "ours"])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    tasks = [(arm, seed) for seed in range(args.first_seed, args.first_seed + args.seeds) for arm in args.arms]
    with ThreadPoolExecutor(args.jobs) as pool:
        curves = pool.map(lambda task: _printed(*task, run(*task, args.dataset, args.model, args.epochs)), tasks)
        uar = dict(zip(tasks, curves, strict=True))
    print("| recipe | validation UAR after the last epoch, by seed | mean | sd |\n| --- | --- | ---: | ---: |")
    means = {}
    for arm in args.arms:
        last = [curve[-1] for (name, _), curve in uar.items() if name == arm]
        means[arm], sd = statistics.fmean(last), statistics.stdev(last) if len(last) > 1 else float("nan")
        print(f"| {arm} | {', '.join(f'{value:.3f}' for value in last)} | {means[arm]:.3f} | {sd:.3f} |")
    print(f"ours - stock: {means['ours'] - means['stock']:+.3f}")


def _printed(arm: str, seed: int, uar: list[float]) -> list[float]:
    print(f"{arm}, seed {seed}: {', '.join(f'{value:.3f}' for value in uar)}", file=sys.stderr, flush=True)
    return uar


if __name__ == "__main__":
    main()
