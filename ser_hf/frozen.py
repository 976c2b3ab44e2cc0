"""What is frozen is computed once: the outputs of a model's frozen front for every clip, kept on disk.

A front is the convolutional feature encoder, or that and the lower layers. While a model trains on stored outputs, its
front is bypassed in place: the stock forward runs, with modules that pass what they are given. `restore` puts it back.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import torch
from huggingface_hub.constants import HF_HOME
from torch import nn
from transformers import FeatureExtractionMixin, PreTrainedModel

from ser_hf import audio, features, modeling
from ser_hf.audio import voice_activity
from ser_hf.errors import UserError
from ser_hf.utils import files

VERSION = 1
"""Of the code that makes what is stored: a change of decoding, features or layout asks for another."""

_DEEP = frozenset({"wav2vec2", "hubert", "unispeech", "unispeech-sat", "wav2vec2-bert"})
"""Encoders whose layers need nothing of the layers below but their output (WavLM's share a position bias)."""

_CHUNK = 256  # clips decoded at a time


class CacheError(UserError):
    """Outputs that cannot be kept."""


class Store:
    """Arrays of shape `(frames, dimensions)`, one a recording, mapped from a folder; found by the sound's sha256."""

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


def store(
    rows: datasets.Dataset,
    name: str,
    model: PreTrainedModel,
    extractor: FeatureExtractionMixin,
    compute: Callable[[dict[str, torch.Tensor]], list[torch.Tensor]],
    cache: Path | None = None,
) -> tuple[Store, bool]:
    """Outputs for every recording of a dataset, computed unless the cache holds them.

    The cache is keyed by the model's weights and config, its extractor, the recordings' sounds, what is computed
    (`name`) and the version of this code.

    Args:
        rows: of the dataset; a sound that occurs twice is stored once.
        name: of what is computed.
        model: in its state when the front is computed; it is put into evaluation mode while it computes.
        extractor: of the model.
        compute: batch of model inputs -> one tensor `(frames, ...)` for each of its clips, padding left out.
        cache: folder of all stores; `ser_hf` beside the Hub's cache where None.

    Returns:
        The store, and whether it had to be computed.

    Raises:
        CacheError: for values that do not fit into half precision.
    """
    folder = Path(cache or Path(HF_HOME) / "ser_hf") / _key(rows, name, model, extractor)
    made = not (folder / "index.json").is_file()
    if made:
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier layout
        try:
            with files.new_folder(folder) as partial, _evaluating(model):
                _write(partial, rows, model, extractor, compute)
        except OSError:
            if not (folder / "index.json").is_file():  # else another machine that shares the folder was faster
                raise
    return Store(folder), made


class Front:
    """The frozen part of a model, from its input to the input of encoder layer `depth`; its convolutions at 0."""

    def __init__(self, model: PreTrainedModel, depth: int = 0) -> None:
        """Take the front of a model.

        Raises:
            CacheError: for an architecture whose front cannot be told from the rest.
        """
        self.model, self.base, self.depth = model, model.base_model, depth
        has_convolutions = hasattr(self.base, "feature_extractor")
        if model.config.model_type not in modeling.MASKABLE or not (has_convolutions or depth):
            raise CacheError(f"the front of a {model.config.model_type} cannot be cached: pass --cache_frozen false")
        if depth and getattr(model.config, "use_weighted_layer_sum", False):
            raise CacheError("the head hears every layer, so none can be left out: pass --cache_frozen false")
        if depth and model.config.model_type not in _DEEP:
            raise CacheError(f"the layers of a {model.config.model_type} cannot be cached: pass --cache_frozen false")
        self._originals: list[tuple[nn.Module, str, object]] = []

    def outputs(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """What the front makes of a batch: `(frames, dimensions)` for each clip, padding left out."""
        if self.depth:
            hidden = _stopped(self.model, batch, self.base.encoder.layers[self.depth], before=True)
        else:
            hidden = _stopped(self.model, batch, self.base.feature_extractor, before=False).transpose(1, 2)
        lengths = batch["attention_mask"].sum(-1)
        if hasattr(self.base, "feature_extractor"):
            lengths = self.model._get_feat_extract_output_lengths(lengths)
        return [row[:length] for row, length in zip(hidden, lengths.tolist(), strict=True)]

    def bypass(self) -> None:
        """From now on the model takes stored frames `(batch, frames, dimensions)` and their mask as its input."""
        if hasattr(self.base, "feature_extractor"):
            self._swap(self.base, "feature_extractor", _Transposed())
            for owner in (self.model, self.base):
                self._swap(owner, "_get_feat_extract_output_lengths", lambda lengths, *_, **__: lengths)
        if not self.depth:
            return
        encoder = self.base.encoder
        self._swap(self.base, "feature_projection", _Twice())
        self._swap(self.base, "_mask_hidden_states", lambda hidden, *_, **__: hidden)  # its place is in the front
        self._swap(encoder, "dropout", _Passed())
        if hasattr(encoder, "pos_conv_embed"):
            self._swap(encoder, "pos_conv_embed", _Nothing())
            if not getattr(self.model.config, "do_stable_layer_norm", False):  # it comes before the layers
                self._swap(encoder, "layer_norm", _Passed())
        for place in range(self.depth):
            self._swap(encoder.layers, str(place), _Passed())

    def restore(self) -> None:
        """Put back what `bypass` took out."""
        for owner, name, original in reversed(self._originals):
            if isinstance(original, nn.Module):
                setattr(owner, name, original)
            else:
                delattr(owner, name)  # the class's own method shows again
        self._originals = []

    def _swap(self, owner: nn.Module, name: str, new: object) -> None:
        self._originals.append((owner, name, getattr(owner, name)))
        setattr(owner, name, new)


class _Transposed(nn.Module):
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.transpose(1, 2)


class _Twice(nn.Module):
    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return frames, frames


class _Passed(nn.Module):
    def forward(self, frames: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return frames


class _Nothing(nn.Module):
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.new_zeros(())


class _Reached(Exception):
    """Carries what was wanted out of a forward pass that need not go on."""


def _stopped(model: nn.Module, batch: dict[str, torch.Tensor], layer: nn.Module, before: bool) -> torch.Tensor:
    """What goes into a layer, or comes out of it, in a forward pass that stops there."""

    def stop(module: nn.Module, args: tuple, *output: torch.Tensor) -> None:
        raise _Reached(args[0] if before else output[0])

    hook = layer.register_forward_pre_hook(stop) if before else layer.register_forward_hook(stop)
    try:
        model(**batch)
    except _Reached as reached:
        return reached.args[0]
    finally:
        hook.remove()
    raise RuntimeError("the forward pass never came to the layer")


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
    """Sound, the voice's begin and end as shares of the clip, and output of each row, which lie in order of length."""
    rule = modeling.ignore_padding(model)
    collate = features.Collator(extractor, rule)
    size = 1 if rule == modeling.ALONE else 16
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        clips = [audio.load(one) for one in chunk["audio"]]
        for place in range(0, len(clips), size):
            some = clips[place : place + size]
            batch = collate([{"features": features.extract(extractor, clip)} for clip in some])
            made = compute({name: tensor.to(model.device) for name, tensor in batch.items()})
            for clip, sound, tensor in zip(some, chunk["sha256"][place : place + size], made, strict=True):
                first, last = voice_activity.voiced(clip)
                yield sound, (first / len(clip), last / len(clip)), tensor


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = model.training
    model.eval()
    with torch.inference_mode():
        yield
    model.train(before)


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


_SAYS_NOTHING = ("ser_hf", "_name_or_path", "use_weighted_layer_sum", "apply_spec_augment", "mask_time_length")
