"""What a model makes of one voice, from a few of its clips without labels.

A model takes one voice for sad and another for angry, whatever they feel. An adaptation moves the logits so that, over
the clips given, its answers are spread evenly over the labels, and mixes them with where the clips themselves cluster,
since a voice that moves all alike says little of how often each is meant. The clips should hold several emotions, best
all of them about as often, or one of them is taken for the voice.
"""

from collections.abc import Sequence

import numpy as np

from ser_hf.inference.speaker_adaptation import _PARTS, CLUSTERED, fit


def crossed(
    logits: np.ndarray,
    speakers: Sequence[str],
    rng: np.random.Generator,
    clips: int | None = None,
    clustered: float = CLUSTERED,
) -> np.ndarray:
    """Logits of test clips, each adapted on other clips of its speaker: what adapting is worth.

    A speaker's clips are cut into ten parts at random; those of a part are adapted on clips drawn from the other nine.

    Args:
        logits: calibrated ones, shape `(n, labels)`.
        speakers: of each clip.
        rng: of the parts and of the clips drawn.
        clips: how many are adapted to; all of the other parts if None, none for 0.
        clustered: of `fit`.

    Returns:
        Shape `(n, labels)`, float64.
    """
    names, moved = np.asarray(speakers), np.array(logits, dtype=np.float64)
    for speaker in np.unique(names):
        own = rng.permutation(np.flatnonzero(names == speaker))
        for part in np.array_split(own, min(_PARTS, len(own))):
            others = rng.permutation(np.setdiff1d(own, part))[:clips]
            if len(others):
                moved[part] = fit(logits[others], "", clustered).moved(logits[part])
    return moved
