"""A model that labels recordings: they are read in some threads while it predicts in others."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby, islice

import joblib
import numpy as np
import torch

from ser_hf import __version__
from ser_hf.errors import UserError
from ser_hf.inference.bulk import containers
from ser_hf.inference.bulk.containers import Recording
from ser_hf.inference.bulk.drift import DistanceMeter
from ser_hf.inference.bulk.listing import Entry
from ser_hf.inference.bulk.reading import Fetched, LostSource, fetch, read_ahead, source_of
from ser_hf.inference.bulk.rows import Row, answered_row, failed_row
from ser_hf.inference.prediction import Prediction
from ser_hf.inference.predictor import Predictor
from ser_hf.inference.speaker_adaptation import FEWEST_CLIPS

ADAPTED_TO = 200
"""Recordings of a speaker that a model is adapted to at most; more change little
(`studies/adaptation_curve.py`)."""
_GPU_BLOCK = 8  # batches on a GPU whose clips are sorted by length together


@dataclass(frozen=True)
class ModelChoice:
    """Which model labels, and on what; what an engine loads it from in each process."""

    model: str
    revision: str | None = None
    backend: str = "auto"
    device: str | None = None
    threads: int | None = None
    readers: int | None = None
    """Threads that read and decode; twice the cores if None."""
    adapt_by: str | None = None
    """Column of a list or table, for each value of which the model is adapted to its recordings."""


@dataclass
class Unit:
    """What an engine does as a whole: some entries, or a container."""

    entries: list[Entry]
    done: frozenset[str] = frozenset()
    """Recordings of a container that have an answer."""
    measured: float = 0.0
    """Share of the recordings whose distance is measured (`ser_hf.inference.bulk.drift`)."""


@dataclass
class Answers:
    """What an engine gives back."""

    lost: list[Row] = field(default_factory=list)
    """Rows of recordings that were listed, and whose bytes cannot be had any more."""
    rows: list[Row] = field(default_factory=list)
    """All other rows."""
    repeated: list[Fetched] = field(default_factory=list)
    """Recordings whose bytes have an answer, which is to be copied."""
    finished: list[tuple[Entry, int]] = field(default_factory=list)
    """Containers that were read to their end, and the number of their recordings."""


def fingerprint(predictor: Predictor) -> str:
    """16 hexadecimal digits of all that an answer depends on beside the recording.

    These are the weights, the precision of the backend, the threshold and the labels. Torch and
    ONNX in fp32 count as one, since they agree within 1e-4.
    """
    precision = predictor.backend if predictor.backend in ("torch-bf16", "onnx-int8") else "fp32"
    parts = [predictor.session.backend.digest, precision, predictor.abstain_below, predictor.labels]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class Labeler:
    """A loaded model and the threads that read for it."""

    def __init__(self, choice: ModelChoice) -> None:
        """Load the model.

        Raises:
            UserError: where it cannot be loaded.
        """
        self.adapt_by = choice.adapt_by
        self.predictor = Predictor(
            choice.model, choice.device, backend=choice.backend, revision=choice.revision, threads=choice.threads
        )
        self.digest = fingerprint(self.predictor)
        self.meter = DistanceMeter(self.predictor)
        self._measured = 0.0
        self._readers = choice.readers or max(4, 2 * joblib.cpu_count())
        # each of them decodes and resamples with one thread: the model has the cores
        self._pool = ThreadPoolExecutor(self._readers, "reader", partial(torch.set_num_threads, 1))

    def answers(self, units: Iterable[Unit], contents: Container[str]) -> Iterator[Answers]:
        """Label units, one answer after the other; only a few recordings are in memory.

        Args:
            units: what to read.
            contents: SHA-256 digests of bytes that have an answer.

        Raises:
            LostSource: where a file system is gone.
        """
        recordings = chain.from_iterable(self._recordings(unit) for unit in units)
        if self.adapt_by is None:
            yield from self._label(recordings, self.predictor, contents)
            return
        for speaker, group in groupby(recordings, lambda item: getattr(item, "speaker", "")):
            yield from self._label_speaker(speaker, group)

    def _recordings(self, unit: Unit) -> Iterator["Recording | _End | _Damaged"]:
        self._measured = unit.measured
        for entry in unit.entries:
            count = 0
            try:
                for recording in containers.recordings(entry, self.adapt_by):
                    count += 1
                    if recording.file not in unit.done:
                        yield recording
            except UserError as error:
                yield _Damaged(Recording(entry.path, entry.stamp), str(error))
            else:
                if entry.kind != "recording":
                    yield _End(entry, count)

    def _label_speaker(self, speaker: str, group: Iterator["Recording | _End | _Damaged"]) -> Iterator[Answers]:
        """Label the recordings of one speaker, by a model that is adapted to the first of them."""
        first = list(islice(group, ADAPTED_TO)) if speaker else []
        predictor = self.predictor
        sources = [source_of(item) for item in first if isinstance(item, Recording)]
        if len(sources) >= FEWEST_CLIPS:
            try:
                adapted = predictor.adapt([source for source in sources if source is not None], on_error="skip")
                predictor = adapted if adapted.adapted_to >= FEWEST_CLIPS else predictor
            except UserError:  # none of them can be used: each row says why
                pass
        yield from self._label(chain(first, group), predictor, frozenset())

    def _label(
        self, recordings: Iterable["Recording | _End | _Damaged"], predictor: Predictor, contents: Container[str]
    ) -> Iterator[Answers]:
        session = predictor.session
        size = _GPU_BLOCK * session.batch_size if session.batches_clips else 1
        waiting: deque[Callable[[], Answers]] = deque()
        read = partial(_read, predictor=predictor, has_answer=contents.__contains__)
        fetched = read_ahead(read, recordings, self._pool, max(2 * self._readers, size))
        while block := list(islice(fetched, size)):
            asked = [item for item in block if isinstance(item, Fetched) and item.read is not None]
            read_asked = [item.read for item in asked if item.read is not None]
            taken: dict[int, list[np.ndarray]] = {
                id(item): [] for item in asked if self.meter.chooses(item.key, self._measured)
            }
            watches = [taken[id(item)].append if id(item) in taken else None for item in asked]
            submitted = predictor.submit(read_asked, watches=watches)
            pending = dict(zip(map(id, asked), submitted, strict=True))
            waiting.extend(
                partial(self._finish, item, pending.get(id(item)), predictor, taken.get(id(item))) for item in block
            )
            while len(waiting) > max(2 * session.pool.count, size):
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()

    def _finish(
        self,
        item: "Fetched | _End | _Damaged | LostSource",
        pending: Callable[[], Prediction] | None,
        predictor: Predictor,
        embeddings: list[np.ndarray] | None,
    ) -> Answers:
        if isinstance(item, LostSource):
            raise item
        if isinstance(item, _End):
            return Answers(finished=[(item.entry, item.recordings)])
        if isinstance(item, _Damaged):
            return Answers(rows=[self._signed(failed_row(Fetched(item.recording), item.error))])
        if item.answered:
            return Answers(repeated=[item])
        if pending is None:
            rows = [self._signed(failed_row(item, item.error or ""))]
            was_listed = item.key is None and item.recording.stamp
            return Answers(lost=rows) if was_listed else Answers(rows=rows)
        try:
            row = answered_row(item, pending(), predictor.adaptation is not None)
            if embeddings and row["segments"]:  # a reference says nothing of recordings without voice
                row["distance"] = self.meter.distance(embeddings[0][0])
        except UserError as error:  # a long recording may be damaged behind its beginning
            row = failed_row(item, str(error))
        return Answers(rows=[self._signed(row)])

    def _signed(self, row: Row) -> Row:
        return row | {"model": self.digest, "version": __version__}


@dataclass(frozen=True)
class _End:
    """Behind the last recording of a container."""

    entry: Entry
    recordings: int


@dataclass(frozen=True)
class _Damaged:
    """A container that cannot be read, or not to its end."""

    recording: Recording
    error: str


def _read(
    item: Recording | _End | _Damaged, predictor: Predictor, has_answer: Callable[[str], bool]
) -> Fetched | _End | _Damaged | LostSource:
    if not isinstance(item, Recording):
        return item
    try:
        return fetch(item, predictor, has_answer)
    except LostSource as error:  # it is raised in its turn, behind the answers before it
        return error
