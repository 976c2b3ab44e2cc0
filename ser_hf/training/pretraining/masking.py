"""Recordings without their labels, in batches of like length, with what is masked in them drawn for
each alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import FeatureExtractionMixin, PreTrainedModel
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

from ser_hf import audio
from ser_hf.models.features import front_end_of

CACHE_BYTES = 2 * 2**30
SPAN = 0.2  # seconds that a masked stretch lasts in wav2vec 2.0
_ROUND = {1: 1_600, 2: 8}  # samples or frames: a CPU compiles its kernels anew for each new shape


class Recordings(Dataset):
    """Rows of the dataset without labels, as `{"features", "draw"}`; kept in memory up to
    `CACHE_BYTES`.

    They are asked for by `(epoch, number)`, which is also what their masks are drawn from.
    """

    def __init__(self, rows: datasets.Dataset, indices: list[int], extractor: FeatureExtractionMixin) -> None:
        self.rows = rows.select(indices).select_columns(["audio"])
        self.durations = np.array(rows["duration"])[indices]
        self.extractor = extractor
        self._kept: dict[int, np.ndarray] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: tuple[int, int]) -> dict:
        number = draw[1]
        made = self._kept.get(number)
        if made is None:
            made = front_end_of(self.extractor).extract(audio.load(self.rows[number]["audio"]))
            if self._bytes + made.nbytes <= CACHE_BYTES:
                self._bytes += made.nbytes
                self._kept[number] = made
        return {"features": made, "draw": draw}


class Order(Sampler[tuple[int, int]]):
    """`(epoch, number)` of every clip, in batches of like length: shuffled pools, sorted within; or
    always sorted."""

    def __init__(self, durations: np.ndarray, batch: int, seed: int | None, pool: int = 8) -> None:
        """Take the batch over all processes, and a seed; None for validation, which is the same
        every epoch."""
        self.durations, self.batch, self.seed, self.pool = durations, batch, seed, pool
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
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
        whole = len(order) // self.batch
        batches = order[: whole * self.batch].reshape(whole, self.batch)
        # an incomplete batch goes last, or it would shift every later one
        shuffled = np.concatenate([rng.permutation(batches).ravel(), order[whole * self.batch :]])
        yield from ((self.epoch, int(number)) for number in shuffled)


class Masking:
    """Pads clips to a batch and draws, for each clip alone, what is masked and what it is to be
    told from.

    A clip's draws depend on the seed, the epoch and its number in the training side, not on its
    neighbours.
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
        """Take the share of frames under masks if none overlapped, their length in frames, and
        negatives a frame.

        A length of None is that of wav2vec 2.0's masks in time, 200 ms.
        """
        self.model, self.input_name = model, extractor.model_input_names[0]
        self.seed, self.probability, self.negatives = seed, probability, negatives
        second = front_end_of(extractor).extract(np.zeros(audio.SAMPLING_RATE, dtype=np.float32))
        self.length = length or round(SPAN * self.frames_of(len(second)))

    def __call__(self, clips: list[dict]) -> dict[str, torch.Tensor]:
        """Batch what `Recordings` gives.

        Returns:
            `input_values` `(batch, samples)` or `input_features` `(batch, frames, dimensions)`,
            `attention_mask` of their first two dimensions, `mask_time_indices` `(batch, encoder
            frames)` and `negatives` `(batch, encoder frames, negatives)`: frames of the same clip,
            masked ones alone.
        """
        made = [clip["features"] for clip in clips]
        step = _ROUND[made[0].ndim]
        longest = -(-max(map(len, made)) // step) * step
        frames = self.frames_of(longest)
        padded = np.zeros((len(made), longest, *made[0].shape[1:]), dtype=np.float32)
        attention_mask = np.zeros((len(made), longest), dtype=np.int64)
        mask = np.zeros((len(made), frames), dtype=bool)
        negatives = np.zeros((len(made), frames, self.negatives), dtype=np.int64)
        for row, (clip, each) in enumerate(zip(clips, made, strict=True)):
            padded[row, : len(each)], attention_mask[row, : len(each)] = each, 1
            own = self.frames_of(len(each))
            if own > 1:  # else there is nothing to tell it from
                mask[row, :own], negatives[row, :own] = self.draw(own, *clip["draw"])
        batch = {
            self.input_name: padded,
            "attention_mask": attention_mask,
            "mask_time_indices": mask,
            "negatives": negatives,
        }
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def frames_of(self, length: int) -> int:
        """Frames that the encoder makes of so many samples or mel frames."""
        return max(0, int(self.model._get_feat_extract_output_lengths(torch.tensor(length))))

    def draw(self, frames: int, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The mask `(frames,)` and the negatives `(frames, negatives)` of one clip of at least two
        frames."""
        length = min(self.length, frames // 2)  # or a short clip would be masked whole
        with _drawing_from(self.seed, epoch, number):
            mask = _compute_mask_indices((1, frames), self.probability, length, min_masks=2)
            return mask[0], _sample_negative_indices((1, frames), self.negatives, mask)[0]


@contextmanager
def _drawing_from(*seed: int) -> Iterator[None]:
    """Give numpy's global generator, which transformers draws from, a seed for a while."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
