"""The time of our resampler and of torchaudio's, alternately, at the rates of real recordings.

    python benchmarks/resample.py [--repeats 5]

It prints the median ratio for each rate and fails where the two disagree.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torchaudio

from ser_hf.audio import resampling

RATES = (48_000, 44_100, 24_414)


def main() -> None:
    """Alternate the two and print the median and the spread of ratios for each rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of each rate")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'rate':>7} {'torchaudio / ours':>18} {'spread':>16} {'largest difference':>20}")
    for rate in RATES:
        noise = np.random.default_rng(0).normal(size=2 * rate).astype(np.float32) * 0.1
        ratios, difference = [], 0.0
        for _ in range(args.repeats):
            seconds, samples = clock(lambda x=noise, r=rate: resampling.resample(x, r))
            stock_seconds, stock_samples = clock(
                lambda x=noise, r=rate: torchaudio.functional.resample(torch.from_numpy(x), r, 16_000).numpy()
            )
            assert len(samples) == len(stock_samples)
            difference = max(difference, float(np.abs(samples - stock_samples).max()))
            ratios.append(stock_seconds / seconds)
        assert difference < 1e-3, "the two resamplers disagree"
        spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
        print(f"{rate:7,} {statistics.median(ratios):18.1f} {spread:>16} {difference:20.1e}")


def clock(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds and result of one call."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
