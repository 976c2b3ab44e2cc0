"""The audit of folders of recordings: it reads and reports, and never repairs."""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby
from os import PathLike
from pathlib import PurePath
from typing import Any

import joblib
import numpy as np

from ser_hf.data import describe
from ser_hf.data.audit.checks import KINDS, NamedRecording, find_problems, group_by_corpus
from ser_hf.data.audit.inspect import FileMeasurement, inspect_file
from ser_hf.data.corpora import CORPORA, parse_name
from ser_hf.data.corpora.base import File, list_files
from ser_hf.labels import EMOTIONS
from ser_hf.utils import blas, progress, templates
from ser_hf.utils.files import new_folder
from ser_hf.utils.zip_reader import ArchiveError


def audit_recordings(folders: Iterable[str | PathLike], num_proc: int | None = None) -> dict:
    """Read every recording of some folders and zips once and report what is unusual.

    Args:
        folders: of any corpora, in any layout.
        num_proc: recordings read at a time; the number of cores where None.

    Returns:
        `files`, `recordings`, `needs_decision`; `inventory` {corpus channel: [there, official]};
        `counts` {corpus channel: {label: n}}, `balance` {corpus sex: …}, `speakers` {speaker: …};
        `durations` and `levels` {group: [n in each bin]}; `formats` {corpus: {format: n}};
        `findings` (fields of `ser_hf.data.audit.checks.Finding`); `confounds` and `others` (files
        that are no audio), lines.

    Raises:
        CorpusError: where a folder is missing or holds no audio.
        ArchiveError: where a zip cannot be read and its folder holds no other recordings.
    """
    audio_files: list[File] = []
    other_files: list[File] = []
    broken: dict[str, ArchiveError] = {}
    for folder in folders:
        audio_of_folder, others_of_folder = list_files(folder, broken)
        audio_files += audio_of_folder
        other_files += others_of_folder
    audio_files = list({file.place: file for file in reversed(audio_files)}.values())[::-1]
    other_files = list({file.place: file for file in other_files}.values())
    named, unnamed = _inspect_all(audio_files, num_proc or joblib.cpu_count())
    findings, genuine = find_problems(named, unnamed, {path: str(error) for path, error in broken.items()})
    by_name = {(item.corpus, item.key): item for item in reversed(genuine)}  # the first file of each name
    recordings = [by_name[name] for name in sorted(by_name)]
    return {
        "files": len(audio_files),
        "recordings": len(recordings),
        "needs_decision": any(finding.decide for finding in findings),
        "inventory": _inventory(recordings),
        **_counts(recordings),
        "findings": [asdict(finding) for finding in findings],
        "confounds": list(_confounds(recordings)),
        "others": sorted(map(str, other_files)),
    }


def _inspect_all(files: list[File], workers: int) -> tuple[list[NamedRecording], list[FileMeasurement]]:
    """Read all files; return those with an official name, and the others."""
    with blas.one_thread(), ThreadPoolExecutor(workers) as pool:
        results = list(progress.each(pool.map(inspect_file, files), "Reading", len(files), "recordings"))
    named, unnamed = [], []
    for result in results:
        parsed = parse_name(result.file.name)
        if parsed is None:
            unnamed.append(result)
        else:
            named.append(NamedRecording(result, *parsed))
    return named, unnamed


def _inventory(recordings: list[NamedRecording]) -> dict[str, list[int]]:
    """How many official recordings of each corpus and channel are present, and how many exist."""
    counts: dict[str, Any] = {}
    for corpus, items in group_by_corpus(recordings).items():
        inventory = CORPORA[corpus].inventory()
        present = Counter(inventory[item.key] for item in items if item.key in inventory)
        counts |= {f"{corpus} {name}": [present[name], total] for name, total in Counter(inventory.values()).items()}
    return counts


def _counts(recordings: list[NamedRecording]) -> dict:
    labels = [item.fields["emotion"] for item in recordings]
    channels = [f"{item.corpus} {item.fields['channel']}" for item in recordings]
    quiet = np.array([max(-round(item.measured.level), 0) for item in recordings])  # dB below full scale
    formats: dict[str, Counter] = {corpus: Counter() for corpus in group_by_corpus(recordings)}
    for item in recordings:
        measured = item.measured
        description = f"{measured.rate:,} Hz, {measured.channels} channel(s), {measured.container} {measured.subtype}"
        formats[item.corpus][description] += 1
    return {
        "counts": describe.count_labels(channels, labels),
        "balance": describe.count_labels([f"{item.corpus} {item.fields['sex']}" for item in recordings], labels),
        "speakers": dict(
            sorted(describe.count_labels([item.fields["speaker"] for item in recordings], labels).items())
        ),
        "durations": describe.duration_histograms(channels, [item.measured.seconds for item in recordings]),
        "levels": {
            group: np.bincount(quiet[np.array(channels) == group]).tolist() for group in dict.fromkeys(channels)
        },
        "formats": {corpus: dict(counts.most_common()) for corpus, counts in formats.items()},
    }


def _confounds(recordings: list[NamedRecording]) -> Iterator[str]:
    """What a model could learn instead of emotion, from how the corpora were made."""
    groups = group_by_corpus(recordings)
    acted = {corpus: CORPORA[corpus].emotions() for corpus in groups}  # by design, the same for a part of a corpus
    for emotion in EMOTIONS:
        owners = [corpus for corpus, channels in acted.items() if emotion in set().union(*channels.values())]
        if len(groups) > 1 and len(owners) == 1:
            yield f"{emotion} exists only in {owners[0]}: to know the corpus is half of knowing it"
    for corpus, items in groups.items():
        sexes = CORPORA[corpus].sexes()
        if len(sexes) == 1:
            yield f"every voice of {corpus} is {sexes.pop()}"
        for channel in sorted({item.fields["channel"] for item in items}):
            elsewhere = set().union(*acted[corpus].values()) - acted[corpus][channel]
            if elsewhere:
                absent = " and ".join(emotion for emotion in EMOTIONS if emotion in elsewhere)
                yield f"{absent} are not acted in the {channel} of {corpus}"
    levels = {corpus: float(np.median([item.measured.level for item in items])) for corpus, items in groups.items()}
    if levels and max(levels.values()) - min(levels.values()) > 3:
        medians = ", ".join(f"{corpus} {level:.0f} dB" for corpus, level in levels.items())
        yield f"loudness tells the corpora apart (median of the loudest 25 ms: {medians})"
    rates = {corpus: {item.measured.rate for item in items} for corpus, items in groups.items()}
    if len(rates) > 1 and not set.intersection(*rates.values()):
        yield "the sampling rate tells the corpora apart: a trace of it survives resampling"


def findings_by_kind(report: dict) -> list[tuple[str, list[dict]]]:
    """Return the findings by kind, those first about which somebody has to decide."""
    by_kind = [
        (kind, list(findings)) for kind, findings in groupby(report["findings"], key=lambda finding: finding["kind"])
    ]
    return sorted(by_kind, key=lambda pair: not any(finding["decide"] for finding in pair[1]))


def audit_table(report: dict, most: int = 5) -> str:
    """Return the report as text: what is there, then each kind of finding with its first files."""
    lines = [f"{report['files']:,} audio files, {report['recordings']:,} recordings that are what their names say"]
    if not report["inventory"]:
        titles = " or ".join(corpus.title for corpus in CORPORA.values())
        lines.append(f"None has a name of {titles}: only their sound was checked.")
    for group, (present, total) in report["inventory"].items():
        lines.append(
            f"  {group:16} {present:6,} of {total:,}" + (" (a part of the corpus)" if 2 * present < total else "")
        )
    for corpus, formats in report["formats"].items():
        lines += [f"  {corpus:16} {count:6,} × {audio_format}" for audio_format, count in formats.items()]
    for groups in (report["counts"], report["balance"]):
        lines += ["", *describe.label_table(groups)] if groups else []
    lines.append("")
    for kind, findings in findings_by_kind(report):
        decide = sum(finding["decide"] for finding in findings)
        count = f"{decide:,} of {len(findings):,}" if 0 < decide < len(findings) else f"{len(findings):,}"
        lines.append(f"{'DECIDE' if decide else 'note'} {count} {kind}: {KINDS[kind]}")
        lines += [f"    {finding['says']}" for finding in findings[:most]]
        if len(findings) > most:
            lines.append(f"    … and {len(findings) - most:,} more (--output DIR lists all)")
    lines += [f"confound: {line}" for line in report["confounds"]]
    if report["others"]:
        names = ", ".join(PurePath(path).name for path in report["others"][:most])
        lines.append(f"{len(report['others']):,} other files: {names}")
    decisions = sum(finding["decide"] for finding in report["findings"])
    return "\n".join([*lines, "", f"{decisions:,} of {len(report['findings']):,} findings need a decision"])


def write_audit(report: dict, output: str | PathLike) -> None:
    """Write `audit.json`, the pictures, and the page `audit.html`, which needs no other file.

    Raises:
        UserError: if `output` exists.
    """
    with new_folder(output) as partial:
        pictures = describe.draw_audit(report, partial / "pictures")
        (partial / "audit.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        encoded = {picture.stem: base64.b64encode(picture.read_bytes()).decode() for picture in pictures}
        page = _audit_page(report, encoded)
        (partial / "audit.html").write_text(page, encoding="utf-8")


def _audit_page(report: dict, pictures: dict[str, str]) -> str:
    """The page of an audit, complete in itself: text from file names is escaped, nothing is loaded.

    `pictures` are PNG in base64, by name.
    """
    values: dict[str, Any] = {
        "r": report,
        "grouped": findings_by_kind(report),
        "kinds": KINDS,
        "pictures": pictures,
        "descriptions": describe.DESCRIPTIONS,
        "emotions": EMOTIONS,
    }
    return templates.render("audit.html.jinja", **values)
