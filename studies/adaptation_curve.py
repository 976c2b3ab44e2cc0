"""What a few unlabelled clips of an unseen speaker are worth: UAR after adapting on 0, 1, 3, 10, 30
and all of them.

Each clip is answered after adapting on others of its speaker
(`ser_hf.experiments.adaptation_study.crossed`), each fold calibrated by the others. Draws are
repeated; the figure is of all speakers together, mean and spread over the draws. Then the same
where a speaker's clips lack emotions, drawn for each speaker: adapted on all others, with and
without clusters.

    python studies/adaptation_curve.py runs/box/emobox-ravdess/seed-42
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
    folds = [adaptation_study.read_predictions(one.parent) for one in sorted(args.run.glob("fold-*/predictions.csv"))]
    if len(folds) < 2:
        parser.error(f"'{args.run}' holds {len(folds)} folds: train them with --fold all")
    degrees = adaptation_study.temperatures(folds)
    clips = sum(len(one.labels) for one in folds)
    print(f"{clips:,} clips of {len(folds)} folds\n\n| clips heard | UAR | sd over draws |\n| ---: | ---: | ---: |")
    for count in COUNTS:
        found = adaptation_study.adapted(folds, degrees, count)
        shown = "all" if count is None else count
        print(f"| {shown} | {statistics.fmean(found):.3f} | {statistics.stdev(found):.3f} |")
    print("\n| emotions missing | not adapted | moved evenly | and clusters |\n| ---: | ---: | ---: | ---: |")
    for missing in MISSING:
        found = zip(*(lacking(folds, degrees, missing, draw) for draw in range(DRAWS)), strict=True)
        print(f"| {missing} | {' | '.join(f'{statistics.fmean(one):.3f}' for one in found)} |")


def lacking(
    folds: list[adaptation_study.Predictions], degrees: list[float], missing: int, draw: int
) -> Iterator[float]:
    """UAR without adapting, after moving the logits evenly, and after
    `ser_hf.inference.speaker_adaptation.fit`."""
    rng = np.random.default_rng([draw, missing])
    kept = [np.concatenate(list(_kept(one, missing, rng))) for one in folds]
    truth = np.concatenate([one.labels[rows] for one, rows in zip(folds, kept, strict=True)])
    for clips, clustered in ((0, 0.0), (None, 0.0), (None, speaker_adaptation.CLUSTERED)):
        moved = [
            adaptation_study.crossed(
                one.logits[rows] / t, one.speakers[rows], np.random.default_rng([draw, place]), clips, clustered
            )
            for place, (one, rows, t) in enumerate(zip(folds, kept, degrees, strict=True))
        ]
        yield metrics.scores(metrics.confusion(truth, np.concatenate(moved).argmax(axis=1)))["uar"]


def _kept(answers: adaptation_study.Predictions, missing: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    for speaker in np.unique(answers.speakers):
        own = np.flatnonzero(answers.speakers == speaker)
        gone = rng.choice(np.unique(answers.labels[own]), missing, replace=False)
        yield own[~np.isin(answers.labels[own], gone)]


if __name__ == "__main__":
    main()
