"""The settings of fine-tuning: ours, those of `TrainingArguments`, and which go together."""

import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

from ser_hf.errors import UserError

if TYPE_CHECKING:
    from transformers import TrainingArguments
import argparse
import json
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from transformers import TrainingArguments


class ArgumentError(UserError):
    """A flag or a line of the config file that does not exist or does not fit."""


@dataclass
class FinetuneConfig:
    """What is ours; everything else is `transformers.TrainingArguments`."""

    dataset: str = field(metadata={"help": "folder that `ser-hf data` wrote, or a Hub id"})
    model: str = field(
        default="facebook/wav2vec2-base",
        metadata={"help": "Hub id or folder of a backbone, or `tiny` or `tiny-50` (small, from scratch, no download)"},
    )
    protocol: str = field(
        default="speaker",
        metadata={"help": "how to split: a name of docs/protocols.md, or a .yaml, .json or .csv file of your own"},
    )
    fold: str = field(default="0", metadata={"help": "of a protocol with folds, from 0; `all` trains and pools them"})
    seeds: int = field(default=1, metadata={"help": "repeat with so many seeds, from --seed on; mean and sd"})
    search: int = field(default=0, metadata={"help": "trials of a hyperparameter search on validation UAR (optuna)"})
    split_seed: int = field(default=42, metadata={"help": "of what a protocol draws at random"})
    text_disjoint: bool = field(
        default=False, metadata={"help": "refuse a split that tests sentences heard in training"}
    )
    extra_train_speakers: bool = field(
        default=False, metadata={"help": "train on the whole dataset but the voices of validation and test"}
    )
    train_on_validation: bool = field(
        default=False, metadata={"help": "train on the validation side, too: all epochs, and nothing is chosen"}
    )
    mode: Literal["full", "partial", "lora", "probe"] = field(
        default="full", metadata={"help": "full, partial (the top layers), lora (adapters, merged), probe (the head)"}
    )
    layers: int | None = field(default=None, metadata={"help": "trained at the top in mode partial; a third if unset"})
    lora_rank: int = field(default=16, metadata={"help": "of the adapters in mode lora"})
    pooling: Literal["mean", "attentive"] = field(
        default="mean", metadata={"help": "of a probe over time: mean, or attentive statistics"}
    )
    head: Literal["linear", "mlp"] = field(default="linear", metadata={"help": "of a probe"})
    figures_only: bool = field(
        default=False, metadata={"help": "allow a probe that stock transformers cannot load: figures, and no model"}
    )
    freeze_feature_encoder: bool | None = field(
        default=None, metadata={"help": "freeze the convolutional front end; pretrained ones are unless told"}
    )
    patience: int | None = field(
        default=None,
        metadata={"help": "epochs without a better validation UAR until it stops; 5, a probe 20 if unset; 0: never"},
    )
    threads: int | None = field(default=None, metadata={"help": "CPU threads a process; the cores shared out if unset"})
    frame_budget: float | None = field(
        default=None,
        metadata={"help": "padded seconds of a device's batch at most; else by --per_device_train_batch_size"},
    )
    batching: Literal["frames", "shuffled"] = field(
        default="frames", metadata={"help": "frames: like lengths and equal padded seconds; shuffled: neither"}
    )
    cache_frozen: bool | None = field(
        default=None, metadata={"help": "compute what is frozen once; on unless the waveform is augmented"}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "of frozen outputs; ser_hf beside the Hub's cache"})
    attention: Literal["auto", "eager", "sdpa"] = field(default="auto", metadata={"help": "how attention is computed"})
    fast_dropout: bool | None = field(default=None, metadata={"help": "a random byte a value; on a CPU unless told"})
    silence: Literal["keep", "vary", "random_trim"] = field(
        default="vary",
        metadata={
            "help": "vary: in training the silence at the edges is cut at random; random_trim: all of it or none"
        },
    )
    augment: str = field(
        default="", metadata={"help": "the waveform, such as speed:0.1,gain:6,noise:10-30,room:0.4,codec"}
    )
    augment_probability: float = field(default=0.5, metadata={"help": "of each augmentation"})
    noise_dir: str | None = field(default=None, metadata={"help": "of noises; else the corpus' own silence"})
    mixup: float = field(default=0.0, metadata={"help": "α of the beta distribution of two clips' shares; 0: none"})
    mask_time_prob: float | None = field(
        default=None, metadata={"help": "SpecAugment over time; the model's own if unset"}
    )
    mask_feature_prob: float | None = field(
        default=None, metadata={"help": "SpecAugment over features; the model's own if unset"}
    )
    balance: Literal["none", "label", "corpus", "both", "speaker"] = field(
        default="none", metadata={"help": "make labels, corpora, both, or speakers (by a square root) weigh alike"}
    )
    balance_by: Literal["loss", "sampler"] = field(default="loss", metadata={"help": "by weights or by drawing"})
    loss: Literal["cross_entropy", "focal"] = field(default="cross_entropy", metadata={"help": "what is minimised"})
    focal_gamma: float = field(default=2.0, metadata={"help": "γ of the focal loss"})
    calibrate: bool = field(
        default=True, metadata={"help": "fold the temperature that validation asks for into the last layer"}
    )
    temperature: float | None = field(
        default=None,
        metadata={"help": "fold this one, found elsewhere, in, as after --train_on_validation there is no validation"},
    )
    abstain_coverage: float | None = field(
        default=None, metadata={"help": "share of validation clips to answer; below their confidence it abstains"}
    )
    abstain_error: float | None = field(
        default=None, metadata={"help": "share of wrong answers to keep to, on validation, by abstaining"}
    )
    ema_decay: float = field(
        default=0.0, metadata={"help": "decay of a running average of the weights, as 0.995, that is kept; 0: none"}
    )
    sam_rho: float = field(
        default=0.0,
        metadata={"help": "radius of sharpness-aware minimisation, as 0.1, in the last half of the steps; 0: none"},
    )
    aux_egemaps_weight: float = field(
        default=0.0, metadata={"help": "weight of a second task, to tell the eGeMAPS functionals of a clip; 0: none"}
    )
    layer_decay: float = field(
        default=1.0, metadata={"help": "factor of the learning rate from a layer to the next below"}
    )


_ONLY = {"head": ("probe",), "pooling": ("probe",), "figures_only": ("probe",)}
"""The modes in which a flag does something; in others it is refused."""
_ONLY |= {"lora_rank": ("lora",), "layers": ("partial",), "freeze_feature_encoder": ("full",)}
_TRAINED = (
    "augment",
    "mixup",
    "noise_dir",
    "ema_decay",
    "sam_rho",
    "layer_decay",
    "frame_budget",
    "cache_frozen",
    "attention",
    "batching",
)
_TRAINED += ("augment_probability", "mask_time_prob", "mask_feature_prob", "fast_dropout")
_ONLY |= dict.fromkeys(_TRAINED, ("full", "partial", "lora"))
_ONLY |= {"aux_egemaps_weight": ("full", "partial")}
_LEAST = {"split_seed": 0, "patience": 0, "threads": 1, "seeds": 1, "search": 0, "layers": 1, "lora_rank": 1}
_LEAST |= {"ema_decay": 0, "sam_rho": 0, "aux_egemaps_weight": 0}
_LEAST |= {"mixup": 0, "focal_gamma": 0, "mask_time_prob": 0, "mask_feature_prob": 0}


def check(config: FinetuneConfig) -> None:
    """Refuse values out of range, and flags of ours that do not go together.

    Raises:
        ArgumentError: naming the flag and the value.
    """
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if value is not None and value < least:
            raise ArgumentError(f"--{name} is {value}: at least {least} is needed")
    if config.fold != "all" and not config.fold.isdigit():
        raise ArgumentError(f"--fold is '{config.fold}': a number from 0, or all, is needed")
    for name in ("augment_probability", "layer_decay"):
        if not 0 < getattr(config, name) <= 1:
            raise ArgumentError(f"--{name} is {getattr(config, name)}: above 0 and at most 1 is needed")
    if config.ema_decay >= 1:
        raise ArgumentError(f"--ema_decay is {config.ema_decay}: below 1 is needed, or nothing is learnt")
    if config.ema_decay and os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
        raise ArgumentError("--ema_decay cannot follow weights that FSDP shares out: leave it out")
    if config.frame_budget is not None and config.frame_budget <= 0:
        raise ArgumentError(f"--frame_budget is {config.frame_budget}: more than 0 seconds are needed")
    for name, modes in _ONLY.items():
        default = next(f.default for f in fields(config) if f.name == name)
        if getattr(config, name) != default and config.mode not in modes:
            raise ArgumentError(
                f"--{name} does nothing in --mode {config.mode}, only in {', '.join(modes)}: leave it out"
            )
    if config.balance_by == "sampler" and (config.mode == "probe" or config.balance == "none"):
        raise ArgumentError("--balance_by sampler needs a --balance, and a mode other than probe: leave it out")
    if config.noise_dir and "noise" not in config.augment:
        raise ArgumentError(f"--noise_dir is '{config.noise_dir}', but no noise is added: give --augment noise, too")
    loose = config.batching == "shuffled" or config.balance_by == "sampler" or "speed" in config.augment
    if config.frame_budget and loose:
        raise ArgumentError(
            "--frame_budget cannot be kept with --batching shuffled, --balance_by sampler or speed: leave it out"
        )
    _check_abstaining(config)
    if config.search and (config.mode == "probe" or config.fold == "all" or config.seeds > 1):
        raise ArgumentError("--search looks at one fold and one seed of a model that is trained: leave out the others")


def _check_abstaining(config: FinetuneConfig) -> None:
    if config.train_on_validation and (config.mode == "probe" or config.search):
        raise ArgumentError(
            "--train_on_validation chooses nothing, which a probe and a search do by validation: leave it out"
        )
    if config.temperature is not None and not (config.train_on_validation and 0 < config.temperature < 100):
        raise ArgumentError(
            f"--temperature {config.temperature} needs --train_on_validation true, and a positive number"
        )
    wishes = [name for name in ("abstain_coverage", "abstain_error") if getattr(config, name) is not None]
    if wishes and (not config.calibrate or config.train_on_validation):
        raise ArgumentError(
            f"--{wishes[0]} needs validation clips: leave out --calibrate false and --train_on_validation"
        )
    if len(wishes) == 2:
        raise ArgumentError("--abstain_coverage and --abstain_error each set the threshold: give one of them")
    for name in wishes:
        if not 0 < getattr(config, name) < 1:
            raise ArgumentError(f"--{name} is {getattr(config, name)}: a share between 0 and 1 is needed")


def check_trainer(config: FinetuneConfig, args: "TrainingArguments") -> None:
    """Refuse what `TrainingArguments` knows and a run of ours could not keep; raises as `check`
    does."""
    if config.train_on_validation and args.eval_strategy != "no":
        raise ArgumentError(
            f"--eval_strategy {args.eval_strategy.value} has no validation after --train_on_validation: leave it out"
        )
    if config.sam_rho and args.world_size > 1:  # in parts: a process with a single clip would leave others waiting
        raise ArgumentError("--sam_rho is for one process: leave it out, or start one")
    if config.sam_rho and (args.gradient_accumulation_steps > 1 or args.fp16):
        raise ArgumentError("--sam_rho needs a step's whole gradient, as it is: leave out accumulation and --fp16")
    if config.sam_rho and os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
        raise ArgumentError("--sam_rho cannot move weights that FSDP shares out: leave it out")
    if config.aux_egemaps_weight and os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
        raise ArgumentError("--aux_egemaps_weight cannot be taken out of weights that FSDP shares out: leave it out")
    if config.mode == "probe" and (args.max_steps > 0 or args.num_train_epochs < 1):
        raise ArgumentError("a probe trains whole epochs: give --num_train_epochs of at least 1 and no --max_steps")
    if args.save_only_model:
        raise ArgumentError("--save_only_model true leaves nothing that a run could go on from: leave it out")
    if args.push_to_hub:
        raise ArgumentError("--push_to_hub would push without a look at the evidence: run `ser-hf push` afterwards")
    if args.auto_find_batch_size:
        raise ArgumentError("--auto_find_batch_size cannot change the planned batches: use --frame_budget")
    if not args.average_tokens_across_devices:
        raise ArgumentError("--average_tokens_across_devices false would weigh clips unequally: leave it out")
    known = ("loss", "accuracy", "uar", "macro_f1", "weighted_f1")
    if (metric := args.metric_for_best_model) and metric.removeprefix("eval_") not in known:
        raise ArgumentError(f"--metric_for_best_model is '{metric}': choose one of {', '.join(known)}")


SCRATCH = {"learning_rate": 6e-4, "num_train_epochs": 12, "label_smoothing_factor": 0.1, "weight_decay": 0.05}
PRETRAINED = {"learning_rate": 5e-5, "num_train_epochs": 12, "label_smoothing_factor": 0.0, "weight_decay": 0.01}
PROBE = {"learning_rate": 3e-3, "num_train_epochs": 60, "label_smoothing_factor": 0.0, "weight_decay": 0.01}


UNJUDGED = {"eval_strategy": "no", "load_best_model_at_end": False, "metric_for_best_model": None}
"""Where there is nothing to validate on."""


def defaults(model: str, mode: str = "full") -> dict:
    """Our defaults for `TrainingArguments`, by mode: for what starts from nothing, gentler for
    pretrained weights."""
    import torch

    from ser_hf.models.presets import BUILT_IN  # imports transformers, which --help must not

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
    """What `TrainingArguments` should know of this machine: whether it has a GPU, and bf16 in
    hardware."""
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
        _print_help(FinetuneConfig)
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
        **(UNJUDGED if config.train_on_validation else {}),
        **{key: value for key, value in written.items() if key in names[TrainingArguments]},
    }
    args, rest = parse(TrainingArguments, preset, rest)
    if rest:
        raise ArgumentError(f"'{rest[0]}' is no flag of fine-tuning or TrainingArguments: see ser-hf finetune --help")
    check_trainer(config, args)
    return config, args


def _as_typed(value: object) -> object:
    """A value of the config file as the command line would give it, for the parser to convert and
    check."""
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


def _print_help(cls: type) -> None:
    print("usage: ser-hf finetune [CONFIG.yaml|.json] --dataset DIR|REPO [flags]\n\nFine-tune, test, write it all.\n")
    for f in fields(cls):
        default = "required" if f.default is MISSING else f"default: {f.default}"
        print(f"  --{f.name:24} {f.metadata['help']} ({default})")
    print(
        "\nand every flag of transformers.TrainingArguments, such as --output_dir, --num_train_epochs, --learning_rate,"
    )
    print("--per_device_train_batch_size, --gradient_accumulation_steps, --resume_from_checkpoint true, --bf16 false.")
