"""Training modes: full, the top layers (partial), low-rank adapters (lora), or the head (probe)."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from ser_hf.models import loading
from ser_hf.models.encoder_layers import HEAD_MODULES, LAYER_NAME, final_norm, layers_of
from ser_hf.models.frozen_frontend import CacheError, FrozenFrontend

MODES = ("full", "partial", "lora", "probe")
_ATTENTION = {"q_proj", "k_proj", "v_proj", "out_proj", "o_proj", "linear_q", "linear_k", "linear_v", "linear_out"}
_FEED_FORWARD = {"fc1", "fc2", "intermediate_dense", "output_dense"}
"""Names of the linear layers that take adapters, over all architectures."""


@dataclass
class TrainableModel:
    """A model as the Trainer takes it, with what `finished` needs to restore the stock model."""

    model: PreTrainedModel
    """The stock model, of which only the trained part requires gradients."""
    front: FrozenFrontend | None
    """The frozen front end, where its outputs can be computed once."""
    adapted: nn.Module | None = None
    """The model wrapped by peft, in mode `lora`."""

    @property
    def trainable(self) -> nn.Module:
        """The module that the Trainer trains and saves in checkpoints."""
        return self.model if self.adapted is None else self.adapted

    def adapt(self, rank: int) -> None:
        """Add low-rank adapters (Hu et al. 2022) to attention and feed-forward of every layer.

        The head is trained in full.
        """
        from peft import LoraConfig, get_peft_model

        heads = [name for name in HEAD_MODULES if isinstance(getattr(self.model, name, None), nn.Module)]
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=adapted(self.model), modules_to_save=heads
        )
        self.adapted = get_peft_model(self.model, config)

    def finished(self) -> PreTrainedModel:
        """Merge the adapters, restore the front end, and return the trained stock model."""
        if self.adapted is not None:
            self.model = self.adapted.merge_and_unload()
        if self.front is not None:
            self.front.restore()
        for module in self.model.modules():
            if type(module) is Float32Linear:
                module.__class__ = nn.Linear
        return self.model


class Float32Linear(nn.Linear):
    """Linear layer that computes in the precision of its weights under autocast."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute as `nn.Linear` does without autocast."""
        with torch.autocast(hidden.device.type, enabled=False):
            return functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias)


def widen_head(model: PreTrainedModel) -> None:
    """Make the linear layers of a head compute in float32 under autocast, until `finished`.

    A head that standardises its input needs it. The mean of a feature of Whisper is up to 120 times
    its deviation, and bf16 has steps of 1/256.
    """
    for layer in (getattr(model, "projector", None), loading.last_linear(model)):
        if layer is not None:
            layer.__class__ = Float32Linear


def adapted(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers of an encoder that take adapters.

    The attention of WavLM takes none: it reads the weights itself, past any adapter.
    """
    kinds = _FEED_FORWARD if model.config.model_type == "wavlm" else _ATTENTION | _FEED_FORWARD
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and LAYER_NAME.search(name) and name.split(".")[-1] in kinds
    ]


def mix_layers(model: PreTrainedModel) -> None:
    """Make the head take a learnt mix of all layers, in place; it begins with their mean.

    Raises:
        ModelError: for an architecture whose stock head cannot.
    """
    if not hasattr(model.config, "use_weighted_layer_sum"):
        raise loading.ModelError(f"the head of a {model.config.model_type} cannot mix layers: leave out --layer_mix")
    if not model.config.use_weighted_layer_sum:
        model.config.use_weighted_layer_sum = True
        count = len(layers_of(model)) + 1  # and the input of the lowest
        model.layer_weights = nn.Parameter(torch.full((count,), 1 / count))


def prepare(model: PreTrainedModel, mode: str, freeze_convolutions: bool, layers: int | None) -> TrainableModel:
    """Freeze the parameters that a mode does not train.

    Args:
        model: stock model with its head.
        mode: `full`, `partial` or `lora`.
        freeze_convolutions: whether mode `full` freezes the convolutional feature encoder. The
            other modes always do.
        layers: number of top layers that mode `partial` trains; a third of all where None.

    Raises:
        ModelError: if the model lacks what the mode needs.
    """
    if mode == "full":
        frozen = freeze_convolutions and loading.freeze_feature_encoder(model)
        return TrainableModel(model, _front(model, 0) if frozen else None)
    encoder = layers_of(model)
    model.requires_grad_(False)
    for name in HEAD_MODULES:
        for parameter in _parameters(getattr(model, name, None)):
            parameter.requires_grad = True
    if mode == "partial":
        count = max(1, len(encoder) // 3) if layers is None else layers
        if count >= len(encoder):
            raise loading.ModelError(
                f"--layers is {count}, but the model has {len(encoder)}: train fewer, or use --mode full"
            )
        depth = len(encoder) - count
        encoder[depth:].requires_grad_(True)
        if norm := final_norm(model):
            model.get_submodule(norm).requires_grad_(True)
        return TrainableModel(model, _front(model, depth) or _front(model, 0))
    if getattr(model.config, "use_weighted_layer_sum", False):  # its weights are no module, so peft cannot save them
        raise loading.ModelError("adapters cannot train a head that mixes layers: use --mode partial or full")
    if not adapted(model):
        raise loading.ModelError(f"a {model.config.model_type} has nothing to adapt: use --mode partial")
    return TrainableModel(model, _front(model, 0))


def _front(model: PreTrainedModel, depth: int) -> FrozenFrontend | None:
    try:
        return FrozenFrontend(model, depth)
    except CacheError:
        return None  # the frozen part then runs in each step


def _parameters(owner: object) -> list[torch.Tensor]:
    if isinstance(owner, nn.Module):
        return list(owner.parameters())
    return [owner] if isinstance(owner, torch.Tensor) else []
