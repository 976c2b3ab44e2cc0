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
from ser_hf.models import padding
from ser_hf.models.features import Collator, front_end_of
from ser_hf.models.frozen_frontend import CacheError, evaluation_mode
from ser_hf.models.seen_speakers import CONFIG_KEY
from ser_hf.utils import files

VERSION = 1
"""Of the code that makes what is stored: a change of decoding, features or layout asks for
another."""

_CHUNK = 256  # clips decoded at a time


class FeatureCache:
    """Arrays of shape `(frames, dimensions)`, one a recording, mapped from a folder; found by the
    sound's sha256."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        self.values = np.memmap(folder / "values.f16", dtype=np.float16, mode="r").reshape(-1, *index["shape"])
        self._place = {sound: place for place, sound in enumerate(index["sounds"])}
        self._starts, self._voices = np.cumsum([0, *index["lengths"]]), index["voices"]

    def __getitem__(self, sound: str) -> tuple[np.ndarray, tuple[int, int]]:
        """Float32 frames of a recording, and the first and one-past-last frame of its voice."""
        place = self._place[sound]
        start, end = self._starts[place], self._starts[place + 1]
        return self.values[start:end].astype(np.float32), tuple(self._voices[place])

    def extent(self, sound: str) -> tuple[int, tuple[int, int]]:
        """Frames of a recording, and where its voice begins and ends; nothing is read from disk."""
        place = self._place[sound]
        return int(self._starts[place + 1] - self._starts[place]), tuple(self._voices[place])

    def __len__(self) -> int:
        return len(self._place)


def feature_cache(
    rows: datasets.Dataset,
    name: str,
    model: PreTrainedModel,
    extractor: FeatureExtractionMixin,
    compute: Callable[[dict[str, torch.Tensor]], list[torch.Tensor]],
    cache: Path | None = None,
) -> tuple[FeatureCache, bool]:
    """Outputs for every recording of a dataset, computed unless the cache holds them.

    The cache is keyed by the model's weights and config, its extractor, the recordings' sounds,
    what is computed (`name`) and the version of this code.

    Args:
        rows: of the dataset; a sound that occurs twice is stored once.
        name: of what is computed.
        model: in its state when the front is computed; it is put into evaluation mode while it
            computes.
        extractor: of the model.
        compute: batch of model inputs -> one tensor `(frames, ...)` for each of its clips, padding
            left out.
        cache: folder of all stores; `$HF_HOME/ser_hf/frozen` where None.

    Returns:
        The store, and whether it had to be computed.

    Raises:
        CacheError: for values that do not fit into half precision.
    """
    folder = Path(cache or files.cache_dir("frozen")) / _key(rows, name, model, extractor)
    made = not (folder / "index.json").is_file()
    if made:
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier layout
        try:
            with files.new_folder(folder) as partial, evaluation_mode(model):
                _write(partial, rows, model, extractor, compute)
        except OSError:
            if not (folder / "index.json").is_file():  # else another machine that shares the folder was faster
                raise
    return FeatureCache(folder), made


def _write(
    folder: Path,
    rows: datasets.Dataset,
    model: PreTrainedModel,
    extractor: FeatureExtractionMixin,
    compute: Callable,
) -> None:
    first = list({sound: place for place, sound in reversed(list(enumerate(rows["sha256"])))}.values())
    order = sorted(first, key=rows.select_columns("duration")["duration"].__getitem__)
    index = {"sounds": [], "lengths": [], "voices": []}
    with open(folder / "values.f16", "wb") as file:
        for sound, voice, tensor in _computed(rows.select(order), model, extractor, compute):
            frames = tensor.half().cpu().numpy()
            if not np.isfinite(frames).all():
                raise CacheError("the frozen part's values do not fit half precision: pass --cache_frozen false")
            file.write(frames.tobytes())
            index["shape"] = frames.shape[1:]
            index["sounds"].append(sound)
            index["lengths"].append(len(frames))
            start, end = math.floor(voice[0] * len(frames)), math.ceil(voice[1] * len(frames))
            index["voices"].append((start, max(end, start + 1)))
    (folder / "index.json").write_text(json.dumps(index))


def _computed(
    rows: datasets.Dataset, model: PreTrainedModel, extractor: FeatureExtractionMixin, compute: Callable
) -> Iterator[tuple[str, tuple[float, float], torch.Tensor]]:
    """Sound, the voice's begin and end as shares of the clip, and output of each row, which lie in
    order of length."""
    rule = padding.ignore_padding(model)
    collate, front_end = Collator(extractor, rule), front_end_of(extractor)
    size = 1 if rule == padding.ALONE else 16
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        clips = [audio.load(one) for one in chunk["audio"]]
        for place in range(0, len(clips), size):
            some = clips[place : place + size]
            batch = collate([{"features": front_end.extract(clip)} for clip in some])
            made = compute({name: tensor.to(model.device) for name, tensor in batch.items()})
            for clip, sound, tensor in zip(some, chunk["sha256"][place : place + size], made, strict=True):
                first, last = voice_activity.voiced_span(clip)
                yield sound, (first / len(clip), last / len(clip)), tensor


def _key(rows: datasets.Dataset, name: str, model: PreTrainedModel, extractor: FeatureExtractionMixin) -> str:
    digest = hashlib.sha256(f"{VERSION} {name} ".encode())
    config = {key: value for key, value in model.config.to_dict().items() if key not in _SAYS_NOTHING}
    for part in (config, extractor.to_dict()):
        digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    for key, tensor in sorted(model.base_model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    digest.update("".join(sorted(set(rows["sha256"]))).encode())
    return digest.hexdigest()[:24]


_SAYS_NOTHING = (CONFIG_KEY, "_name_or_path", "use_weighted_layer_sum", "apply_spec_augment", "mask_time_length")
