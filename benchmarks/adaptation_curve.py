"""What a few unlabelled clips of an unseen speaker are worth: UAR after adapting on 0, 1, 3, 10, 30 and all of them.

Each speaker's test clips are cut into ten parts at random; those of a part are answered after adapting on clips drawn
from the other nine. Draws are repeated; the figure is of all speakers together, mean and spread over the draws.

    python benchmarks/adaptation_curve.py --dataset runs/dataset --protocol emobox-ravdess runs/fold-0 runs/fold-1 …
"""

import argparse
import statistics
from pathlib import Path

import numpy as np

from ser_hf import adaptation, dataset, evaluation, metrics, protocols
from ser_hf.flags import quiet
from ser_hf.predictor import Predictor

COUNTS = (0, 1, 3, 10, 30, None)  # None: all
PARTS = 10


def main() -> None:
    """Print the curve as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders, one a fold, as fine-tuning wrote them")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--protocol", required=True)
    parser.add_argument("--draws", type=int, default=10)
    args = parser.parse_args()
    quiet()
    rows = dataset.load(args.dataset)
    answers: dict[int | None, list[list[np.ndarray]]] = {count: [[] for _ in range(args.draws)] for count in COUNTS}
    references = []
    for model in args.models:
        predictor = Predictor(model)
        trained = predictor.trained_on
        if trained.get("protocol") != args.protocol:
            parser.error(f"'{model}' was trained under '{trained.get('protocol')}', not '{args.protocol}'")
        tested = rows.select(protocols.split(rows, args.protocol, trained["fold"]).test)
        if seen := set(tested["speaker"]) & set(trained["speakers"]):
            parser.error(f"'{model}' heard {sorted(seen)[0]} in training: an adaptation to it shows nothing")
        logits = evaluation.outputs(predictor, tested)[0]
        labels, speakers = np.array(tested["label"]), np.array(tested["speaker"])
        for speaker in sorted(set(speakers)):
            own = np.flatnonzero(speakers == speaker)
            references.append(labels[own])
            for draw in range(args.draws):
                rng = np.random.default_rng([draw, len(references)])
                for count in COUNTS:
                    answers[count][draw].append(adapted_answers(logits[own], count, rng))
    print(f"{args.protocol}, {Path(args.dataset).name}, {sum(map(len, references)):,} clips, {args.draws} draws\n")
    print("| clips | UAR | sd over draws |\n| ---: | ---: | ---: |")
    truth = np.concatenate(references)
    for count in COUNTS:
        found = [uar(truth, np.concatenate(one)) for one in answers[count]]
        spread = statistics.stdev(found) if args.draws > 1 else 0.0
        print(f"| {'all' if count is None else count} | {statistics.fmean(found):.3f} | {spread:.3f} |")


def adapted_answers(logits: np.ndarray, count: int | None, rng: np.random.Generator) -> np.ndarray:
    """Answers for one speaker's clips `(clips, labels)`, none adapted on a clip of its own part."""
    found = np.zeros(len(logits), dtype=int)
    for part in np.array_split(rng.permutation(len(logits)), PARTS):
        others = np.setdiff1d(np.arange(len(logits)), part)
        drawn = rng.permutation(others)[: len(others) if count is None else count]
        offset = adaptation.fit(logits[drawn], "").offset if len(drawn) else 0.0
        found[part] = (logits[part] + offset).argmax(axis=1)
    return found


def uar(truth: np.ndarray, answers: np.ndarray) -> float:
    """Of all clips."""
    return float(metrics.scores(metrics.confusion(truth, answers))["uar"])


if __name__ == "__main__":
    main()
