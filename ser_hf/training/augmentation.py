"""Augmentation in training, drawn from seed, epoch and clip: of the waveform, of mel frames, of
silence."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np

from ser_hf import audio
from ser_hf.audio import voice_activity
from ser_hf.audio.effects import _RATE, _SHORTEST_RT60, AugmentError, codec, gain, noise, room, speed


def vary(length: int, bounds: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """New start and end for a clip: the silence before and after `bounds` is each cut to a random
    share of itself.

    What is kept touches the voice. The share is u² with u uniform in [0, 1]: a third on average,
    and up to all of it.

    Args:
        length: of the clip, in samples, frames or any other unit.
        bounds: first and one-past-last of what is not silence, in the same unit.
        rng: two numbers are drawn from it, whatever the bounds.
    """
    start, end = bounds
    before, after = (rng.random(2) ** 2).tolist()
    return start - round(before * start), end + round(after * (length - end))


def random_trim(length: int, bounds: tuple[int, int], rng: np.random.Generator, margin: int) -> tuple[int, int]:
    """New start and end for a clip: half of the clips stay whole, on each side of the others at
    most `margin` is left.

    The input of a model that normalises over the clip changes with the silence around a voice: it
    should learn both. Arguments and draws as for `vary`; but three numbers are drawn, and `margin`
    is in the same unit.
    """
    start, end = bounds
    whole, before, after = rng.random(3).tolist()
    if whole < 0.5:
        return 0, length
    return max(0, start - round(before * margin)), min(length, end + round(after * margin))


_FEWEST = 12  # frames: shorter clips are not sped up
_HISS = 0.5  # spread of a noise's log power from frame to frame and bin to bin
_TILT = 1.0  # spread of a noise's log power over the spectrum, at five places


def tempo(mel: np.ndarray, rng: np.random.Generator, share: float = 0.1) -> np.ndarray:
    """Slower or faster by a factor of up to exp(`share`), the pitch unmoved; frames are
    interpolated."""
    frames = int(len(mel) * np.exp(rng.uniform(-share, share)))
    if frames < min(_FEWEST, len(mel)):
        return mel
    return _between(mel, np.linspace(0, len(mel) - 1, frames))


def tract(mel: np.ndarray, rng: np.random.Generator, share: float = 0.06) -> np.ndarray:
    """A longer or shorter vocal tract: the mel axis stretched by a factor of up to exp(`share`).

    Jaitly and Hinton, "Vocal tract length perturbation improves speech recognition" (ICML workshop
    2013), on mel bins.
    """
    bins = mel.shape[1]
    places = np.minimum(np.arange(bins) * np.exp(rng.uniform(-share, share)), bins - 1)
    return np.ascontiguousarray(_between(mel.T, places).T)


def hiss(mel: np.ndarray, rng: np.random.Generator, low: float = 10.0, high: float = 40.0) -> np.ndarray:
    """Stationary noise of a random spectrum, `low` to `high` dB below the clip's loud frames (95th
    percentile)."""
    loud = np.quantile(mel.mean(axis=1), 0.95)
    bins = mel.shape[1]
    tilt = np.interp(np.arange(bins), np.linspace(0, bins - 1, 5), rng.normal(0, _TILT, 5))
    level = loud - rng.uniform(low, high) * np.log(10) / 10 + tilt
    grain = _HISS * rng.standard_normal(mel.shape, dtype=np.float32)
    return np.logaddexp(mel, level.astype(np.float32) + grain)


def bands(mel: np.ndarray, rng: np.random.Generator, widest: float = 10.0) -> np.ndarray:
    """Up to `widest` neighbouring bins become their mean over the clip, which its normalisation
    makes 0.

    Park et al., "SpecAugment" (Interspeech 2019). Where nothing is normalised, they keep their
    mean.
    """
    width = int(rng.integers(0, min(int(widest), mel.shape[1]) + 1))
    start = int(rng.integers(0, mel.shape[1] - width + 1))
    masked = mel.copy()
    masked[:, start : start + width] = mel.mean(axis=0)[start : start + width]
    return masked


def gaps(mel: np.ndarray, rng: np.random.Generator, longest: float = 0.3, rate: float = 100.0) -> np.ndarray:
    """Up to `longest` seconds, of `rate` frames each, become the clip's mean frame (Park et al.
    2019).

    At most a quarter of the clip does.
    """
    length = int(rng.integers(0, min(round(longest * rate), len(mel) // 4) + 1))
    start = int(rng.integers(0, len(mel) - length + 1))
    masked = mel.copy()
    masked[start : start + length] = mel.mean(axis=0)
    return masked


def mix_mels(mel: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """`share` of a clip's power and the rest of another's, which is brought to its level first, and
    cut to its length.

    Zhang et al., "mixup: Beyond empirical risk minimization" (ICLR 2018). Powers of unlike sounds
    add up.
    """
    louder = np.quantile(mel.mean(axis=1), 0.95) - np.quantile(other.mean(axis=1), 0.95)
    common = min(len(mel), len(other))
    mixed = mel + np.float32(np.log(share))
    rest = other[:common] + np.float32(louder + np.log(max(1 - share, 1e-6)))
    mixed[:common] = np.logaddexp(mixed[:common], rest)
    return mixed


def _between(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows at fractional places, linearly."""
    below = places.astype(int)
    above = np.minimum(below + 1, len(rows) - 1)
    share = (places - below).astype(np.float32)[:, None]
    return rows[below] * (1 - share) + rows[above] * share


def mix_waveforms(samples: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """`share * samples + (1 - share) * other`, with `other` cut or followed by silence; the caller
    mixes the labels.

    Zhang et al., "mixup: Beyond empirical risk minimization" (ICLR 2018).
    """
    mixed = samples * np.float32(share)
    common = min(len(samples), len(other))
    mixed[:common] += other[:common] * np.float32(1 - share)
    return mixed


@dataclass(frozen=True)
class Step:
    """One augmentation, as `--augment` names it."""

    apply: Callable[..., np.ndarray]
    """Takes the clip, a generator, and the strength as one or two numbers, which have defaults."""
    of_frames: bool = False
    """Whether it changes log mel frames `(frames, bins)`; else it changes waveforms."""
    lowest: float = 0.0
    highest: float = 0.0
    expected: str = ""
    """The strengths that are allowed, as a message names them; empty where there are none."""
    pair: bool = False
    """Whether the strength is two numbers, the lower first."""


AUGMENTATIONS: dict[str, Step] = {
    # waveforms, in the order of a recording: the speaker, reverberation, other sounds, the line
    "speed": Step(speed, False, 0.02, 0.5, "a share from 0.02 to 0.5, such as speed:0.1"),
    "room": Step(room, False, _SHORTEST_RT60, 5.0, "0.1 to 5 seconds, such as room:0.4"),
    "noise": Step(
        noise, False, -20.0, 60.0, "two numbers of dB, from -20 to 60, the lower first, such as noise:10-30", pair=True
    ),
    "codec": Step(codec),
    "gain": Step(gain, False, 0.1, 40.0, "0.1 to 40 dB, such as gain:6"),
    "tempo": Step(tempo, True, 0.02, 0.5, "a share from 0.02 to 0.5, such as tempo:0.1"),
    "tract": Step(tract, True, 0.01, 0.3, "a share from 0.01 to 0.3, such as tract:0.06"),
    "hiss": Step(
        hiss, True, -20.0, 60.0, "two numbers of dB, from -20 to 60, the lower first, such as hiss:10-40", pair=True
    ),
    "bands": Step(bands, True, 1.0, 40.0, "1 to 40 bins, such as bands:10"),
    "gaps": Step(gaps, True, 0.01, 2.0, "0.01 to 2 seconds, such as gaps:0.3"),
}
"""The augmentations, in the order in which they are applied. One entry adds one."""


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Augmentations in the order in which they are applied; `parse` makes it. Can be pickled for
    worker processes."""

    strengths: dict[str, tuple[float, ...]]  # by name; empty where the function's own are meant
    noises: tuple[np.ndarray, ...]
    probability: float
    own: dict[str, float] = field(default_factory=dict)
    """Probabilities of those that have one of their own."""

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Apply each that changes waveforms with the probability; float32, at least 400 samples if
        it had as many."""
        samples = samples.astype(np.float32, copy=False)
        for name in self._drawn(False, rng):
            extra = [self.noises] if name == "noise" else []
            samples = AUGMENTATIONS[name].apply(samples, rng, *extra, *self.strengths[name])
        return samples

    def of_frames(self, mel: np.ndarray, rng: np.random.Generator, rate: float = 100.0) -> np.ndarray:
        """Apply each that changes log mel frames `(frames, bins)` with the probability; a second
        has `rate` of them."""
        for name in self._drawn(True, rng):
            extra = {"rate": rate} if name == "gaps" else {}
            mel = AUGMENTATIONS[name].apply(mel, rng, *self.strengths[name], **extra)
        return mel

    def names(self, of_frames: bool) -> list[str]:
        """Those that change log mel frames, or waveforms."""
        return [name for name in self.strengths if AUGMENTATIONS[name].of_frames == of_frames]

    def _drawn(self, of_frames: bool, rng: np.random.Generator) -> Iterator[str]:
        likely = {name: self.own.get(name, self.probability) for name in self.names(of_frames)}
        return (name for name, chance in likely.items() if rng.random() < chance)


def parse(text: str, noises: Sequence[np.ndarray] = (), probability: float = 0.5) -> Augmentation:
    """Augmentations from a flag's text, such as `speed:0.1,gain:6,noise:10-30,room:0.4,codec`.

    A strength may be left out; a number after an `@` is the augmentation's own probability, as
    `hiss:10-40@0.2`. They are applied in the order speed, room, noise, codec, gain, and on log mel
    frames (`ser_hf.training.augmentation`) tempo, tract, hiss, bands, gaps, however they are
    written.

    Args:
        text: names, each with `:strength` where it takes one, with commas between them.
        noises: for `noise`, each of shape `(samples,)`.
        probability: of each, for each clip; above 0, up to 1.

    Raises:
        AugmentError: for a name unknown or twice, a strength or probability out of range, `noise`
            without noises.
    """
    strengths, own = _written(text)
    if not 0 < probability <= 1:
        raise AugmentError(f"the probability of augmentation is {probability}: expected more than 0 and at most 1")
    if "noise" in strengths and not any(len(one) for one in noises):
        raise AugmentError(f"'noise' in '{text}' has no noises to add: name a folder of noises, or leave it out")
    return Augmentation(strengths, tuple(one for one in noises if len(one)), probability, own)


def needs_noise(text: str) -> bool:
    """Whether `parse` would need noises for this text. Raises `AugmentError` as `parse` does for
    what is written."""
    return "noise" in _written(text)[0]


def silences(clips: Iterable[np.ndarray], seconds: float = 60.0) -> list[np.ndarray]:
    """Background sound: `seconds` of the clips' `voice_activity.unvoiced_edges`, in order."""
    found = []
    missing = round(seconds * _RATE)
    for clip in clips:
        for edge in voice_activity.unvoiced_edges(clip):
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
    """Strengths and own probabilities as they are written, in the order in which they are
    applied."""
    written, own = {}, {}
    for part in text.split(","):
        part, at, chance = (piece.strip() for piece in part.partition("@"))
        name, colon, strength = (piece.strip() for piece in part.partition(":"))
        if name not in AUGMENTATIONS:
            raise AugmentError(f"'{name}' is no augmentation: choose from {', '.join(AUGMENTATIONS)}")
        if name in written:
            raise AugmentError(f"'{name}' stands twice in '{text}': name it once")
        written[name] = _numbers(name, strength) if colon else ()
        if at:
            own[name] = _chance(part, chance)
    return {name: written[name] for name in AUGMENTATIONS if name in written}, own


def _chance(part: str, chance: str) -> float:
    """The probability that is written after an `@`."""
    number = float(chance) if re.fullmatch(r"\d*\.?\d+", chance, re.ASCII) else 0.0
    if not 0 < number <= 1:
        raise AugmentError(f"'{part}@{chance}' has no probability: expected more than 0 and at most 1 after the @")
    return number


def _numbers(name: str, strength: str) -> tuple[float, ...]:
    """The strength that is written after a name, if it is within the range."""
    step = AUGMENTATIONS[name]
    if not step.expected:
        raise AugmentError(f"'{name}:{strength}' has a strength, and {name} takes none: write {name}")
    number = r"(-?\d+(?:\.\d+)?|-?\.\d+)"
    match = re.fullmatch(rf"{number}-{number}" if step.pair else number, strength, re.ASCII)
    numbers = tuple(float(group) for group in match.groups()) if match else ()
    if not numbers or list(numbers) != sorted(numbers) or numbers[0] < step.lowest or numbers[-1] > step.highest:
        raise AugmentError(f"'{name}:{strength}' is no strength of {name}: expected {step.expected}")
    return numbers
