"""What another model knows that this one does not: UAR of the mean of both's logits, and after adapting.

Both tested the same clips, and wrote `predictions.csv`. Neither weight was chosen: each counts for half.

    python benchmarks/fused.py runs/box/emobox-ravdess/seed-42 runs/egemaps-logistic
"""

import argparse
import csv
import statistics
from pathlib import Path

import numpy as np

from ser_hf import adaptation, metrics
from ser_hf.emotions import EMOTIONS, LABEL2ID

DRAWS = 10


def main() -> None:
    """Print a row for each model and one for both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path, help="folder with predictions.csv, or with fold-0, fold-1 … that have it")
    parser.add_argument("other", type=Path)
    args = parser.parse_args()
    one, other = read(args.one), read(args.other)
    if one.keys() != other.keys():
        parser.error(f"'{args.one}' and '{args.other}' did not test the same clips")
    labels = np.array([LABEL2ID[row["label"]] for row in one.values()])
    speakers = [row["speaker"] for row in one.values()]
    logits = [np.array([[float(rows[file][name]) for name in EMOTIONS] for file in one]) for rows in (one, other)]
    logits = [np.log(np.maximum(chances, 1e-6)) for chances in logits]
    print(f"{len(labels):,} clips\n\n| model | UAR | adapted |\n| --- | ---: | ---: |")
    for name, answers in ((args.one, logits[0]), (args.other, logits[1]), ("both", (logits[0] + logits[1]) / 2)):
        rngs = [np.random.default_rng(draw) for draw in range(DRAWS)]
        moved = statistics.fmean(uar(labels, adaptation.crossed(answers, speakers, rng)) for rng in rngs)
        print(f"| {name} | {uar(labels, answers):.3f} | {moved:.3f} |")


def read(folder: Path) -> dict[str, dict]:
    """Rows of predictions by the name of their clip."""
    found = {}
    for file in sorted(folder.glob("fold-*/predictions.csv")) or [folder / "predictions.csv"]:
        with file.open(newline="") as opened:
            found |= {row["file"]: row for row in csv.DictReader(opened)}
    return dict(sorted(found.items()))


def uar(labels: np.ndarray, logits: np.ndarray) -> float:
    """Unweighted average recall."""
    return float(metrics.scores(metrics.confusion(labels, logits.argmax(axis=1)))["uar"])


if __name__ == "__main__":
    main()
