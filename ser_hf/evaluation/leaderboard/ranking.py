"""Tables of runs under one split: ranked by UAR, each run tested against the best."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_hf.errors import UserError
from ser_hf.evaluation import bootstrap, compare
from ser_hf.evaluation.leaderboard.runs import LeftOut, Run, collect, split_of
from ser_hf.evaluation.results import PredictionTable, ResultsError

_ROUNDING = 1e-9


def build_leaderboard(folders: Sequence[Path]) -> dict[str, Any]:
    """Rank every evaluation below some folders, in a table for each split and dataset.

    Args:
        folders: searched for `results.json`, at any depth.

    Returns:
        `tables`, `left_out` (`folder`, `reason`, `failed`) and `parts`, the number of folds and
        seeds that count in a pooled row. A table has the split, its clips and speakers, the method
        of its tests, and `rows`. All of it can be written as JSON.

    Raises:
        ResultsError: for a folder without results, or where none can be used.
    """
    collection = collect(folders)
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in collection.runs:
        groups[split_of(run.results)].append(run)
    left_out, tables = list(collection.left_out), []
    for _, group in sorted(groups.items()):
        kept, others = _of_the_same_clips(group)
        left_out += others
        tables.append(_table(kept))
    if not tables:
        raise ResultsError(left_out[0].reason)
    return {"tables": tables, "left_out": [vars(one) for one in left_out], "parts": collection.parts}


def holm(p_values: Sequence[float], comparisons: int) -> list[float]:
    """p-values corrected for several comparisons by the step-down procedure of Holm (1979).

    Args:
        p_values: of the tests that were made.
        comparisons: how many count, at least as many as there are p-values.

    Returns:
        The corrected p-values, in the order of `p_values`, at most 1.

    >>> holm([0.01, 0.04, 0.03], comparisons=3)
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    steps = comparisons - np.arange(len(order))
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps * np.asarray(p_values, dtype=float)[order]), 1.0)
    return corrected.tolist()


def _of_the_same_clips(group: list[Run]) -> tuple[list[Run], list[LeftOut]]:
    """Keep the runs whose clips, labels and speakers are those of most; say why of the others.

    Of a run without predictions only the number of its clips is known.
    """
    counts: dict[bytes | int, list[Run]] = defaultdict(list)
    for run in group:
        if run.predictions:
            counts[_clips(run.predictions[0])].append(run)
    if not counts:
        for run in group:
            counts[run.results.n].append(run)
    model = max(counts.values(), key=len)[0]
    kept, left_out = [], []
    for run in group:
        try:
            if run.results.n != model.results.n:
                numbers = f"'{run.name}' tested {run.results.n:,} clips, '{model.name}' {model.results.n:,}"
                raise UserError(f"{numbers}: test both on the same clips")
            for table in run.predictions:
                folders = model.folders[0], run.folders[0]
                compare.refuse_other_clips(folders, [model.predictions[0], table])
        except UserError as error:
            left_out.append(LeftOut(run.name, str(error)))
        else:
            kept.append(run)
    return kept, left_out


def _clips(table: PredictionTable) -> bytes:
    return "\n".join(
        "\t".join(map(str, row)) for row in zip(table.corpora, table.files, table.speakers, table.labels, strict=True)
    ).encode()


def _table(runs: list[Run]) -> dict[str, Any]:
    """A table of runs under one split, the best first.

    Runs that saw test speakers come last and have no rank, unless all did: then the split leaks.
    Runs of one UAR share a rank.
    """
    all_leak = all(run.results.leaks for run in runs)
    runs = sorted(runs, key=lambda run: (run.results.leaks and not all_leak, -_mean(run, "uar"), run.name))
    matrices = [_speaker_matrices(run) for run in runs]
    rows = [_row(run, counts) for run, counts in zip(runs, matrices, strict=True)]
    ranked = [row for row in rows if all_leak or not row["leaks"]]
    for row in ranked:
        row["rank"] = 1 + sum(other["uar"] > row["uar"] + _ROUNDING for other in ranked)
    first = runs[0].results
    return {
        **{name: getattr(first, name) for name in ("protocol", "fold", "folds", "protocol_hash", "dataset", "n")},
        "under": first.under(),
        "hours": first.data.get("hours"),
        "speakers": first.speakers.get("test"),
        "chance": first.chance,
        "all_leak": all_leak,
        "notes": [note for note in first.notes if all(note in run.results.notes for run in runs)],
        **_test_against_best(rows, matrices),
        "rows": rows,
    }


def _row(run: Run, matrices: np.ndarray | None) -> dict[str, Any]:
    results = run.results
    ci95, ci95_says = (results.ci95 or {}).get("uar"), results.ci95_says
    if matrices is not None and len(run.seeds) > 1:
        ci95_says = bootstrap.missing_interval_reason(matrices) or (
            f"95 % bootstrap over {len(matrices)} test speakers, of the mean over {len(run.seeds)} seeds"
        )
        ci95 = None if bootstrap.missing_interval_reason(matrices) else bootstrap.interval_bounds(matrices)["uar"]
    return {
        "rank": None,
        "name": run.name,
        "folders": [str(folder) for folder in run.folders],
        "base_model": results.training.get("base_model", ""),
        "seeds": list(run.seeds),
        **{name: _mean(run, name) for name in compare.NAMES},
        "uar_sd": statistics.stdev([row["uar"] for row in run.figures]) if len(run.figures) > 1 else None,
        "ci95": ci95,
        "ci95_says": ci95_says,
        "difference": None,
        "difference_ci95": None,
        "p": None,
        "p_holm": None,
        "verdict": "",
        "distribution": results.distribution,
        "leaks": results.leaks,
        "notes": list(results.notes),
    }


def _mean(run: Run, name: str) -> float:
    return statistics.fmean(row[name] for row in run.figures)


def _speaker_matrices(run: Run) -> np.ndarray | None:
    """Mean confusion matrix over seeds of each speaker, shape `(speakers, classes, classes)`.

    UAR and accuracy of averaged matrices are the means over seeds, since every seed answers the
    same clips. None without predictions.
    """
    if not run.predictions:
        return None
    of_seeds = [bootstrap.speaker_confusions(t.labels, t.predicted, t.speakers)[1] for t in run.predictions]
    return np.mean(of_seeds, axis=0)


def _test_against_best(rows: list[dict[str, Any]], matrices: list[np.ndarray | None]) -> dict[str, Any]:
    """Add to each row its difference from the best one, with p; say how it was tested.

    The best was chosen by the same clips, so that any pair might have been tested. The correction
    therefore counts all pairs.

    Returns:
        `reference` (the name of the best with predictions, None without), `comparisons`,
        `smallest_p` and `p_says`.
    """
    tested = [number for number, counts in enumerate(matrices) if counts is not None]
    for number, row in enumerate(rows):
        if tested and number == tested[0]:
            row["verdict"] = "best" if number == 0 else "best with predictions"
    if len(tested) < 2:
        few = "a test needs two runs with predictions.csv"
        return {
            "reference": rows[tested[0]]["name"] if tested else None,
            "comparisons": 0,
            "smallest_p": None,
            "p_says": few,
        }
    comparisons = len(tested) * (len(tested) - 1) // 2
    best, *others = tested
    for number in others:
        report = compare.differences(matrices[best], matrices[number], names=("uar",))
        difference = report["differences"]["uar"]
        rows[number] |= {
            "difference": difference["difference"],
            "difference_ci95": difference["ci95"],
            "p": difference["p"],
        }
    says, smallest = report["p_says"], report["smallest_p"]
    if smallest is not None:
        corrected = holm([rows[number]["p"] for number in others], comparisons)
        for number, p in zip(others, corrected, strict=True):
            # a model that saw the speakers may be better than the best of those that did not
            told = "worse" if rows[number]["difference"] < 0 else "better"
            rows[number] |= {"p_holm": p, "verdict": told if p <= compare.ALPHA else "not told apart"}
        says += f"; corrected for all {comparisons} pairs of runs (Holm 1979)"
    return {"reference": rows[best]["name"], "comparisons": comparisons, "smallest_p": smallest, "p_says": says}
