"""The settings of fine-tuning: ours, those of `TrainingArguments`, and which go together."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ser_hf.errors import UserError, choose_one
from ser_hf.training.streaming.settings import StreamingSettings, refuse_whole_data
from ser_hf.utils import files, packages, processor

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(kw_only=True)
class FinetuneConfig(StreamingSettings):
    """Settings of fine-tuning that are not in `transformers.TrainingArguments`."""

    model: str = field(
        default="facebook/wav2vec2-base",
        metadata={"metavar": "DIR|REPO|NAME", "help": "backbone, or `tiny`: from scratch, no download"},
    )
    window: int | None = field(
        default=None,
        metadata={"help": "whole seconds of Whisper's input; fits nearly all training clips if unset"},
    )
    keep_layers: int | None = field(default=None, metadata={"help": "of the encoder, from below; all if unset"})
    seeds: int = field(default=1, metadata={"help": "repeat with so many seeds, from --seed on; mean and sd"})
    search: int = field(default=0, metadata={"help": "trials of a hyperparameter search on validation UAR (optuna)"})
    extra_train_speakers: bool = field(
        default=False, metadata={"help": "train on the whole dataset but the speakers of validation and test"}
    )
    train_on_validation: bool = field(
        default=False, metadata={"help": "train on the validation side, too: all epochs, and nothing is chosen"}
    )
    mode: Literal["full", "partial", "lora", "probe"] = field(
        default="full",
        metadata={"help": "what is trained: all, the top layers, merged adapters, or the head"},
    )
    layers: int | None = field(default=None, metadata={"help": "trained at the top in mode partial; a third if unset"})
    layer_mix: bool = field(
        default=False, metadata={"help": "the head takes a learnt mix of all layers, in mode full or partial"}
    )
    lora_rank: int = field(default=16, metadata={"help": "of the adapters in mode lora"})
    pooling: Literal["mean", "attentive"] = field(
        default="mean", metadata={"help": "of a probe over time; attentive: weighted mean and deviation"}
    )
    head: Literal["linear", "mlp", "closed_form"] = field(
        default="linear", metadata={"help": "of a probe; closed_form: the head start, and nothing after it"}
    )
    hidden_units: bool = field(
        default=False,
        metadata={"help": "--head closed_form also reads the hidden units of a Whisper's last feed-forward network"},
    )
    figures_only: bool = field(
        default=False, metadata={"help": "allow a probe that stock transformers cannot load: figures, and no model"}
    )
    head_start: bool | None = field(
        default=None,
        metadata={"help": "begin the head at a regression on frozen features; a new one on pretrained layers if unset"},
    )
    augmented_copies: int = field(
        default=0, metadata={"help": "of each training clip that a head start is fitted on beside it, by --augment"}
    )
    augmented_weight: float = field(
        default=0.3, metadata={"help": "of all augmented copies together, against the clips themselves"}
    )
    freeze_feature_encoder: bool | None = field(
        default=None, metadata={"help": "freeze the convolutional front end; a pretrained one is if unset"}
    )
    patience: int | None = field(
        default=None,
        metadata={"help": "epochs without a better validation UAR until it stops; 5, a probe 20 if unset; 0: never"},
    )
    threads: int | None = field(default=None, metadata={"help": "CPU threads a process; the cores shared out if unset"})
    frame_budget: float | None = field(
        default=None,
        metadata={"help": "padded seconds of a device's batch at most; by --per_device_train_batch_size if unset"},
    )
    batching: Literal["frames", "shuffled"] = field(
        default="frames",
        metadata={"help": "frames: clips of like lengths, equal padded seconds a batch"},
    )
    cache_frozen: bool | None = field(
        default=None, metadata={"help": "compute what is frozen once; on unless the waveform is augmented"}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "of frozen outputs; $HF_HOME/ser_hf/frozen if unset"})
    attention: Literal["auto", "eager", "sdpa"] = field(default="auto", metadata={"help": "how attention is computed"})
    fast_dropout: bool | None = field(default=None, metadata={"help": "draw dropout from bytes; on a CPU if unset"})
    silence: Literal["keep", "vary", "random_trim"] = field(
        default="vary",
        metadata={"help": "at the edges of training clips; vary: cut at random; random_trim: all of it or none"},
    )
    augment: str = field(
        default="",
        metadata={"help": "the clips, such as speed:0.1,gain:6,noise:10-30,room:0.4,codec; see docs/training.md"},
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
        default="none", metadata={"help": "what weighs alike in training; speakers by a square root"}
    )
    group_weights: str = field(
        default="",
        metadata={"help": "total weight of groups against all else, such as corpus=tess:0.2,channel=song:0.2"},
    )
    balance_by: Literal["loss", "sampler"] = field(default="loss", metadata={"help": "by weights or by drawing"})
    loss: Literal["cross_entropy", "focal"] = field(default="cross_entropy", metadata={"help": "what is minimised"})
    focal_gamma: float = field(default=2.0, metadata={"help": "γ of the focal loss"})
    calibrate: bool = field(
        default=True, metadata={"help": "fold the temperature that fits validation best into the last layer"}
    )
    temperature: float | None = field(
        default=None,
        metadata={"help": "fold this one in, measured elsewhere, after --train_on_validation"},
    )
    adaptation_head: bool = field(
        default=True, metadata={"help": "fit the head that adapts to a voice, and the reference of embeddings"}
    )
    abstain_coverage: float | None = field(
        default=None, metadata={"help": "share of validation clips to answer; below their confidence it abstains"}
    )
    abstain_error: float | None = field(
        default=None, metadata={"help": "share of wrong answers on validation to keep to by abstaining"}
    )
    ema_decay: float = field(
        default=0.0, metadata={"help": "decay of a running average of the weights, as 0.995, that is kept; 0: none"}
    )
    layer_decay: float | None = field(
        default=None,
        metadata={"help": "of the learning rate from a layer to the next below; pretrained 0.8, else 1 if unset"},
    )

    def __post_init__(self) -> None:
        """Refuse values out of range and flags that do not go together; fill in two defaults.

        Raises:
            UserError: naming the flag and the value.
        """
        super().__post_init__()
        _check(self)
        if self.patience is None:
            self.patience = 20 if self.mode == "probe" else 5
        if self.layer_decay is None and self.mode != "probe":
            # adapters begin at zero, in every layer
            self.layer_decay = LAYER_DECAY if self.mode != "lora" and is_pretrained(self) else 1.0


_TRAINED_MODES = ("full", "partial", "lora")
_MODES_OF = {
    "head": ("probe",),
    "pooling": ("probe",),
    "figures_only": ("probe",),
    "hidden_units": ("probe",),
    "lora_rank": ("lora",),
    "layers": ("partial",),
    "freeze_feature_encoder": ("full",),
    "layer_mix": ("full", "partial"),
    **dict.fromkeys(("augment", "augment_probability", "noise_dir", "mixup"), _TRAINED_MODES),
    **dict.fromkeys(("mask_time_prob", "mask_feature_prob", "fast_dropout", "attention"), _TRAINED_MODES),
    **dict.fromkeys(("ema_decay", "layer_decay", "head_start", "adaptation_head"), _TRAINED_MODES),
    **dict.fromkeys(("frame_budget", "cache_frozen", "batching"), _TRAINED_MODES),
}
"""The modes in which a flag does something; in others it is refused."""
_OF_CLOSED_FORM = ("augment", "augment_probability", "noise_dir", "adaptation_head")
"""Flags that `--head closed_form` knows, too; it augments copies of the training clips."""
_MINIMA = {
    **{"augmented_copies": 0, "augmented_weight": 0},
    **{
        "patience": 0,
        "threads": 1,
        "seeds": 1,
        "search": 0,
        "layers": 1,
        "lora_rank": 1,
        "keep_layers": 1,
        "window": 4,
    },
    **{"ema_decay": 0, "mixup": 0, "focal_gamma": 0, "mask_time_prob": 0, "mask_feature_prob": 0},
}


def _check(config: FinetuneConfig) -> None:
    for name, minimum in _MINIMA.items():
        value = getattr(config, name)
        if value is not None and value < minimum:
            raise UserError(f"--{name} is {value}: at least {minimum} is needed")
    for name in ("augment_probability", "layer_decay"):
        value = getattr(config, name)
        if value is not None and not 0 < value <= 1:
            raise UserError(f"--{name} is {value}: above 0 and at most 1 is needed")
    if config.ema_decay >= 1:
        raise UserError(f"--ema_decay is {config.ema_decay}: below 1 is needed, or nothing is learnt")
    if config.ema_decay and under_fsdp():
        raise UserError("--ema_decay cannot follow weights that FSDP shares out: leave it out")
    if config.frame_budget is not None and config.frame_budget <= 0:
        raise UserError(f"--frame_budget is {config.frame_budget}: more than 0 seconds are needed")
    defaults = {field.name: field.default for field in fields(config)}
    closed_form = config.mode == "probe" and config.head == "closed_form"
    for name, modes in _MODES_OF.items():
        if closed_form and name in _OF_CLOSED_FORM:
            continue
        if getattr(config, name) != defaults[name] and config.mode not in modes:
            raise UserError(f"--{name} does nothing in --mode {config.mode}, only in {', '.join(modes)}: leave it out")
    weighed = config.balance != "none" or config.group_weights
    if config.balance_by == "sampler" and (config.mode == "probe" or not weighed):
        raise UserError("--balance_by sampler needs a --balance, and a mode other than probe: leave it out")
    _check_copies(config, closed_form)
    if config.noise_dir and "noise" not in config.augment:
        raise UserError(f"--noise_dir is '{config.noise_dir}', but no noise is added: give --augment noise, too")
    unplanned = config.batching == "shuffled" or config.balance_by == "sampler" or "speed" in config.augment
    if config.frame_budget and unplanned:
        raise UserError(
            "--frame_budget cannot be kept with --batching shuffled, --balance_by sampler or speed: leave it out"
        )
    if config.streaming:
        refuse_whole_data(config)
    _check_abstaining(config)
    if config.search and (config.mode == "probe" or config.fold == "all" or config.seeds > 1):
        raise UserError("--search looks at one fold and one seed of a model that is trained: leave out the others")


def _check_copies(config: FinetuneConfig, closed_form: bool) -> None:
    """Refuse copies that nothing augments or fits, and flags that a closed form has no use for."""
    if closed_form and config.pooling != "mean":
        raise UserError(f"--head closed_form pools as stock heads do: leave out --pooling {config.pooling}")
    if config.hidden_units and not closed_form:
        raise UserError("--hidden_units are read by --head closed_form: give it, or leave them out")
    if closed_form and config.augment and not config.augmented_copies:
        raise UserError("--augment does nothing to --head closed_form without --augmented_copies: give both")
    if config.augmented_copies and not config.augment:
        raise UserError(f"--augmented_copies is {config.augmented_copies}, but nothing is augmented: give --augment")
    starts = closed_form or (config.mode != "probe" and config.head_start is not False and is_pretrained(config))
    if config.augmented_copies and not (starts or config.head_start):
        raise UserError("--augmented_copies are of a head start, and there is none: leave it out")


def is_pretrained(config: FinetuneConfig) -> bool:
    """Whether the backbone comes with weights; `tiny` does not."""
    from ser_hf.models.presets import TINY

    return config.model != TINY


def under_fsdp() -> bool:
    """Whether `accelerate launch` started this process to shard a model by FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"


def _check_abstaining(config: FinetuneConfig) -> None:
    trained_probe = config.mode == "probe" and config.head != "closed_form"
    if config.train_on_validation and (trained_probe or config.search):
        raise UserError(
            "--train_on_validation chooses nothing, which a probe and a search do by validation: leave it out"
        )
    if config.temperature is not None and not (config.train_on_validation and 0 < config.temperature < 100):
        raise UserError(f"--temperature {config.temperature} needs --train_on_validation true, and a positive number")
    thresholds = [name for name in ("abstain_coverage", "abstain_error") if getattr(config, name) is not None]
    if thresholds and (not config.calibrate or config.train_on_validation):
        raise UserError(
            f"--{thresholds[0]} needs validation clips: leave out --calibrate false and --train_on_validation"
        )
    if len(thresholds) == 2:
        raise UserError("--abstain_coverage and --abstain_error each set the threshold: give one of them")
    for name in thresholds:
        if not 0 < getattr(config, name) < 1:
            raise UserError(f"--{name} is {getattr(config, name)}: a share between 0 and 1 is needed")


def check_trainer(config: FinetuneConfig, args: "TrainingArguments") -> None:
    """Refuse settings of `TrainingArguments` that a run of ours could not keep.

    A precision that the processor emulates is not refused; a line on stderr says so.

    Raises:
        UserError: naming the flag and the value.
    """
    if config.train_on_validation and args.eval_strategy != "no":
        raise UserError(
            f"--eval_strategy {args.eval_strategy.value} has no validation after --train_on_validation: leave it out"
        )
    if config.mode == "probe" and (args.max_steps > 0 or args.num_train_epochs < 1):
        raise UserError("a probe trains whole epochs: give --num_train_epochs of at least 1 and no --max_steps")
    if args.save_only_model:
        raise UserError("--save_only_model true leaves nothing that a run could go on from: leave it out")
    if args.push_to_hub:
        raise UserError("--push_to_hub would push without a look at the evidence: run `ser-hf push` afterwards")
    if args.auto_find_batch_size:
        raise UserError("--auto_find_batch_size cannot change the planned batches: use --frame_budget")
    if not args.average_tokens_across_devices:
        raise UserError("--average_tokens_across_devices false would weigh clips unequally: leave it out")
    _check_handed_on(args)
    if config.mode != "probe":
        from ser_hf.training.optimization import try_optimizer  # imports torch

        try_optimizer(args)
    metrics = ("loss", "accuracy", "uar", "macro_f1", "weighted_f1")
    if (metric := args.metric_for_best_model) and metric.removeprefix("eval_") not in metrics:
        raise UserError(f"--metric_for_best_model is '{metric}': {choose_one(metric, metrics)}")
    processor.warn_of_emulation(args)


_WITHOUT_UAR = {"batch_eval_metrics": True, "prediction_loss_only": True, "eval_do_concat_batches": False}
_FROM_ONE: tuple[str, ...] = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
)
_FROM_ONE += ("eval_accumulation_steps",)


def _check_handed_on(args: "TrainingArguments") -> None:
    """Refuse values on which the Trainer would end after the data are read."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    if os.path.lexists(args.output_dir) and not os.path.isdir(args.output_dir):
        raise UserError(f"--output_dir is '{args.output_dir}', which is no folder: choose another")
    files.refuse_unwritable(args.output_dir)
    for name in args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise UserError(f"--report_to is '{name}': choose of {known}, or none")
    for name in _FROM_ONE:
        if (value := getattr(args, name)) is not None and value < 1:
            raise UserError(f"--{name} is {value}: at least 1 is needed")
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        raise UserError(f"--num_train_epochs is {args.num_train_epochs:g}: more than 0 is needed, or --max_steps")
    if args.fsdp and args.parallel_mode.value != "distributed":
        raise UserError("--fsdp shares a model out between processes: start them with `accelerate launch`")
    if args.neftune_noise_alpha is not None:
        raise UserError("--neftune_noise_alpha is for embeddings of words, which no recording has: leave it out")
    for name, value in _WITHOUT_UAR.items():
        if getattr(args, name) is value:
            raise UserError(f"--{name} {str(value).lower()} gives no UAR of all validation clips: leave it out")
    if any("tpu" in option.value for option in args.debug):
        raise UserError("--debug tpu_metrics_debug needs a TPU: leave it out")
    if args.dataloader_num_workers < 0:
        raise UserError(f"--dataloader_num_workers is {args.dataloader_num_workers}: at least 0 is needed")
    if args.torch_compile:
        _check_compiler(args.torch_compile_backend, args.torch_compile_mode)


def _check_compiler(backend: str, mode: str | None) -> None:
    import torch._dynamo
    import torch._inductor
    from accelerate.utils import DynamoBackend

    installed = torch._dynamo.list_backends(exclude_tags=())
    backends = [name for item in DynamoBackend if (name := item.value.lower()) in installed]
    if backend.lower() not in backends:
        raise UserError(f"--torch_compile_backend is '{backend}': choose one of {', '.join(sorted(backends))}")
    modes = list(torch._inductor.list_mode_options())
    if backend == "inductor" and mode is not None and mode not in modes:
        raise UserError(f"--torch_compile_mode is '{mode}': choose one of {', '.join(modes)}")
    compiler = os.environ.get("CXX", "g++")
    if backend == "inductor" and shutil.which(compiler) is None:
        raise UserError(
            f"--torch_compile needs the compiler {compiler}, which is not installed: install it, or set CXX"
        )


SCRATCH = {"learning_rate": 6e-4, "num_train_epochs": 12.0, "label_smoothing_factor": 0.1, "weight_decay": 0.05}
PRETRAINED = {"learning_rate": 5e-5, "num_train_epochs": 5.0, "label_smoothing_factor": 0.1, "weight_decay": 0.01}
LAYER_DECAY = 0.8
"""Default of `layer_decay` for pretrained layers; rates below the top learn what is general."""
PROBE = {"learning_rate": 3e-3, "num_train_epochs": 60.0, "label_smoothing_factor": 0.0, "weight_decay": 0.01}
_WITHOUT_VALIDATION = {"eval_strategy": "no", "load_best_model_at_end": False, "metric_for_best_model": None}


def training_arguments(config: FinetuneConfig, **settings: Any) -> "TrainingArguments":
    """`TrainingArguments` with our defaults for this configuration, under the settings given.

    Raises:
        UserError: for a value that is none, a package that is missing, and for a setting that a run
            of ours could not keep.
    """
    from transformers import TrainingArguments

    settings = {**trainer_defaults(config, settings), **settings}
    packages.require_for_trainer(settings)
    try:
        args = TrainingArguments(**settings)
    except (ImportError, TypeError, ValueError, NotImplementedError) as error:  # it checks its own values
        raise UserError(str(error)) from error
    check_trainer(config, args)
    return args


def trainer_defaults(config: FinetuneConfig, given: Mapping[str, Any]) -> dict:
    """Our defaults for `TrainingArguments`, gentler for pretrained weights than from scratch.

    Args:
        config: of the run.
        given: the settings that the user gave, which go over the defaults.
    """
    import torch

    by_mode = PROBE if config.mode == "probe" else PRETRAINED if is_pretrained(config) else SCRATCH
    return {
        **processor.training_defaults(given),
        **by_mode,
        **({"learning_rate": 5e-4} if config.mode == "lora" else {}),  # what adapters take, Hu et al. 2022
        "per_device_train_batch_size": 128 if config.mode == "probe" else 16,
        "per_device_eval_batch_size": 32,
        "warmup_steps": 0.1,  # below 1 it is a share of all steps
        "lr_scheduler_type": "cosine",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "logging_nan_inf_filter": False,  # or NaN would be logged as a number
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "uar",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        # a CPU's cores compute the model; a GPU would wait for its batches
        "dataloader_num_workers": 2 if torch.cuda.is_available() else 0,
        "report_to": ["tensorboard"],
        "ddp_timeout": 86_400,  # seconds that the others wait while the first process computes what is frozen
        "output_dir": f"runs/{Path(config.model).name}-{Path(config.protocol).stem}",
        **(_WITHOUT_VALIDATION if config.train_on_validation else {}),
    }
