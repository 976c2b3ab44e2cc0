"""UAR after adaptation to 0, 1, 3, 10, 30 and all unlabelled clips of an unseen speaker.

Each clip is predicted after adaptation to other clips of its speaker
(`ser_hf.experiments.adaptation_study.adapt_across_clips`). Each fold is calibrated by the others.
Draws are repeated. The figure is of all speakers together, with mean and spread over the draws.

A second table has speakers whose clips lack emotions, drawn for each speaker. There adaptation runs
with and without clusters.

    python studies/adaptation_curve.py runs/bundled_model/emobox-ravdess/seed-42
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ser_hf.evaluation import metrics
from ser_hf.experiments import adaptation_study
from ser_hf.inference import speaker_adaptation

COUNTS = (0, 1, 3, 10, 30, None)  # None: all
MISSING, DRAWS = (0, 1, 2, 4), 10


def main() -> None:
    """Print both as Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder with fold-0, fold-1 …, as fine-tuning wrote them")
    args = parser.parse_args()
    folds = [adaptation_study.read_predictions(file.parent) for file in sorted(args.run.glob("fold-*/predictions.csv"))]
    if len(folds) < 2:
        parser.error(f"'{args.run}' holds {len(folds)} folds: train them with --fold all")
    degrees = adaptation_study.cross_fitted_temperatures(folds)
    clips = sum(len(fold.labels) for fold in folds)
    print(f"{clips:,} clips of {len(folds)} folds\n")
    print("| clips adapted to | UAR | sd over draws |\n| ---: | ---: | ---: |")
    for count in COUNTS:
        uar = adaptation_study.adapted_uar(folds, degrees, count)
        name = "all" if count is None else count
        print(f"| {name} | {statistics.fmean(uar):.3f} | {statistics.stdev(uar):.3f} |")
    print("\n| emotions missing | not adapted | without clusters | with clusters |\n| ---: | ---: | ---: | ---: |")
    for missing in MISSING:
        columns = zip(*(lacking(folds, degrees, missing, draw) for draw in range(DRAWS)), strict=True)
        print(f"| {missing} | {' | '.join(f'{statistics.fmean(column):.3f}' for column in columns)} |")


def lacking(
    folds: list[adaptation_study.RunPredictions], degrees: list[float], missing: int, draw: int
) -> Iterator[float]:
    """UAR not adapted, adapted without clusters, and with them."""
    rng = np.random.default_rng([draw, missing])
    subsets = [np.concatenate(list(_without_emotions(fold, missing, rng))) for fold in folds]
    truth = np.concatenate([fold.labels[rows] for fold, rows in zip(folds, subsets, strict=True)])
    for clips, clustered in ((0, 0.0), (None, 0.0), (None, speaker_adaptation.CLUSTERED)):
        moved = [
            adaptation_study.adapt_across_clips(
                fold.select(rows).calibrated(t), np.random.default_rng([draw, place]), clips, clustered
            )
            for place, (fold, rows, t) in enumerate(zip(folds, subsets, degrees, strict=True))
        ]
        yield metrics.scores(metrics.confusion(truth, np.concatenate(moved).argmax(axis=1)))["uar"]


def _without_emotions(
    fold: adaptation_study.RunPredictions, missing: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    for speaker in np.unique(fold.speakers):
        clips = np.flatnonzero(fold.speakers == speaker)
        dropped = rng.choice(np.unique(fold.labels[clips]), missing, replace=False)
        yield clips[~np.isin(fold.labels[clips], dropped)]


if __name__ == "__main__":
    main()
