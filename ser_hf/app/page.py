"""The page, its endpoints, and synthetic recordings to try it with."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import numpy as np
import soundfile
from gradio.utils import get_upload_folder

from ser_hf import audio
from ser_hf.app import html, tabs, uploads
from ser_hf.app.uploads import Limits
from ser_hf.audio import SAMPLING_RATE, synthesis
from ser_hf.errors import UserError
from ser_hf.inference.predictor import Predictor
from ser_hf.inference.speaker_adaptation import Adaptation

EXAMPLES = "examples"
"""The folder among the uploads where they lie."""

_SHORT = ("angry", "sad", "happy", "surprised")
_LONG = ("neutral", "happy", "angry", "sad", "fearful", "calm", "surprised")


def write_examples(folder: Path) -> list[Path]:
    """Write them as WAV files; the last one is long and has several voices.

    Args:
        folder: made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    voices = [synthesis.SyntheticVoice.of(f"example {number}", female=number % 2 == 0) for number in range(len(_LONG))]
    files = []
    for number, emotion in enumerate(_SHORT):
        files.append(folder / f"synthetic {emotion}.wav")
        _write_example(files[-1], _example_label(voices[number], emotion, number))
    pause = np.zeros(SAMPLING_RATE * 2 // 5, dtype=np.float32)
    parts = [part for n, emotion in enumerate(_LONG) for part in (_example_label(voices[n], emotion, n), pause)]
    files.append(folder / "synthetic conversation.wav")
    _write_example(files[-1], np.concatenate(parts))
    return files


def _example_label(voice: synthesis.SyntheticVoice, emotion: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return synthesis.say(voice, emotion, rng.integers(0, 5, 9).tolist(), rng)


def _write_example(path: Path, samples: np.ndarray) -> None:
    peak = max(float(np.abs(samples).max()), 1e-6)
    soundfile.write(path, samples / peak * 0.6, SAMPLING_RATE, subtype="PCM_16")


_PAGE = Path(__file__).parent / "static"
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
        block_title_text_color="*primary_800",
        block_info_text_color="*neutral_600",
    ),
    "css": (_PAGE / "page.css").read_text(),
    "head": f"<script>{(_PAGE / 'page.js').read_text()}</script>",
}
"""How the page looks and moves: what `launch` and `mount_gradio_app` take. Fonts are names, not
downloads."""

_AT_A_TIME = 8
"""Requests that are read and decoded side by side; the model takes one a core."""


def build_page(predictor: Predictor, limits: Limits | None = None, folder: Path | None = None) -> gr.Blocks:
    """The page of a model as Gradio Blocks.

    Its endpoints, each for programs and, over MCP, for language models: `/predict` takes a
    recording and gives the prediction, `/predict_json` the same as text, `/timeline` its segments,
    `/batch` takes several.

    Args:
        predictor: that answers.
        limits: of a visitor.
        folder: where the model's card, `results.json` and pictures lie, as far as they exist.
    """
    limits = limits or Limits()
    with gr.Blocks(title="Speech emotion recognition", analytics_enabled=False) as page:
        gr.HTML(
            "<h1>How does this voice sound?</h1><p>A recording in, the emotion that a model hears in it out.</p>",
            elem_classes="ser-head",
        )
        with gr.Tabs():
            with gr.Tab("Analyse", id="analyse"):
                _analyse(predictor, limits)
            with gr.Tab("Live", id="live") as live:
                tabs.live_tab(predictor, limits, live, _AT_A_TIME)
            with gr.Tab("Batch", id="batch"):
                tabs.batch_tab(predictor, limits)
            with gr.Tab("Model", id="model"):
                tabs.model_section(predictor, folder)
        gr.HTML(_closing(limits), elem_classes="ser-foot")
        _endpoints(predictor, limits)
    page.queue(max_size=limits.queue or None, default_concurrency_limit=_AT_A_TIME)
    return page


def _closing(limits: Limits) -> str:
    return (
        "<p>The model learnt from actors: it hears how an emotion is portrayed, not what a person feels. Recordings "
        f"are analysed on the machine that serves this page and deleted after {limits.keep / 60:g} minutes.</p>"
    )


def _analyse(predictor: Predictor, limits: Limits) -> None:
    def analyse(path: str | None, voice: Adaptation | None) -> tuple[str, dict | None, dict]:
        hidden = gr.update(visible=False)
        if path is None:
            return html.message("Upload a recording or speak first."), None, hidden
        try:
            answer = _predict(predictor.adapt(voice) if voice else predictor, limits, path)
        except gr.Error as error:
            return html.message(error.message), None, hidden
        # in a folder of its own: equal uploads of two visitors share one, and what they called them
        # is theirs
        saved = Path(tempfile.mkdtemp(dir=get_upload_folder())) / "prediction.json"
        saved.write_text(json.dumps(answer) + "\n")
        loudest = html.peaks(audio.stream(uploads.recording(path)))
        told = html.prediction_html(answer, loudest, predictor.abstain_below)
        return told, answer, gr.update(value=str(saved), visible=True)

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
            voice = tabs.voice_tab(predictor, limits)
        with gr.Column(min_width=300):
            result = gr.HTML(
                html.message("The answer comes here.", "note"), elem_id="answer", label="Answer", padding=False
            )
            saved = gr.DownloadButton("Save as JSON", visible=False, size="sm", elem_id="save")
            with gr.Accordion("As JSON", open=False):
                shown = gr.JSON(show_label=False, elem_id="json")
        with left:
            files = write_examples(Path(get_upload_folder()) / EXAMPLES)
            gr.Examples(
                [[str(file)] for file in files],
                recording,
                [result, shown, saved],
                lambda path: analyse(path, None),  # other voices than the visitor's
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
        [result, shown, saved],
        api_visibility="private",
        show_progress="minimal",
    )


def _endpoints(predictor: Predictor, limits: Limits) -> None:
    """The API; its components are there to check and describe what goes in and out, and are not
    shown."""

    def predict(recording: str) -> dict:
        """Hear the emotion in a recording.

        Args:
            recording: WAV, FLAC, Ogg, MP3 or another format that libsndfile reads, of any length
                within the limits.

        Returns:
            file, label, score, scores of all labels, abstained, duration in seconds, segments with
            start and end.
        """
        return _predict(predictor, limits, recording)

    def predict_json(recording: str, name: str = "") -> str:
        """Hear the emotion in a recording, as JSON text.

        Args:
            recording: as a data: URI, or a file that was uploaded; addresses are not fetched.
            name: what the answer calls it as `file`, since a data: URI has no name.

        Returns:
            The JSON of file, label, score, scores, abstained, duration, segments.
        """
        return json.dumps(_predict(predictor, limits, recording, name))

    def timeline(recording: str) -> dict:
        """Which emotion is heard when in a long recording.

        Args:
            recording: as for predict.

        Returns:
            duration in seconds, and segments with start, end, label and score.
        """
        answer = _predict(predictor, limits, recording)
        return {"duration": answer["duration"], "segments": answer["segments"]}

    def batch(recordings: list[str]) -> list[dict]:
        """Hear the emotions in several recordings, or in those of a zip.

        Args:
            recordings: files.

        Returns:
            A prediction for each, in order; `file` and `error` in the place of one that cannot be
            read.
        """
        return _spoken(lambda: list(tabs.batch_predictions(predictor, limits, recordings)))

    with gr.Row(visible=False):
        one = gr.Audio(type="filepath", label="recording")
        many = gr.File(file_count="multiple", label="recordings")
        name = gr.Textbox("", label="name")
        found, text, press = gr.JSON(label="prediction"), gr.Textbox(label="prediction"), gr.Button()
    for function, takes, gives in (
        (predict, one, found),
        (predict_json, [one, name], text),
        (timeline, one, found),
        (batch, many, found),
    ):
        press.click(function, takes, gives, api_name=function.__name__, concurrency_id="api")


def _predict(predictor: Predictor, limits: Limits, path: str | None, name: str = "") -> dict:
    if path is None:
        raise gr.Error("There is no recording in the request.", print_exception=False)
    source = uploads.recording(path, name)
    return _spoken(lambda: predictor.predict(source, timeout=limits.timeout, longest=limits.seconds))


def _spoken(function: Callable[[], object]) -> object:
    """What the visitor can mend, in words, on the page and to programs alike."""
    try:
        return function()
    except UserError as error:
        raise gr.Error(str(error), print_exception=False, duration=None) from None
