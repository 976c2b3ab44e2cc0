"""The tabs of the page: a voice, live, a batch; and the section about the model."""

import base64
import csv
import io
import json
import re
import tempfile
from collections import deque
from collections.abc import Iterator
from html import escape
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder

from ser_hf import audio
from ser_hf.app import html, uploads
from ser_hf.app.uploads import Limits
from ser_hf.errors import UserError
from ser_hf.evaluation.results import Results
from ser_hf.inference.predictor import Predictor
from ser_hf.inference.speaker_adaptation import Adaptation


def voice_tab(predictor: Predictor, limits: Limits) -> gr.State:
    """Add the section to the page that is being built.

    Returns:
        The visitor's voice, an `Adaptation` or None: no sound, and forgotten after the page is
        closed.
    """

    def adapt(paths: list[str] | None) -> tuple[Adaptation | None, str, dict]:
        try:
            clips = map(_voice_source, uploads.recordings([Path(path) for path in paths or []], limits))
            voice = predictor.adapt(clips, limits.timeout, limits.seconds).adaptation
        except UserError as error:
            return None, html.message(str(error)), gr.update(visible=False)
        of = f"{voice.clips:,} clip{'s' * (voice.clips != 1)}"
        return voice, html.message(f"Answers are now for the voice of {of}.", "note"), gr.update(visible=True)

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
            button = gr.Button("Adapt to this voice", elem_id="adapt")
            drop = gr.Button("Forget it", visible=False, elem_id="forget")
        says = gr.HTML(elem_id="voice-says", padding=False)
    gives = [voice, says, drop]
    button.click(adapt, clips, gives, api_visibility="private", concurrency_limit=2)
    drop.click(forget, None, gives, api_visibility="private")
    return voice


def _voice_source(upload: uploads.Upload) -> dict:
    if upload.source is None:
        raise uploads.UploadError(f"{upload.name}: {upload.error}")
    return upload.source


_OVER = {"stream": None}
"""The state of a session past its limit, until Record is pressed again."""

_AGAIN = "press Record for another"


def live_tab(predictor: Predictor, limits: Limits, tab: gr.Tab, at_a_time: int) -> None:
    """Add the content of `tab` to the page that is being built; so many sessions are heard side by
    side."""

    def hear(chunk: str | None, state: dict | None) -> tuple[dict | None, str]:
        if chunk is None:
            return state, gr.skip()
        try:
            return (state, gr.skip()) if state == _OVER else _live_prediction(predictor, limits, chunk, state)
        except UserError as error:
            return None, html.message(str(error))
        finally:
            Path(chunk).unlink(missing_ok=True)

    gr.HTML(
        f"<p>Answers come every second, of the last four. A session lasts up to {limits.live_seconds / 60:g} minutes, "
        "and nothing of it is kept.</p>"
    )
    with gr.Row():
        with gr.Column(min_width=300):
            microphone = gr.Audio(
                sources=["microphone"], streaming=True, type="filepath", label="Microphone", buttons=[], elem_id="live"
            )
        with gr.Column(min_width=300):
            running = gr.HTML(html.message("Press Record and speak.", "note"), elem_id="running", padding=False)
    state = gr.State(time_to_live=int(limits.live_seconds) + 60)
    microphone.stream(
        hear,
        [microphone, state],
        [state, running],
        time_limit=int(limits.live_seconds),
        api_visibility="private",
        show_progress="hidden",
        concurrency_limit=at_a_time,
    )
    # Gradio's microphone does not read `stream_every` of its event: it sends ten chunks a second
    # unless told so
    tab.select(None, None, microphone, js="() => ({__type__: 'update', stream_every: 1})")
    stop = "document.querySelector('#live .stop-button')?.click()"  # Gradio cannot be told to stop recording
    running.change(None, running, js=f"(shown) => {{ if (shown.includes('{_AGAIN}')) {stop}; }}")
    microphone.start_recording(lambda: None, None, state, api_visibility="private")


def _live_prediction(predictor: Predictor, limits: Limits, chunk: str, state: dict | None) -> tuple[dict, str]:
    """The session after a chunk, and what the page says then."""
    # not as an array, which gradio would have pydub decode
    with audio.reading(chunk, "the stream") as reader:
        rate, samples = reader.rate, list(reader.blocks())
    state = state or {"stream": predictor.start_stream(rate)}
    due = state["stream"].feed(np.concatenate(samples)) if samples else []
    if not due:
        return state, gr.skip()
    if due[-1]["duration"] > limits.live_seconds:
        return _OVER, html.message(f"A live session lasts {limits.live_seconds:g} s: {_AGAIN}.", "note")
    return state, html.running(due[-1])


_COLUMNS = ["file", "label", "score", "abstained", "duration", "error"]


def batch_predictions(predictor: Predictor, limits: Limits, paths: list[str] | None) -> Iterator[dict]:
    """Predictions for uploads in their order, zips opened; `file` and `error` in the place of one
    that is unreadable.

    Raises:
        UploadError: for more than the limits allow.
    """
    found = uploads.recordings([Path(path) for path in paths or []], limits)
    unreadable: deque[tuple[int, dict]] = deque()

    def readable() -> Iterator[dict]:
        for place, upload in enumerate(found):
            if upload.source is None:
                unreadable.append((place, {"file": upload.name, "error": upload.error}))
            else:
                yield upload.source

    place = 0
    for answer in predictor.each(readable(), timeout=limits.timeout, longest=limits.seconds, on_error="answer"):
        while unreadable and unreadable[0][0] == place:  # the predictor reads ahead
            yield unreadable.popleft()[1]
            place += 1
        yield answer
        place += 1
    yield from (answer for _, answer in unreadable)


def batch_tab(predictor: Predictor, limits: Limits) -> None:
    """Add the tab's content to the page that is being built."""

    def run(paths: list[str] | None, progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        nothing = gr.update(visible=False)
        found = []
        try:
            total = uploads.count([Path(path) for path in paths or []], limits)
            for answer in batch_predictions(predictor, limits, paths):
                found.append(answer)
                progress((len(found), total), unit="recordings")
        except UserError as error:
            return html.message(str(error)), nothing, nothing, nothing
        folder = Path(tempfile.mkdtemp(dir=get_upload_folder()))
        (folder / "predictions.csv").write_text(as_csv(found), newline="")
        (folder / "predictions.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in found))
        bad = sum("error" in answer for answer in found)
        says = f"{len(found) - bad:,} recordings answered" + (f", {bad:,} could not be read" if bad else "")
        files = [gr.update(value=str(folder / f"predictions.{kind}"), visible=True) for kind in ("csv", "jsonl")]
        return html.message(says, "note"), gr.update(value=html.batch_table(found), visible=True), *files

    files = gr.File(file_count="multiple", label=f"Recordings or zips (up to {limits.files:,})", elem_id="files")
    button = gr.Button("Analyse all", variant="primary", elem_id="all")
    says = gr.HTML(elem_id="batch-says", padding=False)
    table = gr.HTML(visible=False, elem_id="table", elem_classes="ser-table", padding=False)
    with gr.Row():
        as_table = gr.DownloadButton("Save as CSV", visible=False, elem_id="csv")
        as_lines = gr.DownloadButton("Save as JSON lines", visible=False, elem_id="jsonl")
    button.click(run, files, [says, table, as_table, as_lines], api_visibility="private", concurrency_limit=2)


def as_csv(found: list[dict]) -> str:
    """Predictions as CSV, one a line, with the probability of each label; no cell is a formula to a
    spreadsheet."""
    labels = next((list(answer["scores"]) for answer in found if "scores" in answer), [])
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow([*_COLUMNS, *labels])
    for answer in found:
        cells = [answer.get(name, "") for name in _COLUMNS]
        scores = answer.get("scores", {})
        writer.writerow([_plain_cell(cell) for cell in (*cells, *(scores.get(label, "") for label in labels))])
    return written.getvalue()


def _plain_cell(cell: object) -> object:
    """Spreadsheets run what begins like a formula; a quote before it makes it text (OWASP, CSV
    injection)."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def model_section(predictor: Predictor, folder: Path | None) -> None:
    """Add the tab's content to the page that is being built; `folder` holds what is known of the
    model, if anything."""
    card = (folder / "README.md").read_text() if folder and (folder / "README.md").is_file() else None
    gr.HTML(facts(predictor, Results.beside(folder)) + _matrix(folder), elem_classes="ser-facts", elem_id="model")
    if card:
        with gr.Accordion("Its card", open=True):
            gr.Markdown(readable(card), elem_classes="ser-card", elem_id="card")


def facts(predictor: Predictor, results: Results | None) -> str:
    """What the model is and how it was tested, as an HTML table below a warning where one is
    due."""
    rows = [
        ("model", predictor.public_name + (f" ({predictor.revision})" if predictor.revision else "")),
        ("runs on", predictor.backend),
        ("hears", ", ".join(predictor.labels)),
        ("stays silent", f"below {html.percent(predictor.abstain_below)}" if predictor.abstain_below else "never"),
    ]
    warning = ""
    if results is None:
        warning = html.message("This model comes without a results.json of ser_hf: nothing is known of what it can do.")
    else:
        interval = (results.ci95 or {}).get("uar")
        between = "{:.3f} to {:.3f}".format(*interval) if interval else f"none: {results.ci95_says}"
        rows += [
            ("protocol", f"{results.under()}, split {results.protocol_hash}"),
            ("tested on", f"{results.n:,} clips of {results.speakers.get('test', 'unknown')} speakers"),
            ("UAR", f"{results.uar:.3f} (guessing: {results.chance:.3f})"),
            ("95 % interval of it", between),
            ("accuracy", f"{results.accuracy:.3f}"),
        ]
        if results.leaks:
            warning = html.message(
                "Its test speakers were, or may have been, heard in training: "
                "these figures say nothing about new voices."
            )
        warning += "".join(html.message(note, "note") for note in results.notes)
    body = "".join(f"<tr><th scope='row'>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows)
    return f"{warning}<table>{body}</table>"


def readable(card: str) -> str:
    """A card without its front matter, and without pictures, whose files are not served."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    return re.sub(r"!\[[^\]]*\]\([^)]*\)\n*", "", body)


def _matrix(folder: Path | None) -> str:
    picture = folder / "plots" / "confusion_matrix.png" if folder else None
    if picture is None or not picture.is_file():
        return ""
    encoded = base64.b64encode(picture.read_bytes()).decode()
    return f'<img alt="Confusion matrix of the test" src="data:image/png;base64,{encoded}">'
