"""A source-filter voice that writes small stand-ins for both corpora, for work without the recordings.

No human voice: pulses and noise through formant resonances (Fant 1960). An emotion is prosody - pitch level, range and
contour, tempo, energy, pauses, roughness, breath - and every speaker has a pitch, formants, tempo and a manner of
acting of their own, so that recognising an emotion in a voice heard before is easier than in a new one.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import soundfile

from ser_hf.audio import SAMPLING_RATE
from ser_hf.corpora import ravdess
from ser_hf.emotions import EMOTIONS, TESS_NAMES

NOTICE = (
    "Synthetic voices (ser_hf.corpora.synthetic): no human speaks here, and no figure on them is about human speech."
)
WORDS: tuple[str, ...] = ("back", "bar", "base", "bath", "bean", "beg", "bite", "boat", "bone", "book")

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
    """How something is said. Semitones are relative to the speaker's own pitch; contours rise over the utterance."""

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

# Standard deviations, in the order of Prosody: between two takes, and between the manners of two speakers.
_TAKE = np.array([0.4, 0.3, 0.5, 0.02, 0.6, 0.02, 0.008, 0.02, 0.02])
_MANNER = np.array([1.4, 1.1, 1.9, 0.075, 1.4, 0.075, 0.03, 0.095, 0.075])
_LEAST = np.array([-12, 0.2, -14, 0.5, -30, 0.03, 0, 0, 0.02])
_MOST = np.array([14, 14, 14, 1.8, 20, 0.9, 0.4, 0.9, 0.9])


@dataclass(frozen=True)
class Voice:
    """A speaker: pitch in Hz, formants relative to a man's, pace in syllables a second, manner as offsets from it."""

    pitch: float
    formants: float
    pace: float
    manner: np.ndarray  # shape (emotions, fields of Prosody)

    @classmethod
    def of(cls, speaker: str, female: bool, seed: int = 0) -> "Voice":
        """The voice of a named speaker, always the same for the same seed."""
        rng = np.random.default_rng([seed, *speaker.encode()])
        pitch = rng.uniform(165, 245) if female else rng.uniform(85, 145)
        formants = rng.normal(1.16 if female else 1.0, 0.05)
        manner = rng.normal(size=(len(EMOTIONS), len(_MANNER))) * _MANNER
        return cls(pitch, formants, rng.uniform(4.2, 5.8), manner)


def say(voice: Voice, emotion: str, syllables: list[int], rng: np.random.Generator) -> np.ndarray:
    """One utterance, float64 of shape `(samples,)` at 16 kHz; `syllables` are indices of vowels."""
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
    """The glottal source: a pulse each period (Rosenberg 1971), every second one weaker if rough, and breath."""
    cycles = np.cumsum(pitch / SAMPLING_RATE)
    phase, count = np.modf(cycles)
    jitter = rng.normal(size=int(cycles[-1]) + 2)[count.astype(int)]
    strength = 1 - prosody.rough * (0.5 + 0.5 * (count % 2)) + 0.3 * prosody.rough * jitter
    flow = np.where(phase < 0.6, 6.75 * (phase / 0.6) ** 2 * (1 - phase / 0.6), 0)
    return np.diff(flow * strength, prepend=0) + prosody.breath * 0.05 * rng.normal(size=len(pitch))


def _resonate(source: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """Filter frame by frame with the formants `(samples, 4)` at each frame's start, and overlap-add."""
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


def write(folder: Path, seed: int = 0, takes: int = 2, words: int = len(WORDS)) -> tuple[Path, Path]:
    """Write both corpora as 16-bit WAV with the official names; the same seed gives the same bytes.

    Args:
        folder: gets `ravdess/Actor_NN/`, `tess/{OAF,YAF}_<emotion>/` and the notice that no human speaks.
        seed: of the voices and the takes.
        takes: repetitions of each RAVDESS statement (1 or 2): 24 actors x 8 emotions x 2 statements x takes.
        words: TESS words (at most 10): 2 actresses x 7 emotions x words.

    Returns:
        The folders of RAVDESS and of TESS.
    """
    sentences = {1: [0, 1, 0, 2, 1, 3, 0], 2: [3, 2, 0, 4, 1, 3, 0]}
    for actor, speaker in enumerate(ravdess.SPEAKERS, start=1):
        voice = Voice.of(speaker, female=actor % 2 == 0, seed=seed)
        for emotion in EMOTIONS:
            for statement, syllables in sentences.items():
                for take in range(1, takes + 1):
                    stem = ravdess.name(emotion, "normal", statement, take, actor)
                    _write_one(folder / "ravdess" / f"Actor_{actor:02d}" / stem, voice, emotion, syllables, seed)
    for speaker in ("OAF", "YAF"):
        voice = Voice.of(f"tess-{speaker.lower()}", female=True, seed=seed)
        for code, emotion in TESS_NAMES.items():
            for position, word in enumerate(WORDS[:words]):
                syllables = [1, 1, 1, position % 5]
                _write_one(
                    folder / "tess" / f"{speaker}_{code}" / f"{speaker}_{word}_{code}", voice, emotion, syllables, seed
                )
    (folder / "NOTICE.txt").write_text(NOTICE + "\n")
    return folder / "ravdess", folder / "tess"


def _write_one(stem: Path, voice: Voice, emotion: str, syllables: list[int], seed: int) -> None:
    rng = np.random.default_rng([seed, *stem.name.encode()])
    stem.parent.mkdir(parents=True, exist_ok=True)
    samples = np.clip(say(voice, emotion, syllables, rng), -1, 1)
    soundfile.write(f"{stem}.wav", samples, SAMPLING_RATE, subtype="PCM_16")
