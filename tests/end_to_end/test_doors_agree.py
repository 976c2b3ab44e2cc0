"""Python, the command line, the API, its batches, zips, the tools of language models, the page and
its live tab say the same of one recording: the same bytes, or the same words."""

import contextlib
import html
import io
import json
import shutil
import struct
import zipfile

import gradio
import numpy as np
import pytest
import soundfile
import torch
from gradio.data_classes import FileData
from helpers.media import write_media
from starlette.testclient import TestClient

from ser_hf import audio
from ser_hf.app import page, server, tabs
from ser_hf.app.metrics import Metrics
from ser_hf.app.uploads import Limits
from ser_hf.audio import synthesis
from ser_hf.cli.main import main
from ser_hf.errors import UserError
from ser_hf.inference.predictor import Predictor

RATE = 16_000


def sounds():
    """A synthetic voice of a second and a half, and one of twelve seconds, at 16 kHz."""
    voice = synthesis.SyntheticVoice.of("doors", female=True)
    parts = [synthesis.synthesize(voice, "happy", [0, 1, 2], np.random.default_rng(seed)) for seed in range(14)]
    talk = np.concatenate(parts).astype(np.float32) * 0.7
    return talk[: 3 * RATE // 2], talk[: 12 * RATE]


def wav(samples, rate=RATE, kind="WAV", subtype="PCM_16"):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def recordings_of(folder):
    """The content of each input by its name: what people bring, and what goes wrong with it."""
    voice, talk = sounds()
    loud, noise = np.random.default_rng(1), np.random.default_rng(2).normal(size=len(voice))
    plain, zeros = wav(voice), np.zeros(3 * RATE)
    repeated = np.repeat(voice, 3)

    def media(name, codec, rate=48_000, **how):
        return write_media(folder / name, repeated if rate == 48_000 else voice[::2], rate, codec, **how).read_bytes()

    phone = media("front.mp4", "aac", options={"movflags": "faststart"})
    lying = bytearray(plain)
    struct.pack_into("<I", lying, 40, 2**31)
    return {
        # sample formats and containers
        "16 bits.wav": plain,
        "24 bits.wav": wav(voice, subtype="PCM_24"),
        "float.wav": wav(voice, subtype="FLOAT"),
        "8 bits.wav": wav(voice, subtype="PCM_U8"),
        "telephone.wav": wav(voice[::2], 8_000, subtype="ULAW"),
        "extensible.wav": wav(voice, kind="WAVEX"),
        "large.wav": wav(voice, kind="RF64"),
        "a.w64": wav(voice, kind="W64"),
        "a.aiff": wav(voice, kind="AIFF"),
        "a.au": wav(voice, kind="AU"),
        "a.caf": wav(voice, kind="CAF"),
        "a.flac": wav(voice, kind="FLAC"),
        "a.ogg": wav(voice, kind="OGG", subtype="VORBIS"),
        "a.opus": wav(repeated, 48_000, "OGG", "OPUS"),
        "a.mp3": wav(repeated, 48_000, "MP3", "MPEG_LAYER_III"),
        "phone.m4a": media("phone.m4a", "aac"),
        "film.mp4": media("film.mp4", "aac", video=True),
        "browser.webm": media("browser.webm", "libopus"),
        "radio.aac": media("radio.aac", "aac"),
        "note.amr": media("note.amr", "libopencore_amrnb", 8_000),
        # rates, channels, levels
        "24414 Hz.wav": wav(voice, 24_414),
        "48 kHz.wav": wav(repeated, 48_000),
        "stereo.wav": wav(np.stack([voice, voice / 2], axis=1)),
        "cancelling.wav": wav(np.stack([voice, -voice], axis=1)),
        "six channels.wav": wav(np.stack([voice] * 6, axis=1)),
        "offset.wav": wav(voice * 0.5 + 0.2),
        "loud.wav": wav(voice * 40),
        # no voice, and long
        "zeros.wav": wav(zeros),
        "hiss.wav": wav(loud.normal(size=3 * RATE) * 1e-4),
        "noise.wav": wav(noise * 0.1),
        "long.wav": wav(talk),
        "long zeros.flac": wav(np.zeros(12 * RATE), kind="FLAC"),
        # names
        "ä 日本 'it''s'.wav": plain,
        "two  spaces.wav": plain,
        "<b>.wav": b"no sound",
        "UPPER.WAV": plain,
        "flac inside.wav": wav(voice, kind="FLAC"),
        # damaged, lying, or no recording
        "empty.wav": b"",
        "text.wav": b"I am a text\n" * 50,
        "page.wav": b"<!DOCTYPE html><html></html>",
        "playlist.m4a": b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n",
        "picture.wav": b"\x89PNG\r\n\x1a\n" + bytes(200),
        "header alone.wav": plain[:44],
        "half a header.wav": plain[:30],
        "cut off.flac": wav(voice, kind="FLAC")[:9_000],
        "cut off.mp4": phone[: len(phone) * 3 // 4],
        "no index.m4a": phone[:28] + b"\x00\x00\x10\x00mdat" + bytes(500),
        "claims too much.wav": bytes(lying),
        "claims no samples.wav": plain[:40] + bytes(4) + plain[44:],
        "too short.wav": wav(voice[:1_000]),
        "not a number.wav": wav(np.full(RATE, np.nan), subtype="FLOAT"),
        "infinite.wav": wav(np.append(voice, np.inf), subtype="FLOAT"),
        "40 channels.wav": wav(np.zeros((RATE, 40))),
        "400 kHz.wav": wav(np.zeros(40_000), 400_000),
        "silent film.mp4": media("silent.mp4", "aac", video=True, tracks=0),
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Paths of the inputs, in a folder that no message names."""
    folder = tmp_path_factory.mktemp("inputs")
    contents = recordings_of(tmp_path_factory.mktemp("media"))
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def answered(answer, folder):
    """An answer as JSON; in words the folder is left out, which no upload has."""
    return json.dumps(answer).replace(f"{folder}/", "")


@pytest.fixture(scope="module")
def predictor(models):
    return Predictor(models["layer"], backend="torch")


@pytest.fixture(scope="module")
def doors(inputs, models, predictor, tmp_path_factory):
    """What each door answers, in the order of the inputs."""
    model, folder, work = str(models["layer"]), inputs[0].parent, tmp_path_factory.mktemp("work")

    def python(path):
        try:
            return predictor.predict(path)
        except UserError as error:
            return {"file": path.name, "error": str(error)}

    answers = {"Python": [answered(python(path), folder) for path in inputs]}
    output = work / "answers.jsonl"
    flags = ["--model", model, "--backend", "torch", "--output", str(output)]
    assert main(["predict", *map(str, inputs), *flags]) == 3
    answers["command line"] = [answered(json.loads(line), folder) for line in output.read_text().splitlines()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(work))
        pages, build_page = [], page.build_page
        patch.setattr(page, "build_page", lambda *args: pages.append(build_page(*args)) or pages[-1])
        with TestClient(server.application(predictor, Limits(per_minute=0))) as client:
            answers |= asked(client, inputs)
        answers["page"] = [pressed(pages[0], path) for path in inputs]
        answers["a tool"] = [called(pages[0], path) for path in inputs]
    return answers


def asked(client, inputs):
    """What the routes answer."""
    each, timelines, packed = [], [], io.BytesIO()
    for path in inputs:
        for route, texts in (("/predict", each), ("/timeline", timelines)):
            response = client.post(route, files={"file": (path.name, path.read_bytes())})
            assert response.status_code in (200, 422)
            body = response.json()
            texts.append(json.dumps({"file": path.name, "error": body["error"]} if "error" in body else body))
    parts = [("file", (path.name, path.read_bytes())) for path in inputs]
    batch = client.post("/batch", files=parts).json()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in inputs:
            archive.writestr(path.name, path.read_bytes())
    zipped = {item["file"]: item for item in client.post("/batch", files={"file": ("all.zip", packed)}).json()}
    return {
        "POST /predict": each,
        "POST /timeline": timelines,
        "POST /batch": [json.dumps(item) for item in batch],
        "a zip": [json.dumps(zipped[path.name]) for path in inputs],
    }


def pressed(blocks, path):
    """What the function behind the button Analyse gives for an upload; words of a refusal as they
    are shown."""
    (function,) = {
        dependency.fn
        for dependency in blocks.fns.values()
        if any(blocks.blocks[component].elem_id == "go" for component, _ in dependency.targets if component is not None)
    }
    shown, prediction, _ = function(str(path), None)
    if prediction is not None:
        return json.dumps(prediction)
    words = html.unescape(shown.partition(">")[2].rpartition("<")[0])
    return json.dumps({"file": path.name, "error": words})


def called(blocks, path):
    """What the function behind the tool `predict_json` gives for an upload."""
    (function,) = [item for item in blocks.fns.values() if item.api_name == "predict_json"]
    recording = function.inputs[0].preprocess(FileData(path=str(path), orig_name=path.name))
    try:
        return function.fn(recording, path.name)
    except gradio.Error as error:
        return json.dumps({"file": path.name, "error": error.message})


def differing(inputs, expected, answers):
    """The answers that are others than expected, by the names of the inputs."""
    rows = zip(inputs, expected, answers, strict=True)
    return {path.name: (wanted, answer) for path, wanted, answer in rows if wanted != answer}


@pytest.mark.parametrize("door", ["command line", "POST /predict", "POST /batch", "a zip", "page", "a tool"])
def test_every_door_says_the_same(doors, inputs, door):
    assert len(inputs) > 50
    assert differing(inputs, doors["Python"], doors[door]) == {}


def test_a_timeline_is_that_of_the_prediction(doors, inputs):
    answers = [json.loads(text) for text in doors["Python"]]
    expected = [
        json.dumps(one if "error" in one else {"duration": one["duration"], "segments": one["segments"]})
        for one in answers
    ]
    assert differing(inputs, expected, doors["POST /timeline"]) == {}


def decoded(path, name=None):
    """The samples of a file as a program would hand them over, and their rate."""
    with audio.open_recording(path, name) as reader:
        empty = np.zeros((0, reader.channels), dtype=np.float32)
        return np.concatenate([empty, *reader.blocks()]), reader.rate


@pytest.mark.parametrize("form", ["a pair", "a dict", "channels first", "a tensor"])
def test_the_samples_of_a_file_are_answered_like_the_file(doors, inputs, predictor, form):
    expected, answers, paths = [], [], []
    for path, text in zip(inputs, doors["Python"], strict=True):
        if "error" in (answer := json.loads(text)):
            continue
        samples, rate = decoded(path)
        source = {
            "a pair": (rate, samples),
            "a dict": {"raw": samples, "sampling_rate": rate},
            "channels first": (samples.T.copy(), rate),
            "a tensor": {"array": torch.from_numpy(samples), "sampling_rate": np.int64(rate)},
        }[form]
        paths.append(path)
        expected.append(json.dumps(answer | {"file": None}))
        answers.append(json.dumps(predictor.predict(source)))
    assert len(answers) > 30
    assert differing(paths, expected, answers) == {}


def test_what_python_refuses_of_a_file_it_refuses_of_its_samples(doors, inputs, predictor):
    refused = {}
    for path, text in zip(inputs, doors["Python"], strict=True):
        if "error" in text:
            with contextlib.suppress(UserError):
                refused[path.name] = decoded(path)
    # what is refused before it is decoded has no samples
    words = dict.fromkeys(("infinite.wav", "not a number.wav"), "holds NaN or infinite samples")
    words |= dict.fromkeys(("header alone.wav", "too short.wav"), "s long: at least 0.1 s is needed")
    assert set(refused) == set(words)
    for name, source in refused.items():
        with pytest.raises(UserError, match=words[name]):
            predictor.predict(source)


def test_live_says_what_a_stream_in_python_says(inputs, predictor, tmp_path):
    """A chunk is a file of its own, and may be short; one that cannot be read has words, too."""
    shown, expected = [], []
    with gradio.Blocks() as blocks, gradio.Tab() as tab:
        tabs.add_live(predictor, Limits(), Metrics(), tab)
    (feed,) = [item.fn for item in blocks.fns.values() if item.fn and item.fn.__name__ == "predict_chunk"]
    for path in inputs:
        chunk = shutil.copy(path, tmp_path / "chunk")
        shown.append(feed(chunk, None)[1])
        assert not (tmp_path / "chunk").exists()
        try:
            samples, rate = decoded(path, "the stream")
            predictions = list(predictor.stream([samples], rate))
            expected.append(page.html.live_html(predictions[-1]) if predictions else gradio.skip())
        except UserError as error:
            expected.append(page.html.message_html(str(error)))
    assert differing(inputs, expected, shown) == {}


def test_what_is_a_recording_is_answered_and_all_else_is_refused_in_a_line(doors, inputs):
    names = [path.name for path in inputs]
    refused = {
        name: json.loads(text)["error"] for name, text in zip(names, doors["Python"], strict=True) if "error" in text
    }
    assert set(names[: names.index("empty.wav")]) & set(refused) == {"<b>.wav"}
    assert all("\n" not in words and name in words for name, words in refused.items())
    alike = [json.loads(text) for text in doors["Python"][: names.index("a.ogg")]]
    assert {answer["label"] for answer in alike if answer["file"] != "telephone.wav"} == {alike[0]["label"]}
