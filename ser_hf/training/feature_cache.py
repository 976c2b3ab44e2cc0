"""Outputs of a frozen front end, computed once and kept on disk.

An entry is a folder. `values-*.f16` hold the arrays of all recordings one behind the other, a new
file whenever one is full. `keys.npy` holds the sorted keys of the recordings, `places.npy` where
each lies. `index.json` is written last. All of it is mapped from disk, and no more of it is in
memory than one recording, so that memory does not grow with the recordings.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import FeatureExtractionMixin, PreTrainedModel

from ser_hf import audio
from ser_hf.audio import voice_activity
from ser_hf.data import references
from ser_hf.models import padding
from ser_hf.models.features import Collator, front_end_of
from ser_hf.models.frozen_frontend import CacheError, evaluation_mode
from ser_hf.models.seen_speakers import CONFIG_KEY
from ser_hf.utils import files, progress

VERSION = 3
"""Part of the key. Raise it when decoding, features or the layout on disk change."""

STORED = torch.float16
"""Precision of the values on disk, part of their layout; float32 would take twice the space."""

SHARD_BYTES = 256 * 2**20
"""Size of a file of values, beyond which the next one is begun."""

_KEYS = 10_000  # recordings whose keys are made at a time
_CHUNK = 1_024  # recordings read at a time, whose batches are in order of length

Features = Callable[[np.ndarray, str], np.ndarray]
"""Maps a waveform `(samples,)` and the sha256 of its recording to features of the model."""


class FeatureCache:
    """Arrays `(frames, dimensions)`, one a recording, mapped from disk and found by sha256."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._shape = folder, json.loads((folder / "index.json").read_text())["shape"]
        self._keys = np.load(folder / "keys.npy", mmap_mode="r")
        self._places = np.load(folder / "places.npy", mmap_mode="r")
        self._dtype = torch.empty(0, dtype=STORED).numpy().dtype

    def __getitem__(self, sha256: str) -> tuple[np.ndarray, tuple[int, int]]:
        """Float32 frames of a recording, and the first and one-past-last frame of its voice."""
        return self.read(self.numbers([sha256])[0])

    def numbers(self, hashes: Sequence[str]) -> np.ndarray:
        """The numbers of recordings in the cache, by their sha256.

        Raises:
            KeyError: for a recording that is not in it.
        """
        keys = _keys_of(hashes)
        numbers = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        if (missing := self._keys[numbers] != keys).any():
            raise KeyError(hashes[int(np.argmax(missing))])
        return numbers

    def read(self, number: int) -> tuple[np.ndarray, tuple[int, int]]:
        """What `__getitem__` gives, by the number of a recording."""
        shard, offset, frames, first, last = self._places[number].tolist()
        # the map is dropped with the copy, and with it the pages that count as this process' memory
        mapped = np.memmap(_shard(self._folder, shard), self._dtype, "r", offset, (frames, *self._shape))
        return mapped.astype(np.float32), (first, last)

    def extent(self, number: int) -> tuple[int, tuple[int, int]]:
        """Number of frames, and first and one-past-last frame of the voice, of a recording."""
        _, _, frames, first, last = self._places[number].tolist()
        return frames, (first, last)

    def __len__(self) -> int:
        return len(self._keys)


def _keys_of(hashes: Sequence[str]) -> np.ndarray:
    """Keys of recordings: the digest of their sha256, of 32 bytes whatever the column holds."""
    return np.array([hashlib.sha256(name.encode()).digest() for name in hashes], dtype="S32")


def _sounds_of(rows: datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The sorted keys of the distinct recordings of rows, and the first row of each."""
    named = rows.select_columns(["sha256"])
    keys = [_keys_of(named[start : start + _KEYS]["sha256"]) for start in range(0, len(rows), _KEYS)]
    return np.unique(np.concatenate(keys), return_index=True)


def _shard(folder: Path, number: int) -> Path:
    return folder / f"values-{number:05d}.f16"


def feature_cache(
    rows: datasets.Dataset,
    name: str,
    model: PreTrainedModel,
    extractor: FeatureExtractionMixin,
    compute: Callable[[dict[str, torch.Tensor]], list[torch.Tensor]],
    cache: str | Path | None = None,
    features: Features | None = None,
) -> tuple[FeatureCache, bool]:
    """Open the cached outputs for every recording of a dataset, or compute them.

    The key covers the weights and config of the model, the extractor, `name` and `VERSION`. An
    entry of that key that holds every sound of the recordings is read, and it may hold more. Only
    one process at a time computes an entry. A second process that needs it waits and then reads it.

    Args:
        rows: recordings. A sound that occurs twice is stored once.
        name: name of the outputs, part of the key.
        model: model that computes them. It is in evaluation mode meanwhile.
        extractor: feature extractor of the model.
        compute: maps a batch of model inputs to one tensor `(frames, ...)` a clip, without padding.
        cache: folder of all entries; `$HF_HOME/ser_hf/frozen` where None.
        features: maps a waveform `(samples,)` and its sha256 to model features; the extractor's
            where None. `name` must tell them apart.

    Returns:
        The cache, and whether it was computed now.

    Raises:
        CacheError: for values that do not fit into half precision.
    """
    key, (sounds, _) = _key(name, model, extractor), _sounds_of(rows)
    entries = Path(cache or files.cache_dir("frozen")) / key
    if (found := _holding(entries, sounds)) is not None:  # entries never change, so that reading one needs no lock
        return FeatureCache(found), False
    entries.mkdir(parents=True, exist_ok=True)
    folder = entries / hashlib.sha256(sounds.tobytes()).hexdigest()[:24]
    with files.cache_lock(folder):
        # checked again: another process may have computed it meanwhile
        if (found := _holding(entries, sounds)) is not None:
            return FeatureCache(found), False
        _compute_entry(folder, rows, model, compute, features or _stock_features(extractor), extractor)
    return FeatureCache(folder), True


def _holding(entries: Path, sounds: np.ndarray) -> Path | None:
    """The first entry that holds every one of the sounds, by their keys."""
    for index in sorted(entries.glob("*/index.json")):
        keys = np.load(index.parent / "keys.npy", mmap_mode="r")
        if np.isin(sounds, keys).all():
            return index.parent
    return None


def _stock_features(extractor: FeatureExtractionMixin) -> Features:
    front_end = front_end_of(extractor)
    return lambda samples, _: front_end.extract(samples)


def _compute_entry(
    folder: Path,
    rows: datasets.Dataset,
    model: PreTrainedModel,
    compute: Callable,
    features: Features,
    extractor: FeatureExtractionMixin,
) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # without an index it is a damaged entry
    try:
        with files.new_folder(folder) as partial, evaluation_mode(model):
            _write_entry(partial, rows, model, compute, features, extractor)
    except OSError:
        # A file system that keeps locks to one machine lets another machine finish the entry first.
        if not (folder / "index.json").is_file():
            raise


def _write_entry(
    folder: Path,
    rows: datasets.Dataset,
    model: PreTrainedModel,
    compute: Callable,
    features: Features,
    extractor: FeatureExtractionMixin,
) -> None:
    keys, first_rows = _sounds_of(rows)
    places = np.empty((len(keys), 5), dtype=np.int64)  # file, byte, frames, first and last of the voice
    shard, shape = 0, ()
    outputs = _outputs(rows.select(np.sort(first_rows)), model, compute, features, extractor)
    outputs = progress.each(outputs, "Computing what is frozen", len(keys))
    for sha256, voice, tensor in outputs:
        frames = tensor.to(STORED).cpu().numpy()
        if not np.isfinite(frames).all():
            raise CacheError("the frozen part's values do not fit half precision: pass --cache_frozen false")
        shape = frames.shape[1:]
        start, end = math.floor(voice[0] * len(frames)), math.ceil(voice[1] * len(frames))
        with open(_shard(folder, shard), "ab") as file:
            number = np.searchsorted(keys, _keys_of([sha256])[0])
            places[number] = (shard, file.tell(), len(frames), start, max(end, start + 1))
            file.write(frames.tobytes())
            shard += file.tell() >= SHARD_BYTES
    np.save(folder / "keys.npy", keys)
    np.save(folder / "places.npy", places)
    (folder / "index.json").write_text(json.dumps({"shape": shape, "clips": len(keys)}))


def _outputs(
    rows: datasets.Dataset,
    model: PreTrainedModel,
    compute: Callable,
    features: Features,
    extractor: FeatureExtractionMixin,
) -> Iterator[tuple[str, tuple[float, float], torch.Tensor]]:
    """Yield of each row the sha256, the span of its voice as shares of the clip, and the output."""
    rule = padding.ignore_padding(model)
    collate = Collator(extractor, rule)
    size = 1 if rule == padding.ALONE else 16
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        encoded = [references.recording(entry) for entry in chunk["audio"]]  # in the order of the rows
        order = np.argsort(chunk["duration"], kind="stable")  # so that batches hold little padding
        for part in np.split(order, range(size, len(order), size)):
            clips = [audio.load(encoded[row]) for row in part]
            hashes = [chunk["sha256"][row] for row in part]
            batch = collate([{"features": features(*named)} for named in zip(clips, hashes, strict=True)])
            outputs = compute({name: tensor.to(model.device) for name, tensor in batch.items()})
            for clip, sha256, tensor in zip(clips, hashes, outputs, strict=True):
                first, last = voice_activity.voiced_span(clip)
                yield sha256, (first / len(clip), last / len(clip)), tensor


def _key(name: str, model: PreTrainedModel, extractor: FeatureExtractionMixin) -> str:
    digest = hashlib.sha256(f"{VERSION} {name} ".encode())
    config = {key: value for key, value in model.config.to_dict().items() if key not in _IRRELEVANT_KEYS}
    for part in (config, extractor.to_dict()):
        digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    for key, tensor in sorted(model.base_model.state_dict().items()):
        if key.startswith(("projector.", "classifier.")):  # Whisper's base model is the classifier itself
            continue
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:24]


_IRRELEVANT_KEYS: tuple[str, ...] = (
    CONFIG_KEY,
    "_name_or_path",
    "use_weighted_layer_sum",
    "apply_spec_augment",
    "mask_time_length",
)
_IRRELEVANT_KEYS += ("classifier_proj_size",)
"""Settings of a model's config that do not change the frozen outputs."""
