"""Near duplicates of a dataset: found by fingerprints once, and kept in the cache folder."""

import hashlib
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import joblib
from threadpoolctl import threadpool_limits

from ser_hf import audio
from ser_hf.audio import fingerprint
from ser_hf.utils import files, progress


def near_duplicates_of(rows: datasets.Dataset) -> list[list[int]]:
    """Return groups of rows that hold the same recording, trimmed, scaled or transcoded.

    Rows with the same samples count as one recording. The groups are kept in the cache folder, by
    the digests of the samples.

    Args:
        rows: with the columns `audio` and `sha256`.

    Returns:
        Sorted row numbers of each group.
    """
    digests = rows["sha256"][:]
    cached = _cached(digests)
    if not cached.exists():
        with files.cache_lock(cached):  # the processes of a training come here at once, one computes
            if not cached.exists():
                groups = _compute(rows, digests)
                with files.replacing(cached) as partial:
                    partial.write_text(json.dumps(groups))
    return json.loads(cached.read_text())


def known_near_duplicates(rows: datasets.Dataset) -> list[list[int]] | None:
    """Return the groups of `near_duplicates_of` that were found before; None where none were."""
    cached = _cached(rows["sha256"][:])
    return json.loads(cached.read_text()) if cached.exists() else None


def _cached(digests: list[str]) -> Path:
    key = hashlib.sha256("".join([str(fingerprint.VERSION), *digests]).encode()).hexdigest()[:32]
    return files.cache_dir("near_duplicates") / f"{key}.json"


def _compute(rows: datasets.Dataset, digests: list[str]) -> list[list[int]]:
    rows_of_digest = defaultdict(list)
    for row, digest in enumerate(digests):
        rows_of_digest[digest].append(row)
    distinct = [equal_rows[0] for equal_rows in rows_of_digest.values()]

    def fingerprint_of(row: int) -> fingerprint.Fingerprint:
        return fingerprint.fingerprint(audio.load(rows[row]["audio"]))

    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(joblib.cpu_count()) as pool:
        fingerprints = pool.map(fingerprint_of, distinct)
        counted = progress.each(fingerprints, "Looking for near duplicates", len(distinct), "recordings")
        pairs = fingerprint.near_duplicates(list(counted))
    groups = fingerprint.group_pairs([(distinct[pair.first], distinct[pair.second]) for pair in pairs])
    return [sorted(row for first in group for row in rows_of_digest[digests[first]]) for group in groups]
