"""Front ends: how the input of a model is made of a waveform, and how clips are padded to a batch.

A clip's features never depend on other clips: the front end takes one clip, and the batch carries
an attention mask.
"""

from functools import cached_property

import numpy as np
import torch
from torch.nn import functional
from transformers import (
    ASTFeatureExtractor,
    FeatureExtractionMixin,
    SeamlessM4TFeatureExtractor,
    WhisperFeatureExtractor,
)

from ser_hf import audio
from ser_hf.utils import blas

FRAME_STEP, WAVEFORM_STEP = 8, 1_600
"""Batches are padded to a multiple of so many frames or samples, since a CPU compiles its kernels
anew for each new shape."""


class FrontEnd:
    """Front end of models on raw waveforms, and of extractors without an entry in `FRONT_ENDS`.

    The features of a clip are made in two steps. `prepare` does what takes long and does not change
    when the edges of a clip are cut: training keeps its result between epochs, and cuts, mixes and
    masks it. `finish` does what depends on the whole of what is left, as normalisation does. Here
    nothing can be prepared: the stock extractor does all its work in `finish`.

    A subclass overrides both steps and sets the attributes.
    """

    hop = 1
    """Samples from one step of what `prepare` returns to the next."""
    on_frames = False
    """Whether `prepare` returns log mel frames `(frames, mel bins)`, not the waveform."""
    fixed_window = False
    """Whether the features of every clip have one shape, whatever its length."""
    longest: int | None = None
    """Samples of the longest clip that the features hold whole; None where any is."""

    def __init__(self, extractor: FeatureExtractionMixin) -> None:
        """Take the extractor of a model; its first input name is the one that is used."""
        self.extractor = extractor

    def extract(self, samples: np.ndarray) -> np.ndarray:
        """Features of one clip.

        Args:
            samples: shape `(samples,)`, 16 kHz.

        Returns:
            Float32 of shape `(samples,)` for models on waveforms, `(frames, dimensions)` for those
            on mel frames.
        """
        return self.finish(self.prepare(samples))

    def prepare(self, samples: np.ndarray) -> np.ndarray:
        """The costly step of `extract`, which does not change when the edges of a clip are cut."""
        return samples

    def finish(self, prepared: np.ndarray) -> np.ndarray:
        """Features, as `extract` returns them, of what `prepare` returned or of a stretch of it."""
        return self._stock(prepared)

    def steps(self, features: np.ndarray) -> int:
        """Number of samples or mel frames in what `extract` returned."""
        return len(features)

    @cached_property
    def bin_frequencies(self) -> np.ndarray:
        """Middle of each mel bin in Hz, shape `(bins,)`, of a front end on mel frames."""
        filters = np.asarray(self.extractor.mel_filters, dtype=np.float64)
        if filters.shape[0] < filters.shape[1]:  # extractors differ; the spectrum is the longer axis
            filters = filters.T
        spectrum = np.linspace(0, audio.SAMPLING_RATE / 2, len(filters))
        return spectrum @ filters / filters.sum(axis=0)

    def _stock(self, samples: np.ndarray) -> np.ndarray:
        """Features of the stock extractor, without the frames at the end that it masks."""
        with blas.one_thread():
            batch = self.extractor(samples, sampling_rate=audio.SAMPLING_RATE, return_tensors="np")
        features = np.asarray(batch[self.extractor.model_input_names[0]][0], dtype=np.float32)
        mask = batch.get("attention_mask")
        return features[: int(mask.sum())] if mask is not None and len(mask[0]) == len(features) else features


class StackedMelFrontEnd(FrontEnd):
    """Front end of w2v-BERT: log mel frames, normalised over the clip, `stride` of them stacked."""

    hop = 160
    on_frames = True
    extractor: SeamlessM4TFeatureExtractor

    def prepare(self, samples: np.ndarray) -> np.ndarray:
        """Log mel frames of the stock extractor's filter bank (Kaldi's), all frames at once.

        25 ms every 10 ms, mean removed, pre-emphasis 0.97, Povey window, 512-point power spectrum,
        log mel.
        """
        frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64) * 2**15, 400)[:: self.hop]
        frames = frames - frames.mean(axis=1, keepdims=True)
        emphasised = np.empty_like(frames)
        emphasised[:, 1:] = frames[:, 1:] - 0.97 * frames[:, :-1]
        emphasised[:, 0] = frames[:, 0] * (1 - 0.97)
        spectrum = np.fft.rfft(emphasised * self.extractor.window, 512)
        power = spectrum.real**2 + spectrum.imag**2
        with blas.one_thread():
            mel = power @ self.extractor.mel_filters
        return np.log(np.maximum(mel, 1.192092955078125e-07)).astype(np.float32)

    def finish(self, prepared: np.ndarray) -> np.ndarray:
        """Normalise each mel bin over the clip, and stack an even number of frames."""
        mel = (prepared - prepared.mean(axis=0)) / np.sqrt(prepared.var(axis=0, ddof=1) + 1e-7)
        stride = self.extractor.stride
        even = len(mel) + len(mel) % 2
        stacked = np.pad(mel, ((0, even - len(mel)), (0, 0)))[: even - even % stride].reshape(-1, stride * mel.shape[1])
        unmasked = len(range(1, len(mel), stride))  # the stock mask is that of each stack's second frame
        return stacked[:unmasked].astype(np.float32)


class WhisperFrontEnd(FrontEnd):
    """Front end of Whisper: log mel `(mel bins, frames)` of a window, the clip and silence behind.

    The features are those of the stock extractor within 1e-5. It computes the silence, too, which
    takes most of its time.
    """

    hop = 160
    on_frames = True
    fixed_window = True
    extractor: WhisperFeatureExtractor

    def __init__(self, extractor: WhisperFeatureExtractor) -> None:
        """Take the extractor, which sets the window, the hop and the filters."""
        super().__init__(extractor)
        self.hop, self.longest = extractor.hop_length, extractor.n_samples
        self._taper = torch.hann_window(extractor.n_fft)
        self._filters = extractor.mel_filters.astype(np.float32)

    def extract(self, samples: np.ndarray) -> np.ndarray:
        """Features of one clip, of its beginning where it is longer than the window."""
        return self.finish(self.prepare(samples[: self.longest]))

    def prepare(self, samples: np.ndarray) -> np.ndarray:
        """Natural logarithm of the mel power of the frames that touch a clip, `(frames, bins)`.

        The clip is followed by silence to the end of the window, and mirrored at its edges, as the
        stock extractor has it; a longer clip has no silence behind it. A Hann window and a power
        spectrum of `n_fft` samples are taken every `hop` samples. There is no dither.
        """
        size, edge = self.extractor.n_fft, self.extractor.n_fft // 2
        # a buffer of torch's: the address of another one may change how the transform rounds
        window = torch.zeros(max(self.extractor.n_samples, len(samples)))
        window.numpy()[: len(samples)] = samples
        mirrored = functional.pad(window[None], (edge, edge), mode="reflect")[0]
        frames = min(-(-(len(samples) + edge) // self.hop), len(window) // self.hop)
        spectrum = torch.fft.rfft(mirrored.unfold(0, size, self.hop)[:frames] * self._taper).numpy()
        with blas.one_thread():
            power = (spectrum.real**2 + spectrum.imag**2) @ self._filters
        return np.log(np.maximum(power, np.float32(_LEAST_POWER)))

    def finish(self, prepared: np.ndarray) -> np.ndarray:
        """Fill or cut to the window, clip to 8 decades, and scale; `(bins, frames)`."""
        mel = np.full((prepared.shape[1], self.extractor.nb_max_frames), np.log(_LEAST_POWER), dtype=np.float32)
        frames = prepared[: mel.shape[1]]
        mel[:, : len(frames)] = frames.T
        mel /= np.float32(np.log(10))
        return (np.maximum(mel, mel.max() - np.float32(8)) + np.float32(4)) / np.float32(4)

    def steps(self, features: np.ndarray) -> int:
        """Number of mel frames of the window."""
        return features.shape[1]


class SpectrogramFrontEnd(FrontEnd):
    """Front end of AST: log mel `(frames, mel bins)` of a window, the clip and zeros behind it."""

    fixed_window = True
    extractor: ASTFeatureExtractor

    def __init__(self, extractor: ASTFeatureExtractor) -> None:
        """Take the extractor, which sets the number of frames: 25 ms every 10 ms."""
        super().__init__(extractor)
        self.longest = 400 + 160 * (extractor.max_length - 1)


_LEAST_POWER = 1e-10  # of a mel bin, to which the stock extractor raises what is less


FRONT_ENDS: dict[type, type[FrontEnd]] = {
    FeatureExtractionMixin: FrontEnd,
    ASTFeatureExtractor: SpectrogramFrontEnd,
    SeamlessM4TFeatureExtractor: StackedMelFrontEnd,
    WhisperFeatureExtractor: WhisperFrontEnd,
}
"""Front ends by the class of the extractor; a subclass without an entry has that of its base."""


def front_end_of(extractor: FeatureExtractionMixin) -> FrontEnd:
    """The front end of a model, by the class of its extractor."""
    return next(FRONT_ENDS[kind] for kind in type(extractor).__mro__ if kind in FRONT_ENDS)(extractor)


class Collator:
    """Pads features to the longest of a batch, with an attention mask where the model takes one."""

    def __init__(self, extractor: FeatureExtractionMixin, rule: str) -> None:
        """Take a model's extractor and its rule of `ser_hf.models.padding.padding_rule`."""
        self.input_name = extractor.model_input_names[0]
        self.with_mask = rule != "fixed length"
        self.rounds_up = rule in ("attention mask", "masked group norm")

    def __call__(self, clips: list[dict]) -> dict[str, torch.Tensor]:
        """Batch clips with `features`.

        Returns:
            `input_values` `(batch, samples)` or `input_features` `(batch, frames, dimensions)`, and
            `attention_mask` `(batch, samples | frames)`.
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
        return batch
