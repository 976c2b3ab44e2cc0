"""Progress bars on stderr, of whatever takes longer than a moment."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

DELAY = 2.0
"""Seconds before a bar appears: what is done by then needs none."""

_ON_SCREEN, _IN_A_LOG = 0.2, 60.0
"""Seconds between two states of a bar; a log keeps each of them."""


def bar(what: str, total: int | None, unit: str = "clips", leave: bool = True) -> tqdm:
    """Begin a bar that is updated by hand, as a context; it shows rate and time left.

    Args:
        what: is done, such as `Predicting the test`.
        total: of the units; None where nobody knows.
        unit: that is counted, in the plural.
        leave: whether its last state stays.
    """
    interval = _ON_SCREEN if sys.stderr.isatty() else _IN_A_LOG
    return tqdm(
        desc=what,
        total=total,
        unit=f" {unit}",
        leave=leave,
        delay=DELAY,
        mininterval=interval,
        maxinterval=interval,
        file=sys.stderr,
        dynamic_ncols=True,
    )


def each(items: Iterable[Item], what: str, total: int, unit: str = "clips") -> Iterator[Item]:
    """Give items on, and count them in a bar; the other arguments are those of `bar`."""
    with bar(what, total, unit) as counted:
        for item in items:
            yield item
            counted.update()


def say(text: str) -> None:
    """Print a line on stderr about work that takes seconds and cannot be counted."""
    print(text, file=sys.stderr, flush=True)
