"""What the frozen layers of a Whisper are worth to a linear discriminant analysis.

A row for each number of layers: UAR of `emobox-ravdess`, its six folds together, from the output
of the encoder, from the hidden units of its last feed-forward network, and from both. It is fitted
on RAVDESS speech alone. "Per speaker" means that features are standardised by all clips of a
speaker, without labels.

    python studies/frozen_features.py --dataset DIR --backbone openai/whisper-base --layers 2 3 4
"""

import argparse
from collections.abc import Callable

import datasets
import numpy as np
import torch
from transformers import FeatureExtractionMixin, PreTrainedModel

from ser_hf import audio, protocols
from ser_hf.data import dataset
from ser_hf.evaluation.adaptation_head import standardised
from ser_hf.models import cutting, hidden_units, loading
from ser_hf.models.discriminant import Moments, discriminants
from ser_hf.models.features import Collator, front_end_of
from ser_hf.models.frozen_frontend import evaluation_mode
from ser_hf.models.padding import padding_rule

SHRINKAGES = (0.03, 0.1, 0.3, 0.5, 0.7)
PROTOCOL = "emobox-ravdess"


def main() -> None:
    """Compute the features of each number of layers, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, metavar="DIR")
    parser.add_argument("--backbone", default="openai/whisper-base", metavar="DIR|REPO")
    parser.add_argument("--layers", type=int, nargs="+", default=[3], help="of the encoder, from below")
    parser.add_argument("--window", type=int, default=5, help="seconds")
    args = parser.parse_args()
    rows = dataset.load(args.dataset)
    splits = protocols.folds(rows, PROTOCOL, "all", 0, near_duplicates=protocols.near_duplicates_of(rows))
    tested = np.concatenate([split.test for split in splits])
    rows, folds = rows.select(tested), np.repeat(np.arange(len(splits)), [len(split.test) for split in splits])
    print(
        "| layers | features | width | UAR | per speaker | best shrinkages |\n| ---: | --- | ---: | ---: | ---: | --- |"
    )
    for layers in args.layers:
        model, extractor = cut(args.backbone, layers, args.window)
        features, width = features_of(model, extractor, rows), hidden_units.sizes(model)[0]
        output = features[:, :width]
        hidden = hidden_units.centred(features, width, hidden_units.centre_of(features, width))
        for name, points in (("output", output), ("hidden", hidden), ("both", np.hstack([output, hidden]))):
            alone, of_speaker = (best(values, rows, folds) for values in (points, by_speaker(points, rows)))
            scores = f"{alone[0]:.3f} | {of_speaker[0]:.3f} | {alone[1]:g}, {of_speaker[1]:g}"
            print(f"| {layers} | {name} | {points.shape[1]:,} | {scores} |", flush=True)


def cut(backbone: str, layers: int, window: int) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    """A backbone of so many layers and seconds, and its extractor."""
    model, extractor = loading.load_for_training(backbone, 0, None)
    cutting.keep_layers(model, layers)
    return model, cutting.cut_window(model, extractor, window)


def features_of(
    model: PreTrainedModel,
    extractor: FeatureExtractionMixin,
    rows: datasets.Dataset,
    damage: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """What `hidden_units.pooled` gives for each clip, whole or damaged."""
    front_end, collate, found = front_end_of(extractor), Collator(extractor, padding_rule(model)), []
    with evaluation_mode(model):
        for start in range(0, len(rows), 16):
            clips = [audio.load(clip) for clip in rows[start : start + 16]["audio"]]
            clips = [(damage(clip) if damage else clip)[: front_end.longest] for clip in clips]
            batch = collate([{"features": front_end.extract(clip)} for clip in clips])
            found.append(hidden_units.pooled(model, batch).double())
    return torch.cat(found).numpy()


def by_speaker(points: np.ndarray, rows: datasets.Dataset) -> np.ndarray:
    """Points that are standardised by all clips of their speaker."""
    return standardised(points, np.array(rows["speaker"]))


def best(points: np.ndarray, rows: datasets.Dataset, folds: np.ndarray) -> tuple[float, float]:
    """UAR of all folds together at the shrinkage that is best for it, and that shrinkage."""
    labels, answers = np.array(rows["label"]), np.zeros((len(SHRINKAGES), len(rows)), dtype=int)
    parts = [Moments.of(points[folds == fold], labels[folds == fold]) for fold in range(folds.max() + 1)]
    nothing = parts[0] - parts[0]
    for fold in range(folds.max() + 1):
        train = sum((part for number, part in enumerate(parts) if number != fold), start=nothing)
        mean, deviation = train.mean_and_deviation()
        scale = 1 / np.maximum(deviation, 1e-9)
        tested = (points[folds == fold] - mean) * scale
        for number, (weight, bias) in enumerate(discriminants(train.scaled(mean, scale), SHRINKAGES)):
            answers[number, folds == fold] = (tested @ weight.T + bias).argmax(axis=1)
    scores = np.array([uar(row, labels) for row in answers])
    return float(scores.max()), SHRINKAGES[int(scores.argmax())]


def uar(answers: np.ndarray, labels: np.ndarray) -> float:
    """Unweighted average recall of answers `(clips,)`."""
    return float(np.mean([(answers == label)[labels == label].mean() for label in np.unique(labels)]))


if __name__ == "__main__":
    main()
