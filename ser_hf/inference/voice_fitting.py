"""An adaptation fitted to recordings of one voice, through the model that it adapts."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Literal

import numpy as np

from ser_hf import audio
from ser_hf.errors import UserError
from ser_hf.inference import long_audio, prediction, recordings, speaker_adaptation
from ser_hf.inference.adaptation_head import AdaptationHead
from ser_hf.inference.session import InferenceSession


def fit_voice(
    session: InferenceSession,
    head: AdaptationHead | None,
    sources: Iterable[audio.Source],
    timeout: float | None = None,
    longest: float | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> tuple[speaker_adaptation.Adaptation, list[UserError]]:
    """Fit an adaptation to recordings; of long ones, to the windows with voice.

    Args:
        session: of a model without adaptation.
        head: of the model, where it has one: it standardises the embeddings by the recordings.
        sources: whatever `ser_hf.audio.load` takes, of any length.
        timeout: seconds after which a recording is given up, where not None.
        longest: seconds of audio beyond which a recording is refused, where not None.
        on_error: `skip` leaves out a recording that cannot be used.

    Returns:
        The adaptation, and the errors of the recordings that were left out. One without voice is
        among them whatever `on_error` is.

    Raises:
        AdaptationError: where there is no clip.
        AdaptationHeadError: where the head belongs to other weights.
        AudioError, TimeoutExceeded: for a recording that cannot be used; under `skip`, where none
            can.
    """
    digest = session.backend.digest
    if head is not None:
        head.check_model(digest)
    submit = session.submit_logits if head is None else session.submit_outputs
    rows: list[np.ndarray] = []
    left_out: list[UserError] = []
    failed = None
    for source in sources:
        deadline, name = recordings.Deadline(timeout), prediction.source_name(source)
        before = len(rows)
        try:
            for clip in _clips(source, session, longest, deadline):
                rows.append(deadline.result(submit([clip]), name))
            if len(rows) == before:
                left_out.append(speaker_adaptation.AdaptationError(f"{name or 'a recording'!r} holds no voice"))
        except UserError as error:
            if on_error == "raise":
                raise
            failed = failed or error
            left_out.append(error)
    if not rows and failed:
        raise failed
    if not rows:
        raise speaker_adaptation.AdaptationError("there is no voice to adapt to: give at least one clip of it")
    if head is None:
        return speaker_adaptation.fit(np.concatenate(rows), digest), left_out
    logits, embeddings = map(np.concatenate, zip(*rows, strict=True))
    return speaker_adaptation.fit_with_head(head, logits, embeddings, digest), left_out


def _clips(
    source: audio.Source, session: InferenceSession, longest: float | None, deadline: recordings.Deadline
) -> Iterator[np.ndarray]:
    """A recording that is one clip, or the windows of a longer one; none where nobody speaks."""
    recording = recordings.read(source, long_audio.longest_clip(session), longest)
    if recording.clip is None:
        check = partial(deadline.check, recording.name)
        yield from (window.samples for window in long_audio.Windows(recording.blocks, session, check))
    elif deadline.result(session.submit_has_voice(recording.clip), recording.name):
        yield recording.clip
