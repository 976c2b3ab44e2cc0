"""Pictures of `Results`, and of nothing else."""

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ser_hf.evaluation.results import Results
from ser_hf.utils.plotting import (
    BLUE,
    GREY,
    ORANGE,
    STYLE,
    WIDTH,
    compact,
    ink,
    label_counts,
    legend_above,
    legend_below,
    most_of,
    save,
    shortened,
    write_title,
)

DESCRIPTIONS = {
    "confusion_matrix": "A row for each acted emotion, a column for each predicted one: shares of the row, and counts.",
    "groups": "A dot for the UAR of each corpus, channel, sex, intensity and speaker, on its 95 % interval.",
    "history": "Two curves over epochs: the loss, and accuracy and UAR, of training and validation.",
    "reliability": "The share of right answers over their confidence, beside the diagonal, above counts of clips.",
    "risk_coverage": "The error among the answered clips over the share answered, the most confident first.",
    "robustness": "Bars for each kind of damage: its UAR, and the share of answers that it changes.",
    "bias_probes": "For each property, the score of a linear probe on the embeddings, beside that of guessing.",
    "baselines": "A dot for the UAR of the model and of each simple model, on its 95 % interval.",
}
"""What each picture shows, for those who cannot see it."""

MOST_GROUPS = 30
"""Rows of a kind in `groups`; of more, the lowest and the highest UAR are drawn."""


def draw_results(results: Results, folder: Path) -> list[Path]:
    """Write every picture that the results have figures for; each is named after what it shows."""
    with mpl.rc_context(STYLE):
        figures = {"confusion_matrix.png": confusion_matrix(results), "groups.png": groups(results)}
        # Each of these draws the field of the results that has its name.
        for draw in (history, reliability, risk_coverage, robustness, bias_probes, baselines):
            if getattr(results, draw.__name__):
                figures[f"{draw.__name__}.png"] = draw(results)
        return save(figures, folder)


def confusion_matrix(results: Results) -> Figure:
    """Confusion matrix: a row for each acted emotion, in shares, with the counts below them."""
    counts = np.array(results.confusion_matrix)
    support = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(support, 1)
    figure = Figure(figsize=(WIDTH, 7.4))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ticks = range(len(results.labels))
    axes.set_xticks(ticks, results.labels, rotation=40, ha="right", rotation_mode="anchor")
    rows = zip(results.labels, support[:, 0], strict=True)
    axes.set_yticks(ticks, [f"{name}\n{compact(n)} clips" for name, n in rows])
    axes.tick_params(labelsize=11)
    for row, column in np.argwhere(counts):
        text = f"{shares[row, column]:.2f}\n{compact(counts[row, column])}"
        axes.text(column, row, text, ha="center", va="center", color=ink(shares[row, column]), fontsize=11)
    axes.set(xlabel="predicted emotion", ylabel="acted emotion")
    write_title(figure, f"{results.under()}: UAR {results.uar:.3f}, n = {results.n:,}{flag(results)}")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="share of the acted emotion", orientation="horizontal", aspect=25, pad=0.02)
    return figure


def history(results: Results) -> Figure:
    """Loss and accuracy over epochs, and the validation UAR that chooses the checkpoint."""
    figure = Figure(figsize=(WIDTH, 6.6))
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    _curve(loss, results.history, "loss", BLUE, "o-", "training")
    _curve(loss, results.history, "eval_loss", ORANGE, "s--", "validation")
    _curve(accuracy, results.history, "accuracy", BLUE, "o-", "training")
    _curve(accuracy, results.history, "eval_accuracy", ORANGE, "s--", "validation")
    _curve(accuracy, results.history, "eval_uar", "#000000", "^:", "validation UAR")
    loss.set(ylabel="loss (nats)", ylim=(0, None))
    accuracy.set(xlabel="epoch", ylabel="accuracy (share of clips)", ylim=(-0.02, 1.02))
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    loss.yaxis.set_major_formatter("{x:g}")
    for axes in (loss, accuracy):
        legend_above(axes)
    write_title(figure, f"{Path(results.model).name} under {results.under()}{flag(results)}")
    return figure


def _curve(axes: Axes, rows: list[dict], key: str, colour: str, style: str, label: str) -> None:
    points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
    if points:
        every = math.ceil(len(points) / 40)  # markers of more would hide the line
        axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=4, markevery=every)


def groups(results: Results) -> Figure:
    """UAR of each corpus, channel, sex, intensity and speaker, with its interval if any.

    Of a kind with more than `MOST_GROUPS`, the half with the lowest UAR and that with the highest
    are drawn.
    """
    rows: list[tuple[str, str | None, dict]] = []
    for kind in ("corpus", "channel", "sex", "intensity", "speaker"):
        figures = getattr(results, f"per_{kind}")
        if len(figures) > MOST_GROUPS:
            order = sorted(figures, key=lambda name: (figures[name]["uar"], name))
            rows += [(kind, name, figures.get(name, {})) for name in most_of(order, MOST_GROUPS)]
        elif kind == "speaker" or len(figures) > 1:
            rows += [(kind, name, row) for name, row in figures.items()]
    figure = Figure(figsize=(WIDTH, 2 + 0.3 * len(rows)))
    axes = figure.subplots()
    for place, (kind, name, row) in enumerate(rows):
        if name is not None:
            colour, sign = (GREY, "o") if kind == "speaker" else (BLUE, "s")
            label = "a speaker" if kind == "speaker" else "a group of speakers"
            _dot(axes, place, row["uar"], (row.get("ci95") or {}).get("uar"), colour, sign, label)
    axes.set_yticks(range(len(rows)), [_group_name(results, *row) for row in rows])
    for place in range(1, len(rows)):
        if rows[place][0] != rows[place - 1][0]:
            axes.axhline(place - 0.5, color="#dddddd", linewidth=0.8)
    axes.set_ylabel("group (clips)")
    _finish(figure, axes, len(rows), f"UAR by group, protocol {results.under()}{flag(results)}")
    _line(axes, results.uar, "all clips", "--", "black")
    legend_below(figure, axes, columns=2)
    return figure


def _group_name(results: Results, kind: str, name: str | None, row: dict) -> str:
    if name is None:
        return f"… {len(getattr(results, f'per_{kind}')) - MOST_GROUPS:,} between them …"
    return f"{shortened(name)} ({compact(row['n'])})"


def reliability(results: Results) -> Figure:
    """Accuracy against confidence, before and after calibration, above the clips of each point."""
    figure = Figure(figsize=(WIDTH, 6.6))
    axes, counts = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    calibration = results.calibration or {}
    if calibration.get("reliability_before"):
        label = f"before calibration, ECE {calibration['ece_before']:.3f}"
        _points(axes, calibration["reliability_before"], "s--", ORANGE, label)
    after = "after calibration" if calibration.get("reliability_before") else "model"
    _points(axes, results.reliability, "o-", BLUE, f"{after}, ECE {results.ece:.3f}")
    axes.plot([0, 1], [0, 1], ":", color=GREY, label="perfect")
    axes.set(ylabel="share of right answers", ylim=(-0.02, 1.02))
    legend_above(axes, columns=1)
    write_title(figure, f"Reliability, protocol {results.under()}{flag(results)}")
    centres = [row["confidence"] for row in results.reliability]
    counts.bar(centres, [row["n"] for row in results.reliability], width=0.045, color=BLUE)
    counts.set(xlabel="confidence (probability of the answer)", ylabel="clips", xlim=(-0.02, 1.02))
    label_counts(counts.yaxis, 3)
    return figure


def risk_coverage(results: Results) -> Figure:
    """Error over coverage, from the most confident clips on, with the model's threshold marked."""
    figure = Figure(figsize=(WIDTH, 5.2))
    axes = figure.subplots()
    curve = results.risk_coverage
    axes.plot(curve["coverage"], curve["error"], "-", color=BLUE, label=f"model (area {curve['aurc']:.3f})")
    axes.axhline(1 - results.accuracy, color=GREY, linestyle=":", label="answering everything")
    calibration = results.calibration or {}
    if calibration.get("abstain_below"):
        label = f"threshold {calibration['abstain_below']:.2f}"
        axes.plot(calibration["answered"], calibration["error"], "D", color=ORANGE, markersize=9, label=label)
    axes.set(xlabel="coverage (share of clips answered)", ylabel="error among them", xlim=(0, 1.02), ylim=(0, None))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    write_title(figure, f"Risk and coverage, protocol {results.under()}{flag(results)}")
    legend_below(figure, axes, columns=2)
    return figure


def robustness(results: Results) -> Figure:
    """UAR under each kind of damage, beside the share of answers that it turns."""
    report = results.robustness or {}
    rows = report["conditions"]
    figure = Figure(figsize=(WIDTH, 2.2 + 0.32 * len(rows)))
    uar, flips = figure.subplots(1, 2, sharey=True)
    places = range(len(rows))
    uar.barh(places, [row["uar"] for row in rows], color=BLUE, height=0.65)
    _line(uar, report["clean"]["uar"], "undamaged", "--", "black")
    _line(uar, results.chance, "chance", ":", GREY)
    flips.barh(places, [row["flips"] for row in rows], color=ORANGE, height=0.65)
    uar.set_yticks(places, [shortened(row["name"]) for row in rows])
    uar.set(xlabel="UAR", ylabel="damage", xlim=(0, 1.02), ylim=(len(rows) - 0.4, -0.6))
    flips.set(xlabel="answers that change", xlim=(0, 1.02))
    flips.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (uar, flips):
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.grid(axis="x", color="#e5e5e5")
        axes.set_axisbelow(True)
    write_title(figure, f"Robustness, protocol {results.under()}{flag(results)}")
    legend_below(figure, uar)
    return figure


def bias_probes(results: Results) -> Figure:
    """Scores of the linear probes beside chance: what the embeddings tell besides emotion."""
    probes = (results.bias_probes or {})["probes"]
    rows = [(name, row) for name, row in probes.items() if row.get("score") is not None]
    lowest = min([0, *(row["score"] for _, row in rows)])
    figure = Figure(figsize=(WIDTH, 2 + 0.6 * len(rows)))
    axes = figure.subplots()
    if not rows:
        axes.text(0.5, 0.5, "nothing could be measured", transform=axes.transAxes, ha="center", va="center")
    for place, (_, row) in enumerate(rows):
        score = max(row["score"], -1)
        axes.plot([row["chance"], score], [place, place], "-", color=BLUE, linewidth=2)
        axes.plot(score, place, "o" if score == row["score"] else "<", color=BLUE, markersize=9, label="embeddings")
        axes.plot(row["chance"], place, "|", color="black", markersize=16, markeredgewidth=2, label="guessing")
        if score != row["score"]:  # R² has no lower bound
            axes.annotate(f"{row['score']:.3g}", (score, place), (0, 7), textcoords="offset points")
    axes.set_yticks(range(len(rows)), [f"{shortened(name)}\n{row['measure']}" for name, row in rows])
    axes.set(
        ylabel="property",
        xlabel="score of a linear probe",
        xlim=(max(lowest, -1) - 0.04, 1.04),
        ylim=(len(rows) - 0.4, -0.6),
    )
    write_title(figure, f"What else can be read, protocol {results.under()}{flag(results)}")
    legend_below(figure, axes)
    return figure


def baselines(results: Results) -> Figure:
    """UAR of the model beside that of simple ones on the same split."""
    simple = results.baselines or []
    figure = Figure(figsize=(WIDTH, 2 + 0.36 * (1 + len(simple))))
    axes = figure.subplots()
    _dot(axes, 0, results.uar, results.ci95["uar"] if results.ci95 else None, BLUE, "s", "this model")
    for place, row in enumerate(simple, 1):
        _dot(axes, place, row["uar"], row["ci95"] and row["ci95"]["uar"], GREY, "o", "a simple model")
    names = [Path(results.model).name, *(row["name"] for row in simple)]
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    axes.set_ylabel("model")
    _finish(figure, axes, len(names), f"Beside simple models, protocol {results.under()}{flag(results)}")
    _line(axes, results.chance, "chance", ":", "black")
    legend_below(figure, axes)
    return figure


def flag(results: Results) -> str:
    """The warning of the results, to stand below the title of each picture."""
    if not results.notes:
        return ""
    return "\n" + "\n".join("LEAKS SPEAKERS" if "leaks" in n else n.split(":")[0] for n in results.notes)


def _dot(
    axes: Axes, place: float, value: float, interval: list[float] | None, colour: str, sign: str, label: str
) -> None:
    if interval:
        axes.plot(interval, [place, place], "-", color=colour, linewidth=2, alpha=0.6)
    axes.plot(value, place, sign, color=colour, markersize=7, label=label)


def _points(axes: Axes, rows: list[dict], style: str, colour: str, label: str) -> None:
    axes.plot([r["confidence"] for r in rows], [r["accuracy"] for r in rows], style, color=colour, label=label)


def _finish(figure: Figure, axes: Axes, rows: int, title: str) -> None:
    axes.set(xlabel="UAR, with 95 % interval over speakers", xlim=(0, 1.02), ylim=(rows - 0.4, -0.6))
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    write_title(figure, title)


def _line(axes: Axes, value: float, name: str, style: str, colour: str) -> None:
    axes.axvline(value, color=colour, linestyle=style, linewidth=1.4, label=f"{name}, {value:.3f}")
