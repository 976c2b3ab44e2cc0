"""The frozen front end of a model: bypassed while its outputs are cached, then restored."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from ser_hf.errors import UserError
from ser_hf.models import padding

_DEEP = frozenset({"wav2vec2", "hubert", "unispeech", "unispeech-sat", "wav2vec2-bert"})
"""Encoders whose layers need nothing of the layers below but their output (WavLM's share a position
bias)."""


class CacheError(UserError):
    """Outputs that cannot be kept."""


class FrozenFrontend:
    """The frozen part of a model, from its input to the input of encoder layer `depth`; its
    convolutions at 0."""

    def __init__(self, model: PreTrainedModel, depth: int = 0) -> None:
        """Take the front of a model.

        Raises:
            CacheError: for an architecture whose front cannot be told from the rest.
        """
        self.model, self.base, self.depth = model, model.base_model, depth
        has_convolutions = hasattr(self.base, "feature_extractor")
        if model.config.model_type not in padding.MASKABLE or not (has_convolutions or depth):
            raise CacheError(f"the front of a {model.config.model_type} cannot be cached: pass --cache_frozen false")
        if depth and getattr(model.config, "use_weighted_layer_sum", False):
            raise CacheError("the head hears every layer, so none can be left out: pass --cache_frozen false")
        if depth and model.config.model_type not in _DEEP:
            raise CacheError(f"the layers of a {model.config.model_type} cannot be cached: pass --cache_frozen false")
        self._originals: list[tuple[nn.Module, str, object]] = []

    def outputs(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """What the front makes of a batch: `(frames, dimensions)` for each clip, padding left
        out."""
        if self.depth:
            hidden = _stopped(self.model, batch, self.base.encoder.layers[self.depth], before=True)
        else:
            hidden = _stopped(self.model, batch, self.base.feature_extractor, before=False).transpose(1, 2)
        lengths = batch["attention_mask"].sum(-1)
        if hasattr(self.base, "feature_extractor"):
            lengths = self.model._get_feat_extract_output_lengths(lengths)
        return [row[:length] for row, length in zip(hidden, lengths.tolist(), strict=True)]

    def bypass(self) -> None:
        """From now on the model takes stored frames `(batch, frames, dimensions)` and their mask as
        its input."""
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


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = model.training
    model.eval()
    with torch.inference_mode():
        yield
    model.train(before)
