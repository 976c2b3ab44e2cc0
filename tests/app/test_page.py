"""The page, in a browser, as a visitor uses it."""

import csv
import functools
import http.server
import json
import os
import re
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.app import serving
from helpers.media import FRAGMENTED, write_media
from helpers.small import ROOT
from safetensors.torch import load_file, save_file

from ser_hf import audio
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import EMOTIONS

SCREENSHOTS = os.environ.get("SER_HF_SCREENSHOT", "")  # a folder
PLANTED = "https://elsewhere.example/seen.png"
PROBLEMS = (ROOT / "scripts" / "maintain" / "page_problems.js").read_text()


@pytest.fixture(scope="module")
def model(tuned, tmp_path_factory):
    """A copy of the trained model whose card wants a picture from elsewhere."""
    folder = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(tuned, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    with (folder / "README.md").open("a") as card:  # the fixture `page` sees whether it is asked for
        card.write(f'\n<img alt="planted" src="{PLANTED}">\n')
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][0] += 2  # it takes every voice for the same, so that an adaptation can be seen
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "adaptation_head.safetensors").unlink()  # it is of the weights before
    return folder


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model)


@pytest.fixture(scope="module")
def url(model, request):
    with serving("--model", model, *getattr(request, "param", ())) as address:
        yield address


class Visitor:
    """A profile of the browser whose every request beyond this machine is stopped."""

    def __init__(self, browser, **wanted):
        self.outside, self.errors = [], []
        options = {"viewport": {"width": 1100, "height": 900}, "permissions": ["microphone"]} | wanted
        self.context = browser.new_context(**options)
        inside = re.compile(r"(https?://127\.0\.0\.1:\d+/|data:|blob:)")
        self.context.route(lambda address: not inside.match(address), self._stop)
        self.context.expose_function("note_violation", self._note)
        self.context.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (seen) => note_violation(seen.effectiveDirective, seen.blockedURI, seen.sourceFile))"
        )

    def _stop(self, route):
        self.outside.append(route.request.url)
        route.abort()

    def _note(self, *what):
        if PLANTED not in what:
            self.errors.append(what)

    def open(self, url):
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("response", lambda answer: self.errors.append(answer.url) if answer.status >= 400 else None)
        page.goto(url)
        page.locator("#recording input[type=file]").first.wait_for(state="attached", timeout=60_000)
        return page


@pytest.fixture(scope="module")
def returning(browser):
    """A visitor whose browser has the page's scripts."""
    visitor = Visitor(browser)
    yield visitor
    visitor.context.close()


@pytest.fixture(scope="module")
def shared(url, returning):
    """A page that tests use one after the other: to open one takes longer than most of them."""
    page = returning.open(url)
    yield page
    page.close()


@pytest.fixture
def page(url, browser, returning, shared, request):
    """A visitor's page; there must have been no request beyond this machine, and nothing that the
    content security policy blocks but the picture of the card."""
    alone = hasattr(request, "param")
    visitor = Visitor(browser, **request.param) if alone else returning
    page = visitor.open(url) if alone else shared
    yield page
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{request.node.name}.png", full_page=True)
    if alone:
        visitor.context.close()
    else:
        start_over(page)
    assert visitor.outside == []
    assert visitor.errors == []


NOTHING = "Upload a recording or speak first."


def start_over(page):
    """Take the recording away, and with it the answer."""
    page.get_by_role("tab", name="Analyse").click()
    if (clear := page.locator("#recording").get_by_label("Clear")).count():
        clear.first.click()
    upload = page.locator("#recording input[type=file]")
    if page.locator("#recording .source-selection").count() and not upload.count():
        page.locator("#recording .source-selection button").first.click()
    upload.first.wait_for(state="attached")
    page.locator("#go").click()
    page.locator("#answer").get_by_text(NOTHING).wait_for()


def analyse(page, file):
    page.locator("#recording input[type=file]").first.set_input_files(str(file))
    return answered(page)


def answered(page):
    answers = page.locator("#answer .ser-label, #answer [role=alert]").filter(has_not_text=NOTHING)
    answers.first.wait_for(timeout=60_000)
    return page.locator("#answer")


def open_tab(page, name):
    """Where a phone has no room for all tabs, Gradio puts the last ones behind a button."""
    tab = page.get_by_role("tab", name=name)
    if not tab.count():
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()


def shown_scores(answer):
    return [float(text.rstrip(" %")) / 100 for text in answer.locator(".ser-score").all_inner_texts()]


def test_upload_and_read_the_answer(page, predictor, recordings):
    file = sorted(recordings[0].rglob("*-24.wav"))[5]
    answer, expected = analyse(page, file), predictor.predict(file)
    label = expected["label"] if not expected["abstained"] else "Not sure"
    assert answer.locator(".ser-label").inner_text() == label
    bars = answer.locator("[role=meter]")
    assert [bars.nth(i).get_attribute("aria-label") for i in range(bars.count())] == list(EMOTIONS)
    np.testing.assert_allclose(shown_scores(answer), list(expected["scores"].values()), atol=6e-4)
    assert answer.locator("svg.ser-wave").is_visible()
    assert answer.locator(".ser-jump").count() == 0
    with page.expect_download() as saved:
        page.locator("#save").click()
    assert json.loads(Path(saved.value.path()).read_text()) == expected


def test_answers_for_a_voice_that_the_page_was_adapted_to(page, predictor, recordings):
    clips = [str(path) for path in sorted(recordings[0].rglob("*-24.wav"))[:6]]
    page.get_by_text("Adapt to it").click()
    page.locator("#adapt").click()  # without clips
    alert = page.locator("#voice-message [role=alert]")
    alert.wait_for(timeout=60_000)
    assert "there is no recording in it" in alert.inner_text()
    page.locator("#voice-files input[type=file]").set_input_files(clips)
    page.locator("#voice-files").get_by_text(Path(clips[5]).stem).first.wait_for()
    page.locator("#adapt").click()
    page.locator("#voice-message").get_by_text("6 clips").wait_for(timeout=60_000)
    answer = analyse(page, clips[5])
    adapted = list(predictor.adapt(clips).predict(clips[5])["scores"].values())
    plain = list(predictor.predict(clips[5])["scores"].values())
    assert not np.allclose(adapted, plain, atol=0.02)
    np.testing.assert_allclose(shown_scores(answer), adapted, atol=6e-4)
    page.locator("#forget").click()
    page.locator("#forget").wait_for(state="hidden")
    page.locator("#go").click()
    page.wait_for_function(
        "wanted => Math.abs(parseFloat(document.querySelector('#answer .ser-score').innerText) - wanted) < 0.06",
        arg=100 * plain[0],
    )
    np.testing.assert_allclose(shown_scores(answer), plain, atol=6e-4)


def test_a_long_recording_has_a_timeline_that_plays(page, predictor, talk_file):
    answer, expected = analyse(page, talk_file), predictor.predict(talk_file)
    jumps = answer.locator(".ser-jump")
    assert jumps.count() == len(expected["segments"])
    assert [float(jumps.nth(i).get_attribute("data-start")) for i in range(jumps.count())] == [
        item["start"] for item in expected["segments"]
    ]
    for item, part in zip(expected["segments"], answer.locator(".ser-part").all(), strict=True):
        assert f"{item['label']}, " in part.get_attribute("title")
        left = float(re.search(r"left: ([\d.]+)%", part.get_attribute("style"))[1])
        assert left == pytest.approx(100 * item["start"] / expected["duration"], abs=0.01)
    last = jumps.nth(jumps.count() - 1)
    last.focus()
    page.keyboard.press("Enter")
    second = expected["segments"][-1]["start"]
    page.wait_for_function(f"document.querySelector('#recording audio').currentTime >= {second - 0.01}")
    page.wait_for_function("!document.querySelector('.ser-cursor').hidden")
    page.wait_for_function(
        f"parseFloat(document.querySelector('.ser-cursor').style.left) >= {100 * second / expected['duration'] - 0.1}"
    )
    assert last.get_attribute("aria-current") == "true"


def test_a_page_of_another_site_neither_asks_the_app_nor_shows_it(browser, url, tmp_path):
    (tmp_path / "index.html").write_text(f'<iframe src="{url}"></iframe>')
    ask = """async ([url, mode]) => {
        const form = new FormData(); form.append("files", new Blob(["x"]), "clip.wav")
        return await fetch(url, {method: "POST", body: form, mode}).then(() => "answered", () => "refused")
    }"""
    files = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), files) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        framed = [frame for frame in page.frames if frame != page.main_frame]
        assert [frame.query_selector("gradio-app") for frame in framed] == [None]
        for mode in ("cors", "no-cors"):
            assert page.evaluate(ask, [f"{url}/gradio_api/upload", mode]) == "refused"
        context.close()
        other.shutdown()


def test_a_file_that_is_no_audio_is_said_on_the_page(page, tmp_path):
    (tmp_path / "notes.wav").write_text("no sound in here")
    alert = analyse(page, tmp_path / "notes.wav").locator("[role=alert]")
    assert alert.inner_text() == (
        "'notes.wav' is not audio that can be read (Format not recognised): convert it to WAV or FLAC"
    )


def test_abstention_is_said_plainly(page, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(12 * 16_000), 16_000)
    assert "No voice was found" in analyse(page, tmp_path / "silence.wav").inner_text()


def test_a_synthetic_example_is_analysed(page):
    page.get_by_text("synthetic sad", exact=True).click()
    page.locator("#answer .ser-label").wait_for(timeout=60_000)
    assert len(shown_scores(page.locator("#answer"))) == 8


def test_record_from_the_microphone(page):
    page.get_by_label("Record audio").or_(page.locator("#recording .source-selection button").nth(1)).first.click()
    page.locator("#recording button", has_text="Record").click()
    page.wait_for_timeout(2_500)
    page.locator("#recording button", has_text="Stop").first.click()
    page.locator("#answer .ser-sub").wait_for(timeout=60_000)
    seconds = float(re.search(r"([\d.]+) s of audio", page.locator("#answer").inner_text())[1])
    assert 1 <= seconds <= 5
    assert sum(shown_scores(page.locator("#answer"))) == pytest.approx(1, abs=5e-3)


RECORD = """async kind => {
    const heard = await navigator.mediaDevices.getUserMedia({audio: true})
    const recorder = new MediaRecorder(heard, {mimeType: kind}), parts = []
    recorder.ondataavailable = event => parts.push(event.data)
    const stopped = new Promise(resolve => { recorder.onstop = resolve })
    recorder.start(300)
    await new Promise(resolve => setTimeout(resolve, 900))
    recorder.stop()
    await stopped
    return Array.from(new Uint8Array(await new Blob(parts).arrayBuffer()))
}"""

DROP = """([content, name]) => {
    const dropped = new DataTransfer()
    dropped.items.add(new File([new Uint8Array(content)], name, {type: "video/mp4"}))
    const place = document.querySelector("#recording input[type=file]").parentElement
    place.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}))
}"""


def test_what_chromium_records_is_answered(page, predictor, tmp_path):
    """Browsers call it a video, and Gradio's field takes none."""
    file = tmp_path / "note.webm"
    file.write_bytes(bytes(page.evaluate(RECORD, "audio/webm")))
    expected = predictor.predict(file)
    assert 0.5 < expected["duration"] < 2
    np.testing.assert_allclose(shown_scores(analyse(page, file)), list(expected["scores"].values()), atol=6e-4)


def test_what_safari_records_is_answered_where_it_is_dropped(page, predictor, recordings, tmp_path):
    samples = audio.load(next(recordings[0].rglob("*.wav")))
    file = write_media(tmp_path / "note.mp4", samples, audio.SAMPLING_RATE, "aac", options=FRAGMENTED)
    page.evaluate(DROP, [list(file.read_bytes()), file.name])
    np.testing.assert_allclose(
        shown_scores(answered(page)), list(predictor.predict(file)["scores"].values()), atol=6e-4
    )


def test_live_answers_run_within_what_a_visitor_may_ask(page):
    """The limit is 120 requests a minute, and does not hold for this machine, from which the tests
    ask."""
    sent = []
    page.on("request", lambda request: sent.append(request.url) if request.url.endswith("/upload") else None)
    page.on("request", lambda request: sent.append(request.url) if "/upload?" in request.url else None)
    page.get_by_role("tab", name="Live").click()
    page.wait_for_timeout(1_500)  # Gradio loads its recorder after it shows the button
    page.locator("#live button", has_text="Record").first.click()
    page.locator("#live-prediction .ser-score").first.wait_for(timeout=60_000)
    before = len(sent)
    page.wait_for_timeout(4_000)
    assert 2 <= len(sent) - before <= 6
    page.wait_for_function(
        "/0:0[3-9] recorded/.test(document.querySelector('#live-prediction').innerText)", timeout=60_000
    )
    assert sum(shown_scores(page.locator("#live-prediction"))) == pytest.approx(1, abs=5e-3)
    page.locator("#live button", has_text="Stop").first.click()


def test_batch_gives_a_table_and_both_downloads(page, predictor, recordings, tmp_path):
    files = sorted(recordings[0].rglob("*-12.wav"))[:3]
    (tmp_path / "notes.wav").write_text("no sound in here")
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as packed:
        packed.write(files[1], f"inside/{files[1].name}")
        packed.write(files[2], f"inside/{files[2].name}")
        packed.writestr("read me.txt", "not audio")
    page.get_by_role("tab", name="Batch").click()
    uploads = [files[0], tmp_path / "notes.wav", tmp_path / "clips.zip"]
    page.locator("#files input[type=file]").set_input_files([str(file) for file in uploads])
    page.locator("#files").get_by_text("clips").first.wait_for()
    page.get_by_role("button", name="Analyse all").click()
    page.locator("#table").get_by_text(files[2].name).first.wait_for(timeout=60_000)
    page.locator("#batch-message").get_by_text("3 recordings analysed, 2 could not be read").wait_for()
    saved_texts = {}
    for kind in ("csv", "jsonl"):
        with page.expect_download() as saved:
            page.locator(f"#{kind}").click()
        saved_texts[kind] = Path(saved.value.path()).read_text()
    expected = [predictor.predict(file) for file in files]
    lines = saved_texts["jsonl"].splitlines()
    assert [lines[0], *lines[2:4]] == [json.dumps(answer) for answer in expected]
    assert [json.loads(line)["file"] for line in (lines[1], lines[4])] == ["notes.wav", "read me.txt"]
    rows = list(csv.DictReader(saved_texts["csv"].splitlines()))
    assert [row["label"] for row in rows] == [expected[0]["label"], "", *(item["label"] for item in expected[1:]), ""]
    assert [float(rows[0][name]) for name in EMOTIONS] == list(expected[0]["scores"].values())
    assert "is not audio that can be read" in rows[1]["error"]


def test_the_model_is_shown_with_its_figures(page, model):
    results = json.loads((model / "results.json").read_text())
    page.get_by_role("tab", name="Model").click()
    facts = page.locator("#model")
    facts.locator("table").wait_for()
    assert f"{results['uar']:.3f}" in facts.inner_text()
    assert results["protocol_hash"] in facts.inner_text()
    assert facts.locator("img").evaluate("picture => picture.naturalWidth") > 100
    page.locator("#card").get_by_text("What it reaches").wait_for()  # it is drawn after the table
    # its own pictures are left out, and the planted one stays empty
    assert page.locator("#card img").evaluate_all("all => all.map(one => one.naturalWidth)") == [0]


PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.mark.parametrize("page", [PHONE, PHONE | {"color_scheme": "dark"}], indirect=True, ids=["light", "dark"])
def test_a_phone_needs_no_scrolling_sideways(page, talk_file, recordings, tmp_path, request):
    page.get_by_text("- or -").first.wait_for()
    assert page.evaluate(PROBLEMS) == []  # before there is an answer
    analyse(page, talk_file)
    (tmp_path / "a name as long as those that recorders give.wav").write_text("no sound in here")
    open_tab(page, "Batch")
    files = [*sorted(recordings[0].rglob("*.wav"))[:2], *tmp_path.iterdir()]
    page.locator("#files input[type=file]").set_input_files([str(file) for file in files])
    page.locator("#files").get_by_text("recorders").first.wait_for()
    page.get_by_role("button", name="Analyse all").click()
    page.locator("#table td[colspan]").wait_for(timeout=60_000)
    heights = page.locator("#table td:not([colspan])").evaluate_all(
        "all => all.map(one => { const range = document.createRange(); range.selectNodeContents(one);"
        " return range.getBoundingClientRect().height / parseFloat(getComputedStyle(one).lineHeight) })"
    )
    assert len(heights) == 6
    assert max(heights) < 1.5  # lines: no word is broken
    for tab in ("Analyse", "Live", "Batch", "Model"):
        open_tab(page, tab)
        assert page.evaluate(PROBLEMS) == []
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    level = np.mean([int(part) for part in re.findall(r"\d+", colour)[:3]])
    assert (level < 60) == ("dark" in request.node.name)


@pytest.mark.parametrize("page", [{}], indirect=True, ids=["opened just now"])
def test_a_keyboard_reaches_everything_and_all_has_a_name(page):
    page.get_by_text("synthetic conversation").first.wait_for()  # the examples come after the rest
    named, reached = [], set()
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            """() => { const one = document.activeElement; return [one.tagName,
            (one.getAttribute('aria-label') || one.innerText || one.title || '').trim(), one.id]
            }"""
        )
        named.append(focused)
        reached |= {focused[1], focused[2]}
    assert {"Analyse", "go"} <= reached
    assert any("synthetic conversation" in name for name in reached)
    assert [item for item in named if item[0] == "BUTTON" and not item[1]] == []


def test_the_endpoints_have_schemas(url):
    from gradio_client import Client

    schema = Client(url, verbose=False).view_api(return_format="dict")
    assert sorted(schema["named_endpoints"]) == ["/batch", "/predict", "/predict_json", "/timeline"]
    (parameter,) = schema["named_endpoints"]["/predict"]["parameters"]
    assert parameter["parameter_name"] == "recording"
    assert schema["unnamed_endpoints"] == {}


def test_a_program_is_told_what_is_wrong_in_words(url, tmp_path):
    from gradio_client import Client, exceptions, handle_file

    (tmp_path / "notes.wav").write_text("no sound in here")
    client = Client(url, verbose=False)
    with pytest.raises(exceptions.AppError, match=r"^'notes\.wav' is not audio that can be read"):
        client.predict(handle_file(str(tmp_path / "notes.wav")), api_name="/predict")
    (answer,) = client.predict([handle_file(str(tmp_path / "notes.wav"))], api_name="/batch")
    assert answer["file"] == "notes.wav"


def test_a_port_in_use_ends_in_one_line(tuned, fails):
    import socket

    before = os.environ.get("GRADIO_TEMP_DIR")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = fails("app", "--model", tuned, "--port", taken.getsockname()[1])
    assert "choose another --port" in line
    assert os.environ.get("GRADIO_TEMP_DIR") == before  # a folder that is gone is nobody's


@pytest.mark.parametrize("url", [("--live_seconds", "2")], indirect=True)
def test_a_live_session_past_its_limit_is_over_and_records_no_more(page):
    page.get_by_role("tab", name="Live").click()
    page.wait_for_timeout(1_500)  # Gradio loads its recorder after it shows the button
    record = page.locator("#live button", has_text="Record").first
    for _ in range(2):
        record.click()
        page.locator("#live-prediction .ser-score").first.wait_for(timeout=60_000)
        page.locator("#live-prediction").get_by_text("lasts 2 s: press Record for another").wait_for(timeout=60_000)
        record.wait_for(timeout=10_000)
        page.wait_for_timeout(1_500)
        assert "press Record for another" in page.locator("#live-prediction").inner_text()
