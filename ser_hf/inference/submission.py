"""Recordings that were read, handed to the threads of a session, and their answers in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Literal

import numpy as np

from ser_hf import audio
from ser_hf.errors import UserError
from ser_hf.inference import long_audio, prediction
from ser_hf.inference.prediction import FailedPrediction, Prediction
from ser_hf.inference.recordings import Deadline, ReadRecording
from ser_hf.inference.session import InferenceSession, OnEmbeddings

_Pending = tuple[str | None, Callable[[], Prediction]]
"""The name of a recording, and a function that waits for its prediction."""


def each(
    session: InferenceSession,
    sources: Iterable[audio.Source],
    read: Callable[[audio.Source], ReadRecording],
    timeout: float | None,
    on_error: Literal["raise", "answer"] | Callable[[UserError], None],
) -> Iterator[Prediction | FailedPrediction]:
    """Predict any number of recordings, in their order; only a few are in memory.

    Args:
        session: that predicts them.
        sources: of the recordings.
        read: what reads one.
        timeout: seconds after which a recording is given up, where not None; reading it counts.
        on_error: `answer` puts `{"file", "error"}` in the place of a recording that cannot be used;
            so does a function, which is given the error.

    Raises:
        AudioError, TimeoutExceeded: for a recording that cannot be used, unless `on_error` is
            `answer` or a function.
    """
    waiting: deque[_Pending] = deque()
    size = session.batch_size if session.batches_clips else 1
    sources = iter(sources)
    while batch := list(islice(sources, size)):
        names = [prediction.source_name(source) for source in batch]
        deadline = Deadline(timeout)  # what is read slowly is slow, too
        recordings = [_read(read, source) for source in batch]
        waiting.extend(zip(names, submit(session, recordings, deadline), strict=True))
        while len(waiting) > max(2 * session.pool.count, size):
            yield _finished(waiting.popleft(), on_error)
    while waiting:
        yield _finished(waiting.popleft(), on_error)


def submit(
    session: InferenceSession,
    read: Sequence[ReadRecording | UserError],
    deadline: Deadline,
    watches: Sequence[OnEmbeddings | None] | None = None,
) -> list[Callable[[], Prediction]]:
    """Begin to predict recordings; a long one is predicted before the next.

    Args:
        session: that predicts them.
        read: recordings, and in the place of one that cannot be read its error.
        deadline: at which a recording is given up.
        watches: for each recording what is given its embedding, shape `(1, width)` or more, before
            its prediction is there; of a long one that of the first windows with voice. Answers do
            not change. A backend with embeddings is needed.

    Returns:
        For each a function that waits for its prediction. It raises the error of the recording, or
        `TimeoutExceeded`.
    """
    watches = watches or [None] * len(read)
    pending: dict[int, Callable[[], Prediction]] = {}
    clips: dict[int, np.ndarray] = {}
    names: dict[int, str | None] = {}
    for index, recording in enumerate(read):
        try:
            if isinstance(recording, UserError):
                raise recording
            if recording.clip is None:
                pending[index] = partial(_same, _predict_long(session, recording, deadline, watches[index]))
            else:
                clips[index], names[index] = recording.clip, recording.name
        except UserError as error:
            pending[index] = partial(_raise, error)
    voiced = {index: session.submit_has_voice(clip) for index, clip in clips.items()}
    plain = [index for index in clips if watches[index] is None]
    together = session.submit_each([clips[index] for index in plain], session.submit)
    submitted = dict(zip(plain, together, strict=True))
    for index, clip in clips.items():
        if index not in submitted:
            submitted[index] = session.submit([clip], watches[index]), 0
        has_voice, (future, row) = voiced[index], submitted[index]
        pending[index] = partial(_predict_clip, session, names[index], len(clip), has_voice, future, row, deadline)
    return [pending[index] for index in range(len(read))]


def _predict_clip(
    session: InferenceSession,
    name: str | None,
    length: int,
    has_voice: Future[bool],
    future: Future[np.ndarray],
    row: int,
    deadline: Deadline,
) -> Prediction:
    labels = session.labels
    if not deadline.result(has_voice, name):
        return prediction.without_voice(name, length, labels)
    probabilities = deadline.result(future, name)[row]
    best = int(probabilities.argmax())
    segments = [prediction.segment(0, length, labels[best], probabilities[best])]
    return prediction.prediction(name, length, probabilities, segments, labels, session.abstain_below)


def _predict_long(
    session: InferenceSession, recording: ReadRecording, deadline: Deadline, watch: OnEmbeddings | None
) -> Prediction:
    name = recording.name
    windows = long_audio.Windows(recording.blocks, session, partial(deadline.check, name))
    mean, segments = long_audio.predict_windows(windows, session, watch)
    return prediction.prediction(name, windows.length, mean, segments, session.labels, session.abstain_below)


def _read(read: Callable[[audio.Source], ReadRecording], source: audio.Source) -> ReadRecording | UserError:
    try:
        return read(source)
    except UserError as error:
        return error


def _finished(pending: _Pending, on_error: str | Callable[[UserError], None]) -> Prediction | FailedPrediction:
    name, result = pending
    try:
        return result()
    except UserError as error:
        if on_error == "raise":
            raise
        if callable(on_error):
            on_error(error)
        return {"file": name, "error": str(error)}


def _same(result: Prediction) -> Prediction:
    return result


def _raise(error: UserError) -> Prediction:
    raise error
