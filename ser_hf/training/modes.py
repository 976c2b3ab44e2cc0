"""Training modes: full, the top layers (partial), low-rank adapters (lora), or the head (probe)."""

import re
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from ser_hf.models import loading
from ser_hf.models.frozen_frontend import CacheError, FrozenFrontend
from ser_hf.training import losses

MODES = ("full", "partial", "lora", "probe")
LAYER_NAME = re.compile(r"\.encoder\.layers\.(\d+)\.")
"""Matches the name of a parameter of an encoder layer, and captures the number of the layer."""
HEAD_MODULES = ("projector", "classifier", "layer_weights", "functionals")
"""Modules of a model that belong to its head."""
_ADAPTED = r".*\.encoder\.layers\.\d+\..*\b(q_proj|k_proj|v_proj|out_proj|linear_q|linear_k|linear_v|linear_out)"


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
        """Add low-rank adapters to the attention of every layer (Hu et al. 2022).

        The head is trained in full.
        """
        from peft import LoraConfig, get_peft_model

        heads = [name for name in HEAD_MODULES if isinstance(getattr(self.model, name, None), nn.Module)]
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=_ADAPTED, modules_to_save=heads
        )
        self.adapted = get_peft_model(self.model, config)

    def finished(self) -> PreTrainedModel:
        """Merge the adapters, restore the front end, and return the trained stock model."""
        if self.adapted is not None:
            self.model = self.adapted.merge_and_unload()
        if self.front is not None:
            self.front.restore()
        losses.detach(self.model)
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


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The encoder's layers.

    Raises:
        ModelError: for an architecture without `encoder.layers`.
    """
    layers = getattr(getattr(model.base_model, "encoder", None), "layers", None)
    if layers is None:
        raise loading.ModelError(f"a {model.config.model_type} has no encoder.layers: use --mode full")
    return layers


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
        if getattr(model.config, "do_stable_layer_norm", False):  # the last norm follows the layers
            model.base_model.encoder.layer_norm.requires_grad_(True)
        return TrainableModel(model, _front(model, depth))
    if getattr(model.config, "use_weighted_layer_sum", False):  # its weights are no module, so peft cannot save them
        raise loading.ModelError("adapters cannot train a head that mixes layers: use --mode partial or full")
    if model.config.model_type == "wavlm":  # its attention reads the weights itself, past any adapter
        raise loading.ModelError("the adapters of a wavlm would learn nothing: use --mode partial or full")
    if not any(re.fullmatch(_ADAPTED, name) for name, _ in model.named_modules()):
        raise loading.ModelError(f"a {model.config.model_type} has no attention to adapt: use --mode partial")
    return TrainableModel(model, _front(model, 0) if hasattr(model.base_model, "feature_extractor") else None)


def _front(model: PreTrainedModel, depth: int) -> FrozenFrontend | None:
    try:
        return FrozenFrontend(model, depth)
    except CacheError:
        return None  # the frozen part then runs in each step


def _parameters(owner: object) -> list[torch.Tensor]:
    if isinstance(owner, nn.Module):
        return list(owner.parameters())
    return [owner] if isinstance(owner, torch.Tensor) else []
