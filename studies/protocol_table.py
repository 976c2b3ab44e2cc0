"""Every simple model and a fine-tuned one under every protocol: the table of docs/evidence.md.

    python studies/protocol_table.py --dataset DIR --output DIR [--model tiny] [--seeds 3]
    [--threads N]

Each cell is one command, which is printed. It lies in a folder of its own, `OUTPUT/MODEL/PROTOCOL`.
A finished cell is not run again, and an interrupted training goes on. Fine-tuned models are trained
with each seed. Their row has the interval of the first seed, and mean and standard deviation over
seeds.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from ser_hf.evaluation.baselines import BASELINES
from ser_hf.evaluation.results import Results

PROTOCOLS = ("random", "sentence", "speaker", "emobox-ravdess", "tess-oaf-yaf", "tess-yaf-oaf")
SEVERAL = ("emobox-ravdess",)
"""Protocols whose folds are pooled."""


def ser_hf(*words: object) -> None:
    """Print a command and run it as a user would."""
    line = [str(word) for word in words]
    print(f"$ ser-hf {' '.join(line)}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "ser_hf.cli.main", *line], check=True, stdout=subprocess.DEVNULL)


def baseline(name: str, protocol: str, args: argparse.Namespace) -> list[Results]:
    """Its results, trained where they are not there."""
    folder = args.output / name / protocol
    if not (folder / "results.json").exists():
        fold = ["--fold", "all"] if protocol in SEVERAL else []
        ser_hf("baseline", name, "--dataset", args.dataset, "--protocol", protocol, *fold, "--output", folder)
    return [Results.load(folder / "results.json")]


def finetuned(protocol: str, args: argparse.Namespace) -> list[Results]:
    """Results of each seed, trained where they are not there."""
    runs = []
    for seed in range(42, 42 + args.seeds):
        folder = args.output / Path(args.model).name / protocol / f"seed-{seed}"
        if not (folder / "results.json").exists():
            flags = ["--fold", "all"] if protocol in SEVERAL else []
            flags += ["--threads", args.threads] if args.threads else []
            flags += ["--resume_from_checkpoint", "true"] if folder.exists() else []
            settings = ["--dataset", args.dataset, "--model", args.model, "--protocol", protocol]
            ser_hf("finetune", *settings, "--output_dir", folder, "--seed", seed, *flags)
        runs.append(Results.load(folder / "results.json"))
    return runs


def row(name: str, protocol: str, runs: list[Results]) -> str:
    """A line of Markdown: the first run's figures and interval, mean and sd of UAR over runs."""
    first = runs[0]
    interval = "{:.3f} to {:.3f}".format(*first.ci95["uar"]) if first.ci95 else ""
    ravdess = first.per_corpus.get("ravdess", {}) if len(first.per_corpus) > 1 else {}
    part = f"{ravdess['uar']:.3f}" if ravdess else ""
    part += " ({:.3f} to {:.3f})".format(*ravdess["ci95"]["uar"]) if ravdess.get("ci95") else ""
    spread = [run.uar for run in runs]
    seeds = f"{statistics.fmean(spread):.3f} ± {statistics.stdev(spread):.3f}" if len(runs) > 1 else ""
    figures = f"{first.accuracy:.3f} | {first.uar:.3f} | {first.macro_f1:.3f}"
    return f"| `{protocol}` | {name} | {first.n:,} | {figures} | {interval} | {part} | {seeds} |"


def main() -> None:
    """Fill in what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    print(
        "| protocol | model | clips | accuracy | UAR | macro F1 | 95 % of UAR | UAR of RAVDESS alone | UAR over seeds |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | --- | --- | --- |")
    for protocol in PROTOCOLS:
        for name in BASELINES:
            print(row(name, protocol, baseline(name, protocol, args)), flush=True)
        print(row(Path(args.model).name, protocol, finetuned(protocol, args)), flush=True)


if __name__ == "__main__":
    main()
