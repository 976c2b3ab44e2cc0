"""Our resampler against torchaudio's at the rates of real recordings: the ratio of times, and that
both agree."""

import statistics
import time

import numpy as np
import torch
import torchaudio

from ser_hf.audio import resampling

REPEATS = 5


def main() -> None:
    """Alternate the two and print the median and the spread of ratios for each rate."""
    torch.set_num_threads(1)
    print(f"{'rate':>7} {'torchaudio / ours':>18} {'spread':>16} {'largest difference':>20}")
    for rate in (48_000, 44_100, 24_414):
        noise = np.random.default_rng(0).normal(size=2 * rate).astype(np.float32) * 0.1
        ratios, difference = [], 0.0
        for _ in range(REPEATS):
            ours, mine = clock(lambda x=noise, r=rate: resampling.resample(x, r))
            theirs, stock = clock(
                lambda x=noise, r=rate: torchaudio.functional.resample(torch.from_numpy(x), r, 16_000).numpy()
            )
            assert len(mine) == len(stock)
            difference = max(difference, float(np.abs(mine - stock).max()))
            ratios.append(theirs / ours)
        assert difference < 1e-3, "the two resamplers disagree"
        spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
        print(f"{rate:7,} {statistics.median(ratios):18.1f} {spread:>16} {difference:20.1e}")


def clock(function) -> tuple[float, np.ndarray]:  # noqa: ANN001
    """Seconds and result of one call."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
