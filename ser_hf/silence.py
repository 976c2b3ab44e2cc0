"""Where the voice of a clip begins and ends, and how much of the silence around it to keep.

Silence is judged against the loudest frame of the same clip, so that it does not depend on the recording's level.
"""

import numpy as np


def vary(length: int, bounds: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """New start and end for a clip: the silence before and after `bounds` is each cut to a random share of itself.

    What is kept touches the voice. The share is u² with u uniform in [0, 1]: a third on average, and up to all of it.

    Args:
        length: of the clip, in samples, frames or any other unit.
        bounds: first and one-past-last of what is not silence, in the same unit.
        rng: two numbers are drawn from it, whatever the bounds.
    """
    start, end = bounds
    before, after = (rng.random(2) ** 2).tolist()
    return start - round(before * start), end + round(after * (length - end))


def either(length: int, bounds: tuple[int, int], rng: np.random.Generator, margin: int) -> tuple[int, int]:
    """New start and end for a clip: half of the clips stay whole, on each side of the others at most `margin` is left.

    A model that normalises over the clip hears a voice otherwise where silence surrounds it: it should learn both.
    Arguments and draws as for `vary`; but three numbers are drawn, and `margin` is in the same unit.
    """
    start, end = bounds
    whole, before, after = rng.random(3).tolist()
    if whole < 0.5:
        return 0, length
    return max(0, start - round(before * margin)), min(length, end + round(after * margin))
