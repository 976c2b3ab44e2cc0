"""What is left to do: the inputs, less what has an answer."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import Any

import pyarrow as pa

from ser_hf.errors import UserError
from ser_hf.inference.bulk import containers
from ser_hf.inference.bulk.index import Index, identities, identity
from ser_hf.inference.bulk.labeler import Unit
from ser_hf.inference.bulk.listing import Entry, list_inputs

_BLOCK = 16_384  # entries that are looked up together
_SCHEMA = pa.schema([(name, pa.string()) for name in ("path", "stamp", "kind", "speaker")])


@dataclass
class Plan:
    """Entries that are to be asked, and how many have an answer."""

    listed: int = 0
    known: int = 0
    recordings: int = 0
    """To be asked, as far as they can be counted without reading tars and tables elsewhere."""
    counted: bool = True
    """Whether `recordings` is all that there is to ask."""
    blocks: list[pa.RecordBatch] = field(default_factory=list)
    """The entries; columns take a third of the memory of objects."""

    def entries(self) -> Iterator[Entry]:
        """The entries to be asked, in the order of the inputs."""
        for block in self.blocks:
            for row in block.to_pylist():
                yield Entry(**row)

    def units(self, size: int, index: Index, by_speaker: bool) -> Iterator[Unit]:
        """Entries in units of at most `size`, of whole speakers where the model adapts to them."""
        entries = self.entries()
        for is_single, group in groupby(entries, lambda entry: entry.kind == "recording"):
            if not is_single:
                for entry in group:
                    yield Unit([entry], frozenset() if by_speaker else index.within(entry))
            elif by_speaker:
                for _, speaker in groupby(group, lambda entry: entry.speaker):
                    yield Unit(list(speaker))
            else:
                while block := list(islice(group, size)):
                    yield Unit(block)


def make_plan(
    inputs: list[str], index: Index, finished: dict[str, Any], adapt_by: str | None, retry_errors: bool = False
) -> Plan:
    """List the inputs, and leave out what has an answer.

    Args:
        inputs: of `ser_hf.inference.bulk.listing.list_inputs`.
        index: of what has an answer.
        finished: stamp and number of recordings of containers that were read to their end.
        adapt_by: column by which the model adapts; a changed recording then changes the answers of
            all of its speaker.
        retry_errors: whether containers with errors are read again.

    Raises:
        UserError: for an input that matches nothing, or a table without audio.
    """
    plan, opened = Plan(), False
    entries: Iterable[Entry] = list_inputs(inputs, adapt_by)
    if adapt_by is not None:
        entries = _with_speakers(list(entries))
    entries = iter(entries)
    # the recordings of a speaker are looked at together
    while block := list(islice(entries, None if adapt_by else _BLOCK)):
        plan.listed += len(block)
        done = index.knows(identities(identity(entry.path, entry.stamp) for entry in block))
        if adapt_by is not None:
            done = _whole_speakers(block, done)
        pending = []
        for entry, is_known in zip(block, done, strict=True):
            if entry.kind != "recording":
                is_known = is_known or (finished.get(entry.path, [None])[0] == entry.stamp and not retry_errors)
            if is_known:
                plan.known += 1
                continue
            if entry.kind == "recording":
                plan.recordings += 1
            else:
                local = "://" not in entry.path
                count = containers.check_table(entry, adapt_by) if local or not opened else None
                opened = opened or not local
                plan.counted &= count is not None
                plan.recordings += count or 0
            pending.append({name: getattr(entry, name) for name in _SCHEMA.names})
        if pending:
            plan.blocks.append(pa.RecordBatch.from_pylist(pending, _SCHEMA))
    return plan


def _with_speakers(entries: list[Entry]) -> list[Entry]:
    """Entries sorted by speaker; the stamp of one tells of all recordings of its speaker."""
    single = sorted((entry for entry in entries if entry.kind == "recording"), key=lambda entry: entry.speaker)
    if single and not any(entry.speaker for entry in single):
        raise UserError("--adapt_by needs a list with that column, or Parquet: folders tell no speakers")
    result = [entry for entry in entries if entry.kind != "recording"]
    for speaker, group in groupby(single, lambda entry: entry.speaker):
        members = list(group)
        text = "\n".join(sorted(identity(entry.path, entry.stamp) for entry in members)) if speaker else ""
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
        result += [replace(entry, stamp=f"{entry.stamp}-{digest}") for entry in members] if speaker else members
    return result


def _whole_speakers(block: list[Entry], done: Any) -> list[bool]:
    """Whether all recordings of an entry's speaker have an answer; else all are asked."""
    open_speakers = {entry.speaker for entry, known in zip(block, done, strict=True) if not known and entry.speaker}
    return [bool(known) and entry.speaker not in open_speakers for entry, known in zip(block, done, strict=True)]
