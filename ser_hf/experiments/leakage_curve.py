"""The leakage curve: one recipe under protocols from leaky to strict, in one picture."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from transformers import TrainingArguments

from ser_hf.evaluation import baselines
from ser_hf.evaluation.results import Results
from ser_hf.evaluation.run import run_baseline
from ser_hf.evaluation.settings import BaselineSettings
from ser_hf.experiments import repeats
from ser_hf.training.config import FinetuneConfig
from ser_hf.utils import files
from ser_hf.utils.plotting import STYLE, save

NOVELTY = {
    "random": "nothing is new",
    "sentence": "the sentence is new",
    "speaker": "the voice is new",
    "ravdess-tess": "voice, words and acoustics are new",
    "tess-ravdess": "voice, words and acoustics are new",
}
"""Protocols from leaky to strict, and what is new in the test."""

_COLOURS = {"ravdess": "#0072b2", "tess": "#e69f00"}

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
    figure = Figure(figsize=(9.6, 1.9 + 0.75 * len(rows)))
    axes = figure.subplots()
    for line, row in enumerate(rows):
        axes.plot([row["chance"]] * 2, [line - 0.3, line + 0.3], ":", color="#7f7f7f", label=_once("chance", line))
        if row["ci95"]:
            axes.plot(row["ci95"]["uar"], [line] * 2, "-", color="black", linewidth=2, alpha=0.5)
        axes.plot(row["uar"], line, "D", color="black", markersize=8, label=_once("all test clips", line))
        for offset, (corpus, colour) in zip((-0.2, 0.2), _COLOURS.items(), strict=True):
            figures = row["per_corpus"].get(corpus)
            if figures and len(row["per_corpus"]) > 1:
                if figures.get("ci95"):
                    axes.plot(figures["ci95"]["uar"], [line + offset] * 2, "-", color=colour, linewidth=2, alpha=0.6)
                axes.plot(figures["uar"], line + offset, "o", color=colour, label=_once(corpus.upper(), line))
        axes.annotate(f"{row['uar']:.2f}", (row["uar"], line - 0.22), ha="center", va="bottom", fontsize=11)
    axes.set_yticks(range(len(rows)), [f"{row['protocol']}\n{row['new']}" for row in rows])
    axes.set(xlim=(0, 1.02), ylim=(len(rows) - 0.4, -0.7), xlabel="UAR, with 95 % interval over test speakers")
    axes.set_title(f"What each split makes of {Path(report['model']).name}")
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.4, -0.75 / figure.get_size_inches()[1]), ncols=4)
    return figure


def leakage_table(report: dict) -> str:
    """The rows as text."""
    lines = [f"{'protocol':14} {'new in the test':30} {'clips':>6} {'UAR':>6}  {'95 % interval':14} {'accuracy':>8}"]
    for row in report["rows"]:
        interval = "{:.3f} to {:.3f}".format(*row["ci95"]["uar"]) if row["ci95"] else "none"
        figures = f"{row['n']:6,} {row['uar']:6.3f}  {interval:14} {row['accuracy']:8.3f}"
        lines.append(f"{row['protocol']:14} {row['new']:30} {figures}")
    return "\n".join(lines)


def _results(model: str, dataset: str, folder: Path, protocol: str, recipe: Recipe) -> Results:
    if (folder / "results.json").exists():
        print(f"== {protocol}: reusing {folder}", flush=True)
        return Results.load(folder / "results.json")
    print(f"\n== {protocol}", flush=True)
    if model in baselines.BASELINES:
        settings = BaselineSettings(name=model, dataset=dataset, protocol=protocol, output=str(folder))
        return run_baseline(settings)
    return repeats.run_repeats(*recipe(protocol, folder, bool(list(folder.glob("checkpoint-*")))))


def _row(results: Results, new: str) -> dict:
    kept = ("protocol", "n", "uar", "accuracy", "ci95", "chance", "leaks", "per_corpus")
    return {"new": new, **{name: getattr(results, name) for name in kept}}


def _once(label: str, line: int) -> str | None:
    """The label on the first line; on other lines it would stand in the legend again."""
    return label if line == 0 else None
