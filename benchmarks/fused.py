"""What another model knows that this one does not: UAR of the mean of both's logits, and after adapting.

Both tested the same clips, and wrote `predictions.csv`. No weight was chosen: each counts for half.

    ser-hf baseline egemaps-logistic --dataset DIR --protocol emobox-ravdess --fold all --output runs/logistic
    python benchmarks/fused.py runs/box/emobox-ravdess/seed-42 runs/logistic
"""

import argparse
import dataclasses
import statistics
from pathlib import Path

import numpy as np

from ser_hf import cross_validation


def main() -> None:
    """Print a row for each model and one for both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path, help="folder with predictions.csv")
    parser.add_argument("other", type=Path)
    args = parser.parse_args()
    one, other = (cross_validation.read(folder) for folder in (args.one, args.other))
    if sorted(one.files) != sorted(other.files):
        parser.error(f"'{args.one}' and '{args.other}' did not test the same clips")
    theirs = other.logits[np.argsort(other.files)][np.argsort(np.argsort(one.files))]  # in the order of ours
    both = dataclasses.replace(one, logits=(one.logits + theirs) / 2)
    print(f"{len(one.labels):,} clips\n\n| model | UAR | adapted |\n| --- | ---: | ---: |")
    for name, answers in ((args.one, one), (args.other, other), ("both", both)):
        alone, adapted = (statistics.fmean(cross_validation.adapted([answers], [1.0], n)) for n in (0, None))
        print(f"| {name} | {alone:.3f} | {adapted:.3f} |")


if __name__ == "__main__":
    main()
