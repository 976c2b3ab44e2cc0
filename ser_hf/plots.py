"""Pictures of what a dataset's report, or an audit, counts; of nothing else."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ser_hf.labels import EMOTIONS
from ser_hf.summary import BIN_SECONDS
from ser_hf.utils.plotting import STYLE, save

_GROUPS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f")


def draw_dataset(report: dict, folder: Path) -> list[Path]:
    """Write `balance.png` and `durations.png` of a dataset's report (`ser_hf.summary.summarise`) into a folder."""
    with mpl.rc_context(STYLE):
        return save({"balance.png": balance(report), "durations.png": durations(report)}, folder)


def draw_audit(report: dict, folder: Path) -> list[Path]:
    """Write `balance.png`, `durations.png` and `levels.png` of an audit (`ser_hf.audit.audit`) into a folder."""
    with mpl.rc_context(STYLE):
        figures = {"balance.png": balance(report), "durations.png": durations(report), "levels.png": levels(report)}
        return save(figures, folder)


def balance(report: dict) -> Figure:
    """How many clips of each emotion there are, by corpus and sex: what a model could guess from the voice alone."""
    figure = Figure(figsize=(9.6, 4.8))
    axes = figure.subplots()
    groups = report["balance"]
    width = 0.8 / max(len(groups), 1)
    for position, (group, counts) in enumerate(groups.items()):
        where = np.arange(len(EMOTIONS)) + (position - (len(groups) - 1) / 2) * width
        bars = axes.bar(
            where, [counts[e] for e in EMOTIONS], width, label=group, color=_GROUPS[position % len(_GROUPS)]
        )
        axes.bar_label(bars, fontsize=8, rotation=90, padding=2)
    axes.set_xticks(range(len(EMOTIONS)), EMOTIONS)
    axes.set(ylabel="clips", title="Emotion by corpus and sex")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.12)
    if groups:
        axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    return figure


def durations(report: dict) -> Figure:
    """The distribution of clip durations of each corpus and channel."""
    return _distributions(report["durations"], BIN_SECONDS, "Durations", "seconds", f"clips in {BIN_SECONDS} s")


def levels(report: dict) -> Figure:
    """The distribution of how loud clips are: a corpus that is louder than another can be told by that alone."""
    return _distributions(report["levels"], 1, "Loudest 25 ms", "dB below full scale", "clips in 1 dB")


def _distributions(groups: dict[str, list[int]], width: float, title: str, what: str, count: str) -> Figure:
    figure = Figure(figsize=(9.6, 4.2))
    axes = figure.subplots()
    for position, (group, counts) in enumerate(groups.items()):
        colour, label = _GROUPS[position % len(_GROUPS)], f"{group} ({sum(counts):,})"
        axes.stairs(counts, np.arange(len(counts) + 1) * width, fill=True, alpha=0.55, color=colour, label=label)
    axes.set(xlabel=what, ylabel=count, title=title, ylim=(0, None))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if groups:
        axes.legend(frameon=False)
    return figure
