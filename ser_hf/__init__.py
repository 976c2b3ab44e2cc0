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
    "BaselineSettings": "evaluation.settings.BaselineSettings",
    "EMOTIONS": "labels.EMOTIONS",
    "EvaluateSettings": "evaluation.settings.EvaluateSettings",
    "FinetuneConfig": "training.config.FinetuneConfig",
    "Predictor": "inference.predictor.Predictor",
    "Results": "evaluation.results.Results",
    "SpeechEmotion": "evaluation.results.SpeechEmotion",
    "UserError": "errors.UserError",
    "baseline": "evaluation.run.run_baseline",
    "build_dataset": "data.dataset.build",
    "draw_balance": "data.describe.draw_balance",
    "draw_confusion_matrix": "evaluation.plots.confusion_matrix",
    "draw_explanation": "evaluation.diagnostics.occlusion.draw_occlusion",
    "evaluate": "evaluation.run.run_evaluation",
    "explain": "evaluation.diagnostics.occlusion.explain",
    "finetune": "training.finetune.finetune",
    "load_audio": "audio.load",
    "load_dataset": "data.dataset.load",
    "split": "protocols.split",
    "synthetic_recordings": "data.corpora.synthetic.write_corpora",
    "training_arguments": "training.config.training_arguments",
}
"""Of each public name, where it is defined."""
__all__ = [*_PUBLIC, "BUNDLED_MODEL", "__version__"]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ser_hf' has no attribute '{name}'")
    module, _, attribute = _PUBLIC[name].rpartition(".")
    return getattr(import_module(f"ser_hf.{module}"), attribute)
