"""The leak check: what stands on two sides of a split, and models that saw the test's speakers."""

import typing
from collections import Counter, defaultdict

import datasets
import numpy as np

from ser_hf.errors import UserError
from ser_hf.protocols.base import Columns, Protocol, Sides, Split, shared_values, shorten

_PAIRS = (("train", "test"), ("validation", "test"), ("train", "validation"))
_UNKNOWN = "the statement of"
_REMEDIES = {
    "speakers": "put each speaker on one side, or write `leaks: true` into a YAML protocol of your own",
    "samples": "remove one of the two recordings",
    "near duplicates": "remove one of the two recordings",
    "sentences": "use ravdess-tess, tess-ravdess or sentence, or do not ask for new sentences",
}


class LeakError(UserError):
    """A split with speakers, samples, near duplicates or (on request) sentences on two sides."""


class TrainedUnder(typing.Protocol):
    """The split and the speakers that a model was trained on; None where unknown."""

    @property
    def protocol(self) -> str | None: ...
    @property
    def protocol_hash(self) -> str | None: ...
    @property
    def fold(self) -> int | None: ...
    @property
    def speakers(self) -> tuple[str, ...] | None: ...


def find_leaks(
    columns: Columns, sides: Sides, protocol: Protocol, near_duplicates: list[list[int]] | None
) -> dict[str, str | None]:
    """Look for each kind of leak: its first case in words, or None where there is none.

    Near duplicates are left out where they are not given.
    """
    leaks: dict[str, str | None] = {"speakers": None}
    only_test = protocol.validation_shares_speaker or "speakers" in protocol.leaks
    for first, second in _PAIRS[:2] if only_test else _PAIRS:
        shared = shared_values(columns, "speaker", sides[first], sides[second])
        if leaks["speakers"] is None and shared:
            leaks["speakers"] = f"{shorten(shared)} in {first} and in {second}"
    rows_of_digest = defaultdict(list)
    for row, digest in enumerate(columns["sha256"].tolist()):
        rows_of_digest[digest].append(row)
    leaks["samples"] = _on_two_sides(columns, sides, list(rows_of_digest.values()), "hold the same samples")
    if near_duplicates is not None:
        relation = "are the same recording (near duplicates)"
        leaks["near duplicates"] = _on_two_sides(columns, sides, near_duplicates, relation)
    leaks["sentences"] = _shared_sentences(columns, sides)
    return leaks


def refuse_leaks(leaks: dict[str, str | None], name: str, protocol: Protocol, text_disjoint: bool) -> None:
    """Refuse what `find_leaks` found, but for what the protocol leaks by design.

    Args:
        leaks: of `find_leaks`.
        name: of the protocol, for the message.
        protocol: of the split.
        text_disjoint: whether sentences must be new, too.

    Raises:
        LeakError: naming the first leak and its remedy.
    """
    for kind, leak in leaks.items():
        refused = text_disjoint if kind == "sentences" else kind not in protocol.leaks
        if leak and refused:
            raise LeakError(f"protocol '{name}' leaks: {leak}; {_REMEDIES[kind]}")


def leak_lines(leaks: dict[str, str | None]) -> tuple[str, ...]:
    """A line for each leak that there is, or may be."""
    return tuple(
        f"{kind} {'may ' if leak.startswith(_UNKNOWN) else ''}cross: {leak}" for kind, leak in leaks.items() if leak
    )


def leak_warning(columns: Columns, sides: Sides, name: str, protocol: Protocol) -> str:
    """What every output must say of a protocol that leaks by design."""
    learned = np.concatenate([sides["train"], sides["validation"]])
    seen = shared_values(columns, "speaker", learned, sides["test"])
    total = len(set(columns["speaker"][sides["test"]].tolist()))
    return f"protocol '{name}' leaks: {len(seen)} of {total} test speakers {protocol.warning}"


def refuse_seen(
    trained: TrainedUnder, model_name: str, dataset: datasets.Dataset, split: Split, side: str = "test"
) -> None:
    """Refuse to test a model, or what is fine-tuned from it, on speakers that it has seen.

    A model from elsewhere does not say whom it was trained on, and passes. So does the very split
    of the training: a protocol may leak by design.

    Args:
        trained: under which split and on whom, as the model's config remembers it.
        model_name: for the message.
        dataset: what the split indexes.
        split: that the model is to be tested, or trained further, under.
        side: that must be new to the model; `validation` to calibrate on it.

    Raises:
        LeakError: naming the speakers.
    """
    if trained.speakers is None or trained.protocol_hash == split.hash:
        return
    seen = sorted(set(trained.speakers) & set(dataset.select(getattr(split, side))["speaker"]))
    if seen:
        uses = "tests" if side == "test" else "validates on"
        raise LeakError(
            f"'{model_name}' was trained under '{trained.protocol}' fold {trained.fold} on {shorten(seen, 3)}, whom "
            f"'{split.name}' fold {split.fold} {uses}: use a model of that protocol and fold ({split.hash})"
        )


def _on_two_sides(columns: Columns, sides: Sides, groups: list[list[int]], relation: str) -> str | None:
    side_of = {row: side for side, rows in sides.items() for row in rows.tolist()}
    first_rows = [{side_of[row]: row for row in reversed(group) if row in side_of} for group in groups]
    for first, second in _PAIRS:
        for row_of_side in first_rows:
            if first in row_of_side and second in row_of_side:
                files = f"{columns['file'][row_of_side[first]]} and {columns['file'][row_of_side[second]]}"
                return f"{files} {relation}, in {first} and in {second}"
    return None


def _shared_sentences(columns: Columns, sides: Sides) -> str | None:
    learned, test = np.concatenate([sides["train"], sides["validation"]]), sides["test"]
    sentences = list(zip(columns["corpus"].tolist(), columns["statement"].tolist(), strict=True))
    shared = {sentences[row] for row in learned} & {sentences[row] for row in test}
    if counts := Counter(corpus for corpus, statement in sorted(shared) if statement):
        numbers = [f"{n:,} statement{'s' * (n != 1)} of {corpus}" for corpus, n in counts.items()]
        return f"{', '.join(numbers)} in training or validation and in test"
    corpora = shared_values(columns, "corpus", learned, test)
    rows = np.concatenate([learned, test])
    unknown = rows[(columns["statement"][rows] == "") & np.isin(columns["corpus"][rows], corpora)]
    if len(unknown):
        return f"{_UNKNOWN} {columns['file'][unknown[0]]} is unknown and cannot be shown to be new"
    return None
