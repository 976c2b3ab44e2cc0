"""What the reference of embeddings tells: the share of speakers' clips and of other sound outside.

    python studies/drift.py --dataset DIR [--model DIR] [--clips N]

The first row is of speakers whom neither the Gaussian nor its threshold has seen: of a fourth of
the speakers at a time, by a reference of the others. All other rows are by the reference of all.
"""

import argparse
from collections.abc import Callable

import numpy as np
from sklearn.model_selection import GroupKFold

from ser_hf import BUNDLED_MODEL
from ser_hf.audio import SAMPLING_RATE, effects
from ser_hf.audio.synthesis import SyntheticVoice, synthesize
from ser_hf.data import dataset
from ser_hf.evaluation.adaptation_head import Embedded, spread_over_speakers
from ser_hf.evaluation.diagnostics import robustness
from ser_hf.evaluation.embedding_reference import fit_reference
from ser_hf.inference.bulk.summary import percent, wilson
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import EMOTIONS

DAMAGED = 200
"""Clips that are damaged, and made, of each kind."""


def main() -> None:
    """Embed clips of a dataset, damaged ones and other sound, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", default=BUNDLED_MODEL)
    parser.add_argument("--clips", type=int, default=2000)
    args = parser.parse_args()
    predictor, rows = Predictor(args.model), dataset.load(args.dataset)
    chosen = rows.select(spread_over_speakers(rows, range(len(rows)), args.clips))
    embeddings = predictor.outputs(dataset.decoded_clips(chosen))[1]
    known = Embedded(np.zeros((len(chosen), 8)), embeddings, np.array(chosen["label"]), np.array(chosen["speaker"]))
    print("| recordings | clips | outside | 95 % of it |\n| --- | ---: | ---: | --- |")
    _print_row("speakers left out", unseen_outside(known))
    reference = fit_reference(known, None, "")
    _print_row("training clips themselves", reference.distances(embeddings) > reference.threshold)
    clips = list(dataset.decoded_clips(chosen.select(range(0, len(chosen), max(1, len(chosen) // DAMAGED)))))
    for name, sounds in other_sounds(clips).items():
        found = predictor.outputs(sounds)[1]
        _print_row(name, reference.distances(found) > reference.threshold)


def unseen_outside(known: Embedded) -> np.ndarray:
    """Whether each clip lies outside, by a reference that its speaker has no part in."""
    outside = np.zeros(len(known.speakers), dtype=bool)
    for rest, part in GroupKFold(4).split(known.embeddings, groups=known.speakers):
        others = Embedded(known.logits[rest], known.embeddings[rest], known.labels[rest], known.speakers[rest])
        reference = fit_reference(others, None, "")
        outside[part] = reference.distances(known.embeddings[part]) > reference.threshold
    return outside


def other_sounds(clips: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Damaged clips, synthetic voices, noise and chords, by what they are."""
    rng = np.random.default_rng(0)
    damages: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "the same by telephone": lambda clip: effects.codec(clip, rng),
        "as MP3 of 16 kbit/s": lambda clip: effects.mp3(clip, rng, 16.0, 16.01),
        "with pink noise at 20 dB": lambda clip: robustness.noise(clip, rng, 20.0),
        "with pink noise at 10 dB": lambda clip: robustness.noise(clip, rng, 10.0),
        "with reverberation of 0.6 s": lambda clip: effects.reverberate(clip, rng, 0.6),
    }
    sounds = {name: [np.float32(damage(clip)) for clip in clips] for name, damage in damages.items()}
    voices = [SyntheticVoice.of(str(number), number % 2 == 0) for number in range(20)]
    drawn = [(voices[n % 20], EMOTIONS[n % 8], rng.integers(0, 5, 8).tolist(), rng) for n in range(DAMAGED)]
    sounds["synthetic voices"] = [np.float32(synthesize(*each)) for each in drawn]
    sounds["white noise"] = [np.float32(0.05 * rng.standard_normal(3 * SAMPLING_RATE)) for _ in range(DAMAGED)]
    sounds["chords of a plucked instrument"] = [_chords(rng) for _ in range(DAMAGED)]
    return sounds


def _chords(rng: np.random.Generator) -> np.ndarray:
    """Six triads of decaying harmonics, half a second each."""
    time = np.arange(SAMPLING_RATE // 2) / SAMPLING_RATE
    chords = []
    for root in 220 * 2 ** (rng.integers(0, 24, 6) / 12):
        tones = [np.sin(2 * np.pi * root * step * n * time) / n for step in (1, 1.26, 1.5) for n in (1, 2, 3)]
        chords.append(np.sum(tones, axis=0) * np.exp(-3 * time))
    joined = np.concatenate(chords)
    return np.float32(0.1 * joined / np.abs(joined).max())


def _print_row(name: str, outside: np.ndarray) -> None:
    low, high = wilson(int(outside.sum()), len(outside))
    print(f"| {name} | {len(outside):,} | {percent(outside.mean())} | {percent(low)} to {percent(high)} |", flush=True)


if __name__ == "__main__":
    main()
