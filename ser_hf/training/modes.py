"""What of a model is trained: all but the convolutions, the top layers, low-rank adapters, or the
head alone."""

import re
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from ser_hf.models import loading
from ser_hf.models.frozen_frontend import CacheError, FrozenFrontend
from ser_hf.training import losses

MODES = ("full", "partial", "lora", "probe")
_LAYER = re.compile(r"\.encoder\.layers\.(\d+)\.")
_HEAD = ("projector", "classifier", "layer_weights", "functionals")
_ADAPTED = r".*\.encoder\.layers\.\d+\..*\b(q_proj|k_proj|v_proj|out_proj|linear_q|linear_k|linear_v|linear_out)"


@dataclass
class TrainableModel:
    """A model as the Trainer gets it, and the way back to a stock one."""

    model: PreTrainedModel
    """The stock model; its trained part alone requires gradients."""
    front: FrozenFrontend | None
    """Of what is frozen, where it can be computed once."""
    adapted: nn.Module | None = None
    """The model wrapped by peft, in mode `lora`."""

    @property
    def trainable(self) -> nn.Module:
        """What the Trainer trains and saves in checkpoints."""
        return self.model if self.adapted is None else self.adapted

    def adapt(self, rank: int) -> None:
        """Add low-rank adapters to the attention of every layer (Hu et al. 2022); the head is
        trained in full."""
        from peft import LoraConfig, get_peft_model

        heads = [name for name in _HEAD if isinstance(getattr(self.model, name, None), nn.Module)]
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=_ADAPTED, modules_to_save=heads
        )
        self.adapted = get_peft_model(self.model, config)

    def finished(self) -> PreTrainedModel:
        """The stock model with what was learnt: adapters merged, the front put back."""
        if self.adapted is not None:
            self.model = self.adapted.merge_and_unload()
        if self.front is not None:
            self.front.restore()
        losses.detach(self.model)
        return self.model


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The encoder's layers.

    Raises:
        ModelError: for an architecture that has none in the usual place.
    """
    layers = getattr(getattr(model.base_model, "encoder", None), "layers", None)
    if layers is None:
        raise loading.ModelError(f"a {model.config.model_type} has no encoder.layers: use --mode full")
    return layers


def prepare(model: PreTrainedModel, mode: str, freeze_convolutions: bool, layers: int | None) -> TrainableModel:
    """Freeze what a mode does not train.

    Args:
        model: stock, with its head.
        mode: `full`, `partial` or `lora`.
        freeze_convolutions: the convolutional feature encoder, in mode `full`; the other modes
            always do.
        layers: trained at the top, in mode `partial`; a third of them where None.

    Raises:
        ModelError: where the model does not have what the mode needs.
    """
    if mode == "full":
        frozen = freeze_convolutions and loading.freeze_feature_encoder(model)
        return TrainableModel(model, _front(model, 0) if frozen else None)
    encoder = layers_of(model)
    model.requires_grad_(False)
    for name in _HEAD:
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
    if getattr(model.config, "use_weighted_layer_sum", False):  # its weights are no module that peft could keep
        raise loading.ModelError("adapters cannot train a head that mixes layers: use --mode partial or full")
    if model.config.model_type == "wavlm":  # its attention reads the weights itself: adapters would never be asked
        raise loading.ModelError("the adapters of a wavlm would learn nothing: use --mode partial or full")
    if not any(re.fullmatch(_ADAPTED, name) for name, _ in model.named_modules()):
        raise loading.ModelError(f"a {model.config.model_type} has no attention to adapt: use --mode partial")
    return TrainableModel(model, _front(model, 0) if hasattr(model.base_model, "feature_extractor") else None)


def _front(model: PreTrainedModel, depth: int) -> FrozenFrontend | None:
    try:
        return FrozenFrontend(model, depth)
    except CacheError:
        return None  # computed again each step


def _parameters(owner: object) -> list[torch.Tensor]:
    if isinstance(owner, nn.Module):
        return list(owner.parameters())
    return [owner] if isinstance(owner, torch.Tensor) else []
