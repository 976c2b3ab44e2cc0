"""How often 95 % intervals hold the truth: ours, the percentiles of a bootstrap over speakers, and
one over clips.

Clips are drawn from a model of eight emotions of unequal difficulty, in which each speaker is
easier or harder than others, overall and by emotion, and is taken for other emotions than others
are. The truth is the mean figure over many fresh draws of speakers with the same clips. Prints a
Markdown table; takes two minutes on two idle cores.

    python benchmarks/coverage.py --simulations 2000 --seed 0
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from ser_hf.evaluation import bootstrap, metrics

RESAMPLES = 300  # of each bootstrap; 2,000, as in use, give the same coverage and take longer
EASE = np.array([0.2, 1.2, -0.4, -0.8, 1.5, 0.3, 0.8, 0.6])  # log odds of recall of each emotion
SPEECH = np.array([4, 8, 8, 8, 8, 8, 8, 8])  # clips of an actor of RAVDESS, speech
SPEECH_AND_SONG = np.array([8, 16, 16, 16, 16, 16, 8, 8])  # clips of an actor of RAVDESS, speech and song
TESS = np.array([200, 0, 200, 200, 200, 200, 200, 199])  # of an actress of TESS
NAMES = ("uar", "accuracy")
METHODS = ("ours", "percentiles over speakers", "percentiles over clips")


@dataclass
class Design:
    """A row of the table."""

    name: str
    clips: np.ndarray
    """Of each emotion by each speaker, shape `(speakers, 8)`."""
    spread: tuple[float, float]
    """Standard deviation of speakers in log odds, overall and by emotion."""
    easier: float = 0.0
    """Added to the log odds of all."""


def designs() -> list[Design]:
    """What is simulated."""
    small, large = (0.4, 0.3), (0.8, 0.8)
    rows = []
    for number in (3, 4, 5, 6, 8, 12, 24):
        rows += [Design(f"{number} × 60", np.tile(SPEECH, (number, 1)), spread) for spread in (small, large)]
    for number in (4, 8, 24):
        sizes = [np.roll(spread_out(size), i) for i, size in enumerate(np.geomspace(20, 100, number))]
        rows += [Design(f"{number} × 20 to 100", np.stack(sizes), spread) for spread in (small, large)]
    rows.append(Design("6 × 60, one emotion by one speaker", without(6, 3, 1), large))
    rows += [Design(f"{number} × 60, easy", np.tile(SPEECH, (number, 1)), large, 3.0) for number in (5, 24)]
    rows.append(Design("4 × 104 and 398", np.stack([SPEECH_AND_SONG] * 4 + [TESS * 2 // 7]), large))
    rows.append(Design("4 × 104 and 1,399", np.stack([SPEECH_AND_SONG] * 4 + [TESS]), large))
    rows.append(Design("24 × 104 and 2 × 1,399", np.stack([SPEECH_AND_SONG] * 24 + [TESS] * 2), large))
    return rows


def spread_out(size: float) -> np.ndarray:
    """Clips of each of eight emotions that add up to `size`, as evenly as possible."""
    return np.diff(np.linspace(0, size, 9).astype(int))


def without(number: int, emotion: int, speakers: int) -> np.ndarray:
    """Speakers of whom only the first ones have an emotion."""
    clips = np.tile(SPEECH, (number, 1))
    clips[speakers:, emotion] = 0
    return clips


def simulate(design: Design, number: int, rng: np.random.Generator) -> np.ndarray:
    """Confusion matrices, shape `(number, speakers, 8, 8)`."""
    speakers, classes = design.clips.shape
    overall, by_emotion = (
        rng.normal(0, deviation, (number, speakers, width))
        for deviation, width in zip(design.spread, (1, classes), strict=True)
    )
    recall = expit(EASE + design.easier + overall + by_emotion)[..., None]
    mistaken = rng.gamma(1.5, size=(number, speakers, classes, classes)) * ~np.eye(classes, dtype=bool)
    answers = np.eye(classes) * recall + mistaken / mistaken.sum(-1, keepdims=True) * (1 - recall)
    return rng.multinomial(np.broadcast_to(design.clips, (number, speakers, classes)), answers)


def percentiles(resampled: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The plain interval of a bootstrap."""
    return {name: np.quantile(values, [0.025, 0.975]) for name, values in resampled.items()}


def over_clips(matrices: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Figures of clips that are drawn one by one, whoever speaks."""
    pooled = matrices.sum(0)
    resamples = np.random.default_rng(seed).multinomial(pooled.sum(), pooled.ravel() / pooled.sum(), size=RESAMPLES)
    return metrics.scores(resamples.reshape(-1, *pooled.shape))


def row(design: Design, simulations: int, seed: list[int]) -> str:
    """A line of the table: how often, in per cent, each method holds the truth."""
    rng = np.random.default_rng(seed)
    draws = [metrics.scores(simulate(design, 1000, rng).sum(1)) for _ in range(20)]
    truth = {name: float(np.mean([figures[name] for figures in draws])) for name in NAMES}
    held = {(method, name): 0 for method in METHODS for name in NAMES}
    for index, matrices in enumerate(simulate(design, simulations, rng)):
        intervals = (
            bootstrap.interval_bounds(matrices, RESAMPLES, index),
            percentiles(bootstrap.resampled_figures(matrices, RESAMPLES, index)),
            percentiles(over_clips(matrices, index)),
        )
        for method, bounds in zip(METHODS, intervals, strict=True):
            for name in NAMES:
                held[method, name] += bounds[name][0] <= truth[name] <= bounds[name][1]
    shares = {key: f"{100 * count / simulations:.1f}" for key, count in held.items()}
    if bootstrap.missing_interval_reason(matrices):  # depends on the design alone
        shares |= {("ours", name): f"none ({shares['ours', name]})" for name in NAMES}
    worth = min(bootstrap.effective_speakers(matrices).values())
    cells = [design.name, f"{worth:.1f}", "{}, {}".format(*design.spread), f"{truth['uar']:.2f}", *shares.values()]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000, help="of each row")
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    print(
        f"Coverage in per cent of intervals of 95 %, {settings.simulations:,} simulations a row, seed {settings.seed}."
    )
    print("`none (x)`: refused, and what the coverage would be.\n")
    head = ["speakers × clips", "worth", "spread", "true UAR", *(f"{m}: {name}" for m in METHODS for name in NAMES)]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rows = designs()
        seeds = [[settings.seed, index] for index in range(len(rows))]
        for line in pool.map(row, rows, [settings.simulations] * len(rows), seeds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
