"""A head in closed form that also reads hidden units.

The projector of the model gives the standardised output of the encoder and the logits, and its
classifier takes the logits (`ser_hf.models.hidden_units`). Both together are the embedding of a
clip, which adapting to a voice standardises.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from ser_hf.labels import EMOTIONS
from ser_hf.models import hidden_units
from ser_hf.training.heads import head_start
from ser_hf.training.heads.discriminant_head import HeadStart, LinearHead, choose
from ser_hf.training.heads.pooled_features import PooledFeatures
from ser_hf.training.inputs import TrainingInputs

_DEAD = 1e-4
"""Deviation of a pooled hidden unit, over the norm, below which it is left out."""


@dataclass(frozen=True, eq=False)
class HiddenHead:
    """A classifier that is folded into a model."""

    start: HeadStart
    projected: hidden_units.Readouts
    """What the projector gives; the last ones are the logits before `temperature`."""
    held_out: np.ndarray
    """Those logits of the training clips, by classifiers that did not see their speaker; shape
    `(clips, labels)`."""
    temperature: float = 1.0
    """That the logits of the model are divided by."""

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits `(clips, labels)` of what `hidden_units.pooled` gives."""
        return self.projected(features)[:, -len(EMOTIONS) :] / self.temperature

    def embeddings(self, features: np.ndarray) -> np.ndarray:
        """Inputs of the model's classifier, shape `(clips, width + labels)`."""
        return self.projected(features)

    def of_training(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and embeddings of the training clips, as if their speakers had not been seen."""
        embeddings = self.projected(features)
        embeddings[:, -len(EMOTIONS) :] = self.held_out
        return self.held_out / self.temperature, embeddings

    def tempered(self, temperature: float) -> "HiddenHead":
        """The same head with the logits of its model divided by a temperature."""
        return replace(self, temperature=self.temperature * temperature)


def fit(inputs: TrainingInputs) -> tuple[HiddenHead, PooledFeatures]:
    """Fit a classifier, and fold it into the model, in place.

    Returns:
        The head, and the features of all clips of the split.

    Raises:
        ModelError: for a model whose hidden units cannot be read.
        TrainingError: where all training clips have one label.
    """
    model, split = inputs.model, inputs.split
    hidden_units.check(model)
    pooled = head_start.pooled_features(inputs)
    (rows, labels), weights = pooled.training()
    features = rows.whole()
    unseen, unseen_labels = pooled.side(split.validation)
    width, _ = hidden_units.sizes(model)
    centre = hidden_units.centre_of(features, width)
    # a unit that hardly ever moves would be magnified, and decide about the clip in which it does
    alive = hidden_units.centred(features, width, centre).std(axis=0) > _DEAD

    def points(of: np.ndarray) -> np.ndarray:
        """The output, and how far the hidden units are from their centre."""
        of = of.reshape(-1, features.shape[1])  # a side without clips has no width
        return np.concatenate([of[:, :width], hidden_units.centred(of, width, centre) * alive], axis=1)

    speakers = np.array(inputs.rows.select(split.train)["speaker"])
    choice = choose((points(features), labels), (points(unseen), unseen_labels), weights, speakers)
    whole, damaged = np.split(features, [len(speakers)])
    projected = hidden_units.fold(model, _readouts(choice.head, centre, width), whole, damaged)
    model.classifier = nn.Linear(len(projected.bias), len(EMOTIONS))
    with torch.no_grad():
        model.classifier.weight.copy_(torch.eye(len(projected.bias))[-len(EMOTIONS) :])
        nn.init.zeros_(model.classifier.bias)
    return HiddenHead(choice.start, projected, choice.held_out), pooled


def _readouts(head: LinearHead, centre: np.ndarray, width: int) -> hidden_units.Readouts:
    """A classifier of points, as a function of features."""
    weight = head.coefficients * head.scale
    hidden = weight[:, width:]
    return hidden_units.Readouts(weight[:, :width], hidden, -hidden @ centre, head.intercept - weight @ head.mean)
