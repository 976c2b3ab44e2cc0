"""The page whose model runs in the visitor's browser, as a visitor uses it."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.site import Site, Visit, until
from helpers.small import ROOT, make_whisper

from ser_hf.app import html, web_site
from ser_hf.inference.predictor import Predictor
from ser_hf.labels import COLOURS, EMOTIONS

RATE = 16_000
PROBLEMS = (ROOT / "scripts" / "maintain" / "page_problems.js").read_text()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_whisper(tmp_path_factory.mktemp("model") / "whisper", seconds=5)


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model, device="cpu", backend="torch")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "site"
    web_site.write_site(model, folder)
    return folder


@pytest.fixture
def site(folder):
    site = Site(folder)
    yield site
    site.shutdown()
    site.server_close()


@pytest.fixture(scope="module")
def shared(browser, folder):
    """A visit that several tests share; all that happens in it stays on the page's own origin."""
    site = Site(folder)
    visit = Visit(browser, site.url, permissions=["microphone"]).ready()
    yield visit
    visit.close("shared")
    site.shutdown()
    assert visit.errors == []


@pytest.fixture
def page(shared):
    shared.page.locator("#tab-analyse").click()
    return shared.page


@pytest.fixture
def visit(browser, site, request):
    """A first visit of a visitor's own."""
    visits = []

    def begin(**options):
        visits.append(Visit(browser, site.url, **options))
        return visits[-1]

    yield begin
    for one in visits:
        one.close(request.node.name)


def scores(answer):
    return [float(text.rstrip(" %")) / 100 for text in answer.locator(".ser-score").all_inner_texts()]


def saved(page, button):
    with page.expect_download() as download:
        page.locator(button).click()
    return Path(download.value.path()).read_text()


def test_upload_and_read_the_answer(page, shared, predictor, recordings):
    file = sorted(recordings[0].rglob("*-24.wav"))[5]
    answer, expected = shared.upload(file), predictor.predict(str(file))
    assert answer.locator(".ser-label").inner_text() == expected["label"]
    assert f"{html.percent(expected['score'])} sure, {expected['duration']:.1f} s of audio" in answer.inner_text()
    np.testing.assert_allclose(scores(answer), list(expected["scores"].values()), atol=1e-3)
    bars = answer.get_by_role("meter").all()
    assert [bar.get_attribute("aria-label") for bar in bars] == list(EMOTIONS)
    assert [bar.get_attribute("aria-valuetext") for bar in bars] == answer.locator(".ser-score").all_inner_texts()
    colours = "all => all.map(one => one.style.getPropertyValue('--colour'))"
    assert answer.locator(".ser-fill").evaluate_all(colours) == list(COLOURS.values())
    assert answer.locator("svg.ser-wave").is_visible()
    assert answer.locator(".ser-jump").count() == 0
    found = json.loads(saved(page, "#save"))
    assert list(found) == list(expected)
    assert found["scores"] == pytest.approx(expected["scores"], abs=1e-3)
    assert "WebAssembly" in page.locator("#status").inner_text()


def test_a_long_recording_has_a_timeline_that_plays(page, shared, predictor, talk_file):
    answer, expected = shared.upload(talk_file), predictor.predict(str(talk_file))
    jumps = answer.locator(".ser-jump")
    starts = jumps.evaluate_all("all => all.map(one => Number(one.dataset.start))")
    assert starts == pytest.approx([segment["start"] for segment in expected["segments"]], abs=1e-3)
    texts = jumps.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
    assert texts == [f"play {html._segment_text(segment)}" for segment in expected["segments"]]
    lefts = answer.locator(".ser-part").evaluate_all("all => all.map(one => one.style.getPropertyValue('--left'))")
    shown = [float(left.rstrip("%")) for left in lefts]
    assert shown == pytest.approx([100 * one["start"] / expected["duration"] for one in expected["segments"]], abs=0.02)
    jumps.last.focus()
    page.keyboard.press("Enter")
    until(page, f"document.querySelector('.ser-player').currentTime >= {starts[-1] - 0.01}")
    assert jumps.last.get_attribute("aria-current") == "true"
    assert page.locator(".ser-cursor").is_visible()


def test_recordings_that_cannot_be_analysed_say_why_in_their_row(page, shared, recordings, tmp_path):
    (tmp_path / "notes.wav").write_text("no sound in here")
    (tmp_path / "empty.mp3").write_bytes(b"")
    soundfile.write(tmp_path / "silence.wav", np.zeros(12 * RATE), RATE)
    soundfile.write(tmp_path / "click.wav", np.zeros(800), RATE)
    soundfile.write(tmp_path / "night.flac", np.zeros(7300 * 8000, np.int8).astype(np.int16), 8000)
    shutil.copy(next(recordings[0].rglob("*.wav")), tmp_path / "=voice.wav")
    names = ["notes.wav", "empty.mp3", "silence.wav", "click.wav", "night.flac", "=voice.wav"]
    answer = shared.upload(*(tmp_path / name for name in names))
    cells = [row.inner_text().split("\t") for row in answer.locator("tbody tr").all()]
    assert [row[0] for row in cells] == names
    assert [row[1] for row in cells[:5]] == [
        "'notes.wav' is not audio that this browser plays: convert it to WAV, MP3 or FLAC",
        "'empty.mp3' is empty (0 bytes): record or download it again",
        "no voice was found",
        "'click.wav' is 0.050 s long: at least 0.1 s is needed",
        "'night.flac' is longer than 2 hours: cut it into parts",
    ]
    assert "2 recordings analysed, 4 could not be read" in answer.inner_text()
    rows = list(csv.DictReader(saved(page, "#save-csv").splitlines()))
    assert [row["file"] for row in rows] == [*names[:5], "'=voice.wav"]
    assert [bool(row["error"]) for row in rows] == [True, True, False, True, True, False]
    lines = [json.loads(line) for line in saved(page, "#save-jsonl").splitlines()]
    assert [row["file"] for row in lines] == names
    answer.get_by_role("button", name="silence.wav").click()
    assert answer.locator("#headline").inner_text().splitlines()[0] == "No voice was found"


def test_an_error_of_a_single_recording_is_an_alert(page, shared, tmp_path):
    (tmp_path / "notes.wav").write_text("no sound in here")
    alert = shared.upload(tmp_path / "notes.wav").get_by_role("alert")
    assert alert.inner_text().startswith("'notes.wav' is not audio that this browser plays")
    assert page.locator("#save").is_hidden()


def test_a_dropped_file_and_an_example_are_analysed(page, shared, recordings):
    drop = """([content, name]) => {
        const dropped = new DataTransfer()
        dropped.items.add(new File([new Uint8Array(content)], name))
        const place = document.querySelector("#drop")
        place.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}))
    }"""
    file = next(recordings[0].rglob("*.wav"))
    page.evaluate(drop, [list(file.read_bytes()), "dropped.wav"])
    page.locator(".ser-name", has_text="dropped.wav").wait_for()
    page.get_by_role("button", name="synthetic sad").click()
    page.locator(".ser-name", has_text="synthetic sad.wav").wait_for()
    assert len(scores(page.locator("#answer"))) == 8


def test_an_analysis_can_be_cancelled(page, tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "long.wav", rng.normal(0, 0.1, 600 * RATE), RATE)
    page.locator("#files").set_input_files(tmp_path / "long.wav")
    until(page, "document.querySelector('#share').value > 0")
    page.locator("#cancel").click()
    page.locator("#answer").get_by_text("Cancelled.").wait_for()
    page.get_by_role("button", name="synthetic sad").click()
    page.locator(".ser-name", has_text="synthetic sad.wav").wait_for()


def test_answers_for_the_voice_of_the_visit(visit, predictor, recordings):
    visitor = visit().ready()
    page = visitor.page
    clips = sorted(recordings[0].rglob("*-24.wav"))[:6]
    page.locator("#voice summary").click()
    page.get_by_role("button", name="synthetic sad").click()  # a voice that is not the visitor's
    page.locator(".ser-name", has_text="synthetic sad.wav").wait_for()
    visitor.upload(*clips[:3])
    page.get_by_text("3 clips so far: 5 are needed.").wait_for()
    page.locator("#adapt").click()
    assert "3 clips of one voice are too few" in page.locator("#voice-message [role=alert]").inner_text()
    visitor.upload(*clips[3:])
    page.get_by_text("6 clips so far.").wait_for()
    page.locator("#adapt").click()
    page.get_by_text("Predictions are now for the voice of 6 clips.").wait_for()
    paths = [str(clip) for clip in clips]
    adapted = list(predictor.adapt(paths).predict(paths[0])["scores"].values())
    plain = list(predictor.predict(paths[0])["scores"].values())
    assert not np.allclose(adapted, plain, atol=0.02)
    np.testing.assert_allclose(scores(visitor.upload(clips[0])), adapted, atol=2e-3)
    page.locator("#forget").click()
    page.get_by_text("No clip so far: 5 are needed.").wait_for()
    np.testing.assert_allclose(scores(visitor.upload(clips[0])), plain, atol=1e-3)


def test_record_and_live(page):
    page.locator("#record").click()
    page.get_by_text("0:01 recorded").wait_for()
    page.locator("#record").click()
    page.locator(".ser-name", has_text="recording 1.wav").wait_for()
    assert sum(scores(page.locator("#answer"))) == pytest.approx(1, abs=5e-3)
    page.locator("#tab-live").click()
    page.locator("#live").click()
    until(page, "/^0:0[2-9] recorded/.test(document.querySelector('#live-length').innerText)")
    page.locator("#live-details .ser-timeline").wait_for()
    assert sum(scores(page.locator("#live-answer"))) == pytest.approx(1, abs=5e-3)
    page.locator("#tab-model").click()
    page.locator("#tab-live").click()
    assert page.locator("#live").inner_text() == "Record"  # who leaves the tab is heard no longer


def test_a_microphone_that_cannot_be_heard_is_said(page):
    refuse = "name => navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', name))"
    for name, words in (
        ("NotAllowedError", "The microphone is not allowed"),
        ("NotFoundError", "No microphone was found"),
        ("NotReadableError", "The microphone is in use elsewhere"),
    ):
        page.evaluate(refuse, name)
        page.locator("#record").click()
        page.locator("#answer [role=alert]", has_text=words).wait_for()
    page.locator("#tab-live").click()
    page.locator("#live").click()
    page.locator("#live-answer [role=alert]", has_text="The microphone is in use elsewhere").wait_for()
    page.evaluate("delete navigator.mediaDevices.getUserMedia")


def test_a_keyboard_reaches_everything(page, shared, talk_file):
    shared.upload(talk_file)
    wanted = page.evaluate("""() => [...document.querySelectorAll("a, button, input, summary, audio, [tabindex]")]
        .filter((one) => one.checkVisibility({visibilityProperty: true}) && one.tabIndex >= 0 && !one.disabled)
        .map((one, number) => {one.dataset.number = number; return one.outerHTML})""")
    page.evaluate("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    reached = set()
    for _ in range(len(wanted) + 15):  # the player has several stops
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.number ?? null"))
    missed = [one for number, one in enumerate(wanted) if str(number) not in reached]
    assert missed == []
    page.locator("#tab-analyse").focus()
    for name in ("live", "model", "analyse"):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == f"tab-{name}"
        assert page.locator(f"#panel-{name}").is_visible()
    unnamed = page.evaluate("""() => [...document.querySelectorAll("button, input")]
        .filter((one) => !(one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.length))
        .map((one) => one.outerHTML)""")
    assert unnamed == []


def test_it_works_without_network_after_the_first_visit(visit, site, folder, recordings):
    visitor = visit().ready()
    page = visitor.page
    assert page.evaluate("crossOriginIsolated"), "threads need the headers of the service worker"
    assert "works offline from now on" in page.locator("#status").inner_text()
    file = next(recordings[0].rglob("*.wav"))
    before = visitor.upload(file).inner_text()
    until(page, "caches.match(new URL('examples/synthetic sad.wav', location.href)).then(Boolean)")
    site.shutdown()
    site.server_close()
    page.reload()
    visitor.ready()
    assert visitor.upload(file).inner_text() == before
    page.get_by_role("button", name="synthetic sad").click()
    page.locator(".ser-name", has_text="synthetic sad.wav").wait_for()
    kept = page.evaluate("""async () => (await Promise.all((await caches.keys()).map(async (name) =>
        (await (await caches.open(name)).keys()).map((request) => request.url)))).flat()""")
    assert all(url.startswith(site.url) for url in kept)
    own = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {url.removeprefix(site.url).replace("%20", " ") for url in kept} <= own | {""}


def test_another_model_beside_the_page_replaces_the_one_that_was_kept(visit, site, folder):
    visitor = visit().ready()
    page = visitor.page
    settings = folder / "ser_hf.json"
    before = settings.read_text()
    names = "caches.keys().then((all) => all.filter((one) => one.includes(' model ')).map((one) => one.slice(-5)))"
    assert page.evaluate(names) == [json.loads(before)["digest"][-5:]]
    site.asked.clear()
    page.reload()
    visitor.ready()
    assert "onnx/model.onnx" not in site.asked
    try:
        settings.write_text(json.dumps(json.loads(before) | {"digest": "another", "abstain_below": 0.99}))
        page.reload()
        visitor.ready()
        assert "onnx/model.onnx" in site.asked
        assert page.evaluate(names) == ["other"]
        page.get_by_role("button", name="synthetic sad").click()
        page.locator("#headline .ser-label", has_text="Not sure").wait_for()
        text = page.locator("#headline .ser-sub").inner_text()
        assert re.fullmatch(
            r"The likeliest is \w+ with \d+ %, and the model was calibrated to abstain below 99 %\.", text
        )
    finally:
        settings.write_text(before)


def test_a_phone_has_no_sideways_scrolling(visit, talk_file):
    visitor = visit(viewport={"width": 360, "height": 740}, color_scheme="dark").ready()
    page = visitor.page
    visitor.upload(talk_file, talk_file)
    page.locator(".ser-open").first.click()
    page.locator("#voice summary").click()
    for tab in ("model", "live", "analyse"):
        page.locator(f"#tab-{tab}").click()
        assert page.evaluate(PROBLEMS) == [], tab
    assert page.evaluate("(one => one.scrollWidth <= one.clientWidth)(document.querySelector('.ser-table'))")
    assert visitor.errors == []


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("ser_hf.json", "'/ser_hf.json' is missing beside the page: export it again"),
        ("worker.js", "'worker.js' is missing beside the page"),
        ("onnx/model.onnx", "'/onnx/model.onnx' is missing beside the page: export it again"),
    ],
)
def test_a_file_that_is_missing_is_said(visit, site, missing, words, recordings):
    site.missing.add(missing)
    visitor = visit(service_workers="block")
    visitor.page.locator("#trouble [role=alert]", has_text=words).wait_for(timeout=30_000)
    answer = visitor.upload(next(recordings[0].rglob("*.wav")))
    assert words in answer.get_by_role("alert").inner_text()


def test_a_browser_without_webassembly_is_told_so(visit, site):
    site.policy = "script-src 'self'"
    visitor = visit(service_workers="block")
    alert = visitor.page.locator("#trouble [role=alert]")
    alert.wait_for(timeout=30_000)
    assert "this browser cannot run the model" in alert.inner_text()
    assert "allow WebAssembly, or use another one" in alert.inner_text()
