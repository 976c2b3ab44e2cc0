"""The leakage curve: one recipe under protocols from leaky to strict, in one picture."""

import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from transformers import TrainingArguments

from ser_hf.data.corpora import CORPORA
from ser_hf.errors import UserError
from ser_hf.evaluation import baselines
from ser_hf.evaluation.results import Results
from ser_hf.evaluation.run import run_baseline
from ser_hf.evaluation.settings import BaselineSettings
from ser_hf.experiments import repeats
from ser_hf.training.config import FinetuneConfig
from ser_hf.utils import files
from ser_hf.utils.plotting import GREY, SERIES, STYLE, WIDTH, legend_below, save, shortened, write_title

NOVELTY = {
    "random": "nothing is new",
    "sentence": "the sentence is new",
    "speaker": "the voice is new",
    "ravdess-tess": "voice, words and recording conditions are new",
    "tess-ravdess": "voice, words and recording conditions are new",
}
"""Protocols from leaky to strict, and what is new in the test."""

Recipe = Callable[[str, Path, bool], tuple[FinetuneConfig, TrainingArguments]]
"""Maps a protocol, an output folder and whether it resumes to the settings of a training."""


def run_leakage_curve(model: str, dataset: str, output: Path, recipe: Recipe, flags: Sequence[str] = ()) -> dict:
    """Train a recipe under every protocol of `NOVELTY`, or load what the folder holds already.

    Writes `leakage_curve.json` and `leakage_curve.png` beside a folder for each protocol. A
    training that was cut off goes on.

    Args:
        model: as `ser-hf finetune --model` takes it, or a name of `baselines.BASELINES`.
        dataset: folder or Hub id.
        output: folder; results in it are loaded.
        recipe: settings of fine-tuning, the same but for protocol and folder; not called for a
            baseline.
        flags: that the recipe was given, for the report.

    Returns:
        `model`, `flags`, and `rows`: for each protocol `protocol`, `new`, `n`, `uar`, `accuracy`,
        `ci95`, `chance`, `leaks` and `per_corpus`.

    Raises:
        UserError: as fine-tuning does.
    """
    rows = [
        _row(_results(model, dataset, output / protocol, protocol, recipe), new) for protocol, new in NOVELTY.items()
    ]
    report = {"model": model, "flags": list(flags), "rows": rows}
    with files.replacing(output / "leakage_curve.json") as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n")
    with mpl.rc_context(STYLE):
        save({"leakage_curve.png": draw_leakage(report)}, output)
    return report


def draw_leakage(report: dict) -> Figure:
    """Draw the UAR of all clips and of each corpus under each protocol, and chance."""
    rows = report["rows"]
    figure = Figure(figsize=(WIDTH, 2 + 0.75 * len(rows)))
    axes = figure.subplots()
    corpora = list(dict.fromkeys(corpus for row in rows for corpus in row["per_corpus"]))[: len(SERIES) - 1]
    offsets = np.linspace(-0.22, 0.22, len(corpora)) if len(corpora) > 1 else [0.22]
    for line, row in enumerate(rows):
        axes.plot([row["chance"]] * 2, [line - 0.3, line + 0.3], ":", color=GREY, linewidth=2, label="chance")
        _draw_figure(axes, row, line, ("black", "D"), "all test clips")
        for offset, corpus, (colour, _, marker) in zip(offsets, corpora, SERIES, strict=False):
            if corpus in row["per_corpus"] and len(row["per_corpus"]) > 1:
                _draw_figure(axes, row["per_corpus"][corpus], line + offset, (colour, marker), _title(corpus))
        axes.annotate(f"{row['uar']:.2f}", (row["uar"], line - 0.3), ha="center", va="bottom", fontsize=12)
    axes.set_yticks(range(len(rows)), ["\n".join([row["protocol"], *_lines(row["new"])]) for row in rows])
    axes.set(xlim=(0, 1.02), ylim=(len(rows) - 0.4, -0.8))
    axes.set(xlabel="UAR, with 95 % interval over test speakers", ylabel="split, and what is new in its test")
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    write_title(figure, f"What each split makes of {Path(report['model']).name}")
    legend_below(figure, axes, columns=4)
    return figure


def _draw_figure(axes: Axes, row: dict, place: float, sign: tuple[str, str], label: str) -> None:
    """A UAR, on its interval if it has one."""
    colour, marker = sign
    if row.get("ci95"):
        axes.plot(row["ci95"]["uar"], [place, place], "-", color=colour, linewidth=2, alpha=0.5)
    axes.plot(row["uar"], place, marker, color=colour, markersize=8, label=label)


def _title(corpus: str) -> str:
    return CORPORA[corpus].title if corpus in CORPORA else shortened(corpus)


def _lines(text: str) -> list[str]:
    return textwrap.wrap(text, 26)


def leakage_table(report: dict) -> str:
    """The rows as text."""
    lines = [f"{'protocol':14} {'new in the test':46} {'clips':>6} {'UAR':>6}  {'95 % interval':14} {'accuracy':>8}"]
    for row in report["rows"]:
        interval = "{:.3f} to {:.3f}".format(*row["ci95"]["uar"]) if row["ci95"] else "none"
        figures = f"{row['n']:6,} {row['uar']:6.3f}  {interval:14} {row['accuracy']:8.3f}"
        lines.append(f"{row['protocol']:14} {row['new']:46} {figures}")
    return "\n".join(lines)


def _results(model: str, dataset: str, folder: Path, protocol: str, recipe: Recipe) -> Results:
    if (folder / "results.json").exists():
        print(f"== {protocol}: reusing {folder}", flush=True)
        return Results.load(folder / "results.json")
    print(f"\n== {protocol}", flush=True)
    if model in baselines.BASELINES:
        settings = BaselineSettings(name=model, dataset=dataset, protocol=protocol, output=str(folder))
        return run_baseline(settings)
    results = repeats.run_repeats(*recipe(protocol, folder, bool(list(folder.glob("checkpoint-*")))))
    if results is None:
        raise UserError("the leakage curve is drawn by one process: start it without accelerate launch")
    return results


def _row(results: Results, new: str) -> dict:
    kept = ("protocol", "n", "uar", "accuracy", "ci95", "chance", "leaks", "per_corpus")
    return {"new": new, **{name: getattr(results, name) for name in kept}}
