"""A synthetic voice: pulses through formants, with the prosody of an emotion."""

from dataclasses import dataclass, fields

import numpy as np

from ser_hf.audio import SAMPLING_RATE
from ser_hf.labels import EMOTIONS

_FRAME, _HOP = 512, 128
_VOWELS = np.array(  # formants 1-4 of /a e i o u/ of a man, Hz (Peterson and Barney 1952)
    [
        [730, 1090, 2440, 3400],
        [530, 1840, 2480, 3500],
        [270, 2290, 3010, 3600],
        [570, 840, 2410, 3300],
        [300, 870, 2240, 3300],
    ]
)
_BANDWIDTHS = np.array([80.0, 100.0, 140.0, 220.0])


@dataclass(frozen=True)
class Prosody:
    """How an utterance is spoken.

    Semitones are relative to the speaker's own pitch; contours rise over the utterance.
    """

    level: float = 0.0  # semitones
    range: float = 2.0  # semitones of movement on each syllable
    contour: float = -2.0  # semitones from the first syllable to the last
    tempo: float = 1.0  # syllables relative to the neutral pace
    energy: float = 0.0  # dB
    attack: float = 0.3  # share of a syllable until it is at full strength
    pause: float = 0.0  # seconds between words
    rough: float = 0.0  # depth of the modulation of successive pulses
    breath: float = 0.1  # noise relative to the pulses


PROSODY: dict[str, Prosody] = {
    "neutral": Prosody(),
    "calm": Prosody(-1.5, 1.0, -3, 0.85, -4, 0.5, 0.05, 0.0, 0.25),
    "happy": Prosody(4, 6, 3, 1.15, 3, 0.2, 0.0, 0.0, 0.1),
    "sad": Prosody(-2, 1.2, -6, 0.7, -7, 0.6, 0.12, 0.1, 0.35),
    "angry": Prosody(4, 3, -3, 1.2, 9, 0.08, 0.0, 0.5, 0.1),
    "fearful": Prosody(7, 2.5, 3, 1.4, 0, 0.15, 0.08, 0.25, 0.45),
    "disgust": Prosody(-3, 4.5, -5, 0.8, 1, 0.25, 0.0, 0.55, 0.2),
    "surprised": Prosody(6, 8, 9, 1.0, 4, 0.12, 0.0, 0.0, 0.15),
}

# Standard deviations, in the order of Prosody: between two takes, and between the manners of two
# speakers.
_TAKE = np.array([0.4, 0.3, 0.5, 0.02, 0.6, 0.02, 0.008, 0.02, 0.02])
_MANNER = np.array([1.4, 1.1, 1.9, 0.075, 1.4, 0.075, 0.03, 0.095, 0.075])
_LEAST = np.array([-12, 0.2, -14, 0.5, -30, 0.03, 0, 0, 0.02])
_MOST = np.array([14, 14, 14, 1.8, 20, 0.9, 0.4, 0.9, 0.9])


@dataclass(frozen=True)
class SyntheticVoice:
    """A speaker: pitch in Hz, formants relative to a man's, syllables a second, and manner."""

    pitch: float
    formants: float
    pace: float
    manner: np.ndarray  # shape (emotions, fields of Prosody)

    @classmethod
    def of(cls, speaker: str, female: bool, seed: int = 0) -> "SyntheticVoice":
        """The voice of a named speaker, always the same for the same seed."""
        rng = np.random.default_rng([seed, *speaker.encode()])
        pitch = rng.uniform(165, 245) if female else rng.uniform(85, 145)
        formants = rng.normal(1.16 if female else 1.0, 0.05)
        manner = rng.normal(size=(len(EMOTIONS), len(_MANNER))) * _MANNER
        return cls(pitch, formants, rng.uniform(4.2, 5.8), manner)


def synthesize(voice: SyntheticVoice, emotion: str, syllables: list[int], rng: np.random.Generator) -> np.ndarray:
    """Synthesize one utterance, float64 of shape `(samples,)` at 16 kHz.

    `syllables` are indices of vowels.
    """
    index = EMOTIONS.index(emotion)
    plain = np.array([getattr(PROSODY[emotion], f.name) for f in fields(Prosody)], dtype=float)
    drawn = plain + voice.manner[index] + rng.normal(size=len(plain)) * _TAKE
    prosody = Prosody(*np.clip(drawn, _LEAST, _MOST))

    syllable = int(SAMPLING_RATE / (voice.pace * prosody.tempo))
    gap = int(SAMPLING_RATE * prosody.pause)
    where = np.concatenate([np.arange(syllable)] * len(syllables)) / syllable  # position within the syllable
    which = np.repeat(np.arange(len(syllables)), syllable)
    through = (which + where) / len(syllables)  # position within the utterance
    semitones = prosody.level + prosody.contour * (through - 0.5) + prosody.range * np.sin(np.pi * where)
    source = _pulses(voice.pitch * 2 ** (semitones / 12), prosody, rng)
    source *= np.minimum(where / prosody.attack, 1) * np.minimum((1 - where) / 0.2, 1)
    vowels = np.array(syllables)[which]
    voiced = _resonate(source, _VOWELS[vowels] * voice.formants)
    words = [voiced[start : start + 2 * syllable] for start in range(0, len(voiced), 2 * syllable)]
    silence = np.zeros(gap)
    lead = rng.integers(800, 4800)
    joined = np.concatenate([np.zeros(lead), *[part for word in words for part in (word, silence)], np.zeros(1600)])
    joined *= 0.05 * 10 ** (prosody.energy / 20) / (np.sqrt(np.mean(joined**2)) + 1e-9)
    return joined + rng.normal(size=len(joined)) * 3e-4


def _pulses(pitch: np.ndarray, prosody: Prosody, rng: np.random.Generator) -> np.ndarray:
    """Make the glottal source: a pulse each period (Rosenberg 1971), roughness and breath."""
    cycles = np.cumsum(pitch / SAMPLING_RATE)
    phase, count = np.modf(cycles)
    jitter = rng.normal(size=int(cycles[-1]) + 2)[count.astype(int)]
    strength = 1 - prosody.rough * (0.5 + 0.5 * (count % 2)) + 0.3 * prosody.rough * jitter
    flow = np.where(phase < 0.6, 6.75 * (phase / 0.6) ** 2 * (1 - phase / 0.6), 0)
    return np.diff(flow * strength, prepend=0) + prosody.breath * 0.05 * rng.normal(size=len(pitch))


def _resonate(source: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """Filter with the formants `(samples, 4)` at each frame's start, and overlap-add."""
    padded = np.pad(source, (_FRAME, _FRAME))
    starts = np.arange(0, len(padded) - _FRAME, _HOP)
    frames = padded[starts[:, None] + np.arange(_FRAME)] * np.hanning(_FRAME)
    centre = formants[np.clip(starts - _FRAME // 2, 0, len(formants) - 1)][:, :, None]
    frequency = np.fft.rfftfreq(_FRAME, 1 / SAMPLING_RATE)
    gain = (1 / (1 + ((frequency - centre) / _BANDWIDTHS[:, None]) ** 2)).sum(axis=1) + 0.02
    shaped = np.fft.irfft(np.fft.rfft(frames) * gain, n=_FRAME)
    output = np.zeros(len(padded))
    for start, frame in zip(starts, shaped, strict=True):
        output[start : start + _FRAME] += frame
    return output[_FRAME:-_FRAME]
