"""The API: recordings in, predictions out, as plain HTTP routes and as endpoints of Gradio.

`POST /predict`, `/timeline` and `/batch` take a form or raw bytes. They need neither Gradio's queue
nor its sessions. The endpoints of the same names serve `gradio_client` and, over MCP, language
models.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePath
from tempfile import SpooledTemporaryFile
from typing import TypeVar

import gradio as gr
import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from ser_hf.app import uploads
from ser_hf.app.metrics import Metrics
from ser_hf.app.uploads import Limits, UploadedFile
from ser_hf.errors import UserError
from ser_hf.inference.prediction import FailedPrediction, Prediction
from ser_hf.inference.predictor import Predictor
from ser_hf.utils.zip_reader import ArchiveError

_Answer = TypeVar("_Answer")

CONCURRENT = 8
"""Requests that are read and decoded side by side; the model takes one for each core."""

_IN_MEMORY = 2**20  # bytes of a body above which it is kept on disk, as Starlette does with forms
_ONE_SPEAKER = {"true": True, "false": False}
_NO_RECORDING = "There is no recording in the request: send it as a file, as curl -F file=@clip.wav does."


def predict_file(
    predictor: Predictor,
    limits: Limits,
    metrics: Metrics,
    file: UploadedFile,
    on_samples: Callable[[np.ndarray], None] | None = None,
) -> Prediction:
    """Predict one uploaded recording within the limits; errors are those of `Predictor.predict`."""
    with metrics.task("predict"):
        prediction = predictor.predict(file.source(), limits.timeout, limits.seconds, on_samples)
    metrics.answered(prediction)
    return prediction


def predict_batch(
    predictor: Predictor,
    limits: Limits,
    metrics: Metrics,
    recordings: uploads.Recordings,
    one_speaker: bool = False,
) -> Iterator[Prediction | FailedPrediction]:
    """Predict the recordings of uploads in their order.

    Args:
        predictor: that answers.
        limits: of a visitor.
        metrics: that count each recording.
        recordings: of the uploads.
        one_speaker: adapt to all recordings that can be read before the first is predicted.

    Yields:
        Predictions; `file` and `error` in the place of a recording that cannot be read.

    Raises:
        AdaptationError: for too few clips of one speaker.
    """
    if one_speaker:
        readable = (recording.source for recording in recordings if recording.source)
        predictor = predictor.adapt_to_one_speaker(readable, limits.timeout, limits.seconds, on_error="skip")
    unreadable: deque[tuple[int, FailedPrediction]] = deque()

    def sources() -> Iterator[dict]:
        for position, recording in enumerate(recordings):
            if recording.source is None:
                name = PurePath(recording.name).name  # as the prediction would have it
                error = recording.error or ""
                unreadable.append((position, {"file": name, "error": error}))
                metrics.failed(ArchiveError(error))
            else:
                yield recording.source

    position = 0
    for prediction in predictor.each(sources(), limits.timeout, limits.seconds, on_error=metrics.failed):
        while unreadable and unreadable[0][0] == position:  # the predictor reads ahead
            yield unreadable.popleft()[1]
            position += 1
        if "error" not in prediction:
            metrics.answered(prediction)
        yield prediction
        position += 1
    yield from (error for _, error in unreadable)


def timeline_of(prediction: Prediction) -> dict:
    """The duration and the segments of a prediction."""
    return {"duration": prediction["duration"], "segments": prediction["segments"]}


class RecordingRoutes:
    """The routes: `CONCURRENT` requests are worked on at a time, `Limits.queue` may wait."""

    def __init__(self, predictor: Predictor, limits: Limits, metrics: Metrics) -> None:
        """Nothing waits yet."""
        self._predictor, self._limits, self._metrics = predictor, limits, metrics
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._waiting = 0
        metrics.watch_queue("api", lambda: self._waiting)

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an app."""
        app.add_api_route("/predict", self.predict, methods=["POST"])
        app.add_api_route("/timeline", self.timeline, methods=["POST"])
        app.add_api_route("/batch", self.batch, methods=["POST"])

    async def predict(self, request: Request) -> Response:
        """The prediction of one recording."""
        async with self._files(request) as files:
            return await self._respond(lambda: self._predict(files))

    async def timeline(self, request: Request) -> Response:
        """Duration and segments of one recording."""
        async with self._files(request) as files:
            return await self._respond(lambda: timeline_of(self._predict(files)))

    async def batch(self, request: Request) -> Response:
        """A list of predictions, one for each recording; `?one_speaker=true` adapts to them all."""
        together = _ONE_SPEAKER.get(request.query_params.get("one_speaker", "false").lower())
        if together is None:
            raise HTTPException(422, "one_speaker must be true or false.")
        async with self._files(request) as files:
            return await self._respond(lambda: _answers(self._predictor, self._limits, self._metrics, files, together))

    def _predict(self, files: list[UploadedFile]) -> Prediction:
        return predict_file(self._predictor, self._limits, self._metrics, _only(files))

    @asynccontextmanager
    async def _files(self, request: Request) -> AsyncIterator[list[UploadedFile]]:
        """The files of a request, which lie in memory or, where they are large, on disk."""
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            async with request.form() as form:
                parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
                yield self._checked([UploadedFile(Path(part.filename or "").name, part.file) for part in parts])
            return
        with SpooledTemporaryFile(max_size=_IN_MEMORY) as body:
            async for chunk in request.stream():
                body.write(chunk)
            name = Path(request.query_params.get("name", "")).name
            yield self._checked([UploadedFile(name, body)] if body.tell() else [])

    def _checked(self, files: list[UploadedFile]) -> list[UploadedFile]:
        if not files:
            raise HTTPException(400, _NO_RECORDING)
        if any(file.size() > self._limits.file_mb * 2**20 for file in files):
            raise HTTPException(413, uploads.size_refusal(self._limits))
        return files

    async def _respond(self, predict: Callable[[], object]) -> Response:
        """Run `predict` in a thread, when it is its turn."""
        if self._limits.queue and self._waiting >= self._limits.queue:
            message = f"The queue is full: {self._waiting} requests wait. Ask again in a few seconds."
            raise HTTPException(503, message, {"retry-after": "5"})
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            content = await run_in_threadpool(predict)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        finally:
            self._slots.release()
        # the bytes that `ser-hf predict` prints: FastAPI's own encoder writes others
        return Response(json.dumps(content) + "\n", media_type="application/json")


def _answers(
    predictor: Predictor, limits: Limits, metrics: Metrics, files: list[UploadedFile], one_speaker: bool = False
) -> list[Prediction | FailedPrediction]:
    with metrics.task("batch"):
        return list(predict_batch(predictor, limits, metrics, uploads.Recordings(files, limits), one_speaker))


def _only(files: list[UploadedFile]) -> UploadedFile:
    if len(files) > 1:
        raise uploads.UploadError(f"{len(files)} recordings are in the request: send one, or ask /batch")
    return files[0]


def add_endpoints(predictor: Predictor, limits: Limits, metrics: Metrics) -> None:
    """Add Gradio's endpoints to the page that is being built.

    Their components check and describe what goes in and out, and are not shown. Docstrings and
    parameter names become the schema that `gradio_client` and MCP show.
    """

    def predict(recording: str) -> dict:
        """Recognise the emotion in a recording.

        Args:
            recording: WAV, FLAC, Ogg, MP3 or another format that libsndfile reads, of any length
                within the limits.

        Returns:
            file, label, score, scores of all labels, abstained, duration in seconds, segments with
            start and end.
        """
        return dict(_predict(recording))

    def predict_json(recording: str, name: str = "") -> str:
        """Recognise the emotion in a recording, as JSON text.

        Args:
            recording: as a data: URI, or a file that was uploaded; addresses are not fetched.
            name: what the prediction calls it as `file`, since a data: URI has no name.

        Returns:
            The JSON of file, label, score, scores, abstained, duration, segments.
        """
        return json.dumps(_predict(recording, name or ""))

    def timeline(recording: str) -> dict:
        """Recognise which emotion a long recording has at what time.

        Args:
            recording: as for predict.

        Returns:
            duration in seconds, and segments with start, end, label and score.
        """
        return timeline_of(_predict(recording))

    def batch(recordings: list[str]) -> list[dict]:
        """Recognise the emotions in several recordings, or in those of a zip.

        Args:
            recordings: files.

        Returns:
            A prediction for each, in order; `file` and `error` in the place of one that cannot be
            read.
        """
        files = [UploadedFile.at(path) for path in recordings or []]
        return [dict(answer) for answer in _or_gradio_error(lambda: _answers(predictor, limits, metrics, files))]

    def _predict(path: str | None, name: str = "") -> Prediction:
        if path is None:
            raise gr.Error("There is no recording in the request.", print_exception=False)
        return _or_gradio_error(lambda: predict_file(predictor, limits, metrics, UploadedFile.at(path, name)))

    with gr.Row(visible=False):
        recording = gr.Audio(type="filepath", label="recording")
        recordings = gr.File(file_count="multiple", label="recordings")
        name = gr.Textbox("", label="name")
        prediction, text, button = gr.JSON(label="prediction"), gr.Textbox(label="prediction"), gr.Button()
    for function, inputs, output in (
        (predict, recording, prediction),
        (predict_json, [recording, name], text),
        (timeline, recording, prediction),
        (batch, recordings, prediction),
    ):
        button.click(function, inputs, output, api_name=function.__name__, concurrency_id="api")


def _or_gradio_error(predict: Callable[[], _Answer]) -> _Answer:
    """Run `predict`; a `UserError` becomes a `gr.Error`, whose text Gradio passes on."""
    try:
        return predict()
    except UserError as error:
        raise gr.Error(str(error), print_exception=False, duration=None) from None
