"""The cache of acoustic features, which several processes read and renew."""

import threading

import numpy as np

from ser_hf.data import acoustic_features


def test_writers_at_once_lose_nothing(rows, tmp_path, monkeypatch):
    """Eight writers read the cache empty, compute different rows, and add them at the same time."""
    barrier = threading.Barrier(8)

    def features_of(part, kind):
        barrier.wait()  # all have read the cache before any writes
        return {digest: np.full(40, part[row]["duration"]) for row, digest in enumerate(part["sha256"])}

    monkeypatch.setattr(acoustic_features, "_compute", features_of)
    parts = [rows.select([2 * number, 2 * number + 1]) for number in range(8)]
    threads = [threading.Thread(target=acoustic_features.features, args=(part, "mfcc", tmp_path)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with np.load(tmp_path / f"acoustics-mfcc-v{acoustic_features.VERSION}.npz") as cached:
        kept = dict(zip(cached["sounds"].tolist(), cached["values"][:, 0].tolist(), strict=True))
    assert kept == {
        digest: np.float32(duration)
        for digest, duration in zip(rows["sha256"][:16], rows["duration"][:16], strict=True)
    }
