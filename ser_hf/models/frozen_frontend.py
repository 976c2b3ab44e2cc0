"""The frozen layers of a model: bypassed while their outputs are cached, then restored."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from ser_hf.errors import UserError
from ser_hf.models.encoder_layers import layers_of

_CONVOLUTIONAL = frozenset({"wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio"})
"""Architectures whose convolutions on the waveform take most of the time below the layers."""

CACHEABLE = {
    **dict.fromkeys(sorted(_CONVOLUTIONAL), (True, True)),
    "whisper": (True, True),
    "wav2vec2-bert": (False, True),
    "audio-spectrogram-transformer": (False, True),
}
"""Whether the convolutions and the lower layers can be cached, by architecture.

What w2v-BERT and AST have below their layers is one matrix product, quicker than a read from disk.
"""


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
        kind = model.config.model_type
        convolutions, layers = CACHEABLE.get(kind, (False, False))
        if not (layers if depth else convolutions):
            raise CacheError(f"the front of a {kind} cannot be cached: pass --cache_frozen false")
        if depth and getattr(model.config, "use_weighted_layer_sum", False):
            raise CacheError("the head takes every layer, so none can be left out: pass --cache_frozen false")
        self._originals: list[tuple[nn.Module, str, object, bool]] = []
        self._hook: RemovableHandle | None = None

    def outputs(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Outputs of the frozen part: `(frames, dimensions)` for each clip, without padding.

        A model without an attention mask has as many frames for every clip.
        """
        if self.depth or self.model.config.model_type not in _CONVOLUTIONAL:
            hidden = _run_to(self.model, batch, layers_of(self.model)[self.depth], take_input=True)
        else:
            hidden = _run_to(self.model, batch, self.base.feature_extractor, take_input=False).transpose(1, 2)
        if "attention_mask" not in batch:
            return list(hidden)
        lengths = batch["attention_mask"].sum(-1)
        if self.model.config.model_type in _CONVOLUTIONAL:
            lengths = self.model._get_feat_extract_output_lengths(lengths)
        return [row[:length] for row, length in zip(hidden, lengths.tolist(), strict=True)]

    def bypass(self) -> None:
        """Make the model take cached frames `(batch, frames, dimensions)` and their mask as input.

        Each module of the frozen part is replaced by one that hands its input on, from the input
        upwards, so that the forward pass of transformers stays as it is.
        """
        kind = self.model.config.model_type
        if kind in _CONVOLUTIONAL:
            self._bypass_convolutions()
        elif kind == "whisper":
            self._bypass_whisper()
        elif kind == "wav2vec2-bert":
            self._bypass_projection()
        else:
            self._replace(self.base, "embeddings", _Identity())
        layers = layers_of(self.model)
        for number in range(self.depth):
            stand_in = _Identity()
            if kind == "wavlm":
                stand_in = _Biased() if number else _LowestBiased(layers[0].attention)
            self._replace(layers, str(number), stand_in)

    def _bypass_convolutions(self) -> None:
        # The forward pass transposes what the convolutions return, and counts their frames.
        self._replace(self.base, "feature_extractor", _Transpose())
        for owner in (self.model, self.base):
            self._replace(owner, "_get_feat_extract_output_lengths", lambda lengths, *_, **__: lengths)
        if self.depth:
            self._bypass_projection()
            self._replace(self.base.encoder, "pos_conv_embed", _Zero())
            # the stable variant normalises after its layers, above the frozen part
            if not getattr(self.model.config, "do_stable_layer_norm", False):
                self._replace(self.base.encoder, "layer_norm", _Identity())

    def _bypass_projection(self) -> None:
        returns_input = self.model.config.model_type != "hubert"
        self._replace(self.base, "feature_projection", _Duplicate() if returns_input else _Identity())
        # SpecAugment lies between the projection and the encoder, inside the frozen part
        self._replace(self.base, "_mask_hidden_states", lambda hidden, *_, **__: hidden)
        self._replace(self.base.encoder, "dropout", _Identity())

    def _bypass_whisper(self) -> None:
        """Add the cached frames in place of the positions, to convolutions that return zeros.

        The forward pass adds both, after an activation that no module holds and that maps zero to
        zero. It refuses any other number of frames along the last axis than the config's.
        """
        encoder = self.base.encoder
        stored = _Stored()
        for name in ("conv1", "conv2"):
            self._replace(encoder, name, _Silent())
        self._replace(encoder, "embed_positions", stored)
        self._hook = encoder.register_forward_pre_hook(stored.take, with_kwargs=True)
        if self.depth:  # the dropout lies above the positions, which are all that is frozen at depth 0
            self._replace(encoder, "dropout", 0.0)

    def restore(self) -> None:
        """Undo `bypass`, in the reverse order."""
        for owner, name, original, was_own in reversed(self._originals):
            if was_own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)  # the method of the class is found again
        self._originals = []
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _replace(self, owner: nn.Module, name: str, replacement: object) -> None:
        original = getattr(owner, name)
        self._originals.append((owner, name, original, isinstance(original, nn.Module) or name in vars(owner)))
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


class _Silent(nn.Module):
    """In place of a convolution of Whisper: one frame of zeros."""

    stride = (1,)
    """The frames that the forward pass expects are those of the positions."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.new_zeros(1, 1, 1)


class _Stored(nn.Module):
    """In place of Whisper's table of positions, which is added to what the convolutions return."""

    num_embeddings = 1
    frames: torch.Tensor

    def take(self, encoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Keep the frames of a forward pass, and hand them on with the time along the last axis."""
        self.frames = args[0]
        return (self.frames.transpose(1, 2), *args[1:]), kwargs

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return self.frames


class _Biased(nn.Module):
    """In place of a layer of WavLM, which hands the bias of the positions on."""

    def forward(
        self, frames: torch.Tensor, position_bias: torch.Tensor | None = None, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return frames, position_bias


class _LowestBiased(nn.Module):
    """In place of the lowest layer of WavLM, which computes the bias of the positions for all."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, frames: torch.Tensor, **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
        clips, count = frames.shape[:2]
        return frames, self.attention.compute_bias(count, count).repeat(clips, 1, 1)


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
