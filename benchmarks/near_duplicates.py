"""Misses and false alarms of the near-duplicate search on a built dataset.

From 200 recordings (seeded) copies are planted: trimmed, louder, softer, resampled, transcoded,
noisy, and all at once. A copy is found if it is paired with its source. A false alarm is any pair
of two recordings of the dataset, or of a copy with a recording that is not its source (nor known to
be the same).

    .venv/bin/python benchmarks/near_duplicates.py DATASET
"""

import argparse
import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import soundfile

from ser_hf import audio
from ser_hf.audio import fingerprint, resampling
from ser_hf.data import dataset


def transcoded(container: str, subtype: str, quality: float | None) -> Callable:
    """Through a lossy codec of libsndfile; quality 0 is its best and 1 its worst."""

    def change(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, 16_000, format=container, subtype=subtype, compression_level=quality)
        return audio.load(buffer.getvalue())

    return change


def trimmed(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cut = int(rng.uniform(0.1, 0.5) * 16_000)
    return samples[cut:] if rng.integers(2) else samples[:-cut]


def gained(decibels: float) -> Callable:
    return lambda samples, rng: audio.to_pcm(samples * 10 ** (decibels / 20)) / np.float32(32768)


def resampled(rate: int) -> Callable:
    return lambda samples, rng: resampling.resample(resampling.resample(samples, 16_000, rate), rate)


def noisy(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return samples + rng.normal(size=len(samples)) * np.sqrt(np.mean(samples**2)) * 10 ** (-40 / 20)


MP3, OPUS = ("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS")


def everything(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    for change in (trimmed, gained(rng.uniform(-12, 12)), resampled(22_050), noisy, transcoded(*MP3, None)):
        samples = change(samples, rng)
    return samples


CHANGES: dict[str, Callable] = {
    "trimmed by 0.1 to 0.5 s at one end": trimmed,
    "12 dB louder, clipped": gained(12),
    "12 dB softer": gained(-12),
    "resampled to 8 kHz and back": resampled(8_000),
    "resampled to 44.1 kHz and back": resampled(44_100),
    "MP3, default quality": transcoded(*MP3, None),
    "MP3, half quality": transcoded(*MP3, 0.5),
    "MP3, lowest quality": transcoded(*MP3, 0.99),
    "Opus, default quality": transcoded(*OPUS, None),
    "Opus, half quality": transcoded(*OPUS, 0.5),
    "Opus, lowest quality": transcoded(*OPUS, 0.99),
    "white noise at 40 dB": noisy,
    "trimmed, gain, 22.05 kHz, noise, MP3": everything,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--planted", type=int, default=200)
    args = parser.parse_args()
    rows = dataset.load(args.dataset)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(rows), min(args.planted, len(rows)), replace=False).tolist()

    def of_row(position: int) -> fingerprint.Fingerprint:
        return fingerprint.fingerprint(audio.load(rows[position]["audio"]))

    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        prints = list(pool.map(of_row, range(len(rows))))
    copies = []  # (change, source)
    for name, change in CHANGES.items():
        for source in chosen:
            samples = change(audio.load(rows[source]["audio"]), rng).astype(np.float32)
            prints.append(fingerprint.fingerprint(samples))
            copies.append((name, source))

    started = time.perf_counter()
    near = fingerprint.near_duplicates(prints[: len(rows)], max_error=0.3)
    seconds = time.perf_counter() - started
    pairs = fingerprint.near_duplicates(prints)
    inside = [pair for pair in pairs if pair.second < len(rows)]
    duplicates = [set(group) for group in fingerprint.group_pairs([(pair.first, pair.second) for pair in inside])]
    errors_by_change, false_alarms = {}, []
    for pair in pairs:
        if pair.first < len(rows) <= pair.second:
            name, source = copies[pair.second - len(rows)]
            if pair.first == source:
                errors_by_change.setdefault(name, []).append(pair.error)
            elif not any({pair.first, source} <= group for group in duplicates):
                false_alarms.append((name, rows[source]["file"], rows[pair.first]["file"], pair.error))

    print(
        f"{len(rows):,} recordings, {len(chosen)} of them copied; share of differing bits up to {fingerprint.MAX_ERROR}"
    )
    print(f"{'change':40} {'found':>9} {'largest error':>14}")
    for name in CHANGES:
        errors = errors_by_change.get(name, [])
        print(f"{name:40} {len(errors) / len(chosen):9.1%} {max(errors, default=float('nan')):14.3f}")
    print(f"pairs within the dataset: {len(inside)} of {len(rows) * (len(rows) - 1) // 2:,}")
    for pair in inside:
        equal = rows[pair.first]["sha256"] == rows[pair.second]["sha256"]
        verdict = "the same samples" if equal else "FALSE ALARM unless they are the same recording"
        print(f"  {rows[pair.first]['file']} = {rows[pair.second]['file']}: error {pair.error}, {verdict}")
    different = [pair for pair in near if rows[pair.first]["sha256"] != rows[pair.second]["sha256"]]
    if different:
        closest = min(different, key=lambda pair: pair.error)
        names = f"{rows[closest.first]['file']} and {rows[closest.second]['file']}"
        print(f"the closest two that do not hold the same samples: {names}, error {closest.error:.3f}")
    print(f"comparing the fingerprints of the dataset: {seconds:.0f} s")
    print(f"copies paired with a recording that is not their source: {len(false_alarms)} of {len(copies)} copies")
    for line in false_alarms[:10]:
        print("  ", *line)


if __name__ == "__main__":
    main()
