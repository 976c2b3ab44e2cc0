"""What a dataset holds: counts, tables, pictures and its card."""

import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePath

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ser_hf.data.corpora import base
from ser_hf.data.corpora.base import Scan
from ser_hf.labels import EMOTIONS
from ser_hf.utils.plotting import STYLE, save

BIN_SECONDS = 0.1
"""Width of the bars in which durations are counted."""


def summarise(scans: dict[str, Scan], columns: pa.Table, notice: str) -> dict:
    """Counts, durations, what was dropped, and what is flagged.

    Args:
        scans: of each corpus, as `dataset.scan` gives them; their recordings are those of
            `columns`.
        columns: of the dataset, without the audio.
        notice: what must be said of synthetic recordings, or nothing.

    Returns:
        `recordings`, `speakers`, `hours`; `counts` {corpus channel: {label: n}}; `balance` {corpus
        sex: {label: n}}; `durations` {corpus channel: [n of clips from 0 s, in bins of
        `BIN_SECONDS`]}; `dropped_duplicates`, `unmatched` (the last parts of their paths: this is
        pushed, too); `missing` (official names); `same_samples` (groups of names); `notes`;
        `notice`.
    """

    def listed(name: str) -> list[str]:
        found = {file.place: str(file) for scan in scans.values() for file in getattr(scan, name)}
        return ["/".join(PurePath(path).parts[-3:]) for path in found.values()]

    corpus, channel, sex = (_words(columns[name]) for name in ("corpus", "channel", "sex"))
    labels = [EMOTIONS[label] for label in columns["label"].to_pylist()]
    channels = [sys.intern(f"{one} {other}") for one, other in zip(corpus, channel, strict=True)]
    sexes = [sys.intern(f"{one} {other or 'unknown'}") for one, other in zip(corpus, sex, strict=True)]
    seconds = columns["duration"].to_numpy()
    official = [] if notice else sorted(set(scans) & set(base.INVENTORIES))
    return {
        "recordings": len(labels),
        "speakers": len(columns["speaker"].unique()),
        "hours": round(float(seconds.sum()) / 3600, 3),
        "counts": counted(channels, labels),
        "balance": counted(sexes, labels),
        "durations": histograms(channels, seconds),
        "dropped_duplicates": listed("duplicates"),
        "unmatched": listed("unmatched"),
        "missing": [name for corpus in official for name in base.missing(corpus, _stems(columns))],
        "same_samples": _same_samples(columns),
        "notes": [note for found in scans.values() for note in found.notes],
        "notice": notice,
    }


def _words(column: pa.ChunkedArray) -> list[str | None]:
    """A column of few different values, each in memory once."""
    encoded = column.combine_chunks().dictionary_encode()
    words = encoded.dictionary.to_pylist()
    return [None if code is None else words[code] for code in encoded.indices.to_pylist()]


def _stems(columns: pa.Table) -> set[str]:
    return {name.rsplit(".", 1)[0] for name in columns["file"].to_pylist()}


def _same_samples(columns: pa.Table) -> list[list[str]]:
    """Groups of files, under different official names, that hold the same samples."""
    codes = columns["sha256"].combine_chunks().dictionary_encode().indices.to_numpy()
    rows = np.flatnonzero(np.bincount(codes)[codes] > 1)
    groups = defaultdict(list)
    for code, name in zip(codes[rows].tolist(), columns["file"].take(rows).to_pylist(), strict=True):
        groups[code].append(name)
    return list(groups.values())


def counted(groups: list[str], labels: list[str]) -> dict[str, dict[str, int]]:
    """How often each emotion stands in each group, groups in order of appearance."""
    pairs = Counter(zip(groups, labels, strict=True))
    return {group: {emotion: pairs[group, emotion] for emotion in EMOTIONS} for group in dict.fromkeys(groups)}


def histograms(groups: list[str], seconds: Sequence[float]) -> dict[str, list[int]]:
    """Of each group the number of clips from 0 s on, in bins of `BIN_SECONDS`."""
    bins = np.rint(np.array(seconds) * 1000).astype(int) // round(BIN_SECONDS * 1000)  # 0.3 / 0.1 is less than 3
    return {group: np.bincount(bins[np.array(groups) == group]).tolist() for group in dict.fromkeys(groups)}


def label_table(counts: dict[str, dict[str, int]]) -> list[str]:
    """The lines of a table of labels by group, with totals."""
    lines = ["".join([f"{'':12}", *(f"{group:>16}" for group in counts)])]
    lines += ["".join([f"{emotion:12}", *(f"{its[emotion]:16,}" for its in counts.values())]) for emotion in EMOTIONS]
    return [*lines, "".join([f"{'all':12}", *(f"{sum(its.values()):16,}" for its in counts.values())])]


def counts_table(report: dict) -> str:
    """The report as text: labels by corpus and channel, then what was dropped or is flagged."""
    lines = label_table(report["counts"])
    labels = sum(any(counts[emotion] for counts in report["counts"].values()) for emotion in EMOTIONS)
    lines.append(
        f"{report['recordings']:,} recordings, {report['speakers']} speakers, {labels} labels, {report['hours']} hours"
    )
    for key, says in (
        ("missing", "official recording(s) missing"),
        ("dropped_duplicates", "second copies dropped"),
        ("unmatched", "files with other names left out"),
        ("same_samples", "group(s) of names share the same samples: kept, on one side of every honest split"),
    ):
        if report[key]:
            shown = ", ".join(PurePath(x).name if isinstance(x, str) else " = ".join(x) for x in report[key][:5])
            lines.append(f"{len(report[key]):,} {says}: {shown}{' …' if len(report[key]) > 5 else ''}")
    return "\n".join([*lines, *report["notes"], *([report["notice"]] if report["notice"] else [])])


_GROUPS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f")


def draw_dataset(report: dict, folder: Path) -> list[Path]:
    """Write `balance.png` and `durations.png` of a dataset's report
    (`ser_hf.data.describe.summarise`) into a folder."""
    with mpl.rc_context(STYLE):
        return save({"balance.png": balance(report), "durations.png": durations(report)}, folder)


def draw_audit(report: dict, folder: Path) -> list[Path]:
    """Write `balance.png`, `durations.png` and `levels.png` of an audit
    (`ser_hf.data.audit.report.audit_recordings`) into a folder."""
    with mpl.rc_context(STYLE):
        figures = {"balance.png": balance(report), "durations.png": durations(report), "levels.png": levels(report)}
        return save(figures, folder)


def balance(report: dict) -> Figure:
    """How many clips of each emotion there are, by corpus and sex: what a model could guess from
    the voice alone."""
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
    """The distribution of how loud clips are: a corpus that is louder than another can be told by
    that alone."""
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
