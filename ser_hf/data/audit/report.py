"""What is wrong with folders of recordings: read only, a report and never a repair."""

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby
from os import PathLike
from pathlib import PurePath

import joblib
import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ser_hf.data import describe
from ser_hf.data.audit.checks import KINDS, Inventory, by_corpus, find_problems
from ser_hf.data.audit.inspect import FileMeasurement, measure
from ser_hf.data.corpora import base
from ser_hf.data.corpora.base import File
from ser_hf.labels import EMOTIONS
from ser_hf.utils import templates
from ser_hf.utils.files import new_folder


def audit_recordings(folders: Iterable[str | PathLike], num_proc: int | None = None) -> dict:
    """Read every recording of some folders and zips once and report what is unusual.

    Args:
        folders: of RAVDESS, TESS or both, in any layout.
        num_proc: recordings read at a time; the number of cores where None.

    Returns:
        `files`, `recordings`, `needs_decision`; `inventory` {corpus channel: [there, official]};
        `counts` {corpus channel: {label: n}}, `balance` {corpus sex: …}, `speakers` {speaker: …};
        `durations` and `levels` {group: [n in each bin]}; `formats` {corpus: {format: n}};
        `findings` (fields of `findings.Finding`); `confounds` and `others` (files that are no
        audio), lines.

    Raises:
        CorpusError: where a folder is missing or holds no audio.
        ArchiveError: where a zip cannot be read.
    """
    audio_files, others = [], []
    for folder in folders:
        found, rest = base.files(folder)
        audio_files += found
        others += rest
    audio_files = list({file.place: file for file in reversed(audio_files)}.values())[::-1]
    others = list({file.place: file for file in others}.values())
    known, unknown = _measured(audio_files, num_proc or joblib.cpu_count())
    findings, own = find_problems(known, unknown)
    by_name = {(item.corpus, item.key): item for item in reversed(own)}  # the first file of each name
    once = [by_name[name] for name in sorted(by_name)]
    return {
        "files": len(audio_files),
        "recordings": len(once),
        "needs_decision": any(finding.decide for finding in findings),
        "inventory": _inventory(once),
        **_counts(once),
        "findings": [asdict(finding) for finding in findings],
        "confounds": list(_confounds(once)),
        "others": sorted(map(str, others)),
    }


def _measured(files: list[File], workers: int) -> tuple[list[Inventory], list[FileMeasurement]]:
    """Those with an official name, and the others."""
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        results = list(tqdm(pool.map(measure, files), total=len(files), desc="Reading", unit=" recordings"))
    known, unknown = [], []
    for result in results:
        parsed = base.parse(result.file.name)
        if parsed is None:
            unknown.append(result)
        else:
            known.append(Inventory(result, *parsed))
    return known, unknown


def _inventory(once: list[Inventory]) -> dict[str, list[int]]:
    """How many official recordings of each corpus and channel are there, and how many there are."""
    counts = {}
    for corpus, items in by_corpus(once).items():
        official = base.INVENTORIES[corpus]()
        there = Counter(official[item.key] for item in items if item.key in official)
        counts |= {f"{corpus} {name}": [there[name], n] for name, n in Counter(official.values()).items()}
    return counts


def _counts(once: list[Inventory]) -> dict:
    labels = [item.fields["emotion"] for item in once]
    channels = [f"{item.corpus} {item.fields['channel']}" for item in once]
    quiet = np.array([max(-round(item.measured.level), 0) for item in once])  # dB below full scale
    formats: dict[str, Counter] = {corpus: Counter() for corpus in by_corpus(once)}
    for item in once:
        found = item.measured
        said = f"{found.rate:,} Hz, {found.channels} channel(s), {found.container} {found.subtype}"
        formats[item.corpus][said] += 1
    return {
        "counts": describe.counted(channels, labels),
        "balance": describe.counted([f"{item.corpus} {item.fields['sex']}" for item in once], labels),
        "speakers": dict(sorted(describe.counted([item.fields["speaker"] for item in once], labels).items())),
        "durations": describe.histograms(channels, [item.measured.seconds for item in once]),
        "levels": {
            group: np.bincount(quiet[np.array(channels) == group]).tolist() for group in dict.fromkeys(channels)
        },
        "formats": {corpus: dict(counts.most_common()) for corpus, counts in formats.items()},
    }


def _confounds(once: list[Inventory]) -> Iterator[str]:
    """What a model could learn instead of emotion: it lies in how the corpora were made, in no
    single file."""
    groups = by_corpus(once)
    acted = {corpus: _acted(corpus) for corpus in groups}  # by design, so that a part of a corpus says the same
    for emotion in EMOTIONS:
        where = [corpus for corpus, channels in acted.items() if any(emotion in its for its in channels.values())]
        if len(groups) > 1 and len(where) == 1:
            yield f"{emotion} exists only in {where[0]}: to know the corpus is half of knowing it"
    for corpus, items in groups.items():
        sexes = {base.GRAMMARS[corpus](name)["sex"] for name in base.INVENTORIES[corpus]()}
        if len(sexes) == 1:
            yield f"every voice of {corpus} is {sexes.pop()}"
        for channel in sorted({item.fields["channel"] for item in items}):
            elsewhere = set().union(*acted[corpus].values()) - acted[corpus][channel]
            if elsewhere:
                absent = " and ".join(emotion for emotion in EMOTIONS if emotion in elsewhere)
                yield f"{absent} are not acted in the {channel} of {corpus}"
    levels = {corpus: float(np.median([item.measured.level for item in items])) for corpus, items in groups.items()}
    if levels and max(levels.values()) - min(levels.values()) > 3:
        said = ", ".join(f"{corpus} {level:.0f} dB" for corpus, level in levels.items())
        yield f"loudness tells the corpora apart (median of the loudest 25 ms: {said})"
    rates = {corpus: {item.measured.rate for item in items} for corpus, items in groups.items()}
    if len(rates) > 1 and not set.intersection(*rates.values()):
        yield "the sampling rate tells the corpora apart: a trace of it survives resampling"


def _acted(corpus: str) -> dict[str, set[str]]:
    """The emotions of each channel of a corpus, by its official names."""
    emotions = defaultdict(set)
    for name, channel in base.INVENTORIES[corpus]().items():
        emotions[channel].add(base.GRAMMARS[corpus](name)["emotion"])
    return emotions


def grouped(report: dict) -> list[tuple[str, list[dict]]]:
    """The findings by kind, those first about which somebody has to decide."""
    by_kind = [(kind, list(found)) for kind, found in groupby(report["findings"], key=lambda finding: finding["kind"])]
    return sorted(by_kind, key=lambda pair: not any(finding["decide"] for finding in pair[1]))


def audit_table(report: dict, most: int = 5) -> str:
    """The report as text: what is there, then every kind of finding with its first files."""
    lines = [f"{report['files']:,} audio files, {report['recordings']:,} recordings that are what their names say"]
    if not report["inventory"]:
        lines.append("None has a name of RAVDESS or TESS: only their sound was checked.")
    for group, (there, official) in report["inventory"].items():
        lines.append(
            f"  {group:16} {there:6,} of {official:,}" + (" (a part of the corpus)" if 2 * there < official else "")
        )
    for corpus, formats in report["formats"].items():
        lines += [f"  {corpus:16} {count:6,} × {said}" for said, count in formats.items()]
    for groups in (report["counts"], report["balance"]):
        lines += ["", *describe.label_table(groups)] if groups else []
    lines.append("")
    for kind, found in grouped(report):
        decide = sum(finding["decide"] for finding in found)
        count = f"{decide:,} of {len(found):,}" if 0 < decide < len(found) else f"{len(found):,}"
        lines.append(f"{'DECIDE' if decide else 'note'} {count} {kind}: {KINDS[kind]}")
        lines += [f"    {finding['says']}" for finding in found[:most]]
        if len(found) > most:
            lines.append(f"    … and {len(found) - most:,} more (--output DIR lists all)")
    lines += [f"confound: {line}" for line in report["confounds"]]
    if report["others"]:
        lines.append(
            f"{len(report['others']):,} other files: {', '.join(PurePath(p).name for p in report['others'][:most])}"
        )
    decisions = sum(finding["decide"] for finding in report["findings"])
    return "\n".join([*lines, "", f"{decisions:,} of {len(report['findings']):,} findings need a decision"])


def write_audit(report: dict, output: str | PathLike) -> None:
    """`audit.json`, the pictures, and the page `audit.html`, which needs no other file; the folder
    must not exist yet.

    Raises:
        UserError: if it exists.
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
    values = {"r": report, "grouped": grouped(report), "kinds": KINDS, "pictures": pictures, "emotions": EMOTIONS}
    return templates.render("audit.html.jinja", **values)
