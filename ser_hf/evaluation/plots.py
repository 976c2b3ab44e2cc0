"""Pictures of `Results`, and of nothing else."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ser_hf.evaluation.results import Results
from ser_hf.utils.plotting import STYLE, save

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#7f7f7f"


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
    axes.set_title(f"{results.under()}: UAR {results.uar:.3f}, n = {results.n:,}{flag(results)}", fontsize=13)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.colorbar(image, ax=axes, label="share of the acted emotion", shrink=0.8)
    return figure


def history(results: Results) -> Figure:
    """Loss and accuracy over epochs, and the validation UAR that chooses the checkpoint."""
    figure = Figure(figsize=(10.5, 4.2))
    loss, accuracy = figure.subplots(1, 2)
    _curve(loss, results.history, "loss", BLUE, "o-", "training")
    _curve(loss, results.history, "eval_loss", ORANGE, "s--", "validation")
    _curve(accuracy, results.history, "accuracy", BLUE, "o-", "training accuracy")
    _curve(accuracy, results.history, "eval_accuracy", ORANGE, "s--", "validation accuracy")
    _curve(accuracy, results.history, "eval_uar", "#000000", "^:", "validation UAR")
    loss.set(xlabel="epoch", ylabel="loss (nats)", title="Loss", ylim=(0, None))
    accuracy.set(xlabel="epoch", ylabel="share of clips", title="Accuracy", ylim=(0, 1))
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    figure.suptitle(f"{Path(results.model).name} under {results.under()}{flag(results)}")
    figure.tight_layout()
    return figure


def _curve(axes: Axes, rows: list[dict], key: str, colour: str, style: str, label: str) -> None:
    points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
    axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=4) if points else None


def groups(results: Results) -> Figure:
    """UAR of each corpus, channel, sex, intensity and speaker, with its interval if any."""
    kinds = ("corpus", "channel", "sex", "intensity", "speaker")
    rows = [
        (kind, name, row)
        for kind in kinds
        for name, row in getattr(results, f"per_{kind}").items()
        if kind == "speaker" or len(getattr(results, f"per_{kind}")) > 1
    ]
    figure = Figure(figsize=(8.4, 1.6 + 0.34 * len(rows)))
    axes = figure.subplots()
    for place, (kind, _, row) in enumerate(rows):
        colour = GREY if kind == "speaker" else BLUE
        _dot(axes, place, row["uar"], (row.get("ci95") or {}).get("uar"), colour)
    axes.set_yticks(range(len(rows)), [f"{name} ({row['n']:,})" for _, name, row in rows])
    for place in range(1, len(rows)):
        if rows[place][0] != rows[place - 1][0]:
            axes.axhline(place - 0.5, color="#dddddd", linewidth=0.8)
    _finish(axes, len(rows), _title("UAR by group", results))
    _chance(axes, results.uar, "all", "--", BLUE)
    return _legend(figure, axes)


def reliability(results: Results) -> Figure:
    """Accuracy against confidence, before and after calibration, above the clips of each point."""
    figure = Figure(figsize=(6.6, 6.6))
    axes, counts = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    axes.plot([0, 1], [0, 1], ":", color=GREY, label="perfect")
    calibration = results.calibration or {}
    if calibration.get("reliability_before"):
        label = f"before calibration, ECE {calibration['ece_before']:.3f}"
        _points(axes, calibration["reliability_before"], "s--", ORANGE, label)
    after = "after calibration" if calibration.get("reliability_before") else "model"
    _points(axes, results.reliability, "o-", BLUE, f"{after}, ECE {results.ece:.3f}")
    axes.set(ylabel="share of right answers", ylim=(-0.02, 1.02), title=_title("Reliability", results))
    axes.legend(frameon=False, loc="upper left")
    centres = [row["confidence"] for row in results.reliability]
    counts.bar(centres, [row["n"] for row in results.reliability], width=0.045, color=BLUE)
    counts.set(xlabel="confidence (probability of the answer)", ylabel="clips", xlim=(0, 1))
    counts.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return figure


def risk_coverage(results: Results) -> Figure:
    """Error over coverage, from the most confident clips on, with the model's threshold marked."""
    figure = Figure(figsize=(7.2, 4.6))
    axes = figure.subplots()
    curve = results.risk_coverage
    axes.plot(curve["coverage"], curve["error"], "-", color=BLUE, label=f"model (area {curve['aurc']:.3f})")
    axes.axhline(1 - results.accuracy, color=GREY, linestyle=":", label="answering everything")
    calibration = results.calibration or {}
    if calibration.get("abstain_below"):
        label = f"threshold {calibration['abstain_below']:.2f}"
        axes.plot(calibration["answered"], calibration["error"], "D", color=ORANGE, markersize=9, label=label)
    axes.set(xlabel="coverage (share of clips answered)", ylabel="error among them", xlim=(0, 1), ylim=(0, None))
    axes.set_title(_title("Risk and coverage", results))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False, loc="lower right")
    return figure


def robustness(results: Results) -> Figure:
    """UAR under each kind of damage, beside the share of answers that it turns."""
    rows = results.robustness["conditions"]
    figure = Figure(figsize=(10.4, 1.6 + 0.36 * len(rows)))
    uar, flips = figure.subplots(1, 2, sharey=True)
    places = range(len(rows))
    uar.barh(places, [row["uar"] for row in rows], color=BLUE, height=0.65)
    clean = results.robustness["clean"]["uar"]
    uar.axvline(clean, color="black", linestyle="--", label=f"undamaged {clean:.3f}")
    uar.axvline(results.chance, color=GREY, linestyle=":", label=f"chance {results.chance:.3f}")
    flips.barh(places, [row["flips"] for row in rows], color=ORANGE, height=0.65)
    uar.set_yticks(places, [row["name"] for row in rows])
    uar.set(
        xlabel="UAR", xlim=(0, max(0.05, *(row["uar"] for row in rows), clean) * 1.08), ylim=(len(rows) - 0.4, -0.6)
    )
    flips.set(xlabel="answers that change")
    flips.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    uar.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.4 / (0.36 * len(rows)) - 0.08), ncols=2)
    figure.suptitle(_title("Robustness", results))
    figure.tight_layout()
    return figure


def bias_probes(results: Results) -> Figure:
    """Scores of the linear probes beside chance: what the embeddings tell besides emotion."""
    rows = [(name, row) for name, row in results.bias_probes["probes"].items() if row.get("score") is not None]
    figure = Figure(figsize=(8.4, 1.8 + 0.5 * len(rows)))
    axes = figure.subplots()
    for place, (_, row) in enumerate(rows):
        axes.plot([row["chance"], row["score"]], [place, place], "-", color=BLUE, linewidth=2)
        axes.plot(
            row["score"], place, "o", color=BLUE, markersize=8, label="from the embeddings" if not place else None
        )
        axes.plot(row["chance"], place, "|", color="black", markersize=16, label="guessing" if not place else None)
    axes.set_yticks(range(len(rows)), [f"{name} ({row['measure']})" for name, row in rows])
    axes.set(xlabel="score", xlim=(min(0, *(row["score"] for _, row in rows)) if rows else 0, 1.02))
    axes.set(ylim=(len(rows) - 0.4, -0.6), title=_title("What else can be read", results))
    return _legend(figure, axes)


def baselines(results: Results) -> Figure:
    """UAR of the model beside that of simple ones on the same split."""
    rows = [(Path(results.model).name, results.uar, results.ci95, BLUE)]
    rows += [(row["name"], row["uar"], row["ci95"], GREY) for row in results.baselines]
    figure = Figure(figsize=(8.4, 1.6 + 0.42 * len(rows)))
    axes = figure.subplots()
    for place, (_, uar, ci95, colour) in enumerate(rows):
        _dot(axes, place, uar, ci95 and ci95["uar"], colour)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    _finish(axes, len(rows), _title("Beside simple models", results))
    _chance(axes, results.chance, "chance", ":", GREY)
    return _legend(figure, axes)


def flag(results: Results) -> str:
    """The warning of the results, to stand below the title of each picture."""
    if not results.notes:
        return ""
    return "\n" + "\n".join("LEAKS SPEAKERS" if "leaks" in n else n.split(":")[0] for n in results.notes)


def _title(subject: str, results: Results) -> str:
    return f"{subject}, protocol {results.under()}{flag(results)}"


def _dot(axes: Axes, place: float, value: float, interval: list[float] | None, colour: str, style: str = "o") -> None:
    if interval:
        axes.plot(interval, [place, place], "-", color=colour, linewidth=2, alpha=0.6)
    axes.plot(value, place, style, color=colour, markersize=7)


def _points(axes: Axes, rows: list[dict], style: str, colour: str, label: str) -> None:
    axes.plot([r["confidence"] for r in rows], [r["accuracy"] for r in rows], style, color=colour, label=label)


def _finish(axes: Axes, rows: int, title: str) -> None:
    axes.set(xlabel="UAR, with 95 % interval over speakers where there are three", xlim=(0, 1.02), title=title)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)


def _chance(axes: Axes, value: float, name: str, style: str, colour: str) -> None:
    axes.axvline(value, color=colour, linestyle=style, linewidth=1.2, label=f"{name} {value:.3f}")


def _legend(figure: Figure, axes: Axes) -> Figure:
    inches = figure.get_size_inches()[1]
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.75 / inches), ncols=3)
    return figure
