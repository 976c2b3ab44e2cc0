"""What every training begins with: the settings, the clips, and the model as it was loaded."""

from dataclasses import dataclass

import datasets
import numpy as np
from transformers import FeatureExtractionMixin, PreTrainedModel, TrainingArguments

from ser_hf import protocols
from ser_hf.data import references
from ser_hf.models import cutting, loading
from ser_hf.models.features import front_end_of
from ser_hf.models.seen_speakers import SeenSpeakers
from ser_hf.training import losses, modes
from ser_hf.training.augmentation import Augmentation, from_folder, needs_noise, parse, silences
from ser_hf.training.config import FinetuneConfig
from ser_hf.training.recovery import TrainingError


@dataclass(frozen=True)
class TrainingInputs:
    """What a training begins with."""

    config: FinetuneConfig
    args: TrainingArguments
    rows: datasets.Dataset
    """All recordings."""
    split: protocols.Split
    """The clips of each side."""
    model: PreTrainedModel
    """Cut to the window and the layers of the run."""
    extractor: FeatureExtractionMixin
    """Feature extractor of the model."""
    augmentation: Augmentation | None = None
    """Of the training clips; None where `--augment` names none."""

    def split_rows(self) -> datasets.Dataset:
        """The recordings of all three sides.

        What is frozen is computed for the test side, too, so that other folds find it.
        """
        return self.rows.select(sorted(self.split.train + self.split.validation + self.split.test))

    def clip_weights(self) -> np.ndarray | None:
        """Weights of the training clips (`ser_hf.training.losses.training_weights`)."""
        train = self.rows.select(self.split.train)
        return losses.training_weights(train, self.config.balance, self.config.group_weights)


def load(
    config: FinetuneConfig, args: TrainingArguments, rows: datasets.Dataset, split: protocols.Split
) -> TrainingInputs:
    """Load the model of a run, cut it to its window and layers, and make its augmentation.

    Raises:
        UserError: for a model that cannot be loaded or cut, or that saw the speakers of the test;
            for an `--augment` that names no augmentation, or one that the model's input does not
            allow.
    """
    model, extractor = _load_model(config, args, rows, split)
    augmentation = _augmentation(config, rows, split, extractor)
    return TrainingInputs(config, args, rows, split, model, extractor, augmentation)


def _load_model(
    config: FinetuneConfig, args: TrainingArguments, rows: datasets.Dataset, split: protocols.Split
) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    """Load the model, and cut it to the window and the layers of the run; also its extractor."""
    attention = None if config.attention == "auto" else config.attention
    model, extractor = loading.load_for_training(config.model, args.seed, attention)
    protocols.refuse_seen(SeenSpeakers.of(model.config), config.model, rows, split)
    if config.keep_layers is not None:
        cutting.keep_layers(model, config.keep_layers)
    if config.layer_mix:  # after the layers are counted
        modes.mix_layers(model)
    durations = np.array(rows.select_columns(["duration"])[split.train]["duration"])
    window = cutting.choose_window(durations, model.config, config.window)
    if window is None:
        return model, extractor
    if args.process_index == 0:
        longer = int((durations > window).sum())
        cut = f"; a random stretch is taken of {longer:,} longer clips" if longer else ""
        fitting = 1 - longer / len(durations)
        print(f"window: {window} s, fits {fitting:.1%} of the training clips{cut}".replace("%", " %"), flush=True)
    return model, cutting.cut_window(model, extractor, window)


def _augmentation(
    config: FinetuneConfig,
    rows: datasets.Dataset,
    split: protocols.Split,
    extractor: FeatureExtractionMixin,
) -> Augmentation | None:
    """The augmentation that `--augment` names; its noises are the silences of the training side."""
    if not config.augment:
        return None
    noises = []
    if needs_noise(config.augment):
        clips = (references.load_clip(row["audio"]) for row in rows.select(split.train).select_columns("audio"))
        noises = from_folder(config.noise_dir) if config.noise_dir else silences(clips)
    augmentation = parse(config.augment, noises, config.augment_probability)
    of_frames = augmentation.names(of_frames=True)
    if of_frames and not front_end_of(extractor).on_frames:
        raise TrainingError(f"--augment {of_frames[0]} is of mel frames, and the model takes waveforms: leave it out")
    return augmentation
