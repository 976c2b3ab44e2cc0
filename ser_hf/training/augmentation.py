"""Augmentation of training clips: of their silence, of waveforms, and of mel frames."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np

from ser_hf import audio
from ser_hf.audio import voice_activity
from ser_hf.audio.effects import (
    SHORTEST_RT60,
    TELEPHONE_BAND,
    AugmentError,
    clipping,
    codec,
    gain,
    line_response,
    mp3,
    noise,
    offset,
    opus,
    room,
    speed,
)


def vary(length: int, bounds: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Draw the start and end to cut a clip to: a random share of the silence at each edge stays.

    The share is u² with u uniform in [0, 1], a third on average. The silence next to the voice
    stays.

    Args:
        length: length of the clip, in samples, frames or any other unit.
        bounds: first and one-past-last step of the voice, in the same unit.
        rng: generator, from which two numbers are drawn whatever the bounds.
    """
    start, end = bounds
    before, after = (rng.random(2) ** 2).tolist()
    return start - round(before * start), end + round(after * (length - end))


def random_trim(length: int, bounds: tuple[int, int], rng: np.random.Generator, margin: int) -> tuple[int, int]:
    """Draw the start and end to cut a clip to: all of it, or at most `margin` beside the voice.

    Each happens to half of the clips. For a model that normalises over the clip, the silence around
    a voice changes the input. The model should learn both cases. Arguments are as for `vary`, with
    `margin` in the same unit. Three numbers are drawn.
    """
    start, end = bounds
    decision, before, after = rng.random(3).tolist()
    if decision < 0.5:
        return 0, length
    return max(0, start - round(before * margin)), min(length, end + round(after * margin))


_MIN_FRAMES = 12  # shorter clips are not sped up
_HISS = 0.5  # standard deviation of the log power of a noise, over frames and bins
_LEAST_LEFT = 1e-8  # of the power outside a band
_TILT = 1.0  # standard deviation of the log power of a noise at five points of the spectrum


def tempo(mel: np.ndarray, rng: np.random.Generator, share: float = 0.1) -> np.ndarray:
    """Change the tempo by a factor of up to exp(`share`) without the pitch, by interpolation."""
    frames = int(len(mel) * np.exp(rng.uniform(-share, share)))
    if frames < min(_MIN_FRAMES, len(mel)):
        return mel
    return _interpolated(mel, np.linspace(0, len(mel) - 1, frames))


def tract(mel: np.ndarray, rng: np.random.Generator, share: float = 0.06) -> np.ndarray:
    """Change the length of the vocal tract: stretch the mel axis by a factor of up to exp(`share`).

    Jaitly and Hinton, "Vocal tract length perturbation improves speech recognition" (ICML workshop
    2013), on mel bins.
    """
    bins = mel.shape[1]
    positions = np.minimum(np.arange(bins) * np.exp(rng.uniform(-share, share)), bins - 1)
    return np.ascontiguousarray(_interpolated(mel.T, positions).T)


def hiss(mel: np.ndarray, rng: np.random.Generator, low: float = 10.0, high: float = 40.0) -> np.ndarray:
    """Add stationary noise of a random spectrum, `low` to `high` dB below the clip.

    The level of the clip is the 95th percentile over its frames.
    """
    loud = np.quantile(mel.mean(axis=1), 0.95)
    bins = mel.shape[1]
    tilt = np.interp(np.arange(bins), np.linspace(0, bins - 1, 5), rng.normal(0, _TILT, 5))
    level = loud - rng.uniform(low, high) * np.log(10) / 10 + tilt
    grain = _HISS * rng.standard_normal(mel.shape, dtype=np.float32)
    return np.logaddexp(mel, level.astype(np.float32) + grain)


def band(
    mel: np.ndarray, rng: np.random.Generator, low: float = 3400.0, high: float = 7000.0, *, frequencies: np.ndarray
) -> np.ndarray:
    """Leave the band of a telephone or of a file of low bitrate.

    What lies above an edge is removed, and in half of the clips what lies below 300 Hz, too. The
    filters are those of `ser_hf.audio.effects.codec`.

    Args:
        mel: log mel frames `(frames, bins)`.
        rng: generator, from which two numbers are drawn.
        low, high: bounds in Hz of the edge, which is drawn uniformly.
        frequencies: of the middle of each bin in Hz, shape `(bins,)`.
    """
    highest = rng.uniform(low, high)
    lowest = TELEPHONE_BAND[0] if rng.random() < 0.5 else 0.0
    left = line_response(frequencies, lowest, highest)
    return mel + np.log(np.maximum(left, _LEAST_LEFT)).astype(np.float32)


def bands(mel: np.ndarray, rng: np.random.Generator, widest: float = 10.0) -> np.ndarray:
    """Replace up to `widest` neighbouring bins by their mean over the clip.

    Park et al., "SpecAugment" (Interspeech 2019). Normalisation over the clip makes that mean 0.
    """
    width = int(rng.integers(0, min(int(widest), mel.shape[1]) + 1))
    start = int(rng.integers(0, mel.shape[1] - width + 1))
    masked = mel.copy()
    masked[:, start : start + width] = mel.mean(axis=0)[start : start + width]
    return masked


def gaps(mel: np.ndarray, rng: np.random.Generator, longest: float = 0.3, rate: float = 100.0) -> np.ndarray:
    """Replace up to `longest` seconds, at most a quarter of the clip, by its mean frame.

    Park et al., "SpecAugment" (Interspeech 2019). A second has `rate` frames.
    """
    length = int(rng.integers(0, min(round(longest * rate), len(mel) // 4) + 1))
    start = int(rng.integers(0, len(mel) - length + 1))
    masked = mel.copy()
    masked[start : start + length] = mel.mean(axis=0)
    return masked


def mix_mels(mel: np.ndarray, partner: np.ndarray, share: float) -> np.ndarray:
    """Mix log mel frames: `share` of the power of a clip, and `1 - share` of that of a partner.

    Zhang et al., "mixup: Beyond empirical risk minimization" (ICLR 2018). The partner is first
    brought to the level of the clip, and cut to its length. Powers are added, because the sounds
    are uncorrelated.
    """
    louder = np.quantile(mel.mean(axis=1), 0.95) - np.quantile(partner.mean(axis=1), 0.95)
    common = min(len(mel), len(partner))
    mixed = mel + np.float32(np.log(share))
    added = partner[:common] + np.float32(louder + np.log(max(1 - share, 1e-6)))
    mixed[:common] = np.logaddexp(mixed[:common], added)
    return mixed


def _interpolated(rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Rows at fractional positions, by linear interpolation."""
    below = positions.astype(int)
    above = np.minimum(below + 1, len(rows) - 1)
    share = (positions - below).astype(np.float32)[:, None]
    return rows[below] * (1 - share) + rows[above] * share


def mix_waveforms(samples: np.ndarray, partner: np.ndarray, share: float) -> np.ndarray:
    """Mix waveforms: `share * samples + (1 - share) * partner`.

    Zhang et al., "mixup: Beyond empirical risk minimization" (ICLR 2018). The partner is cut to the
    length of the clip, or followed by silence. The caller mixes the labels.
    """
    mixed = samples * np.float32(share)
    common = min(len(samples), len(partner))
    mixed[:common] += partner[:common] * np.float32(1 - share)
    return mixed


@dataclass(frozen=True)
class Step:
    """One augmentation, as `--augment` names it."""

    apply: Callable[..., np.ndarray]
    """Function of the clip, a generator, and the strength as one or two numbers with defaults."""
    of_frames: bool = False
    """Whether `apply` changes log mel frames `(frames, bins)`, and not waveforms."""
    lowest: float = 0.0
    highest: float = 0.0
    expected: str = ""
    """Allowed strengths, as a message names them; empty where the augmentation has no strength."""
    pair: bool = False
    """Whether the strength is two numbers, the lower first."""


AUGMENTATIONS: dict[str, Step] = {
    # waveforms first, in the order of a recording: speaker, room, microphone, line, file
    "speed": Step(speed, False, 0.02, 0.5, "a share from 0.02 to 0.5, such as speed:0.1"),
    "room": Step(room, False, SHORTEST_RT60, 5.0, "0.1 to 5 seconds, such as room:0.4"),
    "noise": Step(
        noise, False, -20.0, 60.0, "two numbers of dB, from -20 to 60, the lower first, such as noise:10-30", pair=True
    ),
    "clip": Step(clipping, False, 0.001, 0.5, "a share of the samples from 0.001 to 0.5, such as clip:0.1"),
    "offset": Step(offset, False, 0.0001, 0.2, "a share of full scale from 0.0001 to 0.2, such as offset:0.02"),
    "codec": Step(codec),
    "mp3": Step(mp3, False, 9.0, 160.0, "two rates of 9 to 160 kbit/s, such as mp3:16-48", pair=True),
    "opus": Step(opus, False, 6.0, 256.0, "two rates of 6 to 256 kbit/s, such as opus:8-24", pair=True),
    "gain": Step(gain, False, 0.1, 40.0, "0.1 to 40 dB, such as gain:6"),
    "tempo": Step(tempo, True, 0.02, 0.5, "a share from 0.02 to 0.5, such as tempo:0.1"),
    "tract": Step(tract, True, 0.01, 0.3, "a share from 0.01 to 0.3, such as tract:0.06"),
    "hiss": Step(
        hiss, True, -20.0, 60.0, "two numbers of dB, from -20 to 60, the lower first, such as hiss:10-40", pair=True
    ),
    "band": Step(
        band,
        True,
        500.0,
        7900.0,
        "two numbers of Hz, from 500 to 7900, such as band:3400-7000",
        pair=True,
    ),
    "bands": Step(bands, True, 1.0, 40.0, "1 to 40 bins, such as bands:10"),
    "gaps": Step(gaps, True, 0.01, 2.0, "0.01 to 2 seconds, such as gaps:0.3"),
}
"""The augmentations, in the order in which they are applied. One entry adds one augmentation."""


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Augmentations in the order in which they are applied, as `parse` returns them.

    Worker processes can unpickle it.
    """

    strengths: dict[str, tuple[float, ...]]
    """Strength of each augmentation by name; empty for the defaults of its function."""
    noises: tuple[np.ndarray, ...]
    probability: float
    probabilities: dict[str, float] = field(default_factory=dict)
    """Probabilities by name that differ from `probability`."""

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Apply each augmentation of waveforms with its probability.

        Returns:
            Float32 samples, at least 400 if the clip had as many.
        """
        samples = samples.astype(np.float32, copy=False)
        for name in self._draw_names(False, rng):
            extra = [self.noises] if name == "noise" else []
            samples = AUGMENTATIONS[name].apply(samples, rng, *extra, *self.strengths[name])
        return samples

    def of_frames(
        self, mel: np.ndarray, rng: np.random.Generator, frequencies: np.ndarray, rate: float = 100.0
    ) -> np.ndarray:
        """Apply each augmentation of log mel frames with its probability.

        Args:
            mel: shape `(frames, bins)`.
            rng: generator.
            frequencies: of the middle of each bin in Hz, shape `(bins,)`.
            rate: frames in a second.
        """
        extras = {"gaps": {"rate": rate}, "band": {"frequencies": frequencies}}
        for name in self._draw_names(True, rng):
            mel = AUGMENTATIONS[name].apply(mel, rng, *self.strengths[name], **extras.get(name, {}))
        return mel

    def names(self, of_frames: bool) -> list[str]:
        """Names of the augmentations that change log mel frames, or else waveforms."""
        return [name for name in self.strengths if AUGMENTATIONS[name].of_frames == of_frames]

    def _draw_names(self, of_frames: bool, rng: np.random.Generator) -> Iterator[str]:
        """Names to apply, drawn lazily: each draw follows those of the augmentation before."""
        chances = {name: self.probabilities.get(name, self.probability) for name in self.names(of_frames)}
        return (name for name, chance in chances.items() if rng.random() < chance)


def parse(text: str, noises: Sequence[np.ndarray] = (), probability: float = 0.5) -> Augmentation:
    """Parse the text of a flag, such as `speed:0.1,gain:6,noise:10-30,room:0.4,codec`.

    A strength may be left out. A number after an `@` is the probability of that augmentation, as in
    `hiss:10-40@0.2`. The order of `AUGMENTATIONS` holds, not that of the text.

    Args:
        text: names with commas between them, each with `:strength` if it takes one.
        noises: recordings for `noise`, each of shape `(samples,)`.
        probability: of each augmentation for each clip; above 0, up to 1.

    Raises:
        AugmentError: for an unknown or repeated name, a strength or probability out of range, or
            `noise` without noises.
    """
    strengths, probabilities = _parse_text(text)
    if not 0 < probability <= 1:
        raise AugmentError(f"the probability of augmentation is {probability}: expected more than 0 and at most 1")
    if "noise" in strengths and not any(len(clip) for clip in noises):
        raise AugmentError(f"'noise' in '{text}' has no noises to add: name a folder of noises, or leave it out")
    return Augmentation(strengths, tuple(clip for clip in noises if len(clip)), probability, probabilities)


def needs_noise(text: str) -> bool:
    """Whether `parse` needs noises for this text.

    Raises:
        AugmentError: as `parse` does for the text.
    """
    return "noise" in _parse_text(text)[0]


def silences(clips: Iterable[np.ndarray], seconds: float = 60.0) -> list[np.ndarray]:
    """Background sound: `seconds` of the clips' `voice_activity.unvoiced_edges`, in order."""
    edges = []
    missing = round(seconds * audio.SAMPLING_RATE)
    for clip in clips:
        for edge in voice_activity.unvoiced_edges(clip):
            edges.append(edge[:missing].copy())  # a view would keep the clip in memory
            missing -= len(edges[-1])
            if missing <= 0:
                return edges
    return edges


def from_folder(folder: str | PathLike) -> list[np.ndarray]:
    """Decode all audio files in a folder and its subfolders, sorted by path.

    Raises:
        AugmentError: if the folder does not exist or holds no audio.
        ser_hf.audio.AudioError: for a file that cannot be read.
    """
    if not Path(folder).is_dir():
        raise AugmentError(f"'{folder}' is not a folder: check the path of the noises")
    files = [path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in audio.SUFFIXES]
    files = [path for path in files if path.is_file() and not path.name.startswith("._")]  # which macOS adds to zips
    if not files:
        raise AugmentError(f"'{folder}' holds no audio files ({', '.join(audio.SUFFIXES)}): check the path")
    return [audio.load(path) for path in files]


def _parse_text(text: str) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """Strengths, in the order in which they are applied, and probabilities after an `@`."""
    strengths, probabilities = {}, {}
    for part in text.split(","):
        part, at, chance = (piece.strip() for piece in part.partition("@"))
        name, colon, strength = (piece.strip() for piece in part.partition(":"))
        if name not in AUGMENTATIONS:
            raise AugmentError(f"'{name}' is no augmentation: choose from {', '.join(AUGMENTATIONS)}")
        if name in strengths:
            raise AugmentError(f"'{name}' stands twice in '{text}': name it once")
        strengths[name] = _numbers(name, strength) if colon else ()
        if at:
            probabilities[name] = _chance(part, chance)
    return {name: strengths[name] for name in AUGMENTATIONS if name in strengths}, probabilities


def _chance(part: str, chance: str) -> float:
    """The probability after an `@`."""
    number = float(chance) if re.fullmatch(r"\d*\.?\d+", chance, re.ASCII) else 0.0
    if not 0 < number <= 1:
        raise AugmentError(f"'{part}@{chance}' has no probability: expected more than 0 and at most 1 after the @")
    return number


def _numbers(name: str, strength: str) -> tuple[float, ...]:
    """The strength after a name, as one or two numbers within the range."""
    step = AUGMENTATIONS[name]
    if not step.expected:
        raise AugmentError(f"'{name}:{strength}' has a strength, and {name} takes none: write {name}")
    number = r"(-?\d+(?:\.\d+)?|-?\.\d+)"
    match = re.fullmatch(rf"{number}-{number}" if step.pair else number, strength, re.ASCII)
    numbers = tuple(float(group) for group in match.groups()) if match else ()
    if not numbers or list(numbers) != sorted(numbers) or numbers[0] < step.lowest or numbers[-1] > step.highest:
        raise AugmentError(f"'{name}:{strength}' is no strength of {name}: expected {step.expected}")
    return numbers
