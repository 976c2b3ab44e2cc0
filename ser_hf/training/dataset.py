"""Rows of the dataset as a model's training examples: decoded once, varied anew each epoch.

Everything random about a clip comes from the seed, the epoch and the clip's place alone, so that
one process and eight, an unbroken run and a resumed one, and any number of loading workers see the
same examples.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import datasets
import joblib
import numpy as np
from torch.utils.data import Dataset
from transformers import FeatureExtractionMixin

from ser_hf import audio
from ser_hf.audio import voice_activity
from ser_hf.models import features
from ser_hf.training.augmentation import Augmentation, mix_mels, mix_waveforms, random_trim, vary
from ser_hf.training.feature_cache import FeatureCache

KEPT_BYTES = 3 * 2**30
"""Of prepared clips in memory; what does not fit is decoded again each epoch."""


@dataclass(frozen=True)
class Variation:
    """What changes a training clip from one epoch to the next."""

    silence: Literal["keep", "vary", "random_trim"] = "keep"
    """What becomes of the silence at both edges (`ser_hf.training.augmentation`)."""
    augmentation: Augmentation | None = None
    """Of the waveform, or of its log mel frames."""
    mixup: float = 0.0
    """Parameter of the beta distribution of two clips' shares; 0: none."""
    seed: int = 0

    def of_sound(self) -> bool:
        """Whether features must be made anew each epoch."""
        return self.augmentation is not None or self.mixup > 0


class SpeechDataset(Dataset):
    """Rows as `{"features", "labels"}`, and `other` (a label) and `share` with mixup, `weight`
    where there are weights, `functionals` `(functionals,)` where a second task has them.

    An item is asked for by its index, or by `(epoch, index)` for the variation of that epoch.
    `features` are those of `ser_hf.models.features.extract`, or frames `(frames, dimensions)` of a
    frozen part of the model where a store is given.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        indices: list[int],
        extractor: FeatureExtractionMixin,
        variation: Variation | None = None,
        store: FeatureCache | None = None,
        weights: np.ndarray | None = None,
        functionals: np.ndarray | None = None,
    ) -> None:
        self.rows = dataset.select(indices).select_columns(["audio", "label", "sha256"])
        self.durations = np.array(dataset.select_columns(["duration"])[indices]["duration"])
        self.extractor, self.variation, self.store, self.weights = extractor, variation, store, weights
        self.functionals = functionals
        self.labels = np.array(self.rows["label"])
        self._sounds = self.rows["sha256"] if store is not None else []
        self._hop = 1 if self._whole_waveform() else features.hop(extractor)
        self._kept: dict[int, tuple[np.ndarray, tuple[int, int]]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def decode(self) -> "SpeechDataset":
        """Decode all clips now, on all cores, as long as memory allows: before workers are forked,
        and to fail early.

        Raises:
            AudioError: naming a recording that cannot be decoded.
        """
        if self.store is None:
            fits = np.cumsum(self.durations) * audio.SAMPLING_RATE * 4 <= KEPT_BYTES
            with ThreadPoolExecutor(joblib.cpu_count()) as threads:
                self._kept = dict(enumerate(threads.map(self._decoded, range(int(fits.sum())))))
        return self

    def lengths(self, epoch: int) -> np.ndarray:
        """Seconds of each clip in an epoch, its silence varied; before any change of speed. Shape
        `(clips,)`."""
        if self.variation is None or self.variation.silence == "keep":
            return self.durations
        seconds = self.durations.copy()
        for index in self._kept if self.store is None else range(len(self)):
            length, bounds = self._extent(index)
            start, end = self._span(index, length, bounds, self._rng(epoch, index))
            seconds[index] *= (end - start) / length
        return seconds

    def shortest(self) -> float:
        """Seconds to which the shortest clip may shrink."""
        if self.variation is None or self.variation.silence == "keep":
            return float(self.durations.min())
        shares = [(end - start) / length for length, (start, end) in map(self._extent, range(len(self)))]
        return float((self.durations * shares).min())

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (None, key)
        example = {"labels": int(self.labels[index])}
        if self.weights is not None:
            example["weight"] = float(self.weights[index])
        if epoch is None or self.variation is None:
            return {"features": self._finished(self._prepared(index)[0]), **example}
        rng = self._rng(epoch, index)
        prepared = self._cut(index, rng)
        if self.functionals is not None:
            example["functionals"] = self.functionals[index]
        if self.variation.mixup:
            other, share = int(rng.integers(len(self))), float(rng.beta(self.variation.mixup, self.variation.mixup))
            share = max(share, 1 - share)  # the clip itself stays the louder one
            mixup = mix_waveforms if self._hop == 1 else mix_mels
            prepared = mixup(prepared, self._cut(other, rng), share)
            example |= {"other": int(self.labels[other]), "share": share}
            if self.functionals is not None:
                example["functionals"] = share * self.functionals[index] + (1 - share) * self.functionals[other]
        if self.variation.augmentation is not None:
            augmentation = self.variation.augmentation
            if self._whole_waveform():
                prepared = augmentation(prepared, rng)
            if augmentation.names(of_frames=True):
                mel = features.prepare(self.extractor, prepared) if self._hop == 1 else prepared
                mel = augmentation.of_frames(mel, rng, audio.SAMPLING_RATE / features.hop(self.extractor))
                return {"features": features.finish(self.extractor, mel), **example}
        return {"features": self._finished(prepared), **example}

    def _cut(self, index: int, rng: np.random.Generator) -> np.ndarray:
        prepared, bounds = self._prepared(index)
        start, end = self._span(index, len(prepared), bounds, rng)
        return prepared[start:end]

    def _span(self, index: int, length: int, bounds: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """What is left of a clip; `length` and `bounds` are in the steps in which it is kept."""
        if self.variation.silence == "vary":
            return vary(length, bounds, rng)
        if self.variation.silence == "random_trim":
            return random_trim(length, bounds, rng, round(voice_activity.MARGIN / self.durations[index] * length))
        return 0, length

    def _finished(self, prepared: np.ndarray) -> np.ndarray:
        if self.store is not None:
            return prepared
        if self._whole_waveform():
            return features.extract(self.extractor, prepared)
        return features.finish(self.extractor, prepared)

    def _extent(self, index: int) -> tuple[int, tuple[int, int]]:
        """Length of a clip as it is kept, and where its voice begins and ends; a stored one is not
        read for it."""
        if self.store is not None:
            return self.store.extent(self._sounds[index])
        prepared, bounds = self._prepared(index)
        return len(prepared), bounds

    def _prepared(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        """A clip as it is kept, and where its voice begins and ends, in the same steps."""
        if self.store is not None:
            return self.store[self._sounds[index]]
        return self._kept[index] if index in self._kept else self._decoded(index)

    def _decoded(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        samples = audio.load(self.rows[index]["audio"])
        start, end = voice_activity.voiced(samples)
        kept = samples if self._whole_waveform() else features.prepare(self.extractor, samples)
        return kept, (start // self._hop, min(len(kept), -(-end // self._hop)))

    def _whole_waveform(self) -> bool:
        """Whether the waveform is kept, to be changed, and not what becomes of it."""
        if self.variation is None:
            return False
        augmentation = self.variation.augmentation
        changed = augmentation is not None and augmentation.names(of_frames=False)
        return bool(changed or (self.variation.mixup and features.hop(self.extractor) == 1))

    def _rng(self, epoch: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.variation.seed, epoch, index])
