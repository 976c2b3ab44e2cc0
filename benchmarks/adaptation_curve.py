"""What a few unlabelled clips of an unseen speaker are worth: UAR after adapting on 0, 1, 3, 10, 30 and all of them.

Each clip is answered after adapting on others of its speaker (`ser_hf.adaptation.crossed`), each fold calibrated by the
others. Draws are repeated; the figure is of all speakers together, mean and spread over the draws.

    python benchmarks/adaptation_curve.py runs/box/emobox-ravdess/seed-42
"""

import argparse
import statistics
from pathlib import Path

from ser_hf import cross_validation

COUNTS = (0, 1, 3, 10, 30, None)  # None: all


def main() -> None:
    """Print the curve as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder with fold-0, fold-1 …, as fine-tuning wrote them")
    args = parser.parse_args()
    folds = [cross_validation.read(one.parent) for one in sorted(args.run.glob("fold-*/predictions.csv"))]
    if len(folds) < 2:
        parser.error(f"'{args.run}' holds {len(folds)} folds: train them with --fold all")
    degrees = cross_validation.temperatures(folds)
    clips = sum(len(one.labels) for one in folds)
    print(f"{clips:,} clips of {len(folds)} folds\n\n| clips heard | UAR | sd over draws |\n| ---: | ---: | ---: |")
    for count in COUNTS:
        found = cross_validation.adapted(folds, degrees, count)
        shown = "all" if count is None else count
        print(f"| {shown} | {statistics.fmean(found):.3f} | {statistics.stdev(found):.3f} |")


if __name__ == "__main__":
    main()
