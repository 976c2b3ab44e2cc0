"""On the page: a few clips of one voice, to which later answers are adapted."""

from pathlib import Path

import gradio as gr

from ser_hf import rendering, uploads
from ser_hf.errors import UserError
from ser_hf.inference.predictor import Predictor
from ser_hf.inference.speaker_adaptation import Adaptation
from ser_hf.limits import Limits


def build(predictor: Predictor, limits: Limits) -> gr.State:
    """Add the section to the page that is being built.

    Returns:
        The visitor's voice, an `Adaptation` or None: no sound, and forgotten after the page is closed.
    """

    def adapt(paths: list[str] | None) -> tuple[Adaptation | None, str, dict]:
        try:
            clips = map(_source, uploads.recordings([Path(path) for path in paths or []], limits))
            voice = predictor.adapt(clips, limits.timeout, limits.seconds).adaptation
        except UserError as error:
            return None, rendering.message(str(error)), gr.update(visible=False)
        of = f"{voice.clips:,} clip{'s' * (voice.clips != 1)}"
        return voice, rendering.message(f"Answers are now for the voice of {of}.", "note"), gr.update(visible=True)

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


def _source(upload: uploads.Upload) -> dict:
    if upload.source is None:
        raise uploads.UploadError(f"{upload.name}: {upload.error}")
    return upload.source
