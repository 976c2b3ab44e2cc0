"""From settings to a Trainer: the model and what of it is frozen, the clips, the sampler."""

import os
from dataclasses import asdict, dataclass, replace

import datasets
import joblib
import numpy as np
import torch
import transformers
from transformers import PreTrainedModel, TrainingArguments

from ser_hf import audio, protocols
from ser_hf.models import loading, presets
from ser_hf.models.backbones import backbone_of
from ser_hf.models.features import front_end_of
from ser_hf.models.padding import frames_of, ignore_padding
from ser_hf.models.seen_speakers import SeenSpeakers
from ser_hf.training import cpu_kernels, feature_cache, losses, modes
from ser_hf.training.config import FinetuneConfig, under_fsdp
from ser_hf.training.dataset import SpeechDataset, TrainingCollator, Variation
from ser_hf.training.heads import head_start
from ser_hf.training.heads.discriminant_head import HeadStart
from ser_hf.training.inputs import TrainingInputs, load
from ser_hf.training.recovery import TrainingError
from ser_hf.training.sampler import PaddedLengthBatchSampler, steps_for
from ser_hf.training.streaming.sampler import StreamSampler
from ser_hf.training.trainer import Recipe, SerTrainer, ValidationWatch, make_trainer

_RECIPE_ARGUMENTS: tuple[str, ...] = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
)
_RECIPE_ARGUMENTS += ("weight_decay", "max_grad_norm", "label_smoothing_factor", "bf16", "fp16")
"""The `TrainingArguments` that a resumed run must share; of our settings it is all but these:"""
# Those that the hash of the split stands for,
_NOT_RECIPE = {"dataset", "protocol", "fold", "split_seed", "text_disjoint"}
_NOT_RECIPE |= {"extra_train_speakers", "train_on_validation"}
# those that change no step,
_NOT_RECIPE |= {"seeds", "search", "threads", "cache_dir", "patience", "figures_only"}
# and those of what comes after training.
_NOT_RECIPE |= {"calibrate", "temperature", "abstain_coverage", "abstain_error", "adaptation_head"}


@dataclass
class Prepared:
    """All that a training needs before its first step."""

    rows: datasets.Dataset
    split: protocols.Split
    trained: modes.TrainableModel
    extractor: transformers.FeatureExtractionMixin
    trainer: SerTrainer
    watch: ValidationWatch
    padding: str
    start: HeadStart | None
    """What the head begins with; None for random weights, or for those it was saved with."""

    def head_start(self) -> dict | None:
        """What `Results.training` says of the head start; None where there was none.

        `kept` is whether no epoch was better on the validation side.
        """
        if self.start is None:
            return None
        kept = self.trainer.recipe.judge_start and self.trainer.state.best_global_step == 0
        return {**asdict(self.start), "kept": kept}


def prepare(
    config: FinetuneConfig, args: TrainingArguments, rows: datasets.Dataset, split: protocols.Split
) -> Prepared:
    """Load the model, freeze and cache what its mode freezes, and set up the Trainer.

    Raises:
        UserError: for what does not fit.
    """
    # The order below matters; a comment says why wherever a step may not move.
    # Threads first: computing frozen outputs is the longest part of the setup.
    set_threads(config.threads, args)
    inputs = load(config, args, rows, split)
    extractor = inputs.extractor
    trained, padding, start = _trainable_model(inputs)
    variation = Variation(config.silence, inputs.augmentation, config.mixup, args.seed)
    # The front end is still in its place: its outputs are computed by the model as it was loaded.
    cache = _frozen_outputs(inputs, trained, variation)
    weights = inputs.clip_weights()
    loss_weights = weights if config.balance_by == "loss" else None
    sampler_weights = weights if config.balance_by == "sampler" else None
    threads = args.dataloader_num_workers if config.streaming else None
    train = SpeechDataset(rows, split.train, extractor, variation, cache, loss_weights, threads).decode()
    # After the clips: the shortest of them, varied, bounds the masks. Before the bypass: counting
    # frames needs the convolutions.
    _fit_masking(config, trained.model, extractor, train)
    # Before anything wraps the model, whose config is saved with every checkpoint.
    remember_training(trained.model, config.model, rows, split)
    # The bypass, adapters and CPU kernels replace modules, so they come last of what changes the
    # model, and before the Trainer looks at its parameters.
    _make_trainable(config, args, trained, cache)
    sampler = _sampler(config, args, train, sampler_weights)
    validation = _validation(inputs, cache)
    objective = losses.Objective(args.label_smoothing_factor, config.focal_gamma if config.loss == "focal" else 0.0)
    run = {"model_type": trained.model.config.model_type, "protocol_hash": split.hash, "mode": config.mode}
    run |= {"seed": args.seed, **recipe_of(config, args), "steps_an_epoch": sampler.steps}
    if config.streaming:
        run["processes"] = args.world_size  # each has an order of its own
    judge_start = start is not None and validation is not None and args.load_best_model_at_end
    recipe = Recipe(sampler, objective, config.layer_decay or 1.0, config.ema_decay, run, judge_start)
    collator = TrainingCollator(extractor, padding)
    clips = (train, validation)
    trainer, watch = make_trainer(args, trained.trainable, clips, collator, recipe, config.patience or 0, padding)
    return Prepared(rows, split, trained, extractor, trainer, watch, padding, start)


def _validation(inputs: TrainingInputs, cache: feature_cache.FeatureCache | None) -> SpeechDataset | None:
    """Decode the validation side in order of length, so that batches of neighbours pad little."""
    if not inputs.split.validation:
        return None
    seconds = np.array(inputs.rows.select_columns("duration")["duration"])
    indices = sorted(inputs.split.validation, key=seconds.__getitem__)
    return SpeechDataset(inputs.rows, indices, inputs.extractor, store=cache).decode()


def recipe_of(config: FinetuneConfig, args: TrainingArguments) -> dict:
    """Collect the settings by which a run learns.

    A resumed run must have been begun with them; how its clips are shared out may differ.
    """
    ours = {name: value for name, value in asdict(config).items() if name not in _NOT_RECIPE}
    theirs = {name: getattr(args, name) for name in _RECIPE_ARGUMENTS}
    clips = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return {name: getattr(value, "value", value) for name, value in (ours | theirs).items()} | {"clips a step": clips}


def remember_training(model: PreTrainedModel, name: str, rows: datasets.Dataset, split: protocols.Split) -> None:
    """Write the backbone, the speakers of training and validation, and the split into a config.

    Args:
        model: that is trained.
        name: of the model that training begins from.
        rows: what the split indexes.
        split: of the training.
    """
    speakers = rows.select(split.train + split.validation)["speaker"]
    seen = replace(SeenSpeakers.of(model.config), backbone=backbone_of(name, model.config))
    seen.trained(split.name, split.hash, split.fold, speakers).remember(model.config)


def set_threads(threads: int | None, args: TrainingArguments) -> None:
    """Set the CPU threads of this process; all cores, shared between processes, where None.

    `accelerate launch` starts a single CPU process with one thread.
    """
    if args.device.type == "cpu":
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(threads or max(1, joblib.cpu_count() // local))


def _trainable_model(inputs: TrainingInputs) -> tuple[modes.TrainableModel, str, HeadStart | None]:
    """Begin the head of a model, and freeze what its mode freezes.

    Returns:
        The model, its padding rule, and what its head begins with.
    """
    config, model = inputs.config, inputs.model
    padding = ignore_padding(model)
    # After the padding rule, which the pooled features must keep. Before masks are set: the cache's
    # key should not depend on them. Before anything is frozen: the head may become wider.
    start = None
    if head_start.wanted(config, model):
        start = head_start.begin(inputs)
    _set_masking(model, config)
    freeze = config.model != presets.TINY if config.freeze_feature_encoder is None else config.freeze_feature_encoder
    trained = modes.prepare(model, config.mode, freeze, config.layers)
    drop_unused(model)
    if start is not None:
        modes.widen_head(model)
    return trained, padding, start


def _fit_masking(
    config: FinetuneConfig, model: PreTrainedModel, extractor: transformers.FeatureExtractionMixin, train: SpeechDataset
) -> None:
    """Shorten SpecAugment's masks to the shortest clip, played as fast as augmentation may."""
    front_end = front_end_of(extractor)
    if front_end.fixed_window:
        return  # no window is shorter than a mask
    fastest = (1.5 if config.augment else 1.0) * (np.exp(0.5) if "tempo" in config.augment else 1.0)
    samples = int(train.shortest() / fastest * audio.SAMPLING_RATE)
    # the voice of a clip that is not read yet is unknown
    train.least = train.shortest() if train.stream is not None and _masks_time(model) else 0.0
    shortest = front_end.extract(np.zeros(samples, dtype=np.float32))
    loading.fit_masking(model, frames_of(model, front_end.steps(shortest)))


def _masks_time(model: PreTrainedModel) -> bool:
    return getattr(model.config, "mask_time_prob", 0) > 0 and getattr(model.config, "apply_spec_augment", False)


def _make_trainable(
    config: FinetuneConfig,
    args: TrainingArguments,
    trained: modes.TrainableModel,
    cache: feature_cache.FeatureCache | None,
) -> None:
    """Bypass a cached front end, add adapters, and replace modules for a CPU."""
    if cache is not None and trained.front is not None:
        trained.front.bypass()
    else:
        trained.front = None
    if config.mode == "lora":
        trained.adapt(config.lora_rank)
    if config.fast_dropout or (config.fast_dropout is None and args.device.type == "cpu"):
        cpu_kernels.use_byte_dropout(trained.trainable)
    cpu_kernels.widen_norms(trained.trainable, args)


def _set_masking(model: PreTrainedModel, config: FinetuneConfig) -> None:
    for name in ("mask_time_prob", "mask_feature_prob"):
        if getattr(config, name) is not None:
            if not hasattr(model.config, name):
                raise TrainingError(f"a {model.config.model_type} has no SpecAugment: leave out --{name}")
            if getattr(config, name) > 0 and not hasattr(model.base_model, "masked_spec_embed"):
                raise TrainingError(f"the model has no vector for masked frames: leave out --{name}")
            setattr(model.config, name, getattr(config, name))
            model.config.apply_spec_augment = True


def drop_unused(model: PreTrainedModel) -> None:
    """Remove the vector for masked frames where nothing is masked, as stock transformers does.

    Where stock transformers would load it nevertheless, it is frozen: the optimiser has no state of
    a parameter without gradient, and a resumed run would miss it.
    """
    if getattr(model.base_model, "masked_spec_embed", None) is None:
        return
    if not any(getattr(model.config, name, 0) > 0 for name in ("mask_time_prob", "mask_feature_prob")):
        del model.base_model.masked_spec_embed
    elif not getattr(model.config, "apply_spec_augment", True):
        model.base_model.masked_spec_embed.requires_grad = False


def _frozen_outputs(
    inputs: TrainingInputs, trained: modes.TrainableModel, variation: Variation
) -> feature_cache.FeatureCache | None:
    """Compute the outputs of the frozen front end, or read them from the cache.

    None where there is no frozen front end, where its input changes from epoch to epoch, where FSDP
    would miss it in the state dict, or where `--cache_frozen false` says so. Of a streamed dataset
    nothing is cached unless `--cache_frozen true` says so.
    """
    config, args, extractor = inputs.config, inputs.args, inputs.extractor
    if config.streaming and config.cache_frozen is None:
        return None  # what is frozen may be larger than the recordings
    front = trained.front
    unfit = variation.of_sound() or under_fsdp()
    if front is not None and not unfit and front_end_of(extractor).fixed_window and variation.silence != "keep":
        # every frame of a window depends on all others, so cached ones cannot be cut
        if config.cache_frozen:
            raise TrainingError(f"--cache_frozen true: --silence {variation.silence} cuts what is cached, give keep")
        unfit = True
    if front is None or unfit or config.cache_frozen is False:
        if config.cache_frozen:
            raise TrainingError("--cache_frozen true: there is no frozen front that stays the same, leave it out")
        return None
    front.model.to(args.device)
    with args.main_process_first(desc="frozen outputs"), torch.autocast(args.device.type, torch.bfloat16, args.bf16):
        name = f"front {front.depth} {'bf16' if args.bf16 else 'fp32'}"
        cache, computed = feature_cache.feature_cache(
            inputs.split_rows(), name, front.model, extractor, front.outputs, config.cache_dir
        )
    if args.process_index == 0:
        print(f"frozen outputs of {len(cache):,} clips: {'computed' if computed else 'from the cache'}", flush=True)
    return cache


def _sampler(
    config: FinetuneConfig, args: TrainingArguments, train: SpeechDataset, weights: np.ndarray | None
) -> PaddedLengthBatchSampler:
    accumulation, processes = args.gradient_accumulation_steps, args.world_size
    parts = accumulation * processes
    if len(train) < parts:
        raise TrainingError(
            f"{len(train)} clips cannot be shared by {parts} batches: lower --gradient_accumulation_steps"
        )
    if config.frame_budget:
        steps = steps_for(train.unvaried_lengths(), config.frame_budget, parts)
    else:
        steps = max(1, min(-(-len(train) // (args.per_device_train_batch_size * parts)), len(train) // parts))
    seed = args.seed if args.data_seed is None else args.data_seed
    shuffled = config.batching == "shuffled"
    if train.stream is not None:
        return StreamSampler(
            train.lengths,
            train.stream.group_of,
            steps,
            seed,
            config.shuffle_buffer,
            train.stream.follow,
            accumulation,
            processes,
            args.process_index,
            shuffle_only=shuffled,
        )
    return PaddedLengthBatchSampler(
        train.lengths, steps, seed, weights, accumulation, processes, args.process_index, shuffle_only=shuffled
    )
