"""Waveforms -> model inputs: one clip at a time as stock `pipeline` does, then padded into batches of like length.

A clip's features never depend on its neighbours: the extractor sees it alone, and the batch carries an attention mask.
"""

from collections.abc import Iterator

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import FeatureExtractionMixin, SeamlessM4TFeatureExtractor

from ser_hf import audio

CACHE_BYTES = 2 * 2**30
"""Features kept in memory by `Clips`; what does not fit is made again each epoch."""

FRAME_STEP, WAVEFORM_STEP = 8, 1_600
"""Batches are padded to a multiple of so many frames or samples: a CPU compiles its kernels anew for each new shape."""


def extract(extractor: FeatureExtractionMixin, samples: np.ndarray) -> np.ndarray:
    """Features of one clip, float32: `(samples,)` for waveform models, `(frames, dimensions)` for those on mel frames.

    Args:
        extractor: of the model; its first input name is the one that is used.
        samples: shape `(samples,)`, 16 kHz.
    """
    if isinstance(extractor, SeamlessM4TFeatureExtractor):
        return _stacked_mel(extractor, samples)
    made = extractor(samples, sampling_rate=audio.SAMPLING_RATE, return_tensors="np")
    features = np.asarray(made[extractor.model_input_names[0]][0], dtype=np.float32)
    mask = made.get("attention_mask")
    # what the extractor masks, at the end, no batch needs to carry
    return features[: int(mask.sum())] if mask is not None and len(mask[0]) == len(features) else features


def _stacked_mel(extractor: SeamlessM4TFeatureExtractor, samples: np.ndarray) -> np.ndarray:
    """What the stock extractor gives for one clip, all frames at once instead of one after the other.

    Kaldi's filter bank: 25 ms every 10 ms, mean removed, pre-emphasis 0.97, Povey window, 512-point power spectrum, log
    mel; then zero mean and unit variance for each mel bin over the clip, padded to an even number of frames, and
    `stride` frames stacked.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64) * 2**15, 400)[::160]
    frames = frames - frames.mean(axis=1, keepdims=True)
    emphasised = np.empty_like(frames)
    emphasised[:, 1:] = frames[:, 1:] - 0.97 * frames[:, :-1]
    emphasised[:, 0] = frames[:, 0] * (1 - 0.97)
    spectrum = np.fft.rfft(emphasised * extractor.window, 512)
    power = spectrum.real**2 + spectrum.imag**2
    mel = np.log(np.maximum(power @ extractor.mel_filters, 1.192092955078125e-07))
    mel = (mel - mel.mean(axis=0)) / np.sqrt(mel.var(axis=0, ddof=1) + 1e-7)
    stride = extractor.stride
    even = len(mel) + len(mel) % 2
    stacked = np.pad(mel, ((0, even - len(mel)), (0, 0)))[: even - even % stride].reshape(-1, stride * mel.shape[1])
    unmasked = len(range(1, len(mel), stride))  # the stock mask is that of each stack's second frame
    return stacked[:unmasked].astype(np.float32)


class Collator:
    """Pads features to the longest of the batch, with an attention mask where the model takes one."""

    def __init__(self, extractor: FeatureExtractionMixin, rule: str) -> None:
        """Take the extractor of a model and its padding rule (`ser_hf.modeling.padding_rule`)."""
        self.input_name = extractor.model_input_names[0]
        self.with_mask = rule != "fixed length"
        self.rounds_up = rule in ("attention mask", "masked group norm")

    def __call__(self, clips: list[dict]) -> dict[str, torch.Tensor]:
        """Batch clips with `features` and, in training, `labels`.

        Returns:
            `input_values` `(batch, samples)` or `input_features` `(batch, frames, dimensions)`, `attention_mask`
            `(batch, samples | frames)`, `labels` `(batch,)`.
        """
        features = [clip["features"] for clip in clips]
        longest = max(len(feature) for feature in features)
        if self.rounds_up:
            step = WAVEFORM_STEP if features[0].ndim == 1 else FRAME_STEP
            longest = -(-longest // step) * step
        padded = np.zeros((len(clips), longest, *features[0].shape[1:]), dtype=np.float32)
        mask = np.zeros((len(clips), longest), dtype=np.int64)
        for row, feature in enumerate(features):
            padded[row, : len(feature)] = feature
            mask[row, : len(feature)] = 1
        batch = {self.input_name: torch.from_numpy(padded)}
        if self.with_mask:
            batch["attention_mask"] = torch.from_numpy(mask)
        if "labels" in clips[0]:
            batch["labels"] = torch.tensor([clip["labels"] for clip in clips])
        return batch


class Clips(Dataset):
    """Rows of the dataset as `{"features", "labels"}`; decoded and extracted once as long as memory allows."""

    def __init__(self, dataset: datasets.Dataset, indices: list[int], extractor: FeatureExtractionMixin) -> None:
        self.rows = dataset.select(indices).select_columns(["audio", "label"])
        self.durations = np.array(dataset.select_columns(["duration"])[indices]["duration"])
        self.extractor = extractor
        self._kept: dict[int, dict] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        if index in self._kept:
            return self._kept[index]
        row = self.rows[index]
        clip = {"features": extract(self.extractor, audio.load(row["audio"])), "labels": row["label"]}
        if self._bytes + clip["features"].nbytes <= CACHE_BYTES:
            self._bytes += clip["features"].nbytes
            self._kept[index] = clip
        return clip


class LengthBuckets(Sampler[int]):
    """Shuffled order in which each batch holds clips of like length.

    The order depends on the seed, the epoch and the effective batch (per device x processes x accumulation) alone, so
    one process, two, and accumulated gradients see the same batches.
    """

    def __init__(self, lengths: np.ndarray, batch: int, seed: int, pool: int = 8) -> None:
        self.lengths, self.batch, self.seed, self.pool = lengths, batch, seed, pool
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), self.batch * self.pool):
            pool = order[start : start + self.batch * self.pool]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += [pool[i : i + self.batch] for i in range(0, len(pool), self.batch)]
        # an incomplete batch goes last, or it would shift every later one
        full = [b for b in batches if len(b) == self.batch]
        rest = [b for b in batches if len(b) < self.batch]
        shuffled = [full[i] for i in rng.permutation(len(full))] + rest
        yield from (int(index) for batch in shuffled for index in batch)


def by_length(lengths: list[int], batch: int) -> Iterator[list[int]]:
    """Indices in batches of like length, longest first, so that a shortage of memory shows at once."""
    order = np.argsort(lengths, kind="stable")[::-1]
    for start in range(0, len(order), batch):
        yield [int(index) for index in order[start : start + batch]]
