"""Waveform augmentation while training: what a clip becomes depends on its samples and the generator's seed alone.

All arrays are float32, 16 kHz, shape `(samples,)`. No function changes its input; one that has nothing to do, as for
a silent clip, returns the input itself. Peaks are not clipped, since models take floats.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np

from ser_hf import audio, spectral
from ser_hf.audio import voice_activity
from ser_hf.audio.effects import _RATE, _SHORTEST_RT60, AugmentError, codec, gain, noise, room, speed

# strengths that can be asked for, and how the message that refuses others says it
_RANGES: dict[str, tuple[float, float, str]] = {
    "speed": (0.02, 0.5, "a share from 0.02 to 0.5, such as speed:0.1"),
    "room": (_SHORTEST_RT60, 5.0, "0.1 to 5 seconds, such as room:0.4"),
    "noise": (-20.0, 60.0, "two numbers of dB, from -20 to 60, the lower first, such as noise:10-30"),
    "gain": (0.1, 40.0, "0.1 to 40 dB, such as gain:6"),
    **spectral.RANGES,
}
_PAIRS = ("noise", "hiss")  # take two numbers


def mixup(samples: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """`share * samples + (1 - share) * other`, with `other` cut or followed by silence; the caller mixes the labels.

    Zhang et al., "mixup: Beyond empirical risk minimization" (ICLR 2018).
    """
    mixed = samples * np.float32(share)
    common = min(len(samples), len(other))
    mixed[:common] += other[:common] * np.float32(1 - share)
    return mixed


# the speaker and where they stand, what else is heard there, then the line and its level
_STEPS: dict[str, Callable[..., np.ndarray]] = {f.__name__: f for f in (speed, room, noise, codec, gain)}
_ALL = _STEPS | spectral.STEPS


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Augmentations in the order in which they are applied; `parse` makes it. Can be pickled for worker processes."""

    strengths: dict[str, tuple[float, ...]]  # by name; empty where the function's own are meant
    noises: tuple[np.ndarray, ...]
    probability: float
    own: dict[str, float] = field(default_factory=dict)
    """Probabilities of those that have one of their own."""

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Apply each that changes waveforms with the probability; float32, at least 400 samples if it had as many."""
        samples = samples.astype(np.float32, copy=False)
        for name in self._drawn(_STEPS, rng):
            samples = _STEPS[name](samples, rng, *([self.noises] if name == "noise" else []), *self.strengths[name])
        return samples

    def of_frames(self, mel: np.ndarray, rng: np.random.Generator, rate: float = 100.0) -> np.ndarray:
        """Apply each that changes log mel frames `(frames, bins)` with the probability; a second has `rate` of them."""
        for name in self._drawn(spectral.STEPS, rng):
            more = {"rate": rate} if name == "gaps" else {}
            mel = spectral.STEPS[name](mel, rng, *self.strengths[name], **more)
        return mel

    def names(self, of_frames: bool) -> list[str]:
        """Those that change log mel frames, or waveforms."""
        return [name for name in self.strengths if (name in spectral.STEPS) == of_frames]

    def _drawn(self, steps: Iterable[str], rng: np.random.Generator) -> Iterator[str]:
        likely = {name: self.own.get(name, self.probability) for name in self.strengths if name in steps}
        return (name for name, chance in likely.items() if rng.random() < chance)


def parse(text: str, noises: Sequence[np.ndarray] = (), probability: float = 0.5) -> Augmentation:
    """Augmentations from a flag's text, such as `speed:0.1,gain:6,noise:10-30,room:0.4,codec`.

    A strength may be left out; a number after an `@` is the augmentation's own probability, as `hiss:10-40@0.2`. They
    are applied in the order speed, room, noise, codec, gain, and on log mel frames (`ser_hf.spectral`) tempo, tract,
    hiss, bands, gaps, however they are written.

    Args:
        text: names, each with `:strength` where it takes one, with commas between them.
        noises: for `noise`, each of shape `(samples,)`.
        probability: of each, for each clip; above 0, up to 1.

    Raises:
        AugmentError: for a name unknown or twice, a strength or probability out of range, `noise` without noises.
    """
    strengths, own = _written(text)
    if not 0 < probability <= 1:
        raise AugmentError(f"the probability of augmentation is {probability}: expected more than 0 and at most 1")
    if "noise" in strengths and not any(len(one) for one in noises):
        raise AugmentError(f"'noise' in '{text}' has no noises to add: name a folder of noises, or leave it out")
    return Augmentation(strengths, tuple(one for one in noises if len(one)), probability, own)


def needs_noise(text: str) -> bool:
    """Whether `parse` would need noises for this text. Raises `AugmentError` as `parse` does for what is written."""
    return "noise" in _written(text)[0]


def silences(clips: Iterable[np.ndarray], seconds: float = 60.0) -> list[np.ndarray]:
    """What the clips' rooms sound like: their edges (`silence.edges`) in order, until `seconds` are collected."""
    found = []
    missing = round(seconds * _RATE)
    for clip in clips:
        for edge in voice_activity.edges(clip):
            found.append(edge[:missing].copy())  # a view would keep the clip in memory
            missing -= len(found[-1])
            if missing <= 0:
                return found
    return found


def from_folder(folder: str | PathLike) -> list[np.ndarray]:
    """All audio files of a folder and those below it, sorted by path.

    Raises:
        AugmentError: if there is no such folder, or no audio in it.
        ser_hf.audio.AudioError: for a file that cannot be read.
    """
    if not Path(folder).is_dir():
        raise AugmentError(f"'{folder}' is not a folder: check the path of the noises")
    files = [path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in audio.SUFFIXES]
    files = [path for path in files if path.is_file() and not path.name.startswith("._")]  # what macOS leaves in zips
    if not files:
        raise AugmentError(f"'{folder}' holds no audio files ({', '.join(audio.SUFFIXES)}): check the path")
    return [audio.load(path) for path in files]


def _written(text: str) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """Strengths and own probabilities as they are written, in the order in which they are applied."""
    written, own = {}, {}
    for part in text.split(","):
        part, at, chance = (piece.strip() for piece in part.partition("@"))
        name, colon, strength = (piece.strip() for piece in part.partition(":"))
        if name not in _ALL:
            raise AugmentError(f"'{name}' is no augmentation: choose from {', '.join(_ALL)}")
        if name in written:
            raise AugmentError(f"'{name}' stands twice in '{text}': name it once")
        written[name] = _numbers(name, strength) if colon else ()
        if at:
            own[name] = _chance(part, chance)
    return {name: written[name] for name in _ALL if name in written}, own


def _chance(part: str, chance: str) -> float:
    """The probability that is written after an `@`."""
    number = float(chance) if re.fullmatch(r"\d*\.?\d+", chance, re.ASCII) else 0.0
    if not 0 < number <= 1:
        raise AugmentError(f"'{part}@{chance}' has no probability: expected more than 0 and at most 1 after the @")
    return number


def _numbers(name: str, strength: str) -> tuple[float, ...]:
    """The strength that is written after a name, if it is within the range."""
    if name not in _RANGES:
        raise AugmentError(f"'{name}:{strength}' has a strength, and {name} takes none: write {name}")
    lowest, highest, expected = _RANGES[name]
    number = r"(-?\d+(?:\.\d+)?|-?\.\d+)"
    match = re.fullmatch(rf"{number}-{number}" if name in _PAIRS else number, strength, re.ASCII)
    numbers = tuple(float(group) for group in match.groups()) if match else ()
    if not numbers or list(numbers) != sorted(numbers) or numbers[0] < lowest or numbers[-1] > highest:
        raise AugmentError(f"'{name}:{strength}' is no strength of {name}: expected {expected}")
    return numbers
