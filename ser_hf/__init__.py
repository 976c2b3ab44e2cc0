"""Speech emotion recognition with Hugging Face transformers, from recordings to an answer in the
browser.

Importing the package imports nothing heavy: the names below are loaded when they are first used.
"""

from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

BUNDLED_MODEL = Path(__file__).parent / "pretrained"
"""Folder of the model that comes with the package."""

BACKENDS = ("torch", "torch-bf16", "onnx", "onnx-int8")
"""On what a model runs; the default first."""

_HOMES = {
    "EMOTIONS": "labels",
    "FinetuneConfig": "training.config",
    "Predictor": "inference.predictor",
    "RavdessTess": "data.dataset",
    "Results": "evaluation.results",
    "SpeechEmotion": "evaluation.results",
    "UserError": "errors",
    "finetune": "training.finetune",
    "split": "protocols",
}
__all__ = [*_HOMES, "BUNDLED_MODEL", "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ser_hf' has no attribute '{name}'")
    return getattr(import_module(f"ser_hf.{_HOMES[name]}"), name)
