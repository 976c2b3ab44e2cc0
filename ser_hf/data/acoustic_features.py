"""Acoustic features of whole recordings for the classical baselines, computed once and cached."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import joblib
import numpy as np
import torch
import torchaudio
from threadpoolctl import threadpool_limits

from ser_hf import audio
from ser_hf.errors import UserError, choose_one
from ser_hf.utils import files, packages, progress

VERSION = 2
"""Part of the cache's name: another decoding or another feature needs another version."""

WIDTHS = {"mfcc": 40, "egemaps": 88}
"""Numbers of a recording, by the kind of features."""


class AcousticsError(UserError):
    """Features that cannot be computed."""


def features(rows: datasets.Dataset, kind: str, cache_dir: str | Path | None = None) -> np.ndarray:
    """Return features of every recording, from the cache where it holds the samples.

    The cache is one file a kind, which grows. Its keys are digests of the samples, so that datasets
    share it. Processes may use it at once.

    Args:
        rows: with the columns `audio`, `file` and `sha256`; a sound that occurs twice is computed
            once.
        kind: a key of `WIDTHS`.
        cache_dir: folder of the cache; `ser_hf` beside the Hub's cache where None.

    Returns:
        Float32 of shape `(len(rows), width)`, in the order of the rows.

    Raises:
        AcousticsError: for an unknown kind, or features that are NaN or infinite.
        UserError: for a missing package.
        AudioError: for a recording that cannot be decoded.
    """
    if kind not in WIDTHS:
        raise AcousticsError(f"'{kind}' are no features: {choose_one(kind, WIDTHS)}")
    path = (Path(cache_dir) if cache_dir else files.cache_dir()) / f"acoustics-{kind}-v{VERSION}.npz"
    values_of, digests = _read(path), rows["sha256"]
    new_rows = {digest: row for row, digest in enumerate(digests) if digest not in values_of}
    if new_rows:
        computed = _compute(rows.select(new_rows.values()), kind)
        values_of |= computed
        _add(path, computed)
    values = [values_of[digest] for digest in digests]
    return np.array(values, dtype=np.float32).reshape(len(digests), WIDTHS[kind])


def require_packages(kind: str) -> None:
    """Refuse features whose package is missing.

    Raises:
        UserError: with the line that installs it.
    """
    if kind == "egemaps":
        packages.require("eGeMAPS", "opensmile", "'ser-hf[baselines]'")


def mfcc(samples: np.ndarray) -> np.ndarray:
    """Return the means over time of 40 mel-frequency cepstral coefficients, shape `(40,)`.

    Samples are float32 at 16 kHz. `librosa.feature.mfcc(n_mfcc=40)` defines them so (McFee et al.
    2015): Hann windows of 2,048 samples every 512; 128 mels on Slaney's scale with Slaney's norm;
    power to dB, 80 dB deep; an orthonormal DCT-II.
    """
    return _mfcc_of()(samples)


def egemaps(samples: np.ndarray) -> np.ndarray:
    """Return the 88 functionals of eGeMAPSv02 (Eyben et al. 2016), shape `(88,)`.

    Samples are float32 at 16 kHz.

    Raises:
        UserError: where the package opensmile is missing.
    """
    return _egemaps_of()(samples)


def _mfcc_of() -> Callable[[np.ndarray], np.ndarray]:
    spectrum = {"n_fft": 2048, "hop_length": 512, "pad_mode": "constant"}
    mels = {"n_mels": 128, "mel_scale": "slaney", "norm": "slaney"}
    transform = torchaudio.transforms.MFCC(audio.SAMPLING_RATE, 40, melkwargs=spectrum | mels)
    return lambda samples: transform(torch.from_numpy(samples)).mean(-1).numpy()


def _egemaps_of() -> Callable[[np.ndarray], np.ndarray]:
    require_packages("egemaps")
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)

    def compute(samples: np.ndarray) -> np.ndarray:
        # opensmile casts to 16 bits without clipping: full scale would wrap round to its opposite
        clipped = audio.to_pcm(samples) / np.float32(32768)
        return smile.process_signal(clipped, audio.SAMPLING_RATE).to_numpy()[0]

    return compute


_FEATURES = {"mfcc": _mfcc_of, "egemaps": _egemaps_of}


def _compute(rows: datasets.Dataset, kind: str) -> dict[str, np.ndarray]:
    features_of_samples, names = _FEATURES[kind](), rows["file"]

    def features_of_row(row: int) -> np.ndarray:
        return features_of_samples(audio.load(rows[row]["audio"]))

    # threads: decoding, the FFT and openSMILE are C that lets go of the interpreter
    with threadpool_limits(limits=1), ThreadPoolExecutor(joblib.cpu_count()) as pool:
        results = pool.map(features_of_row, range(len(rows)))
        counted = progress.each(results, f"Computing {kind}", len(rows), "recordings")
        values = np.array(list(counted), dtype=np.float32)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        first = names[int(bad.argmax())]
        raise AcousticsError(f"{kind} of '{first}' is NaN or infinite: remove the recording, or take other features")
    return dict(zip(rows["sha256"], values, strict=True))


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    with np.load(path) as cached:
        return dict(zip(cached["sounds"].tolist(), cached["values"], strict=True))


def _add(path: Path, computed: dict[str, np.ndarray]) -> None:
    """Add features to the cache; it is read again under the lock, as other processes add to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.cache_lock(path):
        cached = _read(path) | computed
        with files.replacing(path) as partial:
            np.savez(partial, sounds=np.array(list(cached)), values=np.array(list(cached.values())))
