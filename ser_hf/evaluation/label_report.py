"""The report on a labelling: a page that is complete in itself, and the same figures as JSON."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from ser_hf.inference.bulk import summary as summaries
from ser_hf.labels import COLOURS
from ser_hf.utils import files, templates
from ser_hf.utils.plotting import BLUE, ORANGE, STYLE, WIDTH, label_counts, legend_above

DESCRIPTIONS = {
    "Scores": "Bars of the share of recordings in each bin of the score, and a line for the model's own test.",
    "Durations": "Bars of the number of recordings in each range of durations.",
    "Distances from the training clips": "Bars of the share of recordings in each bin of the distance, and the limit.",
}
"""What each picture shows, for those who cannot see it."""

_SIZE = (WIDTH, 4.2)


def write_label_report(summary: dict[str, Any], folder: Path) -> list[Path]:
    """Write `report.json` and `report.html`; each appears when it is complete.

    Args:
        summary: of `ser_hf.inference.bulk.summary.summarise`.
        folder: where the two go, made where it is missing. Files of these names are replaced.
    """
    texts = {"report.json": json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "report.html": page(summary)}
    return files.write_texts(folder, texts)


def page(summary: dict[str, Any]) -> str:
    """The page of a summary; it asks no host for anything, and names are escaped."""
    return templates.render(
        "label_report.html.jinja",
        r=summary,
        pictures=_pictures(summary),
        descriptions=DESCRIPTIONS,
        colours=COLOURS,
        percent=summaries.percent,
        drift_line=summaries.drift_line(summary["drift"]),
        verdict=verdict(summary["drift"]),
    )


def verdict(drift: dict[str, Any]) -> str:
    """What the measured share says beside that of held-out speakers, by its interval."""
    if "ci95" not in drift:
        return ""
    low, high = drift["ci95"]
    if low > drift["reference"]["highest_share"]:
        return (
            "More of these recordings lie outside than of any held-out speaker. The figures of the model's test say "
            "little about them: have some labelled by ear before the answers are used."
        )
    if low > drift["reference"]["share"]:
        return (
            "More of these recordings lie outside than of held-out speakers together, though no more than of the one "
            "who lay farthest."
        )
    if high < drift["reference"]["share"]:
        return "Fewer of these recordings lie outside than of held-out speakers."
    return "No more of these recordings lie outside than of held-out speakers, as far as so many can tell."


def _pictures(summary: dict[str, Any]) -> dict[str, str]:
    """PNG in base64 by what each shows; pictures of no recordings are left out."""
    with mpl.rc_context(STYLE):
        figures = {}
        if summary["with_voice"]:
            figures["Scores"] = scores(summary)
        if summary["durations"]["quantiles"]:
            figures["Durations"] = durations(summary)
        if "distances" in summary["drift"]:
            figures["Distances from the training clips"] = distances(summary)
        return {name: _png(figure) for name, figure in figures.items()}


def _png(figure: Figure) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return base64.b64encode(content.getvalue()).decode()


def scores(summary: dict[str, Any]) -> Figure:
    """Scores of the answers, beside those that the model gave in its own test."""
    figure = Figure(figsize=_SIZE)
    axes = figure.subplots()
    bins = summary["scores"]["bins"]
    width = bins[0]["high"] - bins[0]["low"]
    label = f"these, n = {summary['with_voice']:,}"
    axes.bar(
        [row["low"] for row in bins],
        [row["n"] / summary["with_voice"] for row in bins],
        width=width * 0.92,
        align="edge",
        color=BLUE,
        label=label,
    )
    if held_out := summary["drift"]["held_out_scores"]:
        shares = [0.0] * len(bins)
        for row in held_out["bins"]:
            shares[min(round(row["low"] / width), len(bins) - 1)] += row["n"] / max(held_out["clips"], 1)
        edges = [row["low"] for row in bins] + [bins[-1]["high"]]
        label = f"test of the model, n = {held_out['clips']:,}"
        axes.stairs(shares, edges, color=ORANGE, linewidth=2.2, label=label)
    axes.set(xlabel="score (probability of the answer)", ylabel="share of recordings", xlim=(0, 1.005))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend_above(axes, columns=1)
    return figure


def durations(summary: dict[str, Any]) -> Figure:
    """Recordings by their duration, of which bins are not of equal width."""
    figure = Figure(figsize=_SIZE)
    axes = figure.subplots()
    rows = summary["durations"]["histogram"]
    axes.bar(range(len(rows)), [row["recordings"] for row in rows], color=BLUE, width=0.85)
    spans = [_span(row) for row in rows]
    axes.set_xticks(range(len(rows)), spans, rotation=40, ha="right", rotation_mode="anchor")
    axes.set(xlabel="duration", ylabel="recordings")
    label_counts(axes.yaxis)
    return figure


def distances(summary: dict[str, Any]) -> Figure:
    """Distances of the measured recordings, as multiples of the threshold."""
    figure = Figure(figsize=_SIZE)
    axes = figure.subplots()
    rows = summary["drift"]["distances"]
    step = rows[0]["high"] - rows[0]["low"]
    shares = [row["n"] / summary["drift"]["measured"] for row in rows]
    bars = axes.bar([row["low"] for row in rows], shares, width=step * 0.92, align="edge", color=BLUE)
    for bar, row in zip(bars, rows, strict=True):
        if row["low"] >= 1:
            bar.set(facecolor=ORANGE, hatch="//", edgecolor="white")
    limit = axes.axvline(1, color="black", linestyle="--", label="threshold: 99 % of held-out clips lie to the left")
    outside = Patch(facecolor=ORANGE, hatch="//", edgecolor="white", label="outside (last bar: 2 or more)")
    axes.set(xlabel="distance, as a multiple of the threshold", ylabel="share of those measured")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend_above(axes, columns=1, handles=[limit, outside])
    return figure


def _span(row: dict[str, Any]) -> str:
    low, high = row["low"], row["high"]
    if high is None:
        return f"over {low // 60} min"
    if low >= 60 or high > 60:
        return f"{low / 60:g} to {high / 60:g} min"
    return f"{low} to {high} s" if low else f"under {high} s"
