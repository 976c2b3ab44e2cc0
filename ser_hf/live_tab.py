"""The tab that answers while somebody speaks."""

from pathlib import Path

import gradio as gr
import numpy as np

from ser_hf import audio, rendering
from ser_hf.errors import UserError
from ser_hf.inference.predictor import Predictor
from ser_hf.limits import Limits

_OVER = {"stream": None}
"""The state of a session past its limit, until Record is pressed again."""

_AGAIN = "press Record for another"


def build(predictor: Predictor, limits: Limits, tab: gr.Tab, at_a_time: int) -> None:
    """Add the content of `tab` to the page that is being built; so many sessions are heard side by side."""

    def hear(chunk: str | None, state: dict | None) -> tuple[dict | None, str]:
        if chunk is None:
            return state, gr.skip()
        try:
            return (state, gr.skip()) if state == _OVER else _heard(predictor, limits, chunk, state)
        except UserError as error:
            return None, rendering.message(str(error))
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
            running = gr.HTML(rendering.message("Press Record and speak.", "note"), elem_id="running", padding=False)
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
    # Gradio's microphone does not read `stream_every` of its event: it sends ten chunks a second unless told so
    tab.select(None, None, microphone, js="() => ({__type__: 'update', stream_every: 1})")
    stop = "document.querySelector('#live .stop-button')?.click()"  # Gradio cannot be told to stop recording
    running.change(None, running, js=f"(shown) => {{ if (shown.includes('{_AGAIN}')) {stop}; }}")
    microphone.start_recording(lambda: None, None, state, api_visibility="private")


def _heard(predictor: Predictor, limits: Limits, chunk: str, state: dict | None) -> tuple[dict, str]:
    """The session after a chunk, and what the page says then."""
    # not as an array, which gradio would have pydub decode
    with audio.reading(chunk, "the stream") as reader:
        rate, samples = reader.rate, list(reader.blocks())
    state = state or {"stream": predictor.start_stream(rate)}
    due = state["stream"].feed(np.concatenate(samples)) if samples else []
    if not due:
        return state, gr.skip()
    if due[-1]["duration"] > limits.live_seconds:
        return _OVER, rendering.message(f"A live session lasts {limits.live_seconds:g} s: {_AGAIN}.", "note")
    return state, rendering.running(due[-1])
