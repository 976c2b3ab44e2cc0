"""The tab for many recordings: a table, and what it says as CSV and JSON lines."""

import csv
import io
import json
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from ser_hf import rendering, uploads
from ser_hf.errors import UserError
from ser_hf.inference.predictor import Predictor
from ser_hf.limits import Limits

_COLUMNS = ["file", "label", "score", "abstained", "duration", "error"]


def answers(predictor: Predictor, limits: Limits, paths: list[str] | None) -> Iterator[dict]:
    """Predictions for uploads in their order, zips opened; `file` and `error` in the place of one that is unreadable.

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


def build(predictor: Predictor, limits: Limits) -> None:
    """Add the tab's content to the page that is being built."""

    def run(paths: list[str] | None, progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        nothing = gr.update(visible=False)
        found = []
        try:
            total = uploads.count([Path(path) for path in paths or []], limits)
            for answer in answers(predictor, limits, paths):
                found.append(answer)
                progress((len(found), total), unit="recordings")
        except UserError as error:
            return rendering.message(str(error)), nothing, nothing, nothing
        folder = Path(tempfile.mkdtemp(dir=get_upload_folder()))
        (folder / "predictions.csv").write_text(as_csv(found), newline="")
        (folder / "predictions.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in found))
        bad = sum("error" in answer for answer in found)
        says = f"{len(found) - bad:,} recordings answered" + (f", {bad:,} could not be read" if bad else "")
        files = [gr.update(value=str(folder / f"predictions.{kind}"), visible=True) for kind in ("csv", "jsonl")]
        return rendering.message(says, "note"), gr.update(value=rendering.table(found), visible=True), *files

    files = gr.File(file_count="multiple", label=f"Recordings or zips (up to {limits.files:,})", elem_id="files")
    button = gr.Button("Analyse all", variant="primary", elem_id="all")
    says = gr.HTML(elem_id="batch-says", padding=False)
    table = gr.HTML(visible=False, elem_id="table", elem_classes="ser-table", padding=False)
    with gr.Row():
        as_table = gr.DownloadButton("Save as CSV", visible=False, elem_id="csv")
        as_lines = gr.DownloadButton("Save as JSON lines", visible=False, elem_id="jsonl")
    button.click(run, files, [says, table, as_table, as_lines], api_visibility="private", concurrency_limit=2)


def as_csv(found: list[dict]) -> str:
    """Predictions as CSV, one a line, with the probability of each label; no cell is a formula to a spreadsheet."""
    labels = next((list(answer["scores"]) for answer in found if "scores" in answer), [])
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow([*_COLUMNS, *labels])
    for answer in found:
        cells = [answer.get(name, "") for name in _COLUMNS]
        scores = answer.get("scores", {})
        writer.writerow([_plain(cell) for cell in (*cells, *(scores.get(label, "") for label in labels))])
    return written.getvalue()


def _plain(cell: object) -> object:
    """Spreadsheets run what begins like a formula; a quote before it makes it text (OWASP, CSV injection)."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
