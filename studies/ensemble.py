"""What other models know that this one does not: UAR of the mean of all logits, and after adapting.

All tested the same clips, and wrote `predictions.csv`. No weight was chosen: each counts the same.

    ser-hf baseline egemaps-logistic --dataset DIR --protocol emobox-ravdess --fold all --output
    runs/logistic python studies/ensemble.py runs/box/emobox-ravdess/seed-42 runs/logistic
"""

import argparse
import dataclasses
import statistics
from pathlib import Path

import numpy as np

from ser_hf.experiments import adaptation_study


def main() -> None:
    """Print a row for each model and one for all together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="with predictions.csv")
    args = parser.parse_args()
    read = [adaptation_study.read_predictions(folder) for folder in args.folders]
    first, clips = read[0], sorted(read[0].files)
    if odd := [str(folder) for folder, one in zip(args.folders, read, strict=True) if sorted(one.files) != clips]:
        parser.error(f"'{odd[0]}' did not test the same clips as '{args.folders[0]}'")
    places = np.argsort(np.argsort(first.files))  # where each of the first's clips stands among all, sorted
    mean = np.mean([one.logits[np.argsort(one.files)][places] for one in read], axis=0)
    rows = [*zip(args.folders, read, strict=True), ("together", dataclasses.replace(first, logits=mean))]
    print(f"{len(first.labels):,} clips\n\n| model | UAR | adapted |\n| --- | ---: | ---: |")
    for name, answers in rows:
        alone, adapted = (statistics.fmean(adaptation_study.adapted([answers], [1.0], n)) for n in (0, None))
        print(f"| {name} | {alone:.3f} | {adapted:.3f} |")


if __name__ == "__main__":
    main()
