"""Speech emotion recognition with Hugging Face transformers, from recordings to a served model.

Importing the package imports nothing heavy: its names are loaded when they are first used.
"""

import os
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

# ONNX Runtime and Ray send statistics to their makers, unless this is set before they are imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

BUNDLED_MODEL = Path(__file__).parent / "pretrained"
"""Folder of the model that comes with the package."""

_PUBLIC = {
    "EMOTIONS": "labels.EMOTIONS",
    "EvaluateSettings": "evaluation.settings.EvaluateSettings",
    "FinetuneConfig": "training.config.FinetuneConfig",
    "Predictor": "inference.predictor.Predictor",
    "Results": "evaluation.results.Results",
    "SpeechEmotion": "evaluation.results.SpeechEmotion",
    "UserError": "errors.UserError",
    "build_dataset": "data.dataset.build",
    "evaluate": "evaluation.run.run_evaluation",
    "finetune": "training.finetune.finetune",
    "load_dataset": "data.dataset.load",
    "split": "protocols.split",
}
"""Of each public name, where it is defined."""
__all__ = [*_PUBLIC, "BUNDLED_MODEL", "__version__"]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ser_hf' has no attribute '{name}'")
    module, _, attribute = _PUBLIC[name].rpartition(".")
    return getattr(import_module(f"ser_hf.{module}"), attribute)
