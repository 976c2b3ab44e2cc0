"""The page, in a browser: upload a recording and read the answer."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from ser_hf import demo
from ser_hf.emotions import EMOTIONS
from ser_hf.predictor import Predictor

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOT = os.environ.get("SER_HF_SCREENSHOT", "")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]


def test_bars_stand_in_the_order_of_the_labels_and_names_are_escaped():
    scores = dict.fromkeys(EMOTIONS, 0.1) | {"sad": 0.3}
    answer = {"label": "<b>sad", "score": 0.3, "scores": scores, "duration": 1.0}
    html = demo.render(answer, np.sin(np.arange(16_000)).astype(np.float32))
    assert re.findall(r'aria-label="(\w+)" aria-valuemin', html) == list(EMOTIONS)
    assert re.findall(r'aria-valuenow="(\d+)"', html) == ["10", "10", "10", "30", "10", "10", "10", "10"]
    assert "&lt;b&gt;sad" in html
    assert "<b>sad" not in html
    assert html.count("<svg") == 1


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def url(tuned, tmp_path_factory):
    """The app as a user starts it, in a process of its own, with an empty cache of its own."""
    port = free_port()
    command = [sys.executable, ROOT / "app.py", "--model", tuned, "--port", str(port)]
    log = tmp_path_factory.mktemp("app") / "log"
    with log.open("w") as sink:
        app = subprocess.Popen([str(word) for word in command], stdout=sink, stderr=subprocess.STDOUT, cwd=ROOT)
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=2)
            break
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert app.poll() is None, log.read_text()
            time.sleep(0.5)
    yield address
    app.terminate()
    app.wait(timeout=20)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine; .ci/run installs Debian's")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright comes with the dev extra")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


def test_upload_and_read_the_answer(url, browser, tuned, recordings):
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    outside, errors = [], []
    page.on("request", lambda request: outside.append(request.url) if "127.0.0.1" not in request.url else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    file = sorted(Path(recordings[0]).rglob("*-24.wav"))[5]
    page.locator("input[type=file]").first.set_input_files(str(file))
    answer = page.locator("#answer .ser-answer")
    answer.wait_for(timeout=60_000)

    expected = Predictor(tuned).predict(str(file))
    assert answer.inner_text() == expected["label"]
    bars = page.locator("#answer [role=meter]")
    assert [bars.nth(i).get_attribute("aria-label") for i in range(bars.count())] == list(EMOTIONS)
    shown = [float(text.rstrip("%")) / 100 for text in page.locator("#answer .ser-score").all_inner_texts()]
    np.testing.assert_allclose(shown, list(expected["scores"].values()), atol=6e-4)
    assert page.locator("#answer svg.ser-wave").is_visible()
    if SCREENSHOT:
        page.screenshot(path=SCREENSHOT, full_page=True)
    assert [link for link in outside if not link.startswith(("data:", "blob:"))] == []
    assert errors == []
    page.close()


def test_a_file_that_is_no_audio_is_said_on_the_page(url, browser, tmp_path):
    page = browser.new_page()
    page.goto(url)
    (tmp_path / "notes.wav").write_text("no sound in here")
    page.locator("input[type=file]").first.set_input_files(str(tmp_path / "notes.wav"))
    alert = page.locator("#answer [role=alert]")
    alert.wait_for(timeout=60_000)
    assert "is not audio that can be read" in alert.inner_text()
    page.close()


def test_the_api_gives_the_prediction(url, tuned, recordings):
    from gradio_client import Client, handle_file

    file = str(sorted(recordings[0].rglob("*-23.wav"))[2])
    _, answer = Client(url, verbose=False).predict(handle_file(file), api_name="/predict")
    expected = Predictor(tuned).predict(file)
    assert answer["label"] == expected["label"]
    assert answer["scores"] == pytest.approx(expected["scores"], abs=1e-6)


def test_a_port_in_use_ends_in_one_line(tuned, fails):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = fails("app", "--model", tuned, "--port", taken.getsockname()[1])
    assert "choose another --port" in line
