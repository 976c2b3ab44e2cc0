"""The description of a dataset: counts, tables and pictures."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from ser_hf import audio
from ser_hf.data.corpora import CORPORA
from ser_hf.data.corpora.base import File, Scan
from ser_hf.labels import EMOTIONS
from ser_hf.utils.plotting import (
    SERIES,
    STYLE,
    WIDTH,
    compact,
    ink,
    label_counts,
    largest,
    legend_above,
    most_of,
    save,
    shortened,
    write_title,
)

BIN_SECONDS = 0.1
"""Width of the bars in which durations are counted."""


def summarise(scans: dict[str, Scan], columns: pa.Table, silent: list[str], notice: str) -> dict:
    """Return the report of a build: counts, durations, what was dropped, and what is flagged.

    Args:
        scans: of each corpus (`ser_hf.data.corpora.scan.scan_sources`); their recordings are the
            rows.
        columns: of the dataset, without the audio.
        silent: names of the rows without sound.
        notice: about synthetic recordings, or an empty text.

    Returns:
        `recordings`, `speakers`, `hours`; `counts` {corpus channel: {label: n}}; `balance` {corpus
        sex: {label: n}}; `durations` {corpus channel: [n of clips from 0 s, in bins of
        `BIN_SECONDS`]}; `dropped_duplicates`, `unmatched` (the last parts of their paths: the
        report is pushed, too); `missing` (official names); `same_samples` (groups of names);
        `silent` (names of recordings without sound); `notes`; `aliases` (`Scan.aliases`); `notice`.
    """

    def paths(files: Iterable[File]) -> list[str]:
        by_place = {file.place: str(file) for file in files}
        return ["/".join(PurePath(path).parts[-3:]) for path in by_place.values()]

    corpus, channel, sex = (_words(columns[name]) for name in ("corpus", "channel", "sex"))
    labels = [EMOTIONS[label] for label in columns["label"].to_pylist()]
    channels = [sys.intern(f"{name} {value}") for name, value in zip(corpus, channel, strict=True)]
    sexes = [sys.intern(f"{name} {value or 'unknown'}") for name, value in zip(corpus, sex, strict=True)]
    seconds = columns["duration"].to_numpy()
    official = [] if notice else [CORPORA[name] for name in sorted(scans) if name in CORPORA]
    return {
        "recordings": len(labels),
        "speakers": len(columns["speaker"].unique()),
        "hours": round(float(seconds.sum()) / 3600, 3),
        "counts": count_labels(channels, labels),
        "balance": count_labels(sexes, labels),
        "durations": duration_histograms(channels, seconds),
        "dropped_duplicates": paths(file for scan in scans.values() for file in scan.duplicates),
        "unmatched": paths(file for scan in scans.values() for file in scan.unmatched),
        "missing": [name for corpus in official for name in corpus.missing(_stems(columns))],
        "same_samples": _same_samples(columns),
        "silent": silent,
        "notes": [note for scan in scans.values() for note in scan.notes],
        "aliases": [alias for scan in scans.values() for alias in scan.aliases],
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


def count_labels(groups: list[str], labels: list[str]) -> dict[str, dict[str, int]]:
    """Return how often each emotion stands in each group, groups in order of appearance."""
    pairs = Counter(zip(groups, labels, strict=True))
    return {group: {emotion: pairs[group, emotion] for emotion in EMOTIONS} for group in dict.fromkeys(groups)}


def duration_histograms(groups: list[str], seconds: Sequence[float]) -> dict[str, list[int]]:
    """Return the number of clips of each group from 0 s on, in bins of `BIN_SECONDS`."""
    bins = np.rint(np.array(seconds) * 1000).astype(int) // round(BIN_SECONDS * 1000)  # 0.3 / 0.1 is less than 3
    return {group: np.bincount(bins[np.array(groups) == group]).tolist() for group in dict.fromkeys(groups)}


def label_table(counts: dict[str, dict[str, int]]) -> list[str]:
    """Return the lines of a table of labels by group, with totals."""
    lines = ["".join([f"{'':12}", *(f"{group:>16}" for group in counts)])]
    lines += [
        "".join([f"{emotion:12}", *(f"{labels[emotion]:16,}" for labels in counts.values())]) for emotion in EMOTIONS
    ]
    return [*lines, "".join([f"{'all':12}", *(f"{sum(labels.values()):16,}" for labels in counts.values())])]


def counts_table(report: dict) -> str:
    """Return the report as text: labels by corpus and channel, what was dropped or is flagged."""
    lines = label_table(report["counts"])
    labels = sum(any(counts[emotion] for counts in report["counts"].values()) for emotion in EMOTIONS)
    lines.append(
        f"{report['recordings']:,} recordings, {report['speakers']} speakers, {labels} labels, {report['hours']} hours"
    )
    for key, meaning in (
        ("missing", "official recording(s) missing"),
        ("dropped_duplicates", "second copies dropped"),
        ("silent", f"silent recording(s) stand under a label (never above {audio.SILENT:g} dB): take them out"),
        ("unmatched", "files with other names left out"),
        ("same_samples", "group(s) of names share the same samples: kept, on one side of every honest split"),
    ):
        if report[key]:
            names = ", ".join(
                PurePath(entry).name if isinstance(entry, str) else " = ".join(entry) for entry in report[key][:5]
            )
            lines.append(f"{len(report[key]):,} {meaning}: {names}{' …' if len(report[key]) > 5 else ''}")
    return "\n".join([*lines, *report["notes"], *([report["notice"]] if report["notice"] else [])])


DESCRIPTIONS = {
    "balance": "A row for each corpus and sex, a column for each emotion, darker where there are more clips.",
    "durations": "Histograms of the duration of clips, a line for each corpus and channel.",
    "levels": "Histograms of the loudness of clips, a line for each corpus and channel.",
}
"""What each picture shows, for those who cannot see it."""

_MOST_ROWS = 20  # of `draw_balance`


def draw_dataset(report: dict, folder: Path) -> list[Path]:
    """Write `balance.png` and `durations.png` of a report (`summarise`) into a folder."""
    with mpl.rc_context(STYLE):
        return save({"balance.png": draw_balance(report), "durations.png": draw_durations(report)}, folder)


def draw_audit(report: dict, folder: Path) -> list[Path]:
    """Write `balance.png`, `durations.png` and `levels.png` of an audit's report into a folder."""
    with mpl.rc_context(STYLE):
        figures = {
            "balance.png": draw_balance(report),
            "durations.png": draw_durations(report),
            "levels.png": draw_levels(report),
        }
        return save(figures, folder)


def draw_balance(report: dict) -> Figure:
    """Draw the clips of each emotion by corpus and sex: what a model could guess from the voice."""
    groups = most_of(list(report["balance"]), _MOST_ROWS) or ["no clips"]
    rows = [report["balance"].get(name, dict.fromkeys(EMOTIONS, 0)) for name in groups]
    counts = np.array([[row[emotion] for emotion in EMOTIONS] for row in rows])
    figure = Figure(figsize=(WIDTH, 2.6 + 0.4 * max(len(rows), 3)))
    axes = figure.subplots()
    most = max(int(counts.max()), 1)
    image = axes.imshow(counts, cmap="Blues", vmin=0, vmax=most, aspect="auto")
    between = f"… {len(report['balance']) - _MOST_ROWS:,} between them …"
    axes.set_yticks(range(len(groups)), [between if name is None else shortened(name, 20) for name in groups])
    axes.set_xticks(range(len(EMOTIONS)), EMOTIONS, rotation=40, ha="right", rotation_mode="anchor")
    for place, row in enumerate(counts):
        for column, count in enumerate(row if groups[place] is not None else ()):
            colour = ink(count / most)
            axes.text(column, place, compact(count), ha="center", va="center", color=colour, fontsize=11)
    axes.set(xlabel="emotion", ylabel="corpus and sex")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, label="clips", orientation="horizontal", aspect=25, pad=0.02)
    label_counts(bar.ax.xaxis)
    write_title(figure, "Emotion by corpus and sex")
    return figure


def draw_durations(report: dict) -> Figure:
    """Draw the distribution of clip durations of each corpus and channel."""
    return _draw_distributions(
        report["durations"], BIN_SECONDS, "Durations", "duration (s)", f"clips in {BIN_SECONDS} s"
    )


def draw_levels(report: dict) -> Figure:
    """Draw the distribution of loudness, by which a model could tell the corpora apart."""
    return _draw_distributions(report["levels"], 1, "Loudest 25 ms", "level (dB below full scale)", "clips in 1 dB")


def _draw_distributions(groups: dict[str, list[int]], width: float, title: str, xlabel: str, ylabel: str) -> Figure:
    """Histograms over each other; each has a colour and a line style of its own."""
    figure = Figure(figsize=(WIDTH, 4.6))
    axes = figure.subplots()
    for (group, counts), (colour, style, _) in zip(largest(groups, len(SERIES)).items(), SERIES, strict=False):
        edges = np.arange(len(counts) + 1) * width
        axes.stairs(counts, edges, fill=True, alpha=0.2, color=colour)
        label = f"{shortened(group)} ({compact(sum(counts))})"
        axes.stairs(counts, edges, color=colour, linestyle=style, linewidth=1.8, label=label)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    label_counts(axes.yaxis)
    legend_above(axes, columns=2)
    write_title(figure, title)
    return figure
