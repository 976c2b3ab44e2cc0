"""The style that all pictures share, and what keeps their texts inside.

A picture is `WIDTH` wide: its letters are about as large as those of the page around it, and can be
read on a phone. The ground is white, as cards and papers need it. `DARK_FILTER` turns the lightness
of a picture round in a dark page, and keeps its hues.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

WIDTH = 6.4
"""Inches of every picture; pages show it at most 34 rem wide."""

STYLE = {
    "font.size": 12,
    "axes.titlesize": 12,
    "figure.titlesize": 13,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
}
"""For `matplotlib.rc_context`, around drawing and saving."""

DARK_FILTER = "invert(0.93) hue-rotate(180deg)"
"""The CSS filter of a picture in a dark page, which every style sheet of ours holds."""

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#6f6f6f"

SERIES = (
    ("#0072b2", "-", "o"),
    ("#e69f00", "--", "s"),
    ("#009e73", "-.", "^"),
    ("#d55e00", ":", "D"),
    ("#56b4e9", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#000000", (0, (1, 1)), "P"),
)
"""Colour (Okabe and Ito 2008), line style and marker of a series: any of them tells it apart."""

_TITLE, _NAME = 54, 24  # characters that fit


def save(figures: dict[str, Figure], folder: Path) -> list[Path]:
    """Write pictures by their names into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / name)
    return [folder / name for name in figures]


def write_title(figure: Figure, text: str) -> None:
    """Write a title in the lines that it needs, three for each of its own at most.

    The picture grows by them.
    """
    wrapped = [textwrap.fill(line, _TITLE, max_lines=3, placeholder=" …") for line in text.splitlines()]
    lines = "\n".join(wrapped)
    figure.suptitle(lines)
    figure.set_figheight(figure.get_figheight() + 0.23 * lines.count("\n"))


def shortened(name: str, most: int = _NAME) -> str:
    """A name that fits beside an axis; a longer one lacks its middle.

    >>> shortened("ravdess-01")
    'ravdess-01'
    >>> shortened("interview-of-the-second-day", 13)
    'interv…nd-day'
    """
    end = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


def compact(count: int) -> str:
    """A count in a few characters.

    >>> [compact(number) for number in (0, 9_876, 12_345, 3_400_000, 2_000_000_000)]
    ['0', '9,876', '12k', '3.4M', '2G']
    """
    if count < 10_000:
        return f"{count:,}"
    return EngFormatter(places=0 if count < 1_000_000 else 1, sep="")(count).replace(".0", "")


def most_of(names: Sequence[str], most: int) -> list[str | None]:
    """The names, or the first and last of too many with a None between them."""
    if len(names) <= most:
        return list(names)
    return [*names[: most - most // 2], None, *names[len(names) - most // 2 :]]


def largest(groups: dict[str, list[int]], most: int) -> dict[str, list[int]]:
    """Histograms of the groups with the most counts; those of the rest are added up as others."""
    if len(groups) <= most:
        return groups
    order = sorted(groups, key=lambda name: -sum(groups[name]))
    rest = [groups[name] for name in order[most - 1 :]]
    sums = [sum(row[place] for row in rest if place < len(row)) for place in range(max(map(len, rest)))]
    return {name: groups[name] for name in groups if name in order[: most - 1]} | {f"{len(rest):,} others": sums}


def label_counts(axis: Axis, most: int = 5) -> None:
    """Whole numbers on an axis, at most so many; large ones with k, M or G."""
    axis.set_major_locator(MaxNLocator(most, integer=True))
    axis.set_major_formatter(EngFormatter(sep=""))


def legend_above(axes: Axes, columns: int = 3, handles: Iterable[Artist] | None = None) -> None:
    """Explain the signs above the axes, where the legend covers nothing."""
    handles = list(axes.get_legend_handles_labels()[0] if handles is None else handles)
    if handles:
        columns = _fitting(columns, [str(handle.get_label()) for handle in handles])
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=columns, borderpad=0.2)


def legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """Explain the signs below the axes, each name once; the picture grows by further lines."""
    handles, names = axes.get_legend_handles_labels()
    named = dict(zip(reversed(names), reversed(handles), strict=True))  # the first of each name
    named = {name: named[name] for name in dict.fromkeys(names)}
    if named:
        columns = _fitting(columns, list(named))
        figure.set_figheight(figure.get_figheight() + 0.25 * (math.ceil(len(named) / columns) - 1))
        figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns)


def _fitting(columns: int, names: list[str]) -> int:
    """As many columns as a legend has space for; a sign and its gaps count as five letters."""
    return max(1, min(columns, 60 // (max(map(len, names)) + 5)))


def ink(share: float) -> str:
    """The colour of a text on a share of the colour map Blues: black or white."""
    return "white" if share > 0.72 else "black"
