"""The page: upload or record, see eight labelled bars and the waveform. Nothing is loaded from elsewhere."""

import os
from html import escape
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it on import, and calls out otherwise

import gradio as gr
import numpy as np

from ser_hf import audio
from ser_hf.emotions import COLOURS
from ser_hf.errors import UserError
from ser_hf.predictor import Predictor

_FONTS = ["system-ui", "sans-serif"]  # names, not downloads
_CSS = """
.ser-bar {display: grid; grid-template-columns: 6.5rem 1fr 3.5rem; gap: .6rem; align-items: center; margin: .3rem 0}
.ser-track {background: var(--background-fill-secondary); border-radius: 4px; height: 1.1rem; overflow: hidden}
.ser-fill {height: 100%; border-radius: 4px}
.ser-score {text-align: right; font-variant-numeric: tabular-nums}
.ser-answer {font-size: 1.5rem; font-weight: 600; margin: .2rem 0}
.ser-wave {width: 100%; height: 90px; color: var(--body-text-color)}
.ser-error {border-left: 4px solid #d55e00; padding: .6rem .9rem}
"""


class DemoError(UserError):
    """A page that cannot be served."""


def build(predictor: Predictor) -> gr.Blocks:
    """The page of a model as Gradio Blocks; its endpoint `/predict` takes a recording and gives the prediction."""

    def analyse(path: str | None) -> tuple[str, dict | None]:
        if path is None:
            return _error("Upload a recording or speak first."), None
        try:
            samples = audio.load(path)
        except UserError as error:
            return _error(str(error).replace(repr(str(path)), "This file")), None
        answer = predictor.predict({"array": samples, "sampling_rate": audio.SAMPLING_RATE, "path": path})
        return render(answer, samples), answer

    with gr.Blocks(title="Speech emotion recognition", analytics_enabled=False) as page:
        gr.Markdown("# Speech emotion recognition\nA short recording in, how its emotion sounds to the model out.")
        with gr.Row():
            with gr.Column():
                # no buttons: the share one would upload the voice to a hub
                recording = gr.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label="Recording",
                    buttons=[],
                    elem_id="recording",
                )
                button = gr.Button("Analyse", variant="primary")
            with gr.Column():
                result = gr.HTML(label="Answer", elem_id="answer")
                with gr.Accordion("As JSON", open=False):
                    answer = gr.JSON(show_label=False)
        gr.Markdown(
            f"Model: `{Path(predictor.name).name}`. It was trained on acted speech: it hears how an emotion is "
            "portrayed, not what a person feels. Recordings are analysed on the machine that serves this page."
        )
        gr.on([button.click], analyse, recording, [result, answer], api_name="predict")
        gr.on(
            [recording.upload, recording.stop_recording], analyse, recording, [result, answer], api_visibility="private"
        )
    return page


def launch(model: str, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until it is interrupted.

    Raises:
        ModelError: if the model cannot be loaded.
        DemoError: if the port is taken.
    """
    page = build(Predictor(model))
    try:
        page.launch(
            server_name=host, server_port=port, theme=gr.themes.Soft(font=_FONTS, font_mono=["monospace"]), css=_CSS
        )
    except OSError as error:
        raise DemoError(f"port {port} on {host} cannot be opened ({error}): choose another --port") from error


def render(answer: dict, samples: np.ndarray) -> str:
    """A prediction as HTML: the answer, the waveform, a bar for each label in the order of the model."""
    bars = "".join(
        f'<div class="ser-bar"><span>{escape(label)}</span>'
        f'<div class="ser-track" role="meter" aria-label="{escape(label)}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{score * 100:.0f}"><div class="ser-fill" '
        f'style="width: {score * 100:.1f}%; background: {COLOURS.get(label, "#666666")}"></div></div>'
        f'<span class="ser-score">{score:.1%}</span></div>'
        for label, score in answer["scores"].items()
    )
    return (
        f'<div aria-live="polite"><p class="ser-answer">{escape(answer["label"])}</p>'
        f"<p>{answer['score']:.1%} sure, {answer['duration']:.1f} s of audio</p>{_waveform(samples)}{bars}</div>"
    )


def _waveform(samples: np.ndarray, columns: int = 300) -> str:
    edges = np.linspace(0, len(samples), columns + 1).astype(int)
    peaks = np.array([np.abs(samples[a:b]).max(initial=0) for a, b in pairwise(edges)])
    peaks = peaks / max(peaks.max(), 1e-6) * 44
    path = "".join(f"M{x} {45 - y:.1f}V{45 + y:.1f}" for x, y in enumerate(np.maximum(peaks, 0.5)))
    return (
        f'<svg class="ser-wave" viewBox="0 0 {columns} 90" preserveAspectRatio="none" role="img" aria-label="waveform">'
        f'<path d="{path}" stroke="currentColor" stroke-width="0.7" opacity="0.7"/></svg>'
    )


def _error(message: str) -> str:
    return f'<div class="ser-error" role="alert">{escape(message)}</div>'
