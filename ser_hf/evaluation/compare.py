"""Whether one model is better than another on the same clips, with tests over speakers."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import permutation_test

from ser_hf.errors import UserError
from ser_hf.evaluation import bootstrap
from ser_hf.evaluation.metrics import METRICS, scores
from ser_hf.evaluation.results import PredictionTable, Results
from ser_hf.utils import templates

NAMES = ("uar", "accuracy", "macro_f1")
EXACT = 14
"""Speakers up to which all exchanges are counted."""
RANDOM = 10_000
"""Exchanges that are drawn above that, with the one that was seen."""
ALPHA = 0.05

_BATCH = 1024  # exchanges computed at a time


def compare_models(first: Path, second: Path) -> dict[str, Any]:
    """Compare two folders of evidence over the same clips, with intervals and p-values.

    Args:
        first: folder A, with `results.json` and `predictions.csv`.
        second: folder B.

    Returns:
        `a` and `b` (folder, model, figures), `protocol`, `protocol_hash`, `fold`, `n`, `speakers`;
        `differences` {figure: {`difference` (B - A), `ci95`, `p`}}, where `ci95` or `p` may be
        None; `ci95_says`, `p_says`; `smallest_p`, which so few speakers can give; `verdict`, a
        sentence. All of it can be written as JSON.

    Raises:
        UserError: where files are missing or broken, or the protocols, the clips or their labels
            differ.
    """
    folders = Path(first), Path(second)
    results = [Results.load(folder / "results.json") for folder in folders]
    if results[0].protocol_hash != results[1].protocol_hash:
        under = [f"'{run.protocol}' fold {run.fold} ({run.protocol_hash})" for run in results]
        raise UserError(f"'{first}' was tested under {under[0]}, '{second}' under {under[1]}: test both under one")
    tables = [PredictionTable.read(folder / "predictions.csv").sorted() for folder in folders]
    refuse_other_clips(folders, tables)
    a, b = (bootstrap.speaker_confusions(tables[0].labels, table.predicted, tables[0].speakers)[1] for table in tables)
    report = {
        **{
            side: {"folder": str(folder), "model": result.model, **_figures(matrices)}
            for side, folder, result, matrices in zip("ab", folders, results, (a, b), strict=True)
        },
        **{name: getattr(results[0], name) for name in ("protocol", "protocol_hash", "fold")},
        "n": len(tables[0].labels),
        "speakers": len(a),
        **differences(a, b),
    }
    return report | {"verdict": _verdict(report)}


def differences(
    a: np.ndarray, b: np.ndarray, resamples: int = 2000, seed: int = 0, names: Sequence[str] = NAMES
) -> dict[str, Any]:
    """Differences B - A of the figures, with intervals and p-values.

    Intervals are those of `bootstrap.speaker_intervals`, without the logit. Both models are scored
    on the same drawn speakers, and bounds are cut to [-1, 1].

    Args:
        a: confusion matrices of model A, shape `(speakers, classes, classes)`.
        b: of model B, over the same speakers and clips.
        resamples: of the bootstrap.
        seed: of the bootstrap and of the exchanges.
        names: of the figures, of `NAMES`.

    Returns:
        `differences`, `ci95_says`, `p_says` and `smallest_p` as in `compare_models`.
    """
    number, reason = len(a), bootstrap.missing_interval_reason(a)
    first, second = _figures(a), _figures(b)
    rows: dict[str, dict] = {
        name: {"difference": second[name] - first[name], "ci95": None, "p": None} for name in names
    }
    if reason is None:
        first_drawn, second_drawn = (bootstrap.resampled_figures(matrices, resamples, seed) for matrices in (a, b))
        halves = bootstrap.half_widths(a, {name: second_drawn[name] - first_drawn[name] for name in names})
        for name, row in rows.items():
            row["ci95"] = [max(row["difference"] - halves[name], -1.0), min(row["difference"] + halves[name], 1.0)]
    ci95_says = reason or f"95 % bootstrap over {number} test speakers ({resamples:,} resamples, t)"
    if number < bootstrap.MIN_SPEAKERS:
        p_says = f"no p: {number} test speaker(s), at least {bootstrap.MIN_SPEAKERS} are needed"
        return {"differences": rows, "ci95_says": ci95_says, "p_says": p_says, "smallest_p": None}
    values, tried = exchanged(a, b, seed, names)
    for name, row in rows.items():
        row["p"] = values[name]
    exchanges = f"all {tried:,}" if number <= EXACT else f"{tried:,} random"
    p_says = f"two-sided, {exchanges} exchanges of both models' answers to whole speakers"
    return {"differences": rows, "ci95_says": ci95_says, "p_says": p_says, "smallest_p": max(2 / 2**number, 1 / tried)}


def exchanged(
    a: np.ndarray, b: np.ndarray, seed: int = 0, names: Sequence[str] = NAMES
) -> tuple[dict[str, float], int]:
    """Two-sided p-values of a permutation test that exchanges A and B on whole speakers.

    If the models do not differ, the answers to a speaker might as well have been those of the other
    one. p is the share of exchanges with a difference at least as large as the one that was seen,
    itself among them (Ernst 2004; Winkler et al. 2014). All exchanges are counted up to `EXACT`
    speakers, else `RANDOM` are drawn.

    Args:
        a: confusion matrices of model A, shape `(speakers, classes, classes)`.
        b: of model B.
        seed: of what is drawn.
        names: of the figures, of `METRICS`.

    Returns:
        p of each figure, and the number of exchanges.
    """
    pooled, number = np.concatenate([a, b]).astype(np.float64), len(a)
    exchanges = 2**number if number <= EXACT else RANDOM

    def p_value(name: str) -> float:
        def difference(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
            """Absolute difference of the figure, rounded so that equal ones are equal."""
            matrices = (pooled[np.moveaxis(indices, axis, -1)].sum(-3) for indices in (first, second))
            return np.round(np.abs(np.subtract(*(METRICS[name].function(matrix) for matrix in matrices))), 12)

        # The samples are indices of matrices: SciPy exchanges those, and the statistic pools the
        # matrices of whole speakers. The exchange of none counts as one of those drawn.
        result = permutation_test(
            (np.arange(number), np.arange(number, 2 * number)),
            difference,
            permutation_type="samples",
            vectorized=True,
            n_resamples=exchanges if number <= EXACT else exchanges - 1,
            batch=_BATCH,
            alternative="greater",
            rng=np.random.default_rng(seed),
        )
        return float(result.pvalue)

    return {name: p_value(name) for name in names}, exchanges


def comparison_table(report: dict[str, Any]) -> str:
    """The text of `compare_models`: both figures, differences with interval and p, the verdict."""
    lines = [f"{side.upper()}  {report[side]['model']} ({report[side]['folder']})" for side in "ab"]
    protocol = f"{report['protocol']} fold {report['fold']}"
    lines.append(f"{protocol}: {report['n']:,} clips of {report['speakers']} speakers\n")
    lines.append(f"{'':10}{'A':>8}{'B':>8}{'B - A':>9}   {'95 % interval':18}{'p':>8}")
    for name, row in report["differences"].items():
        interval = "[{:+.3f}, {:+.3f}]".format(*row["ci95"]) if row["ci95"] else "none"
        p = "none" if row["p"] is None else f"{row['p']:.4f}"
        figures = f"{report['a'][name]:8.3f}{report['b'][name]:8.3f}{row['difference']:+9.3f}"
        lines.append(f"{name:10}{figures}   {interval:18}{p:>8}")
    lines.append(f"\nIntervals: {report['ci95_says']}")
    floor = report["smallest_p"]
    few = f"; with {report['speakers']} speakers it cannot fall below {floor:.3g}" if floor else ""
    lines.append(f"p: {report['p_says']}{few}")
    return "\n".join([*lines, report["verdict"]])


def comparison_tex(report: dict[str, Any]) -> str:
    """A LaTeX table of `compare_models` (needs the package booktabs)."""
    titles = {"uar": "UAR", "accuracy": "accuracy", "macro_f1": "macro F1"}
    return templates.render("compare.tex.jinja", c=report, titles=titles) + "\n"


def _verdict(report: dict[str, Any]) -> str:
    row, number = report["differences"]["uar"], report["speakers"]
    if row["p"] is None:
        return f"No verdict: {number} test speaker(s), at least {bootstrap.MIN_SPEAKERS} are needed."
    interval = " [{:+.3f}, {:+.3f}]".format(*row["ci95"]) if row["ci95"] else ""
    figures = f"UAR differs by {row['difference']:+.3f}{interval}, p = {row['p']:.3g}"
    if row["p"] <= ALPHA:
        return f"{'B' if row['difference'] > 0 else 'A'} is better: {figures} over {number} speakers."
    few = f", and with so few p cannot fall below {report['smallest_p']:.3g}" if report["smallest_p"] > ALPHA else ""
    return f"No difference that {number} speakers can tell: {figures}{few}."


def _figures(matrices: np.ndarray) -> dict[str, float]:
    figures = scores(matrices.sum(0))
    return {name: float(figures[name]) for name in NAMES}


def refuse_other_clips(folders: tuple[Path, Path], tables: list[PredictionTable]) -> None:
    """Refuse two sorted tables that do not have the same clips, labels and speakers.

    A clip that was answered twice has to stand twice in the other table, too.

    Raises:
        UserError: naming the first clip that differs.
    """
    answers = [Counter(zip(table.corpora, table.files, strict=True)) for table in tables]
    for present, absent in ((0, 1), (1, 0)):
        if missing := sorted(answers[present] - answers[absent]):
            raise UserError(
                f"'{folders[absent]}' lacks an answer to {missing[0][1]} that '{folders[present]}' has: "
                "test both on the same clips"
            )
    first, second = tables
    for name, column in (("label", "labels"), ("speaker", "speakers")):
        differs = np.flatnonzero(getattr(first, column) != getattr(second, column))
        if len(differs):
            raise UserError(
                f"{first.files[differs[0]]} has another {name} in '{folders[0]}' than in '{folders[1]}': "
                "test both on one dataset"
            )
