"""Effects on a waveform: speed, gain, noise, reverberation, clipping, an offset and codecs."""

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
import soundfile
from scipy import signal

from ser_hf import audio
from ser_hf.audio import resampling, voice_activity
from ser_hf.errors import UserError

_RATE = audio.SAMPLING_RATE
_GRID = 0.02  # of speed: factors of few digits keep the resampler's periods, and with them its matrices, short
_SHORTEST = 400  # samples: one frame of the mel front ends
SHORTEST_RT60 = 0.1  # seconds
_KILOBITS = {"MP3": (8, 160), "OPUS": (6, 256)}  # bounds of the encoders at 16 kHz
TELEPHONE_BAND = (300.0, 3400.0)
"""Hz that a telephone carries."""


class AugmentError(UserError):
    """An augmentation that does not exist or cannot be applied."""


def speed(samples: np.ndarray, rng: np.random.Generator, share: float = 0.1) -> np.ndarray:
    """Play faster or slower; the pitch moves along (Ko et al. 2015, Interspeech).

    The factor is one of 1 ± 0.02, 1 ± 0.04, … within `share`; the length becomes `ceil(samples /
    factor)`. A clip that would fall below 400 samples stays as it is.
    """
    steps = int(share / _GRID + 1e-9)  # 0.1 / 0.02 may be a little less than 5
    step = int(rng.integers(1, steps + 1)) * int(rng.choice([-1, 1]))
    faster = resampling.resample(samples, round(_RATE * (1 + step * _GRID)))
    return samples if len(faster) < _SHORTEST <= len(samples) else faster


def gain(samples: np.ndarray, rng: np.random.Generator, decibel: float = 6.0) -> np.ndarray:
    """Louder or softer by up to `decibel` dB, uniformly."""
    return samples * np.float32(10 ** (rng.uniform(-decibel, decibel) / 20))


def noise(
    samples: np.ndarray, rng: np.random.Generator, noises: Sequence[np.ndarray], low: float = 10.0, high: float = 30.0
) -> np.ndarray:
    """Add a stretch of one of `noises`, `low` to `high` dB below the voice, drawn uniformly.

    A noise shorter than the clip is run forth and back, so that nothing jumps where it starts over.
    A silent clip, or a silent stretch, leaves the clip as it is.

    Args:
        noises: at least one, each of shape `(samples,)`.
        low, high: bounds in dB of the ratio of two mean powers: that of the voiced part
            (`voice_activity.voiced_span`), and that of the stretch.
    """
    ratio = rng.uniform(low, high)
    stretch = _stretch(noises[int(rng.integers(len(noises)))], len(samples), rng)
    start, end = voice_activity.voiced_span(samples)
    wanted_power = _power(samples[start:end]) / 10 ** (ratio / 10)
    noise_power = _power(stretch)
    if wanted_power == 0 or noise_power == 0:
        return samples
    return (samples + stretch.astype(np.float64) * np.sqrt(wanted_power / noise_power)).astype(np.float32)


def room(samples: np.ndarray, rng: np.random.Generator, seconds: float = 0.4) -> np.ndarray:
    """Reverberate as a room of RT60 uniform in (0.1, `seconds`]; length and RMS stay."""
    return reverberate(samples, rng, seconds - (seconds - SHORTEST_RT60) * rng.random())


def reverberate(samples: np.ndarray, rng: np.random.Generator, rt60: float) -> np.ndarray:
    """Reverberation of a random room with an RT60 of so many seconds; same length, same RMS."""
    before = _power(samples)
    if before == 0:
        return samples
    echoed = signal.fftconvolve(samples, _response(rng, rt60))[: len(samples)]
    after = _power(echoed)
    if after == 0:  # float32 underflows
        return samples
    return (echoed * np.sqrt(before / after)).astype(np.float32)


def clipping(samples: np.ndarray, rng: np.random.Generator, share: float = 0.1) -> np.ndarray:
    """Overdrive a microphone: clip the loudest samples of the voice, up to `share` of them."""
    return clip_loudest(samples, share * (1 - rng.random()))


def clip_loudest(samples: np.ndarray, share: float) -> np.ndarray:
    """Clip the loudest `share` of the voiced samples, without restoring the level.

    The limit is the quantile `1 - share` of the magnitudes in `voice_activity.voiced_span`.
    """
    start, end = voice_activity.voiced_span(samples)
    if start == end:
        return samples
    limit = float(np.quantile(np.abs(samples[start:end]), 1 - share))
    return np.clip(samples, -limit, limit) if limit else samples  # 0 where most of it is digital silence


def offset(samples: np.ndarray, rng: np.random.Generator, share: float = 0.02) -> np.ndarray:
    """Add a constant, as a poor sound card does: up to `share` of full scale, of either sign."""
    return samples + np.float32(rng.uniform(-share, share))


def codec(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pass a telephone line: 300 to 3400 Hz, 8 kHz, 8-bit mu-law (ITU-T G.711); length stays.

    The line is driven to full scale, as a recording's level says nothing about that of a call.
    `rng` is not used.
    """
    if not samples.any():
        return samples
    narrow = resampling.resample(_telephone(samples), _RATE, _RATE // 2)
    peak = float(np.abs(narrow).max()) or 1.0
    wide = resampling.resample(_mu_law(narrow / peak) * peak, _RATE // 2)[: len(samples)]
    return _telephone(wide)  # as at both ends of a line: the resampler lets through some of what mirrors at 4 kHz


def line_response(frequencies: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    """What a line leaves of the power at some frequencies: filters at both ends, as in `codec`.

    Args:
        frequencies: in Hz, of any shape.
        lowest: of the band in Hz; 0 for all that is low.
        highest: of the band in Hz, below 8000.
    """
    _, response = signal.sosfreqz(_filter_at_end(lowest, highest), frequencies, fs=_RATE)
    return np.abs(response) ** 4


def mp3(samples: np.ndarray, rng: np.random.Generator, low: float = 16.0, high: float = 48.0) -> np.ndarray:
    """Pass through MP3 of `low` to `high` kbit/s, drawn uniformly (ISO/IEC 11172-3, by LAME)."""
    return encoded(samples, rng.uniform(low, high), "MP3")


def opus(samples: np.ndarray, rng: np.random.Generator, low: float = 8.0, high: float = 24.0) -> np.ndarray:
    """Pass through Opus of `low` to `high` kbit/s, drawn uniformly (RFC 6716, by libopus)."""
    return encoded(samples, rng.uniform(low, high), "OPUS")


def encoded(samples: np.ndarray, kilobits: float, form: Literal["MP3", "OPUS"]) -> np.ndarray:
    """Encode and decode a clip by libsndfile, as float: same length, no delay.

    A silent clip stays as it is.

    Args:
        samples: shape `(samples,)`, 16 kHz.
        kilobits: average bitrate in kbit/s.
        form: `MP3` (LAME; 9 to 160 kbit/s at this rate) or `OPUS` (libopus; 6 to 256 kbit/s).
    """
    if not samples.any():
        return samples
    # libsndfile spreads its compression levels 0 to 1 evenly over the encoder's bitrates, from the
    # highest down. MP3 of a constant bitrate would lack the header from which decoders know the
    # delay.
    settings = {"format": "OGG", "subtype": "OPUS"}
    if form == "MP3":
        settings = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "AVERAGE"}
    lowest, highest = _KILOBITS[form]
    file = io.BytesIO()
    soundfile.write(file, samples, _RATE, compression_level=(highest - kilobits) / (highest - lowest), **settings)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return np.pad(decoded[: len(samples)], (0, max(0, len(samples) - len(decoded))))


def _power(samples: np.ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0


def _stretch(noise: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Take `length` samples of a noise from a random place, back and forth if it is shorter."""
    if len(noise) >= length:
        start = int(rng.integers(len(noise) - length + 1))
        return noise[start : start + length]
    forth_and_back = np.concatenate([noise, noise[::-1]])
    start = int(rng.integers(max(1, len(forth_and_back))))
    return np.resize(np.roll(forth_and_back, -start), length)


def _response(rng: np.random.Generator, rt60: float) -> np.ndarray:
    """Make a room's impulse response: the direct path, then noise that decays by 60 dB in RT60.

    Polack's statistical model of late reverberation (La transmission de l'énergie sonore dans les
    salles, 1988). The echoes have as much energy as the direct path, as at the reverberation radius
    of a room.
    """
    time = np.arange(1, round(rt60 * _RATE), dtype=np.float32) / _RATE
    echoes = rng.standard_normal(len(time), dtype=np.float32) * 10 ** (-3 * time / np.float32(rt60))
    response = np.concatenate([[np.sqrt(np.square(echoes).sum())], echoes])
    return (response / np.sqrt(2) / response[0]).astype(np.float32)


def _filter_at_end(lowest: float, highest: float) -> np.ndarray:
    """Second-order sections of the filter at one end of a line; no high-pass if `lowest` is 0."""
    edges, kind = ([lowest, highest], "bandpass") if lowest else (highest, "lowpass")
    return signal.ellip(5, 0.5, 40, edges, kind, fs=_RATE, output="sos")


_BAND = _filter_at_end(*TELEPHONE_BAND)


def _telephone(samples: np.ndarray) -> np.ndarray:
    return signal.sosfilt(_BAND, samples).astype(np.float32)


def _mu_law(samples: np.ndarray) -> np.ndarray:
    """Code to 8 bits and decode, as ITU-T G.711: 16 steps an octave, a bias of 33 in 14 bits."""
    biased = np.minimum(np.abs(samples) * 8192 + 33, 8191)
    step = np.ldexp(np.float32(1), np.frexp(biased)[1] - 5)
    return np.sign(samples) * (np.floor(biased / step) * step + step / 2 - 33) / 8192
