"""Runs below folders: each `results.json`, grouped by recipe, with the predictions of each seed."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ser_hf.evaluation import metrics
from ser_hf.evaluation.compare import NAMES
from ser_hf.evaluation.results import PredictionTable, Results, ResultsError, find_results

_TOLERANCE = 1e-6
"""By which figures of `predictions.csv` may differ from those of `results.json`."""


@dataclass(frozen=True)
class LeftOut:
    """A folder of evidence that stands in no table."""

    folder: str
    reason: str
    failed: bool = True
    """False where nothing is wrong with it, because another row has the same answers."""


@dataclass(frozen=True, eq=False)
class Run:
    """One recipe under one split: what its seeds reached."""

    name: str
    """The folder, as a reader finds it below the folders that were given."""
    folders: tuple[Path, ...]
    """Of each `results.json`."""
    results: Results
    """Of the first seed, with the notes that hold of all."""
    seeds: tuple[int, ...]
    """Empty where the results name none."""
    figures: tuple[dict[str, float], ...]
    """UAR, accuracy and macro F1 of each seed."""
    predictions: tuple[PredictionTable, ...]
    """Of each seed, sorted; empty where there is no `predictions.csv`."""
    recipe: str
    """Equal for two runs that differ in the seed alone; empty where it is not known."""


@dataclass(frozen=True)
class Collection:
    """What lies below some folders."""

    runs: list[Run]
    left_out: list[LeftOut]
    parts: int
    """Folds and seeds that count in the row of their pooled run."""


def collect(folders: Sequence[Path]) -> Collection:
    """Read every evaluation below some folders, and put the seeds of one recipe together.

    A fold or seed that `ser-hf finetune` pooled counts in the pooled run. Runs in one folder are
    seeds of one recipe where their settings, split and dataset agree and their seeds differ.

    Raises:
        ResultsError: for a folder without results.
    """
    found: dict[Path, tuple[str, Results]] = {}
    left_out: list[LeftOut] = []
    for folder in folders:
        in_folder, errors = find_results(folder)
        for place, run in in_folder.items():
            found.setdefault(Path(os.path.realpath(place)), (_name(place, folder, folders), run))
        left_out += [LeftOut(str(folder), str(error)) for error in errors]
    parts = {place / part for place, (_, run) in found.items() for part in _parts(run)} & set(found)
    runs = []
    for place, (name, results) in found.items():
        if place not in parts:
            try:
                runs.append(_read(place, name, results))
            except ResultsError as error:
                left_out.append(LeftOut(name, str(error)))
    different, copies = _without_copies(runs)
    return Collection(list(_grouped(different)), left_out + copies, len(parts))


def split_of(results: Results) -> tuple[str, str, str, str]:
    """What two results must have in common to be ranked together.

    The hash is of the split's files. The description of the data tells builds of other recordings
    apart, whose names are the same.

    Returns:
        Protocol, fold, hash of the split, and the dataset's name and size as text.
    """
    size = {key: results.data.get(key) for key in ("clips", "hours", "notice")}
    dataset = json.dumps([Path(results.dataset).name, size, sorted(results.data["corpora"])])
    return results.protocol, str(results.fold), results.protocol_hash, dataset


def _name(place: Path, folder: Path, folders: Sequence[Path]) -> str:
    """A folder's name in the tables: its path below the one that was given, of several with that.

    Where two of several have one name, their paths tell them apart.
    """
    below, given = place.relative_to(folder).as_posix(), {Path(os.path.abspath(one)) for one in folders}
    top = Path(os.path.abspath(folder))
    name = top.name if [one.name for one in given].count(top.name) == 1 else folder.as_posix()
    if below == ".":
        return name
    return f"{name}/{below}" if len(folders) > 1 else below


def _without_copies(runs: list[Run]) -> tuple[list[Run], list[LeftOut]]:
    """Keep the first of runs of one model with the same answers, as a model and its evaluation."""
    kept: dict[tuple, Run] = {}
    different, copies = [], []
    for run in sorted(runs, key=lambda run: (run.name.count("/"), run.name)):
        if not run.results.weights or len(run.predictions) != 1:
            different.append(run)
            continue
        (table,) = run.predictions
        answers = tuple(values.tobytes() for values in (table.corpora, table.files, table.predicted))
        first = kept.setdefault((split_of(run.results), run.results.weights, answers), run)
        if first is run:
            different.append(run)
        else:
            copies.append(LeftOut(run.name, f"has the weights and the answers of {first.name}", failed=False))
    return different, copies


def _parts(results: Results) -> list[str]:
    """The folders of the folds and seeds that were pooled."""
    return [run["folder"] for run in (results.repeats or {}).get("runs", [])]


def _read(place: Path, name: str, results: Results) -> Run:
    """A run with its predictions, of every seed where all of them are there.

    Raises:
        ResultsError: for predictions that are broken, or not those of the figures.
    """
    seeds = _seeds(results)
    pooled = (results.repeats or {}).get("pooled", [])
    tables = _tables_of_seeds(place, results) if len(seeds) > 1 else []
    figures = pooled
    if not tables:  # the first seed alone: its figures and predictions lie in the folder itself
        seeds, figures = seeds[:1], [{key: getattr(results, key) for key in NAMES}]
        if (place / "predictions.csv").exists():
            tables = [PredictionTable.read(place / "predictions.csv").sorted()]
    for table, row in zip(tables, figures, strict=False):
        _refuse_other_figures(place, table, row)
    figures = tuple({key: float(row[key]) for key in NAMES} for row in figures)
    return Run(name, (place,), results, tuple(seeds), figures, tuple(tables), _recipe(place, results))


def _seeds(results: Results) -> list[int]:
    if results.repeats:
        return list(results.repeats["seeds"])
    seed = results.training.get("settings", {}).get("seed")
    return [] if seed is None else [seed]


def _tables_of_seeds(place: Path, results: Results) -> list[PredictionTable]:
    """The predictions of each seed, its folds joined; none where a part has none."""
    parts = [place / part / "predictions.csv" for part in _parts(results)]
    if results.repeats is None or not all(part.exists() for part in parts):
        return []
    folds = len(parts) // len(results.repeats["seeds"])
    groups = [parts[start : start + folds] for start in range(0, len(parts), folds)]
    return [PredictionTable.joined([PredictionTable.read(part) for part in group]).sorted() for group in groups]


def _refuse_other_figures(place: Path, table: PredictionTable, figures: dict[str, float]) -> None:
    scores = metrics.scores(metrics.confusion(table.labels, table.predicted))
    for name in NAMES:
        if abs(float(scores[name]) - figures[name]) > _TOLERANCE:
            raise ResultsError(
                f"predictions.csv in '{place}' comes to {name} {float(scores[name]):.4f}, results.json says "
                f"{figures[name]:.4f}: run `ser-hf evaluate` again"
            )


def _recipe(place: Path, results: Results) -> str:
    """What the training was but for its seed, as text; that of the first fold where folds are
    pooled."""
    parts = _parts(results)
    if parts and (place / parts[0] / "results.json").is_file():
        results = Results.load(place / parts[0] / "results.json")
    settings = results.training.get("settings", {})
    if "seed" not in settings:
        return ""
    kept = {key: results.training.get(key) for key in ("base_model", "parameters", "padding")}
    return json.dumps([kept, {key: value for key, value in settings.items() if key != "seed"}], sort_keys=True)


def _grouped(runs: list[Run]) -> Iterator[Run]:
    """Runs of one folder that differ in the seed alone as one; all others as they are."""
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        # means over seeds are tested as one, for which every seed must have predictions
        alone = not run.recipe or len(run.seeds) != 1 or not run.predictions
        key = run.folders if alone else (run.folders[0].parent, run.recipe, split_of(run.results))
        groups[key].append(run)
    for group in groups.values():
        group.sort(key=lambda run: run.seeds)
        if len({run.seeds for run in group}) < len(group):  # one seed twice: these are other runs
            yield from group
        else:
            yield _together(group)


def _together(group: list[Run]) -> Run:
    first = group[0]
    if len(group) == 1:
        return first
    name = re.sub(rf"[-_/]?(seed[-_]?)?{first.seeds[0]}$", "", first.name)
    notes = [note for note in first.results.notes if all(note in run.results.notes for run in group)]
    return replace(
        first,
        results=replace(first.results, notes=notes),
        name=name or first.folders[0].parent.name,
        folders=tuple(place for run in group for place in run.folders),
        seeds=tuple(seed for run in group for seed in run.seeds),
        figures=tuple(row for run in group for row in run.figures),
        predictions=tuple(table for run in group for table in run.predictions),
    )
