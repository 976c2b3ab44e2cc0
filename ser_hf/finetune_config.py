"""The settings of fine-tuning that are ours, and which of them go together."""

import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

from ser_hf.errors import UserError

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
    more_voices: bool = field(
        default=False, metadata={"help": "train on the whole dataset but the voices of validation and test"}
    )
    refit: bool = field(
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
    silence: Literal["keep", "vary", "either"] = field(
        default="vary",
        metadata={"help": "vary: in training the silence at the edges is cut at random; either: all of it or none"},
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
        default=None, metadata={"help": "fold this one, found elsewhere, in, as after --refit there is no validation"}
    )
    abstain_coverage: float | None = field(
        default=None, metadata={"help": "share of validation clips to answer; below their confidence it abstains"}
    )
    abstain_error: float | None = field(
        default=None, metadata={"help": "share of wrong answers to keep to, on validation, by abstaining"}
    )
    average: float = field(
        default=0.0, metadata={"help": "decay of a running average of the weights, as 0.995, that is kept; 0: none"}
    )
    sharpness: float = field(
        default=0.0,
        metadata={"help": "radius of sharpness-aware minimisation, as 0.1, in the last half of the steps; 0: none"},
    )
    egemaps: float = field(
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
    "average",
    "sharpness",
    "layer_decay",
    "frame_budget",
    "cache_frozen",
    "attention",
    "batching",
)
_TRAINED += ("augment_probability", "mask_time_prob", "mask_feature_prob", "fast_dropout")
_ONLY |= dict.fromkeys(_TRAINED, ("full", "partial", "lora"))
_ONLY |= {"egemaps": ("full", "partial")}
_LEAST = {"split_seed": 0, "patience": 0, "threads": 1, "seeds": 1, "search": 0, "layers": 1, "lora_rank": 1}
_LEAST |= {"average": 0, "sharpness": 0, "egemaps": 0}
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
    if config.average >= 1:
        raise ArgumentError(f"--average is {config.average}: below 1 is needed, or nothing is learnt")
    if config.average and os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
        raise ArgumentError("--average cannot follow weights that FSDP shares out: leave it out")
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
    if config.refit and (config.mode == "probe" or config.search):
        raise ArgumentError("--refit chooses nothing, which a probe and a search do by validation: leave it out")
    if config.temperature is not None and not (config.refit and 0 < config.temperature < 100):
        raise ArgumentError(f"--temperature {config.temperature} needs --refit true, and a positive number")
    wishes = [name for name in ("abstain_coverage", "abstain_error") if getattr(config, name) is not None]
    if wishes and (not config.calibrate or config.refit):
        raise ArgumentError(f"--{wishes[0]} needs validation clips: leave out --calibrate false and --refit")
    if len(wishes) == 2:
        raise ArgumentError("--abstain_coverage and --abstain_error each set the threshold: give one of them")
    for name in wishes:
        if not 0 < getattr(config, name) < 1:
            raise ArgumentError(f"--{name} is {getattr(config, name)}: a share between 0 and 1 is needed")


def check_trainer(config: FinetuneConfig, args: "TrainingArguments") -> None:
    """Refuse what `TrainingArguments` knows and a run of ours could not keep; raises as `check` does."""
    if config.refit and args.eval_strategy != "no":
        raise ArgumentError(f"--eval_strategy {args.eval_strategy.value} has no validation after --refit: leave it out")
    if config.sharpness and args.world_size > 1:  # in parts: a process with a single clip would leave others waiting
        raise ArgumentError("--sharpness is for one process: leave it out, or start one")
    if config.sharpness and (args.gradient_accumulation_steps > 1 or args.fp16):
        raise ArgumentError("--sharpness needs a step's whole gradient, as it is: leave out accumulation and --fp16")
    if config.sharpness and os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
        raise ArgumentError("--sharpness cannot move weights that FSDP shares out: leave it out")
    if config.egemaps and os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
        raise ArgumentError("--egemaps cannot be taken out of weights that FSDP shares out: leave it out")
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
