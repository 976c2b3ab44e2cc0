"""Acoustic features of whole recordings, as the classical baselines take them; computed once and
kept on disk."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import joblib
import numpy as np
import torch
import torchaudio
from huggingface_hub.constants import HF_HOME
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ser_hf import audio
from ser_hf.errors import UserError

VERSION = 1
"""Of the code that makes what is kept: a change of decoding or of a feature asks for another."""

WIDTHS = {"mfcc": 40, "egemaps": 88}
"""Numbers a recording, by the kind of features."""


class AcousticsError(UserError):
    """Features that cannot be had."""


def features(rows: datasets.Dataset, kind: str, cache_dir: str | Path | None = None) -> np.ndarray:
    """Features of every recording, from the cache where it holds the sound.

    The cache is one file a kind, which grows; it is keyed by the sound, so that datasets share it.

    Args:
        rows: with the columns `audio`, `file` and `sha256`; a sound that occurs twice is computed
            once.
        kind: a key of `WIDTHS`.
        cache_dir: folder of the cache; `ser_hf` beside the Hub's cache where None.

    Returns:
        Float32 of shape `(len(rows), width)`, in the order of the rows.

    Raises:
        AcousticsError: for an unknown kind, a missing package, or features that are NaN or
        infinite. AudioError: for a recording that cannot be decoded.
    """
    if kind not in WIDTHS:
        raise AcousticsError(f"'{kind}' are no features: choose one of {', '.join(WIDTHS)}")
    path = Path(cache_dir or Path(HF_HOME) / "ser_hf") / f"acoustics-{kind}-v{VERSION}.npz"
    known, sounds = _read(path), rows["sha256"]
    new = {sound: place for place, sound in enumerate(sounds) if sound not in known}
    if new:
        known |= _computed(rows.select(new.values()), kind)
        _write(path, _read(path) | known)  # read again: another process may have been here meanwhile
    return np.array([known[sound] for sound in sounds], dtype=np.float32).reshape(len(sounds), WIDTHS[kind])


def mfcc(samples: np.ndarray) -> np.ndarray:
    """Mean over time of 40 mel-frequency cepstral coefficients, shape `(40,)`, of float32 samples
    at 16 kHz.

    As `librosa.feature.mfcc(n_mfcc=40)` defines them (McFee et al. 2015): Hann windows of 2,048
    samples every 512, 128 mels on Slaney's scale with Slaney's norm, power to dB 80 dB deep,
    DCT-II, orthonormal.
    """
    return _mfcc_of()(samples)


def egemaps(samples: np.ndarray) -> np.ndarray:
    """The 88 functionals of eGeMAPSv02 (Eyben et al. 2016), shape `(88,)`, of float32 samples at 16
    kHz.

    Raises:
        AcousticsError: where the package opensmile is missing.
    """
    return _egemaps_of()(samples)


def _mfcc_of() -> Callable[[np.ndarray], np.ndarray]:
    spectrum = {"n_fft": 2048, "hop_length": 512, "pad_mode": "constant"}
    mels = {"n_mels": 128, "mel_scale": "slaney", "norm": "slaney"}
    transform = torchaudio.transforms.MFCC(audio.SAMPLING_RATE, 40, melkwargs=spectrum | mels)
    return lambda samples: transform(torch.from_numpy(samples)).mean(-1).numpy()


def _egemaps_of() -> Callable[[np.ndarray], np.ndarray]:
    try:
        import opensmile
    except ImportError as error:
        raise AcousticsError("eGeMAPS needs the package opensmile: pip install 'ser-hf[baselines]'") from error
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)

    def compute(samples: np.ndarray) -> np.ndarray:
        # opensmile casts to 16 bits without clipping: full scale would wrap round to its opposite
        clipped = audio.to_pcm(samples) / np.float32(32768)
        return smile.process_signal(clipped, audio.SAMPLING_RATE).to_numpy()[0]

    return compute


_COMPUTE = {"mfcc": _mfcc_of, "egemaps": _egemaps_of}


def _computed(rows: datasets.Dataset, kind: str) -> dict[str, np.ndarray]:
    compute, sounds, files = _COMPUTE[kind](), rows["sha256"], rows["file"]

    def of_row(number: int) -> np.ndarray:
        return compute(audio.load(rows[number]["audio"]))

    # threads: decoding, the FFT and openSMILE are C that lets go of the interpreter
    with threadpool_limits(limits=1), ThreadPoolExecutor(joblib.cpu_count()) as pool:
        bar = tqdm(pool.map(of_row, range(len(rows))), total=len(rows), desc=f"Computing {kind}", unit=" recordings")
        values = np.array(list(bar), dtype=np.float32)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        first = files[int(bad.argmax())]
        raise AcousticsError(f"{kind} of '{first}' is NaN or infinite: remove the recording, or take other features")
    return dict(zip(sounds, values, strict=True))


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    with np.load(path) as kept:
        return dict(zip(kept["sounds"].tolist(), kept["values"], strict=True))


def _write(path: Path, known: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(partial, sounds=np.array(list(known)), values=np.array(list(known.values())))
    partial.replace(path)
