"""Robustness: a model's figures on clips with noise, reverberation, codecs and other damage.

Each condition is one kind of damage at one strength. Its random numbers depend only on the seed,
its name and the clip's samples. So a clip is damaged in the same way whatever else is tested.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal

import datasets
import joblib
import numpy as np
from scipy import fft

from ser_hf import audio
from ser_hf.audio import effects, resampling, voice_activity
from ser_hf.data.dataset import decoded_clips
from ser_hf.evaluation import metrics
from ser_hf.evaluation.diagnostics import occlusion
from ser_hf.inference.predictor import Predictor
from ser_hf.utils import progress

_RATE = audio.SAMPLING_RATE
_SHORTEST = round(audio.MIN_SECONDS * _RATE)
_CHUNK = 256  # clips in memory at a time
_LATE = round(0.3 * _RATE)
_MAINS, _HARMONICS = 50.0, 8  # Hz
_LOWEST = 50.0  # Hz: below that, pink noise is flat; microphones record little there, and models use little of it


@dataclass(frozen=True)
class Condition:
    """One kind of damage at one strength."""

    name: str
    kind: str  # what a table groups by
    function: Callable[[np.ndarray, np.random.Generator], np.ndarray]

    def __call__(self, samples: np.ndarray, seed: int = 0) -> np.ndarray:
        """Damage a clip; the input is not changed.

        Args:
            samples: float32, 16 kHz, shape `(samples,)`.
            seed: of what is drawn, together with the condition's name and the samples.

        Returns:
            Float32, shape `(samples,)`; shorter or longer where time was cut or stretched, but not
            below 0.1 s: a clip that would be, and one of no samples, stays as it is.
        """
        if len(samples) == 0:
            return samples
        digest = hashlib.sha256(f"{seed} {self.name} ".encode() + samples.tobytes()).digest()
        rng = np.random.default_rng(np.frombuffer(digest, dtype="<u4"))
        damaged = self.function(samples, rng).astype(np.float32, copy=False)
        return samples if len(damaged) < _SHORTEST else damaged


def gain(samples: np.ndarray, rng: np.random.Generator, decibel: float) -> np.ndarray:
    """Make a clip exactly `decibel` dB louder, without clipping, as models take floats.

    `rng` is not used. It is there because all conditions are called alike.
    """
    return samples * np.float32(10 ** (decibel / 20))


def noise(samples: np.ndarray, rng: np.random.Generator, decibel: float, pink: bool = True) -> np.ndarray:
    """Add Gaussian noise whose power lies `decibel` dB below that of the voiced part.

    The voiced part is that of `ser_hf.audio.voice_activity.voiced_span`. White noise is flat up to
    8 kHz. Pink noise, closer to background noise indoors, falls by 3 dB an octave from 50 Hz on.
    """
    length = fft.next_fast_len(len(samples), real=True)
    added = rng.standard_normal(length)
    if pink:
        frequency = fft.rfftfreq(length, 1 / _RATE)
        added = fft.irfft(fft.rfft(added) / np.sqrt(np.maximum(frequency, _LOWEST)), length)
    return effects.noise(samples, rng, [added[: len(samples)]], decibel, decibel)


def hum(samples: np.ndarray, rng: np.random.Generator, decibel: float) -> np.ndarray:
    """Add hum of the mains, 50 Hz and its harmonics, `decibel` dB below the voiced part.

    The n-th of eight harmonics has 1/n of the amplitude of the first, and a random phase.
    """
    time = np.arange(len(samples)) / _RATE
    phases = rng.uniform(0, 2 * np.pi, _HARMONICS)
    added = sum(np.sin(2 * np.pi * _MAINS * n * time + phase) / n for n, phase in enumerate(phases, start=1))
    return effects.noise(samples, rng, [added], decibel, decibel)


def clipping(samples: np.ndarray, rng: np.random.Generator, share: float = 0.1) -> np.ndarray:
    """Clip the loudest `share` of the voiced samples (`ser_hf.audio.effects.clip_loudest`)."""
    return effects.clip_loudest(samples, share)


def offset(samples: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Add a constant of `share` of full scale, as a poor sound card does; reading takes it away."""
    return samples + np.float32(share)


def trimmed(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut the silence at the edges (`ser_hf.audio.voice_activity.voiced_span`)."""
    start, end = voice_activity.voiced_span(samples)
    return samples[start:end]


def late(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut all before 0.3 s into the voiced part, as in a recording that was started too late."""
    return samples[voice_activity.voiced_span(samples)[0] + _LATE :]


def speed(samples: np.ndarray, rng: np.random.Generator, factor: float) -> np.ndarray:
    """Play `factor` times as fast, which raises the pitch, too.

    The length becomes `ceil(samples / factor)`.
    """
    return resampling.resample(samples, round(_RATE * factor))


def coded(samples: np.ndarray, rng: np.random.Generator, kilobits: float, form: Literal["MP3", "OPUS"]) -> np.ndarray:
    """Encode and decode a clip at so many kbit/s (`ser_hf.audio.effects.encoded`)."""
    return effects.encoded(samples, kilobits, form)


CONDITIONS: tuple[Condition, ...] = (
    Condition("gain -20 dB", "gain", partial(gain, decibel=-20)),
    Condition("gain -10 dB", "gain", partial(gain, decibel=-10)),
    Condition("gain +10 dB", "gain", partial(gain, decibel=10)),
    Condition("noise 20 dB", "noise", partial(noise, decibel=20)),
    Condition("noise 10 dB", "noise", partial(noise, decibel=10)),
    Condition("noise 5 dB", "noise", partial(noise, decibel=5)),
    Condition("noise 0 dB", "noise", partial(noise, decibel=0)),
    Condition("white noise 20 dB", "noise", partial(noise, decibel=20, pink=False)),
    Condition("hum 20 dB", "hum", partial(hum, decibel=20)),
    Condition("hum 10 dB", "hum", partial(hum, decibel=10)),
    Condition("room 0.4 s", "room", partial(effects.reverberate, rt60=0.4)),
    Condition("offset 0.1 %", "offset", partial(offset, share=0.001)),
    Condition("offset 1 %", "offset", partial(offset, share=0.01)),
    Condition("offset 3 %", "offset", partial(offset, share=0.03)),
    Condition("telephone", "codec", effects.codec),
    Condition("mp3 24 kbit/s", "codec", partial(coded, kilobits=24, form="MP3")),
    Condition("opus 16 kbit/s", "codec", partial(coded, kilobits=16, form="OPUS")),
    Condition("clipped 10 %", "clipping", partial(clipping, share=0.1)),
    Condition("edges trimmed", "trimming", trimmed),
    Condition("starts 0.3 s late", "trimming", late),
    Condition("speed -10 %", "speed", partial(speed, factor=0.9)),
    Condition("speed +10 %", "speed", partial(speed, factor=1.1)),
)
"""`noise` is pink, and its decibels are below the level of the voiced part."""


def evaluate_robustness(
    predictor: Predictor, dataset: datasets.Dataset, indices: list[int], probabilities: np.ndarray, seed: int = 0
) -> dict:
    """Test a model on clips that are damaged in each of `CONDITIONS`.

    Args:
        predictor: a model with the eight labels, in the order of `ser_hf.labels.EMOTIONS`.
        dataset: with `audio` and `label`; memory does not grow with its length.
        indices: of the clips, such as those of a test side.
        probabilities: of the undamaged clips, in their order, shape `(len(indices), 8)`.
        seed: of the noise and the impulse responses.

    Returns:
        `n`, `seed`, `clean` {`uar`, `accuracy`}, `silence` {`abstained`}, and `conditions`, a list
        of {`name`, `kind`, `uar`, `accuracy`, `share`, `flips`}. `abstained` is the share of clips
        whose background noise alone has no voice, so that there is no answer. `share` is UAR
        divided by that of the undamaged clips. `flips` is the share of clips whose predicted label
        the damage changes. All of it can be written as JSON.

    Raises:
        ser_hf.audio.AudioError: for a clip that cannot be decoded.
    """
    rows = dataset.select(indices)
    references, clean = np.array(rows["label"], dtype=np.int64), probabilities.argmax(axis=1)
    undamaged = _figures(references, clean)
    answers, answered = _predictions(predictor, rows, seed)
    figures = [_figures(references, row) for row in answers]
    return {
        "n": len(rows),
        "seed": seed,
        "clean": undamaged,
        "silence": {"abstained": 1 - answered / max(len(rows), 1)},
        "conditions": [
            {
                "name": condition.name,
                "kind": condition.kind,
                **found,
                "share": found["uar"] / undamaged["uar"] if undamaged["uar"] else 0.0,
                "flips": float(np.count_nonzero(row != clean) / max(len(rows), 1)),
            }
            for condition, row, found in zip(CONDITIONS, answers, figures, strict=True)
        ],
    }


def _predictions(predictor: Predictor, rows: datasets.Dataset, seed: int) -> tuple[np.ndarray, int]:
    """Class indices of shape `(conditions, rows)`, and in how many noise floors voice is found."""
    answers, answered = np.zeros((len(CONDITIONS), len(rows)), dtype=np.int64), 0
    with (
        progress.bar("Predicting damaged clips", answers.size) as bar,
        ThreadPoolExecutor(joblib.cpu_count()) as pool,
    ):
        start, source = 0, decoded_clips(rows)
        while clips := list(islice(source, _CHUNK)):
            answered += sum(pool.map(partial(_has_voiced_noise, predictor), clips))
            for condition, row in zip(CONDITIONS, answers, strict=True):
                damaged = list(pool.map(partial(_read_damaged, condition, seed=seed), clips))
                row[start : start + len(clips)] = predictor.probabilities(damaged).argmax(axis=1)
                bar.update(len(clips))
            start += len(clips)
    return answers, answered


def _has_voiced_noise(predictor: Predictor, clip: np.ndarray) -> bool:
    """Whether voice is found in the background noise of a clip alone."""
    return predictor.voice.has_voice(occlusion.noise_floor(clip))


def _read_damaged(condition: Condition, clip: np.ndarray, seed: int) -> np.ndarray:
    """A damaged clip as every recording is read: without its offset."""
    return audio.load(condition(clip, seed))


def _figures(references: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    figures = metrics.scores(metrics.confusion(references, answers))
    return {name: float(figures[name]) for name in ("uar", "accuracy")}
