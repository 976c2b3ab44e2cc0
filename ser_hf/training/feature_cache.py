"""Outputs of a frozen front end, computed once and kept on disk."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
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
from ser_hf.utils import files

VERSION = 2
"""Part of the key. Raise it when decoding, features or the layout on disk change."""

STORED = torch.float16
"""Precision of the values on disk, part of their layout; float32 would take twice the space."""

_CHUNK = 1_024  # recordings read at a time, whose batches are in order of length

Features = Callable[[np.ndarray, str], np.ndarray]
"""Maps a waveform `(samples,)` and the sha256 of its recording to features of the model."""


class FeatureCache:
    """Arrays `(frames, dimensions)`, one a recording, mapped from disk and keyed by sha256."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        dtype = torch.empty(0, dtype=STORED).numpy().dtype
        self.values = np.memmap(folder / "values.f16", dtype, mode="r").reshape(-1, *index["shape"])
        self._number = {sha256: number for number, sha256 in enumerate(index["sounds"])}
        self._starts, self._voices = np.cumsum([0, *index["lengths"]]), index["voices"]

    def __getitem__(self, sha256: str) -> tuple[np.ndarray, tuple[int, int]]:
        """Float32 frames of a recording, and the first and one-past-last frame of its voice."""
        number = self._number[sha256]
        start, end = self._starts[number], self._starts[number + 1]
        return self.values[start:end].astype(np.float32), tuple(self._voices[number])

    def extent(self, sha256: str) -> tuple[int, tuple[int, int]]:
        """Number of frames, and first and one-past-last frame of the voice, without disk access."""
        number = self._number[sha256]
        return int(self._starts[number + 1] - self._starts[number]), tuple(self._voices[number])

    def __len__(self) -> int:
        return len(self._number)


def feature_cache(
    rows: datasets.Dataset,
    name: str,
    model: PreTrainedModel,
    extractor: FeatureExtractionMixin,
    compute: Callable[[dict[str, torch.Tensor]], list[torch.Tensor]],
    cache: Path | None = None,
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
    key, sounds = _key(name, model, extractor), set(rows["sha256"])
    entries = Path(cache or files.cache_dir("frozen")) / key
    if (found := _holding(entries, sounds)) is not None:  # entries never change, so that reading one needs no lock
        return FeatureCache(found), False
    entries.mkdir(parents=True, exist_ok=True)
    folder = entries / hashlib.sha256("".join(sorted(sounds)).encode()).hexdigest()[:24]
    with files.cache_lock(folder):
        # checked again: another process may have computed it meanwhile
        if (found := _holding(entries, sounds)) is not None:
            return FeatureCache(found), False
        _compute_entry(folder, rows, model, compute, features or _stock_features(extractor), extractor)
    return FeatureCache(folder), True


def _holding(entries: Path, sounds: set[str]) -> Path | None:
    """The first entry that holds every one of the sounds."""
    for index in sorted(entries.glob("*/index.json")):
        if sounds <= set(json.loads(index.read_text())["sounds"]):
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
    distinct = list({sha256: number for number, sha256 in reversed(list(enumerate(rows["sha256"])))}.values())
    index = {"sounds": [], "lengths": [], "voices": []}
    with open(folder / "values.f16", "wb") as file:
        for sha256, voice, tensor in _outputs(rows.select(sorted(distinct)), model, compute, features, extractor):
            frames = tensor.to(STORED).cpu().numpy()
            if not np.isfinite(frames).all():
                raise CacheError("the frozen part's values do not fit half precision: pass --cache_frozen false")
            file.write(frames.tobytes())
            index["shape"] = frames.shape[1:]
            index["sounds"].append(sha256)
            index["lengths"].append(len(frames))
            start, end = math.floor(voice[0] * len(frames)), math.ceil(voice[1] * len(frames))
            index["voices"].append((start, max(end, start + 1)))
    (folder / "index.json").write_text(json.dumps(index))


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


_IRRELEVANT_KEYS = (CONFIG_KEY, "_name_or_path", "use_weighted_layer_sum", "apply_spec_augment", "mask_time_length")
_IRRELEVANT_KEYS += ("classifier_proj_size",)
"""Settings of a model's config that do not change the frozen outputs."""
