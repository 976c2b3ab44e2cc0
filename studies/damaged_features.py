"""What damage takes from a head on frozen features of a Whisper, and what gives it back.

A row for each weight of damaged copies in the fit, with the UAR of `emobox-ravdess`, its six folds
together, on whole and on damaged test clips. "Fitted" is the discriminant analysis itself. The last
two columns of each kind are what the stock head gives once hidden units are folded into it: along
directions that are quiet in whole clips, and in whole and damaged ones. It is fitted on RAVDESS
speech alone.

    python studies/damaged_features.py --dataset DIR --backbone openai/whisper-base
"""

import argparse
import copy

import datasets
import frozen_features
import numpy as np
from transformers import PreTrainedModel

from ser_hf import protocols
from ser_hf.data import dataset
from ser_hf.evaluation.diagnostics.robustness import CONDITIONS, Condition
from ser_hf.labels import EMOTIONS
from ser_hf.models import hidden_units
from ser_hf.models.encoder_layers import layers_of
from ser_hf.training.heads import hidden_head
from ser_hf.training.heads.discriminant_head import choose

KINDS = ("telephone", "noise 10 dB")
WEIGHTS = (0.0, 0.1, 0.3)
"""Of each damaged copy; a whole clip weighs 1."""


def main() -> None:
    """Compute the features of whole and damaged clips, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, metavar="DIR")
    parser.add_argument("--backbone", default="openai/whisper-base", metavar="DIR|REPO")
    parser.add_argument("--layers", type=int, default=3, help="of the encoder, from below")
    parser.add_argument("--window", type=int, default=5, help="seconds")
    args = parser.parse_args()
    rows = dataset.load(args.dataset)
    splits = protocols.folds(
        rows, frozen_features.PROTOCOL, "all", 0, near_duplicates=protocols.near_duplicates_of(rows)
    )
    folds = np.repeat(np.arange(len(splits)), [len(split.test) for split in splits])
    rows = rows.select(np.concatenate([split.test for split in splits]))
    by_name: dict[str, Condition] = {condition.name: condition for condition in CONDITIONS}
    model, extractor = frozen_features.cut(args.backbone, args.layers, args.window)
    features = [
        frozen_features.features_of(model, extractor, rows, damage) for damage in (None, *map(by_name.get, KINDS))
    ]
    print("| weight of each copy | clips | fitted | folded, quiet in whole clips | folded, quiet in all |")
    print("| ---: | --- | ---: | ---: | ---: |")
    labels = np.array(rows["label"])
    for weight in WEIGHTS:
        answers = tested(model, features, rows, folds, weight)
        for name, logits in zip(("whole", *KINDS), answers, strict=True):
            scores = " | ".join(f"{frozen_features.uar(each.argmax(axis=1), labels):.3f}" for each in logits)
            print(f"| {weight:g} | {name} | {scores} |", flush=True)


def tested(
    model: PreTrainedModel, features: list[np.ndarray], rows: datasets.Dataset, folds: np.ndarray, weight: float
) -> np.ndarray:
    """Logits `(kinds, 3, clips, labels)`: of the fit, and folded along either kind of direction.

    Args:
        model: a frozen encoder; its last matrix is put back after each fold.
        features: what `hidden_units.pooled` gives for whole clips, then for each kind of damage.
        rows: of the clips.
        folds: that test each clip, shape `(clips,)`.
        weight: of each damaged copy in the fit.
    """
    labels, speakers, width = np.array(rows["label"]), np.array(rows["speaker"]), hidden_units.sizes(model)[0]
    found, before = (
        np.zeros((len(features), 3, len(rows), len(EMOTIONS))),
        copy.deepcopy(layers_of(model)[-1].fc2.state_dict()),
    )
    for fold in range(folds.max() + 1):
        train, test = folds != fold, folds == fold
        whole, copies = features[0][train], [damaged[train] for damaged in features[1:]] if weight else []
        centre = hidden_units.centre_of(whole, width)

        def points(of: np.ndarray, centre: np.ndarray = centre) -> np.ndarray:
            return np.hstack([of[:, :width], hidden_units.centred(of, width, centre)])

        count = len(copies) + 1
        stacked, weights = (
            points(np.concatenate([whole, *copies])),
            np.repeat([1.0] + [weight] * len(copies), len(whole)),
        )
        nobody = np.zeros((0, stacked.shape[1])), np.zeros(0, dtype=int)
        head = choose((stacked, np.tile(labels[train], count)), nobody, weights, speakers[train]).head
        readouts = hidden_head._readouts(head, centre, width)
        for number, seen in enumerate((whole[:0], np.concatenate([damaged[train] for damaged in features[1:]]))):
            projected = hidden_units.fold(model, readouts, whole, seen)
            layers_of(model)[-1].fc2.load_state_dict(before)
            for kind, of in enumerate(features):
                found[kind, 0, test] = readouts(of[test])
                found[kind, number + 1, test] = projected(of[test])[:, -len(EMOTIONS) :]
    return found


if __name__ == "__main__":
    main()
