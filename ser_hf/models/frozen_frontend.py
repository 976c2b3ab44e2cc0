"""The frozen layers of a model: bypassed while their outputs are cached, then restored."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from ser_hf.errors import UserError
from ser_hf.models import padding

_INDEPENDENT_LAYERS = frozenset({"wav2vec2", "hubert", "unispeech", "unispeech-sat", "wav2vec2-bert"})
"""Architectures whose layers need nothing but the output of the layer below. WavLM's share a
position bias."""


class CacheError(UserError):
    """A model whose frozen outputs cannot be cached."""


class FrozenFrontend:
    """The frozen part of a model, from its input to the input of encoder layer `depth`.

    At depth 0 it is the convolutions.
    """

    def __init__(self, model: PreTrainedModel, depth: int = 0) -> None:
        """Take a model, which stays as it is until `bypass`.

        Raises:
            CacheError: for an architecture whose frozen part cannot be separated from the rest.
        """
        self.model, self.base, self.depth = model, model.base_model, depth
        has_convolutions = hasattr(self.base, "feature_extractor")
        if model.config.model_type not in padding.MASKABLE or not (has_convolutions or depth):
            raise CacheError(f"the front of a {model.config.model_type} cannot be cached: pass --cache_frozen false")
        if depth and getattr(model.config, "use_weighted_layer_sum", False):
            raise CacheError("the head takes every layer, so none can be left out: pass --cache_frozen false")
        if depth and model.config.model_type not in _INDEPENDENT_LAYERS:
            raise CacheError(f"the layers of a {model.config.model_type} cannot be cached: pass --cache_frozen false")
        self._originals: list[tuple[nn.Module, str, object]] = []

    def outputs(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Outputs of the frozen part: `(frames, dimensions)` for each clip, without padding."""
        if self.depth:
            hidden = _run_to(self.model, batch, self.base.encoder.layers[self.depth], take_input=True)
        else:
            hidden = _run_to(self.model, batch, self.base.feature_extractor, take_input=False).transpose(1, 2)
        lengths = batch["attention_mask"].sum(-1)
        if hasattr(self.base, "feature_extractor"):
            lengths = self.model._get_feat_extract_output_lengths(lengths)
        return [row[:length] for row, length in zip(hidden, lengths.tolist(), strict=True)]

    def bypass(self) -> None:
        """Make the model take cached frames `(batch, frames, dimensions)` and their mask as input.

        Each module of the frozen part is replaced by one that hands its input on, from the input
        upwards, so that the forward pass of transformers stays as it is.
        """
        if hasattr(self.base, "feature_extractor"):
            # The forward pass transposes what the convolutions return, and counts their frames.
            self._replace(self.base, "feature_extractor", _Transpose())
            for owner in (self.model, self.base):
                self._replace(owner, "_get_feat_extract_output_lengths", lambda lengths, *_, **__: lengths)
        if not self.depth:
            return
        encoder = self.base.encoder
        self._replace(self.base, "feature_projection", _Duplicate())
        # SpecAugment lies between the projection and the encoder, inside the frozen part
        self._replace(self.base, "_mask_hidden_states", lambda hidden, *_, **__: hidden)
        self._replace(encoder, "dropout", _Identity())
        if hasattr(encoder, "pos_conv_embed"):
            self._replace(encoder, "pos_conv_embed", _Zero())
            # the stable variant normalises after its layers, above the frozen part
            if not getattr(self.model.config, "do_stable_layer_norm", False):
                self._replace(encoder, "layer_norm", _Identity())
        for number in range(self.depth):
            self._replace(encoder.layers, str(number), _Identity())

    def restore(self) -> None:
        """Undo `bypass`, in the reverse order."""
        for owner, name, original in reversed(self._originals):
            if isinstance(original, nn.Module):
                setattr(owner, name, original)
            else:
                delattr(owner, name)  # the method of the class is found again
        self._originals = []

    def _replace(self, owner: nn.Module, name: str, replacement: object) -> None:
        self._originals.append((owner, name, getattr(owner, name)))
        setattr(owner, name, replacement)


class _Transpose(nn.Module):
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.transpose(1, 2)


class _Duplicate(nn.Module):
    """In place of the projection, which returns its output and its normalised input."""

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return frames, frames


class _Identity(nn.Module):
    def forward(self, frames: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return frames


class _Zero(nn.Module):
    """In place of what is added to the frames."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.new_zeros(())


class _Reached(Exception):
    """Ends a forward pass, and carries the hidden states."""


def _run_to(model: nn.Module, batch: dict[str, torch.Tensor], layer: nn.Module, take_input: bool) -> torch.Tensor:
    """Run a forward pass to a layer, and return the input or the output of the layer."""

    def stop(module: nn.Module, args: tuple, *output: torch.Tensor) -> None:
        raise _Reached(args[0] if take_input else output[0])

    hook = layer.register_forward_pre_hook(stop) if take_input else layer.register_forward_hook(stop)
    try:
        model(**batch)
    except _Reached as reached:
        return reached.args[0]
    finally:
        hook.remove()
    raise RuntimeError("the forward pass never came to the layer")


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, without gradients, for a block."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
