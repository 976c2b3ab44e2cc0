"""The flags of fine-tuning: ours and every `TrainingArguments`, from a YAML or JSON file, the command line, or both."""

import argparse
import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ser_hf.finetune_config import ArgumentError, FinetuneConfig, check, check_trainer
from ser_hf.models.presets import BUILT_IN

if TYPE_CHECKING:
    from transformers import TrainingArguments

SCRATCH = {"learning_rate": 6e-4, "num_train_epochs": 12, "label_smoothing_factor": 0.1, "weight_decay": 0.05}
PRETRAINED = {"learning_rate": 5e-5, "num_train_epochs": 12, "label_smoothing_factor": 0.0, "weight_decay": 0.01}
PROBE = {"learning_rate": 3e-3, "num_train_epochs": 60, "label_smoothing_factor": 0.0, "weight_decay": 0.01}


UNJUDGED = {"eval_strategy": "no", "load_best_model_at_end": False, "metric_for_best_model": None}
"""Where there is nothing to validate on."""


def defaults(model: str, mode: str = "full") -> dict:
    """Our defaults for `TrainingArguments`, by mode: for what starts from nothing, gentler for pretrained weights."""
    import torch

    return {
        **of_machine(),
        **(PROBE if mode == "probe" else SCRATCH if model in BUILT_IN else PRETRAINED),
        **({"learning_rate": 5e-4} if mode == "lora" else {}),  # what adapters take, Hu et al. 2022
        "per_device_train_batch_size": 128 if mode == "probe" else 16,
        "per_device_eval_batch_size": 32,
        "warmup_steps": 0.1,  # below 1 it is a share of all steps
        "lr_scheduler_type": "cosine",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "logging_nan_inf_filter": False,  # or a loss that is no number would be shown as one
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "uar",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        # a CPU's cores are busy with the model; a GPU waits for its batches
        "dataloader_num_workers": 2 if torch.cuda.is_available() else 0,
        "report_to": ["tensorboard"],
        "ddp_timeout": 86_400,  # seconds that the others wait while the first process computes what is frozen
    }


def of_machine() -> dict:
    """What `TrainingArguments` should know of this machine: whether it has a GPU, and bf16 in hardware."""
    import torch

    gpu, apple = torch.cuda.is_available(), torch.backends.mps.is_available()
    bf16 = torch.cuda.is_bf16_supported() if gpu else torch.cpu._is_avx512_bf16_supported()
    return {"use_cpu": not (gpu or apple), "bf16": bf16 and not apple}


def parse_finetune(argv: list[str]) -> "tuple[FinetuneConfig, TrainingArguments] | None":
    """Flags over the config file over our defaults; None where only help was asked for.

    Args:
        argv: optionally a `.yaml`, `.yml` or `.json` file first, then `--flag value` pairs.

    Raises:
        ArgumentError: naming the flag, the line or the value.
    """
    if {"-h", "--help"} & set(argv):
        _help(FinetuneConfig)
        return None
    from transformers import HfArgumentParser, TrainingArguments

    class Parser(HfArgumentParser):
        def error(self, message: str) -> None:
            raise ArgumentError(f"{message} (see ser-hf finetune --help)")

    written, argv = _config_file(argv)
    names = {cls: {f.name for f in fields(cls) if f.init} for cls in (FinetuneConfig, TrainingArguments)}
    for name in written:
        if not any(name in known for known in names.values()):
            raise ArgumentError(f"'{name}' in the config file is no setting: see ser-hf finetune --help")

    def parse(cls: type, preset: dict, rest: list[str]) -> tuple:
        parser = Parser(cls, allow_abbrev=False)
        for action in parser._actions:  # a file may give what is required on the command line
            action.required = action.required and action.dest not in preset
        parser.set_defaults(**{name: _as_typed(value) for name, value in preset.items()})
        try:
            return parser.parse_args_into_dataclasses(rest, return_remaining_strings=True)
        except ArgumentError:
            raise
        except (ValueError, ImportError, argparse.ArgumentTypeError) as error:  # TrainingArguments checks itself
            raise ArgumentError(str(error)) from error

    config, rest = parse(FinetuneConfig, {k: v for k, v in written.items() if k in names[FinetuneConfig]}, argv)
    check(config)
    if config.patience is None:
        config.patience = 20 if config.mode == "probe" else 5
    preset = {
        **defaults(config.model, config.mode),
        "output_dir": f"runs/{Path(config.model).name}-{Path(config.protocol).stem}",
        **(UNJUDGED if config.refit else {}),
        **{key: value for key, value in written.items() if key in names[TrainingArguments]},
    }
    args, rest = parse(TrainingArguments, preset, rest)
    if rest:
        raise ArgumentError(f"'{rest[0]}' is no flag of fine-tuning or TrainingArguments: see ser-hf finetune --help")
    check_trainer(config, args)
    return config, args


def _as_typed(value: object) -> object:
    """A value of the config file as the command line would give it, for the parser to convert and check."""
    if value is None or isinstance(value, list):
        return value
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _config_file(argv: list[str]) -> tuple[dict, list[str]]:
    if not argv or argv[0].startswith("-"):
        return {}, argv
    path = Path(argv[0])
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise ArgumentError(f"'{path}' is no config file: its name must end in .yaml, .yml or .json")
    if not path.is_file():
        raise ArgumentError(f"'{path}' does not exist: check the path of the config file")
    try:
        values = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ArgumentError(f"'{path}' cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ArgumentError(f"'{path}' holds no settings: write one `name: value` a line")
    return values, argv[1:]


def _help(cls: type) -> None:
    print("usage: ser-hf finetune [CONFIG.yaml|.json] --dataset DIR|REPO [flags]\n\nFine-tune, test, write it all.\n")
    for f in fields(cls):
        default = "required" if f.default is MISSING else f"default: {f.default}"
        print(f"  --{f.name:24} {f.metadata['help']} ({default})")
    print(
        "\nand every flag of transformers.TrainingArguments, such as --output_dir, --num_train_epochs, --learning_rate,"
    )
    print("--per_device_train_batch_size, --gradient_accumulation_steps, --resume_from_checkpoint true, --bf16 false.")
