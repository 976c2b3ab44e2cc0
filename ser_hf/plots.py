"""Pictures of `Results`, and of what a dataset's report counts; of nothing else."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ser_hf.emotions import EMOTIONS
from ser_hf.summary import BIN_SECONDS

if TYPE_CHECKING:
    from ser_hf.evaluation import Results  # a dataset's pictures need none of what it imports

_STYLE = {"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100, "savefig.dpi": 150}
_BLUE, _ORANGE = "#0072b2", "#d55e00"
_GROUPS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f")


def draw(results: "Results", folder: Path) -> list[Path]:
    """Write the pictures into a folder: `confusion_matrix.png` and, where there is a history, `history.png`."""
    with mpl.rc_context(_STYLE):
        figures = {"confusion_matrix.png": confusion_matrix(results)}
        if results.history:
            figures["history.png"] = history(results)
        return _save(figures, folder)


def draw_dataset(report: dict, folder: Path) -> list[Path]:
    """Write `balance.png` and `durations.png` of a dataset's report (`ser_hf.summary.summarise`) into a folder."""
    with mpl.rc_context(_STYLE):
        return _save({"balance.png": balance(report), "durations.png": durations(report)}, folder)


def draw_audit(report: dict, folder: Path) -> list[Path]:
    """Write `balance.png`, `durations.png` and `levels.png` of an audit (`ser_hf.audit.audit`) into a folder."""
    with mpl.rc_context(_STYLE):
        figures = {"balance.png": balance(report), "durations.png": durations(report), "levels.png": levels(report)}
        return _save(figures, folder)


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


def _save(figures: dict[str, Figure], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / name, bbox_inches="tight")
    return [folder / name for name in figures]


def confusion_matrix(results: "Results") -> Figure:
    """Rows are the emotions that were acted, normalised to their recall; the counts stand below the shares."""
    counts = np.array(results.confusion_matrix)
    support = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(support, 1)
    figure = Figure(figsize=(8.4, 7.6))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(results.labels))
    axes.set_xticks(ticks, results.labels, rotation=40, ha="right")
    axes.set_yticks(ticks, [f"{name} ({n})" for name, n in zip(results.labels, support[:, 0], strict=True)])
    for row in ticks:
        for column in ticks:
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.55 else "black"
                text = f"{shares[row, column]:.2f}\n{counts[row, column]}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)
    axes.set(xlabel="predicted emotion", ylabel="acted emotion (clips)")
    axes.set_title(f"{results.protocol}: UAR {results.uar:.3f}, n = {results.n:,}{_flag(results)}", fontsize=13)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.colorbar(image, ax=axes, label="share of the acted emotion", shrink=0.8)
    return figure


def history(results: "Results") -> Figure:
    """Loss and accuracy over epochs, training and validation; UAR of validation, by which the checkpoint is chosen."""
    figure = Figure(figsize=(10.5, 4.2))
    loss, accuracy = figure.subplots(1, 2)
    _curve(loss, results.history, "loss", _BLUE, "o-", "training")
    _curve(loss, results.history, "eval_loss", _ORANGE, "s--", "validation")
    _curve(accuracy, results.history, "accuracy", _BLUE, "o-", "training accuracy")
    _curve(accuracy, results.history, "eval_accuracy", _ORANGE, "s--", "validation accuracy")
    _curve(accuracy, results.history, "eval_uar", "#000000", "^:", "validation UAR")
    loss.set(xlabel="epoch", ylabel="loss (nats)", title="Loss", ylim=(0, None))
    accuracy.set(xlabel="epoch", ylabel="share of clips", title="Accuracy", ylim=(0, 1))
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    figure.suptitle(f"{Path(results.model).name} under {results.protocol}{_flag(results)}")
    figure.tight_layout()
    return figure


def _curve(axes: mpl.axes.Axes, rows: list[dict], key: str, colour: str, style: str, label: str) -> None:
    points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
    axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=4) if points else None


def _flag(results: "Results") -> str:
    return (
        "\n" + "\n".join("LEAKS SPEAKERS" if "leaks" in n else n.split(":")[0] for n in results.notes)
        if results.notes
        else ""
    )
