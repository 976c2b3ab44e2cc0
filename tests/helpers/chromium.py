"""Debian's Chromium without a screen, whose microphone hears a file."""

import shutil
from contextlib import contextmanager

import pytest
from playwright import sync_api

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
MICROPHONE = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]


@contextmanager
def launched(talk):
    """The browser; its microphone hears the WAV file `talk`."""
    if PROGRAM is None:
        pytest.skip("no chromium on this machine; .ci/run installs Debian's")
    flags = [*FLAGS, *MICROPHONE, f"--use-file-for-fake-audio-capture={talk}"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=flags)
        yield browser
        browser.close()
