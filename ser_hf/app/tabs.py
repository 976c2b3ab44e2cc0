"""The other tabs of the page: a speaker's voice, live, a batch, and the model."""

import base64
import csv
import io
import json
import re
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from ser_hf import audio
from ser_hf.app import api, html, uploads
from ser_hf.app.figures import result_rows, warnings
from ser_hf.app.metrics import Metrics
from ser_hf.app.uploads import Limits, UploadedFile
from ser_hf.errors import UserError
from ser_hf.evaluation.results import Results
from ser_hf.inference.prediction import FailedPrediction, Prediction
from ser_hf.inference.predictor import Predictor
from ser_hf.inference.speaker_adaptation import Adaptation, AdaptationError


def add_voice(predictor: Predictor, limits: Limits, metrics: Metrics) -> gr.State:
    """Add the section that adapts to a speaker to the page that is being built.

    Returns:
        The visitor's voice, an `Adaptation` or None. It holds no sound and ends with the session.
    """

    def adapt(paths: list[str] | None) -> tuple[Adaptation | None, str, dict]:
        files = [UploadedFile.at(path) for path in paths or []]
        try:
            with metrics.task("adapt"):
                adapted, left_out = _adapted(predictor, limits, files)
        except UserError as error:
            return None, html.message_html(str(error)), gr.update(visible=False)
        voice, clips = adapted.adaptation, adapted.adapted_to
        text = f"Predictions are now for the voice of {clips:,} clip{'s' * (clips != 1)}."
        if left_out:
            text += f" {len(left_out):,} could not be used: {left_out[0]}"
        return voice, html.message_html(text, "note"), gr.update(visible=True)

    def forget() -> tuple[None, str, dict]:
        return None, "", gr.update(visible=False)

    voice = gr.State()
    with gr.Accordion("Always the same voice? Adapt to it", open=False, elem_id="voice"):
        gr.HTML(
            "<p>Some ten recordings of the speaker, in most moods, tell the model what is usual for this voice; those "
            "of a few moods would mislead it. Nobody needs to say which mood is which.</p>",
            padding=False,
        )
        clips = gr.File(file_count="multiple", label="Recordings of one voice", elem_id="voice-files")
        with gr.Row():
            adapt_button = gr.Button("Adapt to this voice", elem_id="adapt")
            forget_button = gr.Button("Forget it", visible=False, elem_id="forget")
        message = gr.HTML(elem_id="voice-message", padding=False)
    outputs = [voice, message, forget_button]
    adapt_button.click(adapt, clips, outputs, api_visibility="private", concurrency_limit=2)
    forget_button.click(forget, None, outputs, api_visibility="private")
    return voice


def _adapted(predictor: Predictor, limits: Limits, files: list[UploadedFile]) -> tuple[Predictor, list[str]]:
    """Adapt to what can be used of uploads; gives the errors of the rest, too.

    Raises:
        UserError: where nothing can be used.
    """
    unreadable = []

    def sources() -> Iterator[dict]:
        for recording in uploads.Recordings(files, limits):
            if recording.source is None:
                unreadable.append(recording.error or "")
            else:
                yield recording.source

    try:
        adapted = predictor.adapt(sources(), limits.timeout, limits.seconds, on_error="skip")
    except AdaptationError:
        if unreadable:
            raise uploads.UploadError(unreadable[0]) from None
        raise
    return adapted, [*unreadable, *map(str, adapted.left_out)]


_OVER = {"stream": None}
"""The state of a session past its limit, until Record is pressed again."""

_PRESS_AGAIN = "press Record for another"


def add_live(predictor: Predictor, limits: Limits, metrics: Metrics, tab: gr.Tab) -> None:
    """Add the content of the live tab to the page that is being built."""

    def predict_chunk(chunk: str | None, session: dict | None) -> tuple[dict | None, str]:
        if chunk is None:
            return session, gr.skip()
        try:
            if session == _OVER:
                return session, gr.skip()
            with metrics.task("live"):
                return _after_chunk(predictor, limits, chunk, session)
        except UserError as error:
            return None, html.message_html(str(error))
        finally:
            Path(chunk).unlink(missing_ok=True)

    gr.HTML(
        "<p>A prediction comes every second, of the last four. A session lasts up to "
        f"{limits.live_seconds / 60:g} minutes, and nothing of it is kept.</p>"
    )
    with gr.Row():
        with gr.Column(min_width=300):
            microphone = gr.Audio(
                sources=["microphone"], streaming=True, type="filepath", label="Microphone", buttons=[], elem_id="live"
            )
        with gr.Column(min_width=300):
            answer = gr.HTML(
                html.message_html("Press Record and speak.", "note"), elem_id="live-prediction", padding=False
            )
    session = gr.State(time_to_live=int(limits.live_seconds) + 60)
    microphone.stream(
        predict_chunk,
        [microphone, session],
        [session, answer],
        time_limit=int(limits.live_seconds),
        api_visibility="private",
        show_progress="hidden",
        concurrency_limit=api.CONCURRENT,
    )
    # Gradio's microphone ignores `stream_every` of its event. It sends ten chunks a second, and
    # only an update changes that.
    tab.select(None, None, microphone, js="() => ({__type__: 'update', stream_every: 1})")
    # No call of Gradio's stops a recording.
    stop = "document.querySelector('#live .stop-button')?.click()"
    answer.change(None, answer, js=f"(html) => {{ if (html.includes('{_PRESS_AGAIN}')) {stop}; }}")
    microphone.start_recording(lambda: None, None, session, api_visibility="private")


def _after_chunk(predictor: Predictor, limits: Limits, chunk: str, session: dict | None) -> tuple[dict, str]:
    """The session after a chunk, and what the page shows then."""
    # read from its file: for an array Gradio would decode by pydub, which needs FFmpeg
    shown = gr.skip()
    with audio.open_recording(chunk, "the stream") as reader:
        reader.check_length(limits.live_seconds)
        session = session or {"stream": predictor.start_stream(reader.rate)}
        for block in reader.blocks():  # a chunk may hold hours, and 32 channels
            predictions = session["stream"].feed(block)
            if predictions and predictions[-1]["duration"] > limits.live_seconds:
                message = f"A live session lasts {limits.live_seconds:g} s: {_PRESS_AGAIN}."
                return _OVER, html.message_html(message, "note")
            shown = html.live_html(predictions[-1]) if predictions else shown
    return session, shown


def add_batch(predictor: Predictor, limits: Limits, metrics: Metrics) -> None:
    """Add the content of the batch tab to the page that is being built."""

    def predict_all(paths: list[str] | None, one_speaker: bool, progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        hidden = gr.update(visible=False)
        files = [UploadedFile.at(path) for path in paths or []]
        predictions = []
        try:
            with metrics.task("batch"):
                found = uploads.Recordings(files, limits)
                for prediction in api.predict_batch(predictor, limits, metrics, found, one_speaker):
                    predictions.append(prediction)
                    progress((len(predictions), len(found)), unit="recordings")
        except UserError as error:
            return html.message_html(str(error)), hidden, hidden, hidden
        folder = Path(tempfile.mkdtemp(dir=get_upload_folder()))
        (folder / "predictions.csv").write_text(csv_text(predictions), newline="")
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions))
        failed = sum("error" in prediction for prediction in predictions)
        text = f"{len(predictions) - failed:,} recordings analysed" + (
            f", {failed:,} could not be read" if failed else ""
        )
        downloads = [gr.update(value=str(folder / f"predictions.{kind}"), visible=True) for kind in ("csv", "jsonl")]
        table_update = gr.update(value=html.batch_html(predictions), visible=True)
        return html.message_html(text, "note"), table_update, *downloads

    recordings = gr.File(file_count="multiple", label=f"Recordings or zips (up to {limits.files:,})", elem_id="files")
    one_speaker = gr.Checkbox(label="All are of one person: adapt to the voice", elem_id="one-speaker")
    button = gr.Button("Analyse all", variant="primary", elem_id="all")
    message = gr.HTML(elem_id="batch-message", padding=False)
    table = gr.HTML(visible=False, elem_id="table", elem_classes="ser-table", padding=False)
    with gr.Row():
        csv_button = gr.DownloadButton("Save as CSV", visible=False, elem_id="csv")
        jsonl_button = gr.DownloadButton("Save as JSON lines", visible=False, elem_id="jsonl")
    outputs = [message, table, csv_button, jsonl_button]
    button.click(predict_all, [recordings, one_speaker], outputs, api_visibility="private", concurrency_limit=2)


_COLUMNS = ["file", "label", "score", "abstained", "duration", "error"]


def csv_text(predictions: list[Prediction | FailedPrediction]) -> str:
    """Predictions as CSV, one a line, with the score of each label; no cell is a formula."""
    labels = next((list(row["scores"]) for row in predictions if "scores" in row), [])
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*_COLUMNS, *labels])
    for row in predictions:
        scores = {} if "error" in row else row["scores"]
        cells = [row.get(name, "") for name in _COLUMNS] + [scores.get(label, "") for label in labels]
        writer.writerow([_without_formula(cell) for cell in cells])
    return text.getvalue()


def _without_formula(cell: object) -> object:
    """Text in place of what a spreadsheet would run as a formula (OWASP, CSV injection)."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def add_model(predictor: Predictor, folder: Path | None) -> None:
    """Add the content of the model tab; `folder` holds the card and `results.json`, if any."""
    card = (folder / "README.md").read_text() if folder and (folder / "README.md").is_file() else None
    facts = facts_html(predictor, Results.beside(folder)) + _confusion_matrix_html(folder)
    gr.HTML(facts, elem_classes="ser-facts", elem_id="model")
    if card:
        with gr.Accordion("The model card", open=True):
            gr.Markdown(card_body(card), elem_classes="ser-card", elem_id="card")


def facts_html(predictor: Predictor, results: Results | None) -> str:
    """What the model is and how it was tested, as a table; a warning above it where one is due."""
    abstains = f"below {html.percent(predictor.abstain_below)}" if predictor.abstain_below else "never"
    rows = [
        ("model", predictor.public_name + (f" ({predictor.revision})" if predictor.revision else "")),
        ("runs on", predictor.backend),
        ("labels", ", ".join(predictor.labels)),
        ("abstains", abstains),
    ]
    rows += result_rows(results) if results else []
    notes = set(results.notes) if results else set()
    warning = "".join(html.message_html(text, *(["note"] if text in notes else [])) for text in warnings(results))
    body = "".join(f"<tr><th scope='row'>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows)
    return f"{warning}<table>{body}</table>"


def card_body(card: str) -> str:
    """A card without its front matter, and without pictures, whose files are not served."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    return re.sub(r"!\[[^\]]*\]\([^)]*\)\n*", "", body)


def _confusion_matrix_html(folder: Path | None) -> str:
    picture = folder / "plots" / "confusion_matrix.png" if folder else None
    if picture is None or not picture.is_file():
        return ""
    encoded = base64.b64encode(picture.read_bytes()).decode()
    return f'<img alt="Confusion matrix of the test" src="data:image/png;base64,{encoded}">'
