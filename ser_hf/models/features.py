"""Waveforms -> model inputs: one clip at a time as stock `pipeline` does, then padded into batches
of like length.

A clip's features never depend on its neighbours: the extractor sees it alone, and the batch carries
an attention mask.
"""

from collections.abc import Iterator

import numpy as np
import torch
from transformers import FeatureExtractionMixin, NemotronAsrStreamingFeatureExtractor, SeamlessM4TFeatureExtractor

from ser_hf import audio

FRAME_STEP, WAVEFORM_STEP = 8, 1_600
"""Batches are padded to a multiple of so many frames or samples: a CPU compiles its kernels anew
for each new shape."""


EXTRAS = ("labels", "other", "share", "weight", "functionals")
"""What a batch may hold beside the inputs of the model."""

HOP = 160
"""Samples from one of w2v-BERT's mel frames to the next."""


def extract(extractor: FeatureExtractionMixin, samples: np.ndarray) -> np.ndarray:
    """Features of one clip, float32: `(samples,)` for waveform models, `(frames, dimensions)` for
    those on mel frames.

    Args:
        extractor: of the model; its first input name is the one that is used.
        samples: shape `(samples,)`, 16 kHz.
    """
    return finish(extractor, prepare(extractor, samples))


def hop(extractor: FeatureExtractionMixin) -> int:
    """Samples that one step of what `prepare` gives stands for: silence is cut from it in such
    steps."""
    if isinstance(extractor, NemotronAsrStreamingFeatureExtractor):
        return extractor.hop_length
    return HOP if isinstance(extractor, SeamlessM4TFeatureExtractor) else 1


def prepare(extractor: FeatureExtractionMixin, samples: np.ndarray) -> np.ndarray:
    """What of a clip's features is dear and does not change when its edges are cut, to be kept
    between epochs.

    Returns:
        Log mel frames `(frames, mel bins)` for models on mel frames, the waveform for all others.
    """
    if isinstance(extractor, NemotronAsrStreamingFeatureExtractor):
        return _asked(extractor, samples)  # whose frames stay as they are
    return _log_mel(extractor, samples) if isinstance(extractor, SeamlessM4TFeatureExtractor) else samples


def finish(extractor: FeatureExtractionMixin, prepared: np.ndarray) -> np.ndarray:
    """Features, as `extract` gives them, of what `prepare` gave, or of a stretch of it."""
    if isinstance(extractor, SeamlessM4TFeatureExtractor):
        return _stacked(extractor, prepared)
    if isinstance(extractor, NemotronAsrStreamingFeatureExtractor):
        return prepared
    return _asked(extractor, prepared)


def _asked(extractor: FeatureExtractionMixin, samples: np.ndarray) -> np.ndarray:
    """What the stock extractor makes of a waveform."""
    made = extractor(samples, sampling_rate=audio.SAMPLING_RATE, return_tensors="np")
    features = np.asarray(made[extractor.model_input_names[0]][0], dtype=np.float32)
    mask = made.get("attention_mask")
    # what the extractor masks, at the end, no batch needs to carry
    return features[: int(mask.sum())] if mask is not None and len(mask[0]) == len(features) else features


def _log_mel(extractor: SeamlessM4TFeatureExtractor, samples: np.ndarray) -> np.ndarray:
    """The stock extractor's filter bank (Kaldi's), all frames at once instead of one after the
    other.

    25 ms every 10 ms, mean removed, pre-emphasis 0.97, Povey window, 512-point power spectrum, log
    mel.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64) * 2**15, 400)[::HOP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    emphasised = np.empty_like(frames)
    emphasised[:, 1:] = frames[:, 1:] - 0.97 * frames[:, :-1]
    emphasised[:, 0] = frames[:, 0] * (1 - 0.97)
    spectrum = np.fft.rfft(emphasised * extractor.window, 512)
    power = spectrum.real**2 + spectrum.imag**2
    return np.log(np.maximum(power @ extractor.mel_filters, 1.192092955078125e-07)).astype(np.float32)


def _stacked(extractor: SeamlessM4TFeatureExtractor, mel: np.ndarray) -> np.ndarray:
    """Zero mean, unit variance for each mel bin over the clip; an even number of frames, `stride`
    of them stacked."""
    mel = (mel - mel.mean(axis=0)) / np.sqrt(mel.var(axis=0, ddof=1) + 1e-7)
    stride = extractor.stride
    even = len(mel) + len(mel) % 2
    stacked = np.pad(mel, ((0, even - len(mel)), (0, 0)))[: even - even % stride].reshape(-1, stride * mel.shape[1])
    unmasked = len(range(1, len(mel), stride))  # the stock mask is that of each stack's second frame
    return stacked[:unmasked].astype(np.float32)


class Collator:
    """Pads features to the longest of the batch, with an attention mask where the model takes
    one."""

    def __init__(self, extractor: FeatureExtractionMixin, rule: str) -> None:
        """Take the extractor of a model and its padding rule
        (`ser_hf.models.padding.padding_rule`)."""
        self.input_name = extractor.model_input_names[0]
        self.with_mask = rule != "fixed length"
        self.rounds_up = rule in ("attention mask", "masked group norm")

    def __call__(self, clips: list[dict]) -> dict[str, torch.Tensor]:
        """Batch clips with `features` and, in training, `labels`; with mixup also `other` labels
        and the `share`.

        Returns:
            `input_values` `(batch, samples)` or `input_features` `(batch, frames, dimensions)`,
            `attention_mask` `(batch, samples | frames)`; `labels`, `other`, `share` and `weight`
            `(batch,)`; `functionals` `(batch, functionals)`.
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
        for name in EXTRAS:
            if name in clips[0]:
                batch[name] = torch.stack([torch.as_tensor(clip[name]) for clip in clips])
        return batch


def by_length(lengths: list[int], batch: int) -> Iterator[list[int]]:
    """Indices in batches of like length, longest first, so that a shortage of memory shows at
    once."""
    order = np.argsort(lengths, kind="stable")[::-1]
    for start in range(0, len(order), batch):
        yield [int(index) for index in order[start : start + batch]]
