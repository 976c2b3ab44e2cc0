"""What came out of a labelling: counts, durations, scores and distances, a file at a time."""

import math
import re
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import binomtest

from ser_hf.errors import UserError
from ser_hf.inference.bulk.store import MANIFEST, Store

SCORE_BINS = 15
"""Of equal width, as `ser_hf.evaluation.metrics.reliability` has them."""
DURATION_EDGES = (0, 1, 2, 4, 10, 30, 60, 300, 1800, math.inf)
"""Seconds between which recordings are counted."""
DISTANCE_EDGES = (*(number / 8 for number in range(17)), math.inf)
"""Of distances as multiples of the threshold; what lies farther is in the last bin."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
MOST_KINDS = 1000
"""Kinds of errors that are told apart; what comes later counts as other."""
OTHER = "other errors"

_COLUMNS = ["file", "label", "score", "abstained", "duration", "channels", "segments", "distance", "error", "model"]
_FINE = 10 ** np.linspace(-2, 6, 2049)  # seconds, 0.9 % apart: quantiles of any number of recordings
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def summarise(output: str) -> dict[str, Any]:
    """Sum up the rows of a labelling; memory holds those of one file.

    Args:
        output: of `ser-hf label`, a folder or an address that `fsspec` reads.

    Returns:
        `output`, `version`, `model`, `complete`; `recordings` and how many of them `failed`, hold
        no voice, `abstained` (with voice) and are `adapted`; `labels`, `errors`, `durations`,
        `channels`, `scores` and `drift`.

    Raises:
        UserError: for what is no labelling, and for a damaged file.
    """
    store = Store(output, writes=False)
    if store.manifest is None:
        raise UserError(f"'{output}' holds no {MANIFEST}: give the --output of `ser-hf label`")
    manifest = store.manifest
    try:
        model, complete = dict(manifest["model"]), bool(manifest["complete"])
        tally = _Tally(list(model["labels"]), model["digest"], model["reference"].get("threshold"))
    except (KeyError, AttributeError, TypeError):
        raise UserError(f"'{output}': its {MANIFEST} is of another version: label into another --output") from None
    for name in store.parts:
        tally.add(store.read_part(name, _COLUMNS))
    reference, held_out = model.pop("reference"), model.pop("tested")
    head = {"output": output, "version": manifest["version"], "model": model, "complete": complete}
    return head | tally.figures() | {"drift": tally.drift(reference, held_out)}


def kind_of(error: str, file: str = "") -> str:
    """An error without the names and numbers in it, so that alike ones count together.

    >>> kind_of("'/a/it's.wav' is 0.05 s long: 0.1 s are needed", "/a/it's.wav")
    '… is N s long: N s are needed'
    """
    if file:
        for name in (repr(file), f"'{file}'", file):
            error = error.replace(name, "…")
    return " ".join(_NUMBER.sub("N", _QUOTED.sub("…", error)).split())


def wilson(count: int, of: int) -> list[float]:
    """Bounds of the 95 % interval of a share (Wilson 1927)."""
    interval = binomtest(count, of).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


class _Tally:
    """Counts that grow by the rows of a file."""

    def __init__(self, labels: list[str], model: str, threshold: float | None) -> None:
        self._labels, self._model, self._threshold = labels, model, threshold
        self._counts = Counter(dict.fromkeys(("recordings", "failed", "without_voice", "abstained"), 0))
        self._by_label = np.zeros((4, len(labels)))  # recordings, abstained, hours, sum of scores
        self._errors: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._channels: Counter[int] = Counter()
        self._scores = np.zeros(SCORE_BINS, dtype=np.int64)
        self._coarse = np.zeros(len(DURATION_EDGES) - 1, dtype=np.int64)
        self._fine = np.zeros(len(_FINE) - 1, dtype=np.int64)
        self._shortest, self._longest = math.inf, 0.0
        self._hours: dict[str, float] = defaultdict(float)
        self._score = 0.0
        self._distances: list[np.ndarray] = []

    def add(self, table: pa.Table) -> None:
        """Count the rows of this model."""
        table = table.filter(pc.equal(table["model"], self._model))
        self._counts["recordings"] += len(table)
        self._add_errors(table.filter(pc.is_valid(table["error"])).select(["file", "error"]))
        for value in pc.value_counts(table["channels"].combine_chunks().drop_null()):
            self._channels[value["values"].as_py()] += value["counts"].as_py()
        table = table.filter(pc.is_null(table["error"]))
        durations = np.asarray(table["duration"], dtype=np.float64)
        self._add_durations(durations)
        has_voice = np.asarray(pc.greater(pc.list_value_length(table["segments"]), 0))
        self._counts["without_voice"] += int((~has_voice).sum())
        self._hours["without_voice"] += float(durations[~has_voice].sum()) / 3600
        table, durations = table.filter(pa.array(has_voice)), durations[has_voice]
        abstained = np.asarray(table["abstained"])
        self._counts["abstained"] += int(abstained.sum())
        scores = np.asarray(table["score"], dtype=np.float64)
        self._score += float(scores.sum())
        bins = np.clip(np.ceil(scores * SCORE_BINS).astype(int) - 1, 0, SCORE_BINS - 1)
        self._scores += np.bincount(bins, minlength=SCORE_BINS)
        place = np.asarray(pc.index_in(table["label"], pa.array(self._labels)))
        for row, values in enumerate((np.ones(len(table)), abstained, durations / 3600, scores)):
            self._by_label[row] += np.bincount(place, values, len(self._labels))
        self._distances.append(np.asarray(table["distance"].drop_null(), dtype=np.float32))

    def _add_errors(self, table: pa.Table) -> None:
        self._counts["failed"] += len(table)
        for file, error in zip(table["file"].to_pylist(), table["error"].to_pylist(), strict=True):
            kind = kind_of(error, file)
            if kind not in self._examples:
                kind = kind if len(self._examples) < MOST_KINDS else OTHER
                self._examples.setdefault(kind, file)
            self._errors[kind] += 1

    def _add_durations(self, durations: np.ndarray) -> None:
        if not len(durations):
            return
        self._hours["all"] += float(durations.sum()) / 3600
        self._coarse += np.histogram(durations, np.array(DURATION_EDGES))[0]
        self._fine += np.histogram(np.clip(durations, _FINE[0], _FINE[-1]), _FINE)[0]
        self._shortest = min(self._shortest, float(durations.min()))
        self._longest = max(self._longest, float(durations.max()))

    def figures(self) -> dict[str, Any]:
        """What was counted, as JSON holds it."""
        voiced = self._counts["recordings"] - self._counts["failed"] - self._counts["without_voice"]
        labels = {
            label: {
                "recordings": int(recordings),
                "share": recordings / voiced if voiced else 0.0,
                "abstained": int(abstained),
                "hours": round(hours, 4),
                "mean_score": score / recordings if recordings else None,
            }
            for label, (recordings, abstained, hours, score) in zip(
                self._labels, self._by_label.T.tolist(), strict=True
            )
        }
        errors = [
            {"kind": kind, "recordings": count, "example": self._examples[kind]}
            for kind, count in sorted(self._errors.items(), key=lambda item: (-item[1], item[0]))
        ]
        return {
            **self._counts,
            "with_voice": voiced,
            "labels": labels,
            "errors": errors,
            "durations": self._durations(),
            "channels": {str(number): count for number, count in sorted(self._channels.items())},
            "scores": {"mean": self._score / voiced if voiced else None, "bins": _bins(self._scores)},
        }

    def _durations(self) -> dict[str, Any]:
        edges = [None if math.isinf(edge) else edge for edge in DURATION_EDGES]
        rows = [
            {"low": low, "high": high, "recordings": int(count)}
            for low, high, count in zip(edges[:-1], edges[1:], self._coarse, strict=True)
        ]
        quantiles = {}
        if total := int(self._fine.sum()):
            reached = np.searchsorted(self._fine.cumsum(), np.array(QUANTILES) * total)
            middles = np.sqrt(_FINE[:-1] * _FINE[1:])[np.minimum(reached, len(_FINE) - 2)]
            bounded = np.clip(middles, self._shortest, self._longest)
            bounded[[0, -1]] = self._shortest, self._longest
            quantiles = {f"{share:g}": round(float(value), 3) for share, value in zip(QUANTILES, bounded, strict=True)}
        hours = {"hours": round(self._hours["all"], 4), "hours_without_voice": round(self._hours["without_voice"], 4)}
        return hours | {"quantiles": quantiles, "histogram": rows}

    def drift(self, reference: dict[str, Any], held_out: dict[str, Any] | None) -> dict[str, Any]:
        """The share of the measured recordings that lie outside the training clips.

        Args:
            reference: what the manifest says of it.
            held_out: scores of the test of the model.
        """
        distances = np.concatenate(self._distances) if self._distances else np.zeros(0)
        figures: dict[str, Any] = {"reference": reference, "held_out_scores": held_out, "measured": len(distances)}
        if self._threshold is None or not len(distances):
            return figures
        outside = int((distances > self._threshold).sum())
        figures |= {"outside": outside, "share": outside / len(distances), "ci95": wilson(outside, len(distances))}
        ratios = np.clip(distances / self._threshold, 0, DISTANCE_EDGES[-2])
        counts = np.histogram(ratios, DISTANCE_EDGES)[0]
        bins = [
            {"low": low, "high": None if math.isinf(high) else high, "n": int(count)}
            for low, high, count in zip(DISTANCE_EDGES[:-1], DISTANCE_EDGES[1:], counts, strict=True)
        ]
        return figures | {"distances": bins}


def _bins(counts: np.ndarray) -> list[dict[str, float]]:
    return [
        {"low": place / SCORE_BINS, "high": (place + 1) / SCORE_BINS, "n": int(count)}
        for place, count in enumerate(counts)
    ]


def table(summary: dict[str, Any]) -> str:
    """A summary as a short table of plain text."""
    total = summary["recordings"]
    head = f"{total:,} recordings, {summary['durations']['hours']:,.2f} hours"
    lines = [head if summary["complete"] else f"{head}; the run is not finished"]
    rows = [("", "recordings", "share", "abstained", "hours", "score")]
    for label, row in summary["labels"].items():
        score = "" if row["mean_score"] is None else f"{row['mean_score']:.2f}"
        counts = f"{row['recordings']:,}", percent(row["share"]), f"{row['abstained']:,}"
        rows.append((label, *counts, f"{row['hours']:,.2f}", score))
    voiced = f"{summary['with_voice']:,}", percent(summary["with_voice"] / total if total else 0)
    mean = summary["scores"]["mean"]
    hours = summary["durations"]["hours"] - summary["durations"]["hours_without_voice"]
    rows.append(
        ("with voice", *voiced, f"{summary['abstained']:,}", f"{hours:,.2f}", "" if mean is None else f"{mean:.2f}")
    )
    silent, failed = summary["without_voice"], summary["failed"]
    silent_hours = f"{summary['durations']['hours_without_voice']:,.2f}"
    rows.append(("without voice", f"{silent:,}", percent(silent / total if total else 0), "", silent_hours, ""))
    rows.append(("failed", f"{failed:,}", percent(failed / total if total else 0), "", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    if quantiles := summary["durations"]["quantiles"]:
        low, middle, high = (quantiles[share] for share in ("0.05", "0.5", "0.95"))
        lines.append(f"durations: median {middle:,.1f} s, 90 % of them {low:,.1f} to {high:,.1f} s")
    lines += [f"{row['recordings']:,} x {row['kind']} (such as {row['example']})" for row in summary["errors"][:5]]
    if len(summary["errors"]) > 5:
        lines.append(f"and {len(summary['errors']) - 5:,} more kinds of errors")
    return "\n".join([*lines, drift_line(summary["drift"])])


def drift_line(drift: dict[str, Any]) -> str:
    """A sentence about the recordings that lie outside what the model was trained on."""
    reference = drift["reference"]
    if reference.get("missing"):
        return f"how far they lie from the training clips is not known: {reference['missing']}"
    if not drift["measured"]:
        return "how far they lie from the training clips is not known: none with voice was measured"
    low, high = drift["ci95"]
    return (
        f"{percent(drift['share'])} of {drift['measured']:,} measured lie outside what the model was trained on "
        f"(95 %: {percent(low)} to {percent(high)}); of held-out speakers {percent(reference['share'])}, "
        f"of the farthest of them {percent(reference['highest_share'])}"
    )


def percent(share: float) -> str:
    """A share as text, such as `1.0 %`."""
    return f"{100 * share:.1f} %"
