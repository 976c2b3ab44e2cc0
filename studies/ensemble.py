"""UAR of the mean of several models' logits, before and after adaptation to each speaker.

All models tested the same clips and wrote `predictions.csv`. No weight was chosen: each counts the
same.

    ser-hf baseline egemaps-logistic --dataset DIR --protocol emobox-ravdess --fold all \
        --output runs/logistic
    python studies/ensemble.py runs/bundled_model/emobox-ravdess/seed-42 runs/logistic
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
    runs = [adaptation_study.read_predictions(folder) for folder in args.folders]
    first, clips = runs[0], sorted(runs[0].files)
    for folder, run in zip(args.folders, runs, strict=True):
        if sorted(run.files) != clips:
            parser.error(f"'{folder}' did not test the same clips as '{args.folders[0]}'")
    places = np.argsort(np.argsort(first.files))  # the rank of each of the first run's clips by name
    mean = np.mean([run.logits[np.argsort(run.files)][places] for run in runs], axis=0)
    rows = [*zip(args.folders, runs, strict=True), ("together", dataclasses.replace(first, logits=mean))]
    print(f"{len(first.labels):,} clips\n\n| model | UAR | adapted |\n| --- | ---: | ---: |")
    for name, answers in rows:
        alone, adapted = (statistics.fmean(adaptation_study.adapted_uar([answers], [1.0], n)) for n in (0, None))
        print(f"| {name} | {alone:.3f} | {adapted:.3f} |")


if __name__ == "__main__":
    main()
