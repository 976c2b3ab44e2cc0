"""The tab about the model: how it was tested, what it confuses, its card."""

import base64
import re
from html import escape
from pathlib import Path

import gradio as gr

from ser_hf import rendering
from ser_hf.evaluation.results import Results
from ser_hf.inference.predictor import Predictor


def build(predictor: Predictor, folder: Path | None) -> None:
    """Add the tab's content to the page that is being built; `folder` holds what is known of the model, if anything."""
    card = (folder / "README.md").read_text() if folder and (folder / "README.md").is_file() else None
    gr.HTML(facts(predictor, Results.beside(folder)) + _matrix(folder), elem_classes="ser-facts", elem_id="model")
    if card:
        with gr.Accordion("Its card", open=True):
            gr.Markdown(readable(card), elem_classes="ser-card", elem_id="card")


def facts(predictor: Predictor, results: Results | None) -> str:
    """What the model is and how it was tested, as an HTML table below a warning where one is due."""
    rows = [
        ("model", predictor.public_name + (f" ({predictor.revision})" if predictor.revision else "")),
        ("runs on", predictor.backend),
        ("hears", ", ".join(predictor.labels)),
        ("stays silent", f"below {rendering.percent(predictor.abstain_below)}" if predictor.abstain_below else "never"),
    ]
    warning = ""
    if results is None:
        warning = rendering.message(
            "This model comes without a results.json of ser_hf: nothing is known of what it can do."
        )
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
            warning = rendering.message(
                "Its test speakers were, or may have been, heard in training: "
                "these figures say nothing about new voices."
            )
        warning += "".join(rendering.message(note, "note") for note in results.notes)
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
