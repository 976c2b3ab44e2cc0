"""Training examples from rows of a dataset: decoded once, varied anew each epoch.

The random numbers of a clip depend on the seed, the epoch and the index of the clip alone. The
examples are therefore the same for any number of processes and loading workers, and after a resume.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import datasets
import joblib
import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import FeatureExtractionMixin

from ser_hf import audio
from ser_hf.audio import voice_activity
from ser_hf.data import references
from ser_hf.models.features import Collator, FrontEnd, front_end_of
from ser_hf.training.augmentation import Augmentation, mix_mels, mix_waveforms, random_trim, vary
from ser_hf.training.feature_cache import FeatureCache
from ser_hf.training.streaming.reader import StreamReader

TRAINING_KEYS = ("labels", "other", "share", "weight")
"""Keys that a batch may hold beside the inputs of the model."""

KEPT_BYTES = 3 * 2**30
"""Size of the decoded clips in memory. Those beyond it are decoded again each epoch."""


@dataclass(frozen=True)
class Variation:
    """Changes of a training clip from one epoch to the next."""

    silence: Literal["keep", "vary", "random_trim"] = "keep"
    """Treatment of the silence at both edges (`ser_hf.training.augmentation`)."""
    augmentation: Augmentation | None = None
    """Augmentation of the waveform, or of its log mel frames."""
    mixup: float = 0.0
    """Parameter of the beta distribution of the shares of two mixed clips; 0 for no mixup."""
    seed: int = 0

    def of_sound(self) -> bool:
        """Whether the sound changes, so that features must be extracted anew each epoch."""
        return self.augmentation is not None or self.mixup > 0

    def rng(self, epoch: int, index: int) -> np.random.Generator:
        """What the changes of a clip are drawn from in an epoch."""
        return np.random.default_rng([self.seed, epoch, index])


class WaveformAsPrepared(FrontEnd):
    """Front end that keeps the waveform, for waveforms that change each epoch."""

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__(front_end.extractor)
        self.front_end = front_end

    def finish(self, prepared: np.ndarray) -> np.ndarray:
        """Extract the features of a waveform."""
        return self.front_end.extract(prepared)


class DecodedClips:
    """Clips as the front end prepares them, with the first and one-past-last step of their voice.

    A clip is decoded when it is read, unless `keep` has decoded it into memory.
    """

    def __init__(self, rows: datasets.Dataset, front_end: FrontEnd) -> None:
        self.rows, self.front_end = rows, front_end
        self._in_memory: dict[int, tuple[np.ndarray, tuple[int, int]]] = {}

    def keep(self, indices: range) -> None:
        """Decode clips on all cores into memory.

        Raises:
            AudioError: naming a recording that cannot be decoded.
        """
        with ThreadPoolExecutor(joblib.cpu_count()) as threads:
            self._in_memory = dict(zip(indices, threads.map(self._decode, indices), strict=True))

    def has_extents(self) -> Iterable[int]:
        """Indices of the clips whose extent needs no decoding."""
        return self._in_memory

    def extent(self, index: int) -> tuple[int, tuple[int, int]]:
        """Length, and first and one-past-last step of the voice, in steps of the prepared clip."""
        prepared, bounds = self[index]
        return len(prepared), bounds

    def __getitem__(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        return self._in_memory[index] if index in self._in_memory else self._decode(index)

    def finish(self, prepared: np.ndarray) -> np.ndarray:
        """Features of a prepared clip, or of a stretch of it."""
        return self.front_end.finish(prepared)

    def _decode(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        return self._prepare(self.rows[index]["audio"])

    def _prepare(self, encoded: dict) -> tuple[np.ndarray, tuple[int, int]]:
        samples = references.load_clip(encoded)
        start, end = voice_activity.voiced_span(samples)
        prepared, hop = self.front_end.prepare(samples), self.front_end.hop
        return prepared, (start // hop, min(len(prepared), -(-end // hop)))


class StreamedClips(DecodedClips):
    """Clips as `DecodedClips` gives them, which stay in their Parquet files until they are read."""

    def __init__(self, rows: datasets.Dataset, front_end: FrontEnd, threads: int) -> None:
        super().__init__(rows, front_end)
        self.reader = StreamReader(rows, self._prepare, threads)

    def keep(self, indices: range) -> None:
        """Do nothing: no clip stays in memory."""

    def _decode(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        return self.reader[index]


class CachedClips:
    """Outputs of the frozen part of a model for each clip, read from the feature cache."""

    def __init__(self, rows: datasets.Dataset, cache: FeatureCache) -> None:
        self.cache, self._numbers = cache, cache.numbers(rows["sha256"][:])

    def keep(self, indices: range) -> None:
        """Do nothing: the cache needs no decoding."""

    def has_extents(self) -> Iterable[int]:
        """Indices of all clips."""
        return range(len(self._numbers))

    def extent(self, index: int) -> tuple[int, tuple[int, int]]:
        """Number of frames, and first and one-past-last frame of the voice, without disk access."""
        return self.cache.extent(self._numbers[index])

    def __getitem__(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        return self.cache.read(self._numbers[index])

    def finish(self, prepared: np.ndarray) -> np.ndarray:
        """Return the frames unchanged."""
        return prepared


class SpeechDataset(Dataset):
    """Training examples of a split, as dicts with `features` and `labels`.

    Mixup adds `other` (a label) and `share`. Weights add `weight`.

    The key is an index, or `(epoch, index)` for the variation of that epoch. `features` are those
    of `ser_hf.models.features.FrontEnd`. With a `store` they are the cached frames `(frames,
    dimensions)` of the frozen part of the model.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        indices: list[int],
        extractor: FeatureExtractionMixin,
        variation: Variation | None = None,
        store: FeatureCache | None = None,
        weights: np.ndarray | None = None,
        stream_threads: int | None = None,
    ) -> None:
        """Make examples of rows.

        Args:
            dataset: all rows.
            indices: of the rows of this side.
            extractor: feature extractor of the model.
            variation: of the clips from epoch to epoch; none where None.
            store: cached outputs of the frozen part of the model, in place of recordings.
            weights: of the clips, shape `(clips,)`.
            stream_threads: that read ahead where the rows refer to their recordings; None where
                the rows hold them.
        """
        self.rows = dataset.select(indices).select_columns(["audio", "label", "sha256"])
        self.durations = np.array(dataset.select_columns(["duration"])[indices]["duration"])
        self.variation, self.store, self.weights = variation, store, weights
        self.least = 0.0
        """Seconds that are left at least of a clip whose silence is cut."""
        self.labels = np.array(self.rows["label"])
        self.front_end = front_end_of(extractor)
        prepared_by = WaveformAsPrepared(self.front_end) if self._keeps_waveforms() else self.front_end
        self._mixes_frames = prepared_by.on_frames
        longest = self.front_end.longest if store is None else None  # what is frozen took the window already
        self._window = None if longest is None else longest // prepared_by.hop
        self._clips: CachedClips | StreamedClips | DecodedClips
        if store is not None:
            self._clips = CachedClips(self.rows, store)
        elif stream_threads is not None:
            self._clips = StreamedClips(self.rows, prepared_by, stream_threads)
        else:
            self._clips = DecodedClips(self.rows, prepared_by)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def stream(self) -> StreamReader | None:
        """What reads the recordings from their files; None where they lie in memory or a cache."""
        return self._clips.reader if isinstance(self._clips, StreamedClips) else None

    def decode(self) -> "SpeechDataset":
        """Decode clips into memory on all cores, up to `KEPT_BYTES`.

        Call it before workers are forked, so that they share the clips. A recording that cannot be
        decoded then also fails before training.

        Raises:
            AudioError: naming a recording that cannot be decoded.
        """
        fits = np.cumsum(self.durations) * audio.SAMPLING_RATE * 4 <= KEPT_BYTES
        self._clips.keep(range(int(fits.sum())))
        return self

    def unvaried_lengths(self) -> np.ndarray:
        """Seconds of each whole clip, or of the window where the model has a fixed one."""
        if self.front_end.fixed_window and self.front_end.longest is not None:
            return np.full(len(self), self.front_end.longest / audio.SAMPLING_RATE)
        return self.durations

    def lengths(self, epoch: int) -> np.ndarray:
        """Seconds of each clip in an epoch after its silence is varied, shape `(clips,)`.

        Changes of speed are not counted. A clip in a fixed window is as long as the window.
        """
        variation = self.variation
        if self.front_end.fixed_window or variation is None or variation.silence == "keep":
            return self.unvaried_lengths()
        seconds = self.durations.copy()
        for index in self._clips.has_extents():  # the same draws as in __getitem__, which cuts the clip
            length, bounds = self._clips.extent(index)
            start, end = self._span(variation, index, length, bounds, variation.rng(epoch, index))
            seconds[index] *= (end - start) / length
        return seconds

    def shortest(self) -> float:
        """Seconds of the shortest clip without the silence that may be cut.

        Of a stream it is the shortest whole clip: see `least`.
        """
        if self.variation is None or self.variation.silence == "keep" or self.stream is not None:
            return float(self.durations.min())
        shares = [(end - start) / length for length, (start, end) in map(self._clips.extent, range(len(self)))]
        return float((self.durations * shares).min())

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (None, key)
        example: dict[str, Any] = {"labels": int(self.labels[index])}
        if self.weights is not None:
            example["weight"] = float(self.weights[index])
        if epoch is None or self.variation is None:
            return {"features": self._clips.finish(self._clips[index][0]), **example}
        variation = self.variation
        rng = variation.rng(epoch, index)
        prepared = self._cut(variation, index, rng)
        if variation.mixup:
            partner, share = int(rng.integers(len(self))), float(rng.beta(variation.mixup, variation.mixup))
            share = max(share, 1 - share)  # the clip itself stays the louder one
            mixup = mix_mels if self._mixes_frames else mix_waveforms
            prepared = mixup(prepared, self._cut(variation, partner, rng), share)
            example |= {"other": int(self.labels[partner]), "share": share}
        if variation.augmentation is not None:
            augmentation = variation.augmentation
            if self._keeps_waveforms():
                prepared = augmentation(prepared, rng)
            if augmentation.names(of_frames=True):
                mel = prepared if self._mixes_frames else self.front_end.prepare(prepared)
                rate = audio.SAMPLING_RATE / self.front_end.hop
                mel = augmentation.of_frames(mel, rng, self.front_end.bin_frequencies, rate)
                return {"features": self.front_end.finish(mel), **example}
        return {"features": self._clips.finish(prepared), **example}

    def _cut(self, variation: Variation, index: int, rng: np.random.Generator) -> np.ndarray:
        prepared, bounds = self._clips[index]
        start, end = self._span(variation, index, len(prepared), bounds, rng)
        return prepared[start:end]

    def _span(
        self, variation: Variation, index: int, length: int, bounds: tuple[int, int], rng: np.random.Generator
    ) -> tuple[int, int]:
        """Start and end to cut a clip to, in steps of the prepared clip like `length`.

        Of a clip that the window of the model does not hold, a random stretch is left.
        """
        start, end = 0, length
        if variation.silence == "vary":
            start, end = vary(length, bounds, rng)
        if variation.silence == "random_trim":
            margin = round(voice_activity.MARGIN / self.durations[index] * length)
            start, end = random_trim(length, bounds, rng, margin)
        if self.least:
            least = min(length, int(np.ceil(self.least / self.durations[index] * length)))
            start = max(0, min(start, length - least))
            end = max(end, start + least)
        if self._window is not None and end - start > self._window:
            start = int(rng.integers(start, end - self._window + 1))
            end = start + self._window
        return start, end

    def _keeps_waveforms(self) -> bool:
        """Whether the variation changes waveforms, so that they are kept and not mel frames."""
        if self.variation is None:
            return False
        augmentation = self.variation.augmentation
        changed = augmentation is not None and augmentation.names(of_frames=False)
        return bool(changed or (self.variation.mixup and not self.front_end.on_frames))


class TrainingCollator(Collator):
    """Collator that also stacks the labels and the other values that training needs."""

    def __call__(self, clips: list[dict]) -> dict[str, torch.Tensor]:
        """Batch the items of a `SpeechDataset`.

        Returns:
            The inputs of `Collator`, and those of `TRAINING_KEYS` that the items have. They have
            shape `(batch,)`.
        """
        batch = super().__call__(clips)
        for name in TRAINING_KEYS:
            if name in clips[0]:
                batch[name] = torch.stack([torch.as_tensor(clip[name]) for clip in clips])
        return batch
