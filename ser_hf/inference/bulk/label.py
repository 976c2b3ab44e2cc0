"""Label any number of recordings: plan, ask, write, and go on where a run was cut off."""

import time
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ser_hf.inference.bulk.drift import held_out_scores, measured_share
from ser_hf.inference.bulk.index import Contents, Index
from ser_hf.inference.bulk.labeler import Answers, Labeler, ModelChoice, Unit
from ser_hf.inference.bulk.listing import Entry, refuse_absent
from ser_hf.inference.bulk.planning import Plan, make_plan
from ser_hf.inference.bulk.reading import LostSource
from ser_hf.inference.bulk.rows import Row, copied_row, schema
from ser_hf.inference.bulk.store import Store, StoreError
from ser_hf.utils import progress

UNIT = 64
"""Recordings that an engine is given at a time."""
GONE = 100
"""Recordings in a row whose bytes cannot be had, after which the run ends."""
_SAMPLED = 24  # recordings whose time tells that of all


class Engine(Protocol):
    """What runs the model: threads of this process, or actors of a cluster."""

    def answers(self, units: Iterator[Unit], contents: Container[str]) -> Iterator[Answers]:
        """The answers of units, in any order; `contents` are bytes that need not be asked."""
        ...


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How a labelling is written and gone on with."""

    retry_errors: bool = False
    """Whether recordings with an error are asked again."""
    replace_model: bool = False
    """Whether answers of another model are replaced."""
    shard_rows: int = 10_000
    """Rows of a file at most."""
    flush_seconds: float = 60.0
    """Seconds after which rows are written, so that a run that is cut off loses little."""
    reuse: bool = True
    """Whether bytes that have an answer are not asked again under another name."""


@dataclass
class Outcome:
    """What a run did."""

    listed: int
    known: int
    """Entries that had an answer before."""
    asked: int = 0
    copied: int = 0
    """Recordings whose bytes had an answer."""
    errors: int = 0
    """Rows with an error in the whole output."""
    rows: int = 0
    """Rows of the whole output."""
    seconds: float = 0.0


def label(
    inputs: list[str],
    output: str,
    choice: ModelChoice,
    options: LabelOptions | None = None,
    engine: Engine | None = None,
    labeler: Labeler | None = None,
) -> Outcome:
    """Label the recordings of inputs, as Parquet files in a folder.

    A run that was cut off, whatever cut it off, goes on when it is called again. The rows are those
    of an unbroken run, in another order.

    Args:
        inputs: folders, files, patterns, lists, addresses, datasets of the Hub.
        output: a folder, or an address that `fsspec` writes to.
        choice: the model.
        options: of the output.
        engine: the threads of this process where None.
        labeler: the model, where it is loaded already.

    Raises:
        UserError: for inputs or an output that cannot be used, or that are lost on the way.
    """
    options = options or LabelOptions()
    refuse_absent(inputs)  # before a model is loaded
    labeler = labeler or Labeler(choice)
    store, model = _opened(output, labeler, options)
    predictor = labeler.predictor
    model |= {"reference": labeler.meter.figures(), "tested": held_out_scores(predictor.name, predictor.revision)}
    started = time.monotonic()
    with store.locked():
        index, finished, plan = _planned(inputs, store, labeler, options)
        outcome = Outcome(plan.listed, plan.known)
        writer = _Writer(store, index, model, inputs, options, finished, outcome)
        with progress.bar("Labelling", plan.recordings if plan.counted else None, "recordings") as bar, writer:
            share = measured_share(index.rows + plan.recordings)
            units = (replace(unit, measured=share) for unit in plan.units(UNIT, index, labeler.adapt_by is not None))
            contents = index if options.reuse else Contents(())
            for answers in (engine or labeler).answers(units, contents):
                before = outcome.asked + outcome.copied
                writer.take(answers)
                bar.update(outcome.asked + outcome.copied - before)
                bar.set_postfix(errors=outcome.errors, refresh=False)
        writer.end()
    outcome.seconds = time.monotonic() - started
    return outcome


@dataclass(frozen=True)
class Estimate:
    """What a run would do."""

    listed: int
    known: int
    recordings: int
    counted: bool
    rate: float | None
    """Recordings a second, by a sample; None where there is none to sample."""


def estimate(inputs: list[str], output: str, choice: ModelChoice, options: LabelOptions | None = None) -> Estimate:
    """Say what `label` would do, and how fast, by a sample of recordings; nothing is written.

    Arguments and errors are those of `label`.
    """
    options = options or LabelOptions()
    refuse_absent(inputs)
    labeler = Labeler(choice)
    store, _ = _opened(output, labeler, options)
    _, _, plan = _planned(inputs, store, labeler, options)
    entries = _sample(plan)
    rate = None
    if entries:
        labeler.predictor.warm()
        started, count = time.monotonic(), 0
        for answers in labeler.answers(iter([Unit(entries)]), Contents(())):
            count += len(answers.rows) + len(answers.lost)
            if count >= _SAMPLED:
                break
        rate = count / (time.monotonic() - started) or None
    return Estimate(plan.listed, plan.known, plan.recordings, plan.counted, rate)


def _opened(output: str, labeler: Labeler, options: LabelOptions) -> tuple[Store, dict[str, Any]]:
    """The output, which is one of this model, and the model as its manifest names it."""
    store, predictor = Store(output), labeler.predictor
    model = {"name": predictor.public_name, "digest": labeler.digest, "labels": predictor.labels}
    store.check(model, options.replace_model)
    return store, model


def _planned(
    inputs: list[str], store: Store, labeler: Labeler, options: LabelOptions
) -> tuple[Index, dict[str, Any], Plan]:
    """What has an answer, which containers were read to their end, and what is left."""
    index = Index(store, labeler.digest, options.retry_errors)
    manifest = store.manifest or {}
    # a part that somebody removed may have held rows of any container
    whole = set(manifest.get("parts", [])) <= set(store.parts)
    finished = dict(manifest.get("containers", {})) if whole else {}
    return index, finished, make_plan(inputs, index, finished, labeler.adapt_by, options.retry_errors)


def _sample(plan: Plan) -> list[Entry]:
    """Entries spread evenly over those that are to be asked."""
    count = sum(len(block) for block in plan.blocks)
    chosen = {round(number * (count - 1) / max(_SAMPLED - 1, 1)) for number in range(min(_SAMPLED, count))}
    return [entry for number, entry in enumerate(plan.entries()) if number in chosen]


class _Writer:
    """Rows on their way into the store."""

    def __init__(
        self,
        store: Store,
        index: Index,
        model: dict[str, Any],
        inputs: list[str],
        options: LabelOptions,
        finished: dict[str, Any],
        outcome: Outcome,
    ) -> None:
        self._store, self._index, self._model, self._options = store, index, model, options
        self._inputs, self._finished, self._outcome = inputs, finished, outcome
        self._schema = schema(model["labels"])
        self._rows: list[Row] = []
        self._gone: list[Row] = []
        self._ended: dict[str, list] = {}
        self._flushed = time.monotonic()
        manifest = store.manifest or {}
        self._superseding = index.is_mixed or manifest.get("superseding", False)
        outcome.rows, outcome.errors = index.rows, index.errors

    def __enter__(self) -> "_Writer":
        self._write_manifest(complete=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Write what there is, whatever ended the run, but for an output that takes no more."""
        if not isinstance(error, StoreError):
            self._flush()

    def take(self, answers: Answers) -> None:
        """Take answers, and write rows where there are enough of them."""
        for row in answers.lost:
            self._outcome.asked += 1
            self._lose(row)
        for fetched in answers.repeated:
            assert fetched.key is not None  # by which it was found
            self._add(copied_row(fetched, self._index.answer(fetched.key)))
            self._outcome.copied += 1
        for row in answers.rows:
            self._outcome.asked += 1
            self._add(row)
        for entry, recordings in answers.finished:
            self._ended[entry.path] = [entry.stamp, recordings]
        waited = time.monotonic() - self._flushed
        if len(self._rows) >= self._options.shard_rows or (self._rows and waited > self._options.flush_seconds):
            self._flush()

    def end(self) -> None:
        """Remove what was asked again, and say that the output is complete."""
        self._count(self._gone)
        self._flush()
        if self._superseding:
            self._store.remove_superseded(self._model["digest"])
            self._superseding = False
            self._outcome.rows, self._outcome.errors = self._store.count()
        self._write_manifest(complete=True)

    def _lose(self, row: Row) -> None:
        """Hold a row back until another recording can be had: many in a row are a lost mount."""
        self._gone.append(row)
        if len(self._gone) >= GONE:
            self._outcome.asked -= len(self._gone)
            raise LostSource(
                f"the last {GONE} recordings cannot be reached ({row['error']}): run the command again when they can"
            )

    def _add(self, row: Row) -> None:
        self._count(self._gone)
        self._count([row])

    def _count(self, rows: list[Row]) -> None:
        """Take rows for the next file, and empty the list."""
        self._outcome.rows += len(rows)
        self._outcome.errors += sum(row.get("error") is not None for row in rows)
        self._rows += rows
        rows.clear()

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        # a signal may come between any two lines: rows may be asked again, but never be there twice
        (rows, ended), (self._rows, self._ended) = (self._rows, self._ended), ([], {})
        if rows:
            if not self._superseding and self._index.names(rows):
                self._superseding = True
                self._write_manifest(complete=False)  # before: a killed run must know
            name = self._store.write_part(rows, self._schema)
            if self._options.reuse:
                self._index.add(name)
        self._finished |= ended  # their last rows are written
        self._write_manifest(complete=False)

    def _write_manifest(self, complete: bool) -> None:
        self._store.write_manifest(
            {
                "model": self._model,
                "inputs": self._inputs,
                "rows": self._outcome.rows,
                "errors": self._outcome.errors,
                "complete": complete,
                "superseding": self._superseding,
                "containers": self._finished,
                "parts": self._store.parts,
            }
        )
