"""Unlabelled recordings in batches of similar length, with masks and negatives drawn a clip.

The dataset, the sampler and the collator are not those of fine-tuning, for these reasons:
`Recordings` need neither labels nor the voice, and pass the key of a clip on to its random draws.
`Order` yields batches of a fixed number of clips, where fine-tuning fixes the padded seconds.
`Masking` rounds the length of a batch up, and draws from the global generator of numpy.
Sharing them would change the weights that a seed leads to.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import FeatureExtractionMixin, PreTrainedModel
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

from ser_hf import audio
from ser_hf.data import references
from ser_hf.models.features import front_end_of
from ser_hf.training.streaming.reader import StreamReader

CACHE_BYTES = 2 * 2**30
"""Size of the features in memory. Recordings beyond it are decoded again each epoch."""
MASK_SECONDS = 0.2  # length of a mask in wav2vec 2.0
_LENGTH_STEP = {1: 1_600, 2: 8}  # samples or frames: a CPU compiles its kernels anew for each new shape


class Recordings(Dataset):
    """Unlabelled rows of a dataset as `{"features", "draw"}`, in memory up to `CACHE_BYTES`.

    The key `(epoch, number)` is also the value of `draw`, which seeds the mask. Of rows that refer
    to their recordings nothing stays in memory, and `stream_threads` read ahead.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        indices: list[int],
        extractor: FeatureExtractionMixin,
        stream_threads: int | None = None,
    ) -> None:
        self.rows = rows.select(indices).select_columns(["audio"])
        self.durations = np.array(rows["duration"])[indices]
        self.extractor = extractor
        self._in_memory: dict[int, np.ndarray] = {}
        self._bytes = 0
        self.stream = None if stream_threads is None else StreamReader(self.rows, self._features, stream_threads)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: tuple[int, int]) -> dict:
        number = draw[1]
        if self.stream is not None:
            return {"features": self.stream[number], "draw": draw}
        features = self._in_memory.get(number)
        if features is None:
            features = self._features(self.rows[number]["audio"])
            if self._bytes + features.nbytes <= CACHE_BYTES:
                self._bytes += features.nbytes
                self._in_memory[number] = features
        return {"features": features, "draw": draw}

    def _features(self, encoded: dict) -> np.ndarray:
        return front_end_of(self.extractor).extract(references.load_clip(encoded))


class Order(Sampler[tuple[int, int]]):
    """Sampler of `(epoch, number)` that puts clips of similar length into one batch.

    It shuffles the clips, sorts each pool of `pool` batches by length, and shuffles the batches.
    Without a seed all clips are sorted by length.
    """

    def __init__(self, durations: np.ndarray, batch: int, seed: int | None, pool: int = 8) -> None:
        """Take the batch size over all processes, and a seed; None for validation."""
        self.durations, self.batch, self.seed, self.pool = durations, batch, seed, pool
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch to draw from; the Trainer calls it before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.durations)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.seed is None:
            yield from ((0, int(number)) for number in np.argsort(self.durations, kind="stable"))
            return
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self))
        step = self.batch * self.pool
        pools = [order[start : start + step] for start in range(0, len(order), step)]
        order = np.concatenate([pool[np.argsort(self.durations[pool], kind="stable")] for pool in pools])
        full = len(order) // self.batch
        batches = order[: full * self.batch].reshape(full, self.batch)
        # an incomplete batch goes last, or it would shift every later one
        shuffled = np.concatenate([rng.permutation(batches).ravel(), order[full * self.batch :]])
        yield from ((self.epoch, int(number)) for number in shuffled)


class Masking:
    """Collator that pads clips, and draws the mask and the negatives of each clip.

    The draws depend on the seed, the epoch and the number of the clip, not on the other clips.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        extractor: FeatureExtractionMixin,
        seed: int,
        probability: float = 0.65,
        length: int | None = None,
        negatives: int = 100,
    ) -> None:
        """Prepare the collator of a model.

        Args:
            model: model, which tells how many frames its encoder makes of an input.
            extractor: feature extractor of the model.
            seed: seed of the masks and negatives.
            probability: share of frames under masks if no masks overlapped.
            length: frames a mask; as many as last 200 ms where None.
            negatives: negatives a frame.
        """
        self.model, self.input_name = model, extractor.model_input_names[0]
        self.seed, self.probability, self.negatives = seed, probability, negatives
        second = front_end_of(extractor).extract(np.zeros(audio.SAMPLING_RATE, dtype=np.float32))
        self.length = length or round(MASK_SECONDS * self.frames_of(len(second)))

    def __call__(self, clips: list[dict]) -> dict[str, torch.Tensor]:
        """Batch the items of `Recordings`.

        Returns:
            `input_values` `(batch, samples)` or `input_features` `(batch, frames, dimensions)`,
            `attention_mask` of their first two dimensions, `mask_time_indices` `(batch, encoder
            frames)` and `negatives` `(batch, encoder frames, negatives)`. Negatives are masked
            frames of the same clip.
        """
        features = [clip["features"] for clip in clips]
        step = _LENGTH_STEP[features[0].ndim]
        longest = -(-max(map(len, features)) // step) * step
        frames = self.frames_of(longest)
        padded = np.zeros((len(features), longest, *features[0].shape[1:]), dtype=np.float32)
        attention_mask = np.zeros((len(features), longest), dtype=np.int64)
        mask = np.zeros((len(features), frames), dtype=bool)
        negatives = np.zeros((len(features), frames, self.negatives), dtype=np.int64)
        for row, (clip, values) in enumerate(zip(clips, features, strict=True)):
            padded[row, : len(values)], attention_mask[row, : len(values)] = values, 1
            count = self.frames_of(len(values))
            if count > 1:  # a single frame has no negatives
                mask[row, :count], negatives[row, :count] = self.draw(count, *clip["draw"])
        batch = {
            self.input_name: padded,
            "attention_mask": attention_mask,
            "mask_time_indices": mask,
            "negatives": negatives,
        }
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def frames_of(self, length: int) -> int:
        """Number of encoder frames for an input of so many samples or mel frames."""
        return max(0, int(self.model._get_feat_extract_output_lengths(torch.tensor(length))))

    def draw(self, frames: int, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw the mask `(frames,)` and negatives `(frames, negatives)` of at least 2 frames."""
        length = min(self.length, frames // 2)  # a short clip would otherwise be masked completely
        with _drawing_from(self.seed, epoch, number):
            mask = _compute_mask_indices((1, frames), self.probability, length, min_masks=2)
            return mask[0], _sample_negative_indices((1, frames), self.negatives, mask)[0]


@contextmanager
def _drawing_from(*seed: int) -> Iterator[None]:
    """Seed the global generator of numpy, which transformers draws from, for a block."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
