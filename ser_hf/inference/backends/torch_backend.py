"""Models in torch, in fp32 or bf16."""

import functools
import sys
import threading
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ser_hf.errors import UserError
from ser_hf.inference.backends.onnx_runtime import exported_backends
from ser_hf.models import loading
from ser_hf.utils import processor


class TorchBackend:
    """A model in torch; the members are those of `ser_hf.inference.backends.Backend`."""

    batches = True

    def __init__(
        self, model: str | PathLike, device: str | None = None, bfloat16: bool = False, revision: str | None = None
    ) -> None:
        """Load a model onto a device, a GPU where there is one if None.

        Raises:
            UserError: where it cannot be loaded, or there is no such device.
        """
        self.name = "torch-bf16" if bfloat16 else "torch"
        self.device = _checked_device(device)
        self.model, self.extractor, self.padding_rule = loading.load_for_prediction(model, revision)
        self.config = self.model.config
        if bfloat16:
            _ = self.digest  # before the weights are rounded
            if self.device == "cpu" and not processor.has_bfloat16():
                print("the processor emulates bf16, which is far slower than fp32: use --backend auto", file=sys.stderr)
        self._last_layer = loading.last_linear(self.model)
        self._hooks = threading.Lock()
        self.model.to(self.device)
        if bfloat16:
            _compute_in_bfloat16(self.model, torch.device(self.device).type)

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the weights."""
        return loading.digest(self.model)

    @torch.inference_mode()
    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits `(clips, labels)` of unpadded features."""
        # no mask: clips of one length have nothing to mask; the logits are those of a mask of ones
        return self.model(torch.from_numpy(features).to(self.device)).logits.float().cpu().numpy()

    def outputs(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute logits `(clips, labels)` and embeddings `(clips, width)`.

        Embeddings are the inputs of the last linear layer.
        """
        thread, inputs = threading.get_ident(), []

        def keep(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            if threading.get_ident() == thread:  # other threads may run the same layer now
                inputs.append(args[0].float().cpu().numpy())

        # torch numbers its hooks without a lock: two threads could get the same number
        with self._hooks:
            hook = self._last_layer.register_forward_pre_hook(keep)
        try:
            logits = self.logits(features)
        finally:
            with self._hooks:
                hook.remove()
        return logits, inputs[0]


def load(model: str | PathLike, device: str | None, revision: str | None, bfloat16: bool = False) -> TorchBackend:
    """Load a model, or name the backend that can run an exported one.

    Raises:
        UserError: where it cannot be loaded.
    """
    exported = exported_backends(Path(model))
    if exported and not loading.weight_files(Path(model)):
        raise UserError(f"'{model}' was exported, without torch's weights: use --backend {exported[0]}")
    return TorchBackend(model, device, bfloat16, revision)


def _checked_device(name: str | None) -> str:
    """A device that is there; a GPU where there is one if None."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise UserError(f"torch has no device '{name}' here: use cpu") from error
    return name


def _compute_in_bfloat16(model: PreTrainedModel, device: str) -> None:
    """Compute in bfloat16 what autocast does, whoever calls the model.

    The weights are cast once, not for each clip.
    """
    forward = model.forward

    @functools.wraps(forward)
    def in_bfloat16(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            return forward(*args, **kwargs)

    model.forward = in_bfloat16
    for module in model.modules():
        # weight norm computes its weight from two parameters, and has none of that name
        if isinstance(module, torch.nn.Linear | torch.nn.Conv1d) and "weight" in module._parameters:
            module.to(torch.bfloat16)
