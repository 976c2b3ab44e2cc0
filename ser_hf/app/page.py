"""The page as Gradio Blocks: Analyse, Live, Batch and Model. Nothing is loaded from elsewhere."""

import json
import tempfile
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from ser_hf import audio
from ser_hf.app import api, examples, html, tabs
from ser_hf.app.metrics import Metrics
from ser_hf.app.uploads import Limits, UploadedFile
from ser_hf.errors import UserError
from ser_hf.inference.prediction import Prediction
from ser_hf.inference.predictor import Predictor
from ser_hf.inference.speaker_adaptation import Adaptation

MAX_SESSIONS = 1000
"""Visitors and clients who are remembered; then the one who was away longest is forgotten.

Gradio keeps some 100 KB of each, and the voice that a visitor has adapted to.
"""

_STATIC = Path(__file__).parent / "static"
SCRIPT = (_STATIC / "page.js").read_text().replace("ENDINGS", ",".join(audio.SUFFIXES))
"""What the page adds to Gradio's scripts."""

LOOK: dict = {
    "theme": gr.themes.Soft(
        primary_hue="teal", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    ).set(  # the theme's own teal is too light to be read on white, or under white
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        block_label_text_color="*primary_800",
        block_label_background_fill_dark="*primary_800",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        block_title_text_color="*primary_800",
        block_info_text_color="*neutral_600",
    ),
    "css": (_STATIC / "page.css").read_text(),
    "head": f"<script>{SCRIPT}</script>",
}
"""Theme, style and script, as `mount_gradio_app` takes them. Fonts are names, not downloads."""


def build_page(
    predictor: Predictor,
    limits: Limits | None = None,
    folder: Path | None = None,
    in_browser: bool = False,
    metrics: Metrics | None = None,
) -> gr.Blocks:
    """The page of a model.

    Args:
        predictor: that answers.
        limits: of a visitor.
        folder: where the model's card, `results.json` and pictures lie, as far as they exist.
        in_browser: whether the page that runs the model in the visitor's browser lies at /browser/.
        metrics: that count what is asked; of their own where None.
    """
    limits, metrics = limits or Limits(), metrics or Metrics()
    with gr.Blocks(title="Speech emotion recognition", analytics_enabled=False) as page:
        gr.HTML(
            "<h1>How does this voice sound?</h1><p>Upload a recording or speak: a model says which emotion the voice "
            "expresses.</p>",
            elem_classes="ser-head",
        )
        if in_browser:
            gr.HTML(
                "<p><a href='browser/'>Analyse in my browser</a>: the model comes to your machine, and no recording "
                "leaves it.</p>",
                elem_classes="ser-head",
                elem_id="in-browser",
            )
        with gr.Tabs():
            with gr.Tab("Analyse", id="analyse"):
                _add_analysis(predictor, limits, metrics)
            with gr.Tab("Live", id="live") as live:
                tabs.add_live(predictor, limits, metrics, live)
            with gr.Tab("Batch", id="batch"):
                tabs.add_batch(predictor, limits, metrics)
            with gr.Tab("Model", id="model"):
                tabs.add_model(predictor, folder)
        gr.HTML(
            "<p>The model learnt from actors. It recognises how an emotion is portrayed, not what a person feels. "
            "Recordings are analysed on the machine that serves this page and deleted after "
            f"{limits.keep / 60:g} minutes.</p>",
            elem_classes="ser-foot",
        )
        api.add_endpoints(predictor, limits, metrics)
    page.state_session_capacity = MAX_SESSIONS
    # api_open lets a direct request to Gradio's routes pass by the queue, and its limit
    page.queue(max_size=limits.queue or None, default_concurrency_limit=api.CONCURRENT, api_open=False)
    metrics.watch_queue("page", lambda: len(page._queue))
    return page


def _add_analysis(predictor: Predictor, limits: Limits, metrics: Metrics) -> None:
    """Add the tab that analyses one recording."""

    def analyse(path: str | None, voice: Adaptation | None) -> tuple[str, Prediction | None, dict]:
        hidden = gr.update(visible=False)
        if path is None:
            return html.message_html("Upload a recording or speak first."), None, hidden
        adapted = predictor.adapt(voice) if voice else predictor
        peaks = html.Peaks()
        try:
            prediction = api.predict_file(adapted, limits, metrics, UploadedFile.at(path), peaks.add)
        except UserError as error:
            return html.message_html(str(error)), None, hidden
        # Its folder is its own: visitors who upload equal files share the folder of the upload, and
        # each has a name for the file.
        saved = Path(tempfile.mkdtemp(dir=get_upload_folder())) / "prediction.json"
        saved.write_text(json.dumps(prediction) + "\n")
        answer = html.prediction_html(prediction, peaks.values(), predictor.abstain_below)
        return answer, prediction, gr.update(value=str(saved), visible=True)

    with gr.Row():
        with gr.Column(min_width=300) as left:
            # no buttons: the share one would upload the voice to a hub
            recording = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label="Recording",
                buttons=[],
                editable=False,
                elem_id="recording",
                waveform_options=gr.WaveformOptions(show_recording_waveform=False),
            )
            button = gr.Button("Analyse", variant="primary", elem_id="go")
            voice = tabs.add_voice(predictor, limits, metrics)
        with gr.Column(min_width=300):
            result = gr.HTML(
                html.message_html("The prediction appears here.", "note"),
                elem_id="answer",
                label="Prediction",
                padding=False,
            )
            saved = gr.DownloadButton("Save as JSON", visible=False, size="sm", elem_id="save")
            with gr.Accordion("As JSON", open=False):
                answer_json = gr.JSON(show_label=False, elem_id="json")
        with left:
            files = examples.write_examples(Path(get_upload_folder()) / examples.FOLDER)
            gr.Examples(
                [[str(file)] for file in files],
                recording,
                [result, answer_json, saved],
                lambda path: analyse(path, None),  # these voices are not the visitor's
                example_labels=[file.stem for file in files],
                label="Or take a synthetic voice",
                run_on_click=True,
                cache_examples=False,
                api_visibility="private",
            )
    gr.on(
        [button.click, recording.upload, recording.stop_recording],
        analyse,
        [recording, voice],
        [result, answer_json, saved],
        api_visibility="private",
        show_progress="minimal",
    )
