"""Features of whole clips, from a frozen model: computed once, and kept on disk."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from ser_hf import audio
from ser_hf.models import hidden_units, loading
from ser_hf.models.features import front_end_of
from ser_hf.training import feature_cache
from ser_hf.training.augmentation import Augmentation
from ser_hf.training.inputs import TrainingInputs


class PooledRows:
    """Features of clips, and behind them those of each copy, read when they are asked for."""

    def __init__(self, caches: list[feature_cache.FeatureCache], hashes: Sequence[str]) -> None:
        """Name the clips by their sha256; each of the caches has all of them."""
        self._caches = caches
        self._numbers = np.stack([cache.numbers(hashes) for cache in caches])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Float64 features `(len(rows), width)`."""
        copies, clips = np.divmod(rows, self._numbers.shape[1])
        read = (self._caches[copy].read(self._numbers[copy, clip])[0] for copy, clip in zip(copies, clips, strict=True))
        return np.array([halves.astype(np.float64).sum(axis=0) for halves in read])

    def whole(self) -> np.ndarray:
        """All of them in memory."""
        return self[np.arange(self._numbers.size)]


class PooledFeatures:
    """What a head reads of each clip, and of the augmented copies of the training clips.

    It is what the stock forward hands to the classifier. With `hidden_units` it is what
    `ser_hf.models.hidden_units.pooled` gives.
    """

    def __init__(self, inputs: TrainingInputs) -> None:
        """Compute the features of all clips of the split, or read them from the cache.

        Every process computes the same. The test side is computed with the others, so that other
        folds find it.

        Args:
            inputs: whose model hands its pooled frames to the classifier as they are.
        """
        self.inputs = inputs
        self._caches = [self._cache(copy) for copy in range(inputs.config.augmented_copies + 1)]

    def side(self, indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Features `(clips, width)` and labels `(clips,)` of a side, without copies."""
        hashes, labels = self._columns(indices)
        return PooledRows(self._caches[:1], hashes).whole(), labels

    def training(self) -> tuple[tuple[PooledRows, np.ndarray], np.ndarray | None]:
        """Features, labels and weights of the training clips, followed by those of their copies.

        `TrainingInputs.clip_weights` weigh the clips. All copies of one weigh `augmented_weight` of
        it together.
        """
        config, indices = self.inputs.config, self.inputs.split.train
        hashes, labels = self._columns(indices)
        weights = self.inputs.clip_weights()
        if config.augmented_copies:
            whole = np.ones(len(indices)) if weights is None else weights
            each = config.augmented_weight / config.augmented_copies
            weights = np.concatenate([whole, *[whole * each] * config.augmented_copies])
        return (PooledRows(self._caches, hashes), np.tile(labels, len(self._caches))), weights

    def _columns(self, indices: list[int]) -> tuple[list[str], np.ndarray]:
        chosen = self.inputs.rows.select(indices).select_columns(["sha256", "label"])
        return chosen["sha256"][:], np.array(chosen["label"], dtype=int)

    def _cache(self, copy: int) -> feature_cache.FeatureCache:
        inputs, model = self.inputs, self.inputs.model
        name = "hidden units" if inputs.config.hidden_units else "head start"
        name += " of all layers" * bool(getattr(model.config, "use_weighted_layer_sum", False))
        compute = hidden_units.pooled if inputs.config.hidden_units else _classifier_inputs
        augmentation = inputs.augmentation if copy else None
        with inputs.args.main_process_first(desc="features of the head start"):
            cache, computed = feature_cache.feature_cache(
                inputs.split_rows(),
                f"{name}, {_augmented_name(inputs, augmentation, copy)}" if augmentation else name,
                model,
                inputs.extractor,
                lambda batch: _in_halves(compute(model, batch)),
                inputs.config.cache_dir,
                _augmented_features(inputs, augmentation, copy) if augmentation else None,
            )
        if inputs.args.process_index == 0:
            clips = f"{len(cache):,} clips" + f", augmented copy {copy}" * bool(copy)
            print(f"pooled features of {clips}: {'computed' if computed else 'from the cache'}", flush=True)
        return cache


def _in_halves(pooled: torch.Tensor) -> list[torch.Tensor]:
    """Each clip as two rows of half precision that add up, shape `(2, width)`."""
    # One half has steps of 1/2,048, a twentieth of the deviation of some features.
    upper = pooled.half().float()
    return list(torch.stack([upper, pooled - upper], dim=1))


def _classifier_inputs(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Inputs of the classifier, shape `(clips, width)`."""
    pooled: list[torch.Tensor] = []
    hook = loading.last_linear(model).register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0].float()))
    try:
        model(**batch)
    finally:
        hook.remove()
    return pooled[0]


def _augmented_name(inputs: TrainingInputs, augmentation: Augmentation, copy: int) -> str:
    """What tells the features of an augmented copy from all others."""
    config, seed = inputs.config, inputs.args.seed
    noises = hashlib.sha256(b"".join(clip.tobytes() for clip in augmentation.noises)).hexdigest()[:8]
    return f"copy {copy} of seed {seed} by {config.augment} at {config.augment_probability} with noises {noises}"


def _augmented_features(inputs: TrainingInputs, augmentation: Augmentation, copy: int) -> feature_cache.Features:
    """Features of an augmented clip; what is drawn depends on its sound, so that folds share it."""
    front_end, seed = front_end_of(inputs.extractor), inputs.args.seed

    def features(samples: np.ndarray, sha256: str) -> np.ndarray:
        rng = np.random.default_rng([seed, copy, int(sha256[:12], 16)])
        samples = augmentation(samples, rng)[: front_end.longest]
        if not augmentation.names(of_frames=True):
            return front_end.extract(samples)
        rate = audio.SAMPLING_RATE / front_end.hop
        mel = augmentation.of_frames(front_end.prepare(samples), rng, front_end.bin_frequencies, rate)
        return front_end.finish(mel)

    return features
