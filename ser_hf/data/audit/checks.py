"""The checks of an audit: what is unusual about measured recordings, a sentence each."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ser_hf import audio
from ser_hf.audio import fingerprint
from ser_hf.data.audit.inspect import FileMeasurement
from ser_hf.data.corpora import CORPORA

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
    "cancelling channels": "a channel that is another one inverted",
    "silence": "no sound",
    "offset": "a constant offset (DC)",
    "copy": "a recording that is there twice under its name",
    "conflict": "one name, two recordings",
    "same samples": "two names, the same samples",
    "near duplicate": "two names, the same recording (fingerprint)",
}
"""Every kind of finding, in the order of the report."""

_FORMATS = {"sampling rate": "rate", "channels": "channels", "sample format": "subtype"}
_ENOUGH = 5  # recordings of a corpus below which none can be called unusual


@dataclass(frozen=True)
class Finding:
    """A finding: its kind, the files, a sentence, and whether somebody has to decide about it."""

    kind: str
    files: tuple[str, ...]
    says: str
    decide: bool


@dataclass(frozen=True)
class NamedRecording:
    """A measured recording with an official name, and the fields that its name gives."""

    measured: FileMeasurement
    corpus: str
    fields: dict

    @property
    def file(self) -> str:
        return str(self.measured.file)

    @property
    def key(self) -> str:
        return self.fields["key"]


def find_problems(
    named: list[NamedRecording], unnamed: list[FileMeasurement], archives: Mapping[str, str] | None = None
) -> tuple[list[Finding], list[NamedRecording]]:
    """Return all findings by `KINDS`, and the recordings that are what their names say.

    Args:
        named: recordings with an official name.
        unnamed: audio files without.
        archives: why a zip cannot be read, by its path.
    """
    readable = [item for item in named if item.measured.error is None]
    foreign = list(_foreign(readable))
    foreign_files = {file for finding in foreign for file in finding.files}
    genuine = [item for item in readable if item.file not in foreign_files]
    findings = [
        *_missing(genuine),
        *_unexpected(named, unnamed),
        *_names(named),
        *_unreadable([*(item.measured for item in named), *unnamed]),
        *(Finding("undecodable", (path,), error, True) for path, error in (archives or {}).items()),
        *foreign,
        *_formats(genuine),
        *_durations(genuine),
        *_signals([*(item.measured for item in readable), *(item for item in unnamed if item.error is None)]),
        *_duplicates(
            [*readable, *(NamedRecording(item, "", {"key": str(item.file)}) for item in unnamed if item.error is None)]
        ),
    ]
    order = list(KINDS)
    return sorted(findings, key=lambda finding: (order.index(finding.kind), not finding.decide, finding.files)), genuine


def group_by_corpus(items: list[NamedRecording]) -> dict[str, list[NamedRecording]]:
    """Return the recordings of each corpus, corpora sorted by name."""
    groups = defaultdict(list)
    for item in items:
        groups[item.corpus].append(item)
    return dict(sorted(groups.items()))


def _missing(genuine: list[NamedRecording]) -> Iterator[Finding]:
    for corpus, items in group_by_corpus(genuine).items():
        for name in CORPORA[corpus].missing(item.key for item in items):
            yield Finding("missing", (name,), f"{name} of {corpus} is not there: download it again", True)


def _unexpected(named: list[NamedRecording], unnamed: list[FileMeasurement]) -> Iterator[Finding]:
    if named:  # in a folder of another corpus no name is official, and none is unexpected
        for measured in unnamed:
            name = str(measured.file)
            yield Finding("unexpected", (name,), f"{name} has no official name: rename it or take it out", True)
    for corpus, items in group_by_corpus(named).items():
        inventory = CORPORA[corpus].inventory()
        for item in items:
            if item.key not in inventory and item.fields["statement"] is not None:  # copies of TESS lost their names
                message = f"{item.file} is named like {corpus}, which has no {item.key}: rename it or take it out"
                yield Finding("unexpected", (str(item.file),), message, True)


def _names(named: list[NamedRecording]) -> Iterator[Finding]:
    for item in named:
        path = item.measured.file.name
        if path.stem.lower() != item.key.lower():
            yield Finding("name", (item.file,), f"{path.name} is read as {item.key}", False)
        if _folder_contradicts(path.parent.name, item.fields):
            message = (
                f"{item.file}: the folder says {path.parent.name}, the name {item.fields['speaker']}, "
                f"{item.fields['emotion']}"
            )
            yield Finding("folder", (item.file,), message, True)


def _folder_contradicts(folder: str, fields: dict) -> bool:
    """Whether a folder's name stands for a speaker or an emotion, but not for those of a file."""
    claims = [claim for corpus in CORPORA.values() if (claim := corpus.folder_claim(folder)) is not None]
    agrees = any(speaker == fields["speaker"] and emotion in (None, fields["emotion"]) for speaker, emotion in claims)
    return bool(claims) and not agrees


def _unreadable(items: list[FileMeasurement]) -> Iterator[Finding]:
    for item in items:
        name = str(item.file)
        if item.error is not None:
            yield Finding("undecodable", (name,), item.error, True)
        elif item.unfinished:
            message = f"{name} broke off before its length was written: what it holds is read"
            yield Finding("truncated", (name,), message, True)
        elif item.truncated:
            yield Finding("truncated", (name,), f"{name} is shorter than its header says: download it again", True)


def _usual(items: list[NamedRecording], attribute: str) -> tuple[object, int]:
    """The most common value and its count; the official value where two are as common."""
    values = Counter(getattr(item.measured, attribute) for item in items)
    expected = CORPORA[items[0].corpus].expected_format
    return max(values.items(), key=lambda pair: (pair[1], pair[0] in expected))


def _unusual(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _outlying(items: list[NamedRecording]) -> Callable[[NamedRecording], bool]:
    """Return a test whether a duration lies far outside those of its corpus and channel.

    Far is 8 robust standard deviations and a second.
    """
    limits = {}
    for channel in {item.fields["channel"] for item in items}:
        seconds = np.array([item.measured.seconds for item in items if item.fields["channel"] == channel])
        middle = float(np.median(seconds))
        spread = 1.4826 * float(np.median(np.abs(seconds - middle)))
        limits[channel] = (middle, max(8 * spread, 1.0) if len(seconds) >= _ENOUGH else np.inf)
    return lambda item: (
        abs(item.measured.seconds - limits[item.fields["channel"]][0]) > limits[item.fields["channel"]][1]
    )


def _foreign(readable: list[NamedRecording]) -> Iterator[Finding]:
    """Files that were recorded over.

    Rate and sample format are not those of the corpus; the length is twice or half of the usual.
    """
    for corpus, items in group_by_corpus(readable).items():
        if len(items) < _ENOUGH:
            continue
        rate, subtype = _usual(items, "rate")[0], _usual(items, "subtype")[0]
        usual = float(np.median([item.measured.seconds for item in items]))
        for item in items:
            measured = item.measured
            if measured.rate != rate and measured.subtype != subtype and not usual / 2 < measured.seconds < usual * 2:
                message = (
                    f"{item.file} is no recording of {corpus}: {measured.seconds:.1f} s (usual: {usual:.1f}) at "
                    f"{measured.rate:,} Hz, {measured.subtype}: download it again"
                )
                yield Finding("foreign", (item.file,), message, True)


def _formats(genuine: list[NamedRecording]) -> Iterator[Finding]:
    for item in genuine:
        suffix = item.measured.file.name.suffix.lower()
        if item.measured.misnamed(suffix):
            message = f"{item.file} is {item.measured.container} inside; it is read by its content"
            yield Finding("container", (item.file,), message, False)
    for corpus, items in group_by_corpus(genuine).items():
        if len(items) < _ENOUGH:
            continue
        for kind, attribute in _FORMATS.items():
            usual, count = _usual(items, attribute)
            for item in items:
                value = getattr(item.measured, attribute)
                if value != usual:
                    message = (
                        f"{item.file}: {kind} {_unusual(value)}, where {count:,} of {len(items):,} of {corpus} "
                        f"have {_unusual(usual)}"
                    )
                    yield Finding(kind, (item.file,), message, False)


def _durations(genuine: list[NamedRecording]) -> Iterator[Finding]:
    for corpus, items in group_by_corpus(genuine).items():
        outlying = _outlying(items)
        for item in items:
            if outlying(item):
                message = (
                    f"{item.file} is {item.measured.seconds:.1f} s long, far from the others of {corpus}: listen to it"
                )
                yield Finding("duration", (item.file,), message, True)


def _signals(items: list[FileMeasurement]) -> Iterator[Finding]:
    for item in items:
        name = str(item.file)
        if item.broken:
            message = f"{name} holds {item.broken:,} NaN or infinite samples: take it out or write it again"
            yield Finding("broken samples", (name,), message, True)
        if item.clipped:
            yield Finding("clipping", (name,), f"{name}: {item.clipped:.2%} of the samples", item.clipped >= 0.01)
        if item.cancelling:
            message = (
                f"{name}: a channel is another one inverted, so that their mean would cancel: it is turned round first"
            )
            yield Finding("cancelling channels", (name,), message, False)
        if item.level < audio.SILENT:
            yield Finding("silence", (name,), f"{name} is never louder than {item.level} dB: take it out", True)
        if abs(item.offset) > 0.01:
            yield Finding(
                "offset", (name,), f"{name}: the mean is {item.offset:+.3f} of full scale: it is taken away", False
            )


def _duplicates(readable: list[NamedRecording]) -> Iterator[Finding]:
    """Copies and conflicts under one name; the same samples, or the same recording, under two."""
    digests = list(dict.fromkeys(item.measured.digest for item in readable))
    measured = [item.measured for item in reversed(readable)]
    prints = {one.digest: one.fingerprint for one in measured if one.fingerprint is not None}
    same_recording = {
        frozenset((digests[pair.first], digests[pair.second])): pair
        for pair in fingerprint.near_duplicates([prints[digest] for digest in digests])
    }
    first: dict[tuple[str, str], NamedRecording] = {}
    for item in readable:
        original = first.setdefault((item.corpus, item.key), item)
        if original is item:
            continue
        same_samples = item.measured.digest == original.measured.digest
        if same_samples or frozenset((item.measured.digest, original.measured.digest)) in same_recording:
            relation = "the same samples" if same_samples else "the same recording in another form"
            message = f"{item.file} is {original.file} once more, {relation}: it must not count twice"
            yield Finding("copy", (original.file, item.file), message, True)
        else:
            message = f"{item.file} and {original.file} share a name and not the sound: keep the right one"
            yield Finding("conflict", (original.file, item.file), message, True)
    yield from _shared_by_two_names(list(first.values()), same_recording)


def _shared_by_two_names(
    items: list[NamedRecording], same_recording: dict[frozenset, fingerprint.Pair]
) -> Iterator[Finding]:
    official_groups = frozenset().union(*(corpus.same_samples for corpus in CORPORA.values()))
    by_digest = defaultdict(list)
    for item in items:
        by_digest[item.measured.digest].append(item)
    for group in by_digest.values():
        if len(group) > 1:
            official = frozenset(item.key for item in group) in official_groups
            message = f"{' and '.join(item.file for item in group)} hold the same samples" + (
                ", officially: keep both on one side of a split" if official else ": take one out"
            )
            yield Finding("same samples", tuple(item.file for item in group), message, not official)
    for (first, second), pair in ((sorted(key), pair) for key, pair in same_recording.items()):
        for item in by_digest.get(first, ()):
            for copy in by_digest.get(second, ()):
                message = (
                    f"{item.file} and {copy.file} are the same recording ({pair.error:.1%} of the bits differ, "
                    f"{abs(pair.offset):.2f} s apart): take one out"
                )
                yield Finding("near duplicate", tuple(sorted((item.file, copy.file))), message, True)
