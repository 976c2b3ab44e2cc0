"""UAR of `tiny` on unseen voices, with and without pretraining on the corpus' own sound, by mode.

    python studies/pretraining.py --dataset DIR --output DIR [--epochs 20] [--seeds 3] [--jobs 2]

Pretraining takes the training side of the protocol `speaker` without labels, never a test speaker.
All arms are fine-tuned on the same split from the same seeds. Arms that train all layers use the
settings of `tiny`. Arms that lie in the output folder already are not run again.
"""

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ser_hf.training.config import SCRATCH

FROM_SCRATCH = [word for name, value in SCRATCH.items() for word in (f"--{name}", str(value))]
FROM_SCRATCH += ["--attention", "eager"]  # as `tiny` attends by itself
LORA = ["--mode", "lora", "--attention", "eager", "--num_train_epochs", str(SCRATCH["num_train_epochs"])]
ARMS = {
    "from scratch, full": ("tiny", []),
    "pretrained, full": ("pretrained", FROM_SCRATCH),
    "pretrained, partial (2 of 4 layers)": ("pretrained", ["--mode", "partial", "--layers", "2", *FROM_SCRATCH]),
    "pretrained, lora": ("pretrained", LORA),
    "pretrained, probe": ("pretrained", ["--mode", "probe"]),
    "random weights, probe": ("tiny", ["--mode", "probe"]),
}


def ser_hf(*words: object) -> None:
    """Run a command of ours; end with its errors where it fails."""
    run = subprocess.run([sys.executable, "-m", "ser_hf.cli.main", *map(str, words)], capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr[-3000:])


def arm(name: str, args: argparse.Namespace) -> list[tuple[float, float]]:
    """Best validation UAR and test UAR, by seed."""
    model, flags = ARMS[name]
    folder = args.output / name.translate(str.maketrans(" ", "-", ",()"))
    if not (folder / "repeats.json").exists():
        resume = ["--resume_from_checkpoint", "true"] if folder.exists() else []
        model = model if model == "tiny" else args.output / model
        settings = ["--dataset", args.dataset, "--model", model, "--output_dir", folder, "--seeds", args.seeds]
        ser_hf("finetune", *settings, "--threads", args.threads, *flags, *resume)
    results = [json.loads((run / "results.json").read_text()) for run in sorted(folder.glob("seed-*"))]
    figures = [(max(row["eval_uar"] for row in result["history"]), result["uar"]) for result in results]
    print(
        f"{name}: " + ", ".join(f"{validation:.3f}/{test:.3f}" for validation, test in figures),
        file=sys.stderr,
        flush=True,
    )
    return figures


def main() -> None:
    """Pretrain, run all arms, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of a job")
    args = parser.parse_args()
    pretrained = args.output / "pretrained"
    if not pretrained.exists():
        settings = ["--dataset", args.dataset, "--model", "tiny", "--protocol", "speaker", "--output", pretrained]
        ser_hf("pretrain", *settings, "--epochs", args.epochs)
    history = json.loads((pretrained / "history.json").read_text())
    for row in (history[0], history[-1]):
        print(
            f"pretraining, epoch {row['epoch']:g}: validation loss {row['eval_loss']:.3f}, masked frames "
            f"distinguished from 100 others in {row['eval_accuracy']:.1%}, perplexity {row['eval_perplexity']:.0f}"
        )
    with ThreadPoolExecutor(args.jobs) as pool:
        figures_by_arm = dict(zip(args.arms, pool.map(lambda name: arm(name, args), args.arms), strict=True))
    print("| arm | validation UAR, mean ± sd | test UAR, mean ± sd | test, by seed |\n| --- | ---: | ---: | --- |")
    for name, figures in figures_by_arm.items():
        means = [f"{statistics.fmean(side):.3f} ± {statistics.stdev(side):.3f}" for side in zip(*figures, strict=True)]
        print(f"| {name} | {' | '.join(means)} | {', '.join(f'{test:.3f}' for _, test in figures)} |")


if __name__ == "__main__":
    main()
