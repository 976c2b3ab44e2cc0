"""Loading and checking of backbones and fine-tuned models."""

import hashlib
import json
import re
import shutil
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from ser_hf.errors import UserError, first_line
from ser_hf.labels import EMOTIONS, ID2LABEL, LABEL2ID
from ser_hf.models import presets
from ser_hf.models.padding import ignore_padding
from ser_hf.utils import hub_errors

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""Files of a model's weights: in one file, or the index of several."""

LICENCE_FILES = ("LICENSE*", "NOTICE*")
"""Patterns of licence texts beside weights."""

LOADING_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError)
"""Errors of transformers for an unknown name or config, and for weights that are cut off or
misshapen."""


class ModelError(UserError):
    """A model that cannot be loaded, or that is not what the task needs."""


def load_for_training(
    name: str | PathLike, seed: int = 0, attention: str | None = None
) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    """Load a backbone with a head for the eight emotions, and its feature extractor.

    Args:
        name: a Hub id or folder of any `AutoModelForAudioClassification` backbone, or
            `ser_hf.models.presets.TINY`.
        seed: of the weights that are new.
        attention: `eager` or `sdpa`; the model's own choice where None.

    Raises:
        ModelError: if it cannot be loaded, with what to do instead.
    """
    torch.manual_seed(seed)
    if str(name) == presets.TINY:
        config, extractor = presets.tiny_config(), presets.tiny_extractor()
        # At this size the fused kernel's bf16 backward is slower on a CPU than plain attention.
        attention = attention or "eager"
        return AutoModelForAudioClassification.from_config(config, attn_implementation=attention), extractor
    check_folder(name)
    try:
        extractor = AutoFeatureExtractor.from_pretrained(name)
        labels = AutoConfig.from_pretrained(name).id2label
        model, info = AutoModelForAudioClassification.from_pretrained(
            name,
            output_loading_info=True,
            num_labels=len(EMOTIONS),
            id2label=ID2LABEL,
            label2id=LABEL2ID,
            problem_type="single_label_classification",
            ignore_mismatched_sizes=True,  # a head of other labels is made anew
            dtype=torch.float32,
            **({"attn_implementation": attention} if attention else {}),
        )
    except LOADING_ERRORS as error:
        raise cannot_load(name, error, "give a folder, or --model tiny, which needs no download") from error
    # a mismatched key comes with its two shapes
    missing = [*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])]
    model.head_is_new = labels != ID2LABEL or any(key.startswith(("projector.", "classifier.")) for key in missing)
    return model, extractor


def head_is_new(model: PreTrainedModel) -> bool:
    """Whether `load_for_training` made the head of a model anew, or found one of other labels."""
    return getattr(model, "head_is_new", True)


def file_beside(model: str | PathLike, name: str, revision: str | None = None) -> str | None:
    """The path of a file in the folder or the repository of a model; None where there is none.

    Args:
        model: a folder or a Hub id whose model has been loaded.
        name: of the file.
        revision: a branch, tag or commit of a Hub id.
    """
    # without a connection the model came from the cache, and so does what lay beside it
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return cached_file(model, name, revision=revision or "main", **quiet)


def copy_licences(model: str | PathLike, folder: Path) -> None:
    """Copy the licence texts in a model's folder to what was made of its weights.

    Those of a Hub id stay in its repository.
    """
    if not str(model) or not Path(model).is_dir():
        return
    for pattern in LICENCE_FILES:
        for path in Path(model).glob(pattern):
            shutil.copy(path, folder)


def load_for_prediction(
    name: str | PathLike, revision: str | None = None
) -> tuple[PreTrainedModel, FeatureExtractionMixin, str]:
    """Load a fine-tuned model in evaluation mode, its feature extractor, and its padding rule.

    Args:
        name: a folder, or a Hub id.
        revision: a branch, tag or commit of a Hub id.

    Raises:
        ModelError: if it cannot be loaded, or the Hub does not show it; for a folder with a
            revision; for a head without trained weights, or labels without a meaning.
    """
    check_folder(name, revision)
    at = {"revision": revision or "main"}
    try:
        # the config first: the errors of the others do not say why the Hub refuses
        config = AutoConfig.from_pretrained(name, **at)
        extractor = AutoFeatureExtractor.from_pretrained(name, **at)
        model, info = AutoModelForAudioClassification.from_pretrained(
            name,
            config=config,
            output_loading_info=True,
            dtype=torch.float32,
            use_safetensors=True,  # a pickle could run any code
            **at,
        )
    except LOADING_ERRORS as error:
        shown = f"{name}' at '{revision}" if revision else name
        raise cannot_load(shown, error, "give the folder that fine-tuning wrote") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])[0]
        raise ModelError(f"'{name}' has no trained weights for {missing}: fine-tune it first with `ser-hf finetune`")
    check_labels(name, model.config)
    rule = ignore_padding(model)
    return model.eval(), extractor, rule


def check_labels(name: str | PathLike, config: PreTrainedConfig) -> None:
    """Refuse a classifier whose labels mean nothing.

    Raises:
        ModelError: for labels `LABEL_n`, or another kind than one label of several.
    """
    labels = list(config.id2label.values())
    if any(re.fullmatch(r"LABEL_\d+", str(label)) for label in labels):
        raise ModelError(f"'{name}' has labels without a meaning ({labels[0]}, …): set id2label in its config.json")
    if config.problem_type not in (None, "single_label_classification"):
        raise ModelError(f"'{name}' is of the kind {config.problem_type}: give a single-label classifier")


def digest(model: PreTrainedModel) -> str:
    """Digest of the names and values of a model's weights: 16 hexadecimal digits."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return sha.hexdigest()[:16]


def last_linear(model: PreTrainedModel) -> nn.Linear:
    """The layer whose outputs are the logits; its inputs are the embeddings `(clips, width)`.

    Raises:
        ModelError: for an architecture that ends in none.
    """
    labels = model.config.num_labels
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == labels]
    if not layers:
        raise ModelError(f"a {model.config.model_type} has no linear layer of {labels} labels: use another backbone")
    return layers[-1]


def freeze_feature_encoder(model: PreTrainedModel) -> bool:
    """Freeze the convolutional front end; return whether the model has one.

    That of Whisper includes its table of positions, which stock transformers does not train either.
    """
    if model.config.model_type == "whisper":
        encoder = model.base_model.encoder
        for part in (encoder.conv1, encoder.conv2, encoder.embed_positions):
            part.requires_grad_(False)
        return True
    if hasattr(model, "freeze_feature_encoder"):
        model.freeze_feature_encoder()
        return True
    return False


def fit_masking(model: PreTrainedModel, shortest_frames: int) -> None:
    """Shorten SpecAugment's time masks to the shortest training clip.

    transformers fails on a clip that is shorter than a mask.
    """
    if getattr(model.config, "mask_time_length", 0) > shortest_frames:
        model.config.mask_time_length = max(1, shortest_frames)


def check_folder(name: str | PathLike, revision: str | None = None) -> None:
    """Refuse a name that can be neither the folder of a model nor a Hub id.

    Raises:
        ModelError: naming what is missing.
    """
    path = Path(name)
    if revision and path.exists():
        raise ModelError(f"'{name}' is a folder and has no revision '{revision}': leave out --revision")
    if not path.exists():
        if path.is_absolute() or str(name).startswith(".") or str(name).count("/") > 1:
            raise ModelError(f"'{name}' does not exist: check the path of the model folder")
        return
    if not (path / "config.json").is_file():
        raise ModelError(f"'{name}' holds no config.json: give the folder that fine-tuning wrote")
    if not any((path / weights).is_file() for weights in WEIGHTS):
        raise ModelError(f"'{name}' holds no weights (model.safetensors): give the folder that fine-tuning wrote")


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold a model's weights; none where there are none."""
    single, index = (folder / name for name in WEIGHTS)
    if single.is_file() or not index.is_file():
        return [single.name] if single.is_file() else []
    return [index.name, *sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def cannot_load(name: str | PathLike, error: Exception, remedy: str) -> ModelError:
    """The error for a model that raised one of `LOADING_ERRORS`: the Hub's reason, or its own."""
    if refused := hub_errors.explain(error):
        return ModelError(f"model '{name}' cannot be loaded ({refused[0]}): {refused[1]}, or {remedy}")
    return ModelError(f"model '{name}' cannot be loaded ({first_line(error)[:160]}): {remedy}")
