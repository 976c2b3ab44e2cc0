"""Near duplicates: the same recording again, though trimmed, louder, resampled, transcoded or a little noisy.

The method is that of Haitsma and Kalker, "A highly robust audio fingerprinting system" (ISMIR 2002): every 12 ms one
32-bit word says whether the energy difference of neighbouring bands between 300 and 2000 Hz grew or fell. A word found
in two recordings proposes how they lie over each other; the share of differing bits over their common frames decides.
What differs from the paper: a window of 0.19 s instead of 0.37 s, and only frames that are not silent count - speakers
who say a sentence twice come closer than songs do. `benchmarks/near_duplicates.py` measures misses and false alarms.
"""

import hashlib
import json
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import joblib
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ser_hf import audio
from ser_hf.audio.fingerprint import VERSION, Fingerprint, fingerprint, groups, near_duplicates

if TYPE_CHECKING:
    import datasets


def in_dataset(rows: "datasets.Dataset") -> list[list[int]]:
    """Groups of rows that hold near duplicates, with all that hold the same samples as one; kept in a cache.

    Args:
        rows: with the columns `audio` and `sha256`.
    """
    from datasets import config

    digests = rows["sha256"]
    name = hashlib.sha256("".join([str(VERSION), *digests]).encode()).hexdigest()[:32]
    kept = Path(config.HF_DATASETS_CACHE) / "ser_hf" / f"near-duplicates-{name}.json"
    if kept.exists():
        return json.loads(kept.read_text())

    def of_row(number: int) -> Fingerprint:
        return fingerprint(audio.load(rows[number]["audio"]))

    same = defaultdict(list)
    for number, digest in enumerate(digests):
        same[digest].append(number)
    once = [numbers[0] for numbers in same.values()]
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(joblib.cpu_count()) as pool:
        bar = tqdm(pool.map(of_row, once), total=len(once), desc="Looking for near duplicates", unit=" recordings")
        pairs = near_duplicates(list(bar))
    alike = groups([(once[pair.one], once[pair.other]) for pair in pairs])
    found = [sorted(row for number in group for row in same[digests[number]]) for group in alike]
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(f".{os.getpid()}")  # several processes of a training may be here at once
    partial.write_text(json.dumps(found))
    partial.rename(kept)
    return found
