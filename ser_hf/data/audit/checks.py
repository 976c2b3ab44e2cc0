"""The checks of an audit: what is unusual about recordings that were measured, each with a sentence
that says so."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ser_hf.audio import fingerprint
from ser_hf.data.audit.inspect import FileMeasurement
from ser_hf.data.corpora import base, ravdess, tess
from ser_hf.labels import TESS_NAMES

KINDS: dict[str, str] = {
    "missing": "official recordings that are not there",
    "unexpected": "audio without an official name, or with one that the corpus has not",
    "name": "names that are not spelt as the official ones, and understood",
    "folder": "folders that contradict the name of the file",
    "undecodable": "files that cannot be read",
    "truncated": "files that are shorter than their header says",
    "foreign": "recordings that are not of the corpus, by format and length",
    "container": "contents of another container than the ending says",
    "sampling rate": "another sampling rate than most of the corpus",
    "channels": "another number of channels than most of the corpus",
    "sample format": "another sample format than most of the corpus",
    "duration": "much shorter or longer than the corpus",
    "broken samples": "NaN or infinite samples",
    "clipping": "samples cut off at full scale",
    "silence": "no sound",
    "offset": "a constant offset (DC)",
    "copy": "a recording that is there twice under its name",
    "conflict": "one name, two recordings",
    "same samples": "two names, the same samples",
    "near duplicate": "two names, the same recording (fingerprint)",
}
"""Every kind of finding, in the order of the report."""

KNOWN_PAIR = {"03-01-03-01-02-01-07", "03-01-03-01-02-02-07"}
"""The two official RAVDESS names that hold the same samples; published folds count both."""

_FORMATS = {"sampling rate": "rate", "channels": "channels", "sample format": "subtype"}
_ENOUGH = 5  # recordings of a corpus below which none can be called unusual
_OFFICIAL = {"ravdess": ravdess.EXPECTED_FORMAT, "tess": tess.EXPECTED_FORMAT}


@dataclass(frozen=True)
class Finding:
    """One thing that was found: its kind, the files, a sentence, and whether somebody has to decide
    what to do."""

    kind: str
    files: tuple[str, ...]
    says: str
    decide: bool


@dataclass(frozen=True)
class Inventory:
    """A measured recording with what its name says of it."""

    measured: FileMeasurement
    corpus: str
    fields: dict

    @property
    def file(self) -> str:
        return str(self.measured.file)

    @property
    def key(self) -> str:
        return self.fields["key"]


def find_problems(known: list[Inventory], unknown: list[FileMeasurement]) -> tuple[list[Finding], list[Inventory]]:
    """All findings in the order of `KINDS`, and the recordings that are what their names say.

    Args:
        known: recordings with an official name.
        unknown: audio files without.
    """
    readable = [item for item in known if item.measured.error is None]
    foreign = list(_foreign(readable))
    strange = {file for finding in foreign for file in finding.files}
    own = [item for item in readable if item.file not in strange]
    findings = [
        *_missing(own),
        *_unexpected(known, unknown),
        *_names(known),
        *_unreadable([*(item.measured for item in known), *unknown]),
        *foreign,
        *_formats(own),
        *_durations(own),
        *_signals([*(item.measured for item in readable), *(item for item in unknown if item.error is None)]),
        *_doubles(
            [*readable, *(Inventory(item, "", {"key": str(item.file)}) for item in unknown if item.error is None)]
        ),
    ]
    order = list(KINDS)
    return sorted(findings, key=lambda finding: (order.index(finding.kind), not finding.decide, finding.files)), own


def by_corpus(items: list[Inventory]) -> dict[str, list[Inventory]]:
    """The recordings of each corpus, corpora sorted by name."""
    groups = defaultdict(list)
    for item in items:
        groups[item.corpus].append(item)
    return dict(sorted(groups.items()))


def _missing(own: list[Inventory]) -> Iterator[Finding]:
    for corpus, items in by_corpus(own).items():
        for name in base.missing(corpus, (item.key for item in items)):
            yield Finding("missing", (name,), f"{name} of {corpus} is not there: download it again", True)


def _unexpected(known: list[Inventory], unknown: list[FileMeasurement]) -> Iterator[Finding]:
    if known:  # in a folder of another corpus no name is official, and none is unexpected
        for item in unknown:
            name = str(item.file)
            yield Finding("unexpected", (name,), f"{name} has no official name: rename it or take it out", True)
    for corpus, items in by_corpus(known).items():
        official = base.INVENTORIES[corpus]()
        for item in items:
            if item.key not in official and item.fields["statement"] is not None:  # copies of TESS lost their names
                says = f"{item.file} is named like {corpus}, which has no {item.key}: rename it or take it out"
                yield Finding("unexpected", (item.file,), says, True)


def _names(known: list[Inventory]) -> Iterator[Finding]:
    for item in known:
        path = item.measured.file.name
        if path.stem.lower() != item.key.lower():
            yield Finding("name", (item.file,), f"{path.name} is read as {item.key}", False)
        folder = path.parent.name.lower().split("_")
        speaker, emotion = item.fields["speaker"].split("-")[1], item.fields["emotion"]
        if folder[0] == "actor" and len(folder) == 2 and folder[1].isdigit():
            contradicts = tess.RENAMED_FOLDERS.get("_".join(folder), folder[1].zfill(2)) != speaker
        elif folder[0] in ("oaf", "yaf") and len(folder) > 1:
            said = "_".join(folder[1:])
            contradicts = folder[0] != speaker or TESS_NAMES.get(tess.ALIASES.get(said, said), emotion) != emotion
        else:
            contradicts = False
        if contradicts:
            says = f"{item.file}: the folder says {path.parent.name}, the name {item.fields['speaker']}, {emotion}"
            yield Finding("folder", (item.file,), says, True)


def _unreadable(items: list[FileMeasurement]) -> Iterator[Finding]:
    for item in items:
        name = str(item.file)
        if item.error is not None:
            yield Finding("undecodable", (name,), item.error, True)
        elif item.truncated:
            yield Finding("truncated", (name,), f"{name} is shorter than its header says: download it again", True)


def _usual(items: list[Inventory], attribute: str) -> tuple[object, int]:
    """The most common value and its count; the official one where two are as common."""
    values = Counter(getattr(item.measured, attribute) for item in items)
    official = _OFFICIAL.get(items[0].corpus, ())
    return max(values.items(), key=lambda pair: (pair[1], pair[0] in official))


def _unusual(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _outlying(items: list[Inventory]) -> Callable[[Inventory], bool]:
    """Whether a duration lies far outside its corpus and channel: 8 robust standard deviations and
    a second."""
    limits = {}
    for channel in {item.fields["channel"] for item in items}:
        seconds = np.array([item.measured.seconds for item in items if item.fields["channel"] == channel])
        middle = float(np.median(seconds))
        spread = 1.4826 * float(np.median(np.abs(seconds - middle)))
        limits[channel] = (middle, max(8 * spread, 1.0) if len(seconds) >= _ENOUGH else np.inf)
    return lambda item: (
        abs(item.measured.seconds - limits[item.fields["channel"]][0]) > limits[item.fields["channel"]][1]
    )


def _foreign(readable: list[Inventory]) -> Iterator[Finding]:
    """Somebody recorded over a file: rate and sample format are not the corpus's, the length is
    twice or half of it."""
    for corpus, items in by_corpus(readable).items():
        if len(items) < _ENOUGH:
            continue
        rate, subtype = _usual(items, "rate")[0], _usual(items, "subtype")[0]
        usual = float(np.median([item.measured.seconds for item in items]))
        for item in items:
            found = item.measured
            if found.rate != rate and found.subtype != subtype and not usual / 2 < found.seconds < usual * 2:
                says = (
                    f"{item.file} is no recording of {corpus}: {found.seconds:.1f} s (usual: {usual:.1f}) at "
                    f"{found.rate:,} Hz, {found.subtype}: download it again"
                )
                yield Finding("foreign", (item.file,), says, True)


def _formats(own: list[Inventory]) -> Iterator[Finding]:
    for item in own:
        suffix = item.measured.file.name.suffix.lower()
        if item.measured.misnamed(suffix):
            says = f"{item.file} is {item.measured.container} inside; it is read by its content"
            yield Finding("container", (item.file,), says, False)
    for corpus, items in by_corpus(own).items():
        if len(items) < _ENOUGH:
            continue
        for kind, attribute in _FORMATS.items():
            usual, count = _usual(items, attribute)
            for item in items:
                value = getattr(item.measured, attribute)
                if value != usual:
                    says = (
                        f"{item.file}: {kind} {_unusual(value)}, where {count:,} of {len(items):,} of {corpus} "
                        f"have {_unusual(usual)}"
                    )
                    yield Finding(kind, (item.file,), says, False)


def _durations(own: list[Inventory]) -> Iterator[Finding]:
    for corpus, items in by_corpus(own).items():
        outlying = _outlying(items)
        for item in items:
            if outlying(item):
                says = (
                    f"{item.file} is {item.measured.seconds:.1f} s long, far from the others of {corpus}: listen to it"
                )
                yield Finding("duration", (item.file,), says, True)


def _signals(items: list[FileMeasurement]) -> Iterator[Finding]:
    for item in items:
        name = str(item.file)
        if item.broken:
            says = f"{name} holds {item.broken:,} NaN or infinite samples: take it out or write it again"
            yield Finding("broken samples", (name,), says, True)
        if item.clipped:
            yield Finding("clipping", (name,), f"{name}: {item.clipped:.2%} of the samples", item.clipped >= 0.01)
        if item.level < -60:
            yield Finding("silence", (name,), f"{name} is never louder than {item.level} dB: take it out", True)
        if abs(item.offset) > 0.01:
            yield Finding("offset", (name,), f"{name}: the mean is {item.offset:+.3f} of full scale", False)


def _doubles(readable: list[Inventory]) -> Iterator[Finding]:
    """Copies and conflicts under one name; the same samples, or the same recording, under two,
    official or not."""
    digests = list(dict.fromkeys(item.measured.digest for item in readable))
    prints = {item.measured.digest: item.measured.print for item in reversed(readable)}
    same = {
        frozenset((digests[pair.one], digests[pair.other])): pair
        for pair in fingerprint.near_duplicates([prints[digest] for digest in digests])
    }
    first: dict[tuple[str, str], Inventory] = {}
    for item in readable:
        original = first.setdefault((item.corpus, item.key), item)
        if original is item:
            continue
        alike = item.measured.digest == original.measured.digest
        if alike or frozenset((item.measured.digest, original.measured.digest)) in same:
            how = "the same samples" if alike else "the same recording in another form"
            says = f"{item.file} is {original.file} once more, {how}: it must not count twice"
            yield Finding("copy", (original.file, item.file), says, True)
        else:
            says = f"{item.file} and {original.file} share a name and not the sound: keep the right one"
            yield Finding("conflict", (original.file, item.file), says, True)
    yield from _two_names(list(first.values()), same)


def _two_names(items: list[Inventory], same: dict[frozenset, fingerprint.Pair]) -> Iterator[Finding]:
    by_digest = defaultdict(list)
    for item in items:
        by_digest[item.measured.digest].append(item)
    for group in by_digest.values():
        if len(group) > 1:
            official = {item.key for item in group} == KNOWN_PAIR
            says = f"{' and '.join(item.file for item in group)} hold the same samples" + (
                ", officially: keep both on one side of a split" if official else ": take one out"
            )
            yield Finding("same samples", tuple(item.file for item in group), says, not official)
    for (one, other), pair in ((sorted(key), pair) for key, pair in same.items()):
        for here in by_digest.get(one, ()):
            for there in by_digest.get(other, ()):
                says = (
                    f"{here.file} and {there.file} are the same recording ({pair.error:.1%} of the bits differ, "
                    f"{abs(pair.offset):.2f} s apart): take one out"
                )
                yield Finding("near duplicate", tuple(sorted((here.file, there.file))), says, True)
