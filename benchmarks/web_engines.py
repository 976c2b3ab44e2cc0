"""The page that runs a model in the browser, in Firefox, in WebKit, and in Chromium with WebGPU.

    python benchmarks/web_engines.py --dataset DIR
        [--engines chromium webgpu firefox webkit] [--clips 20] [--long 3600] [--pictures DIR]

WebDriver opens the page in each engine and gives it recordings as a visitor does. Labels and scores
must be those of Python by the same graph, and every request must stay on the page's own origin.
--long gives a recording of so many seconds to the first of --engines, and waits for its end.

It needs `pip install selenium marionette_driver`, and Debian's chromium-driver, firefox-esr,
webkit2gtk-driver and xvfb (`xvfb-run python benchmarks/web_engines.py …`). WebGPU is
computed by Chromium's SwiftShader, on the processor; the copy of the page that is served would
refuse that, so the check is taken out of it. WebKitGTK has the engine of Safari, but not its media.
The script exits with 1 where an engine differs from Python.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from web_page import Handler, served

from ser_hf import BUNDLED_MODEL, audio
from ser_hf.app import web_site
from ser_hf.data.dataset import load
from ser_hf.inference.predictor import Predictor

NEAR = 0.01  # of a score
PATIENCE = 600  # seconds for an answer
WEBGPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
MINI_BROWSER = "/usr/lib/x86_64-linux-gnu/webkit2gtk-4.1/MiniBrowser"
KEEP = """
const made = URL.createObjectURL;
URL.createObjectURL = (blob) => { blob.text().then((text) => { window.kept = text; }); return made(blob); };
"""
"""Keeps what a button saves, in place of a folder of downloads."""
ORIGINS = "return [...new Set(performance.getEntriesByType('resource').map((one) => new URL(one.name).origin))];"


class Engine(Protocol):
    """What is asked of a browser."""

    version: str

    def open(self, address: str) -> None:
        """Open a page."""

    def run(self, script: str) -> Any:
        """Run a script in the page, and give what it returns."""

    def give(self, files: list[Path]) -> None:
        """Choose files in the field of the page."""

    def picture(self, path: Path) -> None:
        """Write a picture of the page."""

    def quit(self) -> None:
        """End the browser."""


class Selenium:
    """A browser with a driver of WebDriver's."""

    def __init__(self, driver: Any) -> None:
        self._driver, self.version = driver, driver.capabilities["browserVersion"]
        driver.set_script_timeout(PATIENCE)
        self.open, self.run, self.quit = driver.get, driver.execute_script, driver.quit

    def give(self, files: list[Path]) -> None:
        self._driver.find_element("id", "files").send_keys("\n".join(map(str, files)))

    def picture(self, path: Path) -> None:
        self._driver.save_screenshot(str(path))


class Firefox:
    """Firefox by Marionette, which needs no driver beside it."""

    def __init__(self) -> None:
        from marionette_driver.marionette import Marionette

        self._browser = Marionette(
            bin=program("firefox-esr"), headless=True, host="127.0.0.1", port=2828, gecko_log=os.devnull
        )
        self._browser.start_session()
        self.version = self._browser.session_capabilities["browserVersion"]
        self.open = self._browser.navigate

    def run(self, script: str) -> Any:
        return self._browser.execute_script(script, sandbox=None)  # in the page itself

    def give(self, files: list[Path]) -> None:
        self._browser.find_element("id", "files").send_keys("\n".join(map(str, files)))

    def picture(self, path: Path) -> None:
        self._browser.save_screenshot(path.open("wb"))

    def quit(self) -> None:
        self._browser.delete_session()
        self._browser.cleanup()


def program(name: str) -> str:
    """Where a program lies."""
    found = shutil.which(name)
    if found is None:
        sys.exit(f"{name} is not installed: see --help")
    return found


def chromium(*flags: str) -> Selenium:
    """Chromium without a window."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-background-networking", *flags):
        options.add_argument(flag)
    return Selenium(webdriver.Chrome(options, webdriver.ChromeService(program("chromedriver"))))


def webkit() -> Selenium:
    """The small browser of WebKitGTK, which needs a display."""
    from selenium import webdriver

    options = webdriver.WebKitGTKOptions()
    options.binary_location = MINI_BROWSER
    options.add_argument("--automation")
    return Selenium(webdriver.WebKitGTK(options, service=webdriver.WebKitGTKService(program("WebKitWebDriver"))))


ENGINES: dict[str, Callable[[], Engine]] = {
    "chromium": lambda: chromium("--disable-gpu"),
    "webgpu": lambda: chromium(*WEBGPU),
    "firefox": Firefox,
    "webkit": webkit,
}


class Visit:
    """The page in an engine."""

    def __init__(self, engine: Engine, address: str) -> None:
        """Open the page, and ask for an example."""
        self.engine = engine
        began = time.perf_counter()
        engine.open(address)
        self.until("document.querySelector('#examples button')")
        engine.run("document.querySelector('#examples button').click()")
        self.until("document.querySelector('#details .ser-name')")
        self.seconds = time.perf_counter() - began
        engine.run(KEEP)

    def until(self, condition: str, patience: float = PATIENCE) -> None:
        """Wait until an expression of the page is true, seconds at most."""
        began = time.monotonic()
        while not self.engine.run(f"return Boolean({condition});"):
            if time.monotonic() - began > patience:
                raise TimeoutError(f"{condition}: the page says {self.text('#message')!r}, {self.text('#status')!r}")
            time.sleep(0.1)

    def text(self, selector: str) -> str:
        """What an element says."""
        return self.engine.run(f"return document.querySelector('{selector}').innerText.trim();")

    def predicted(self, files: list[Path], patience: float = PATIENCE) -> list[dict[str, Any]]:
        """Predictions of two or more files."""
        self.engine.give(files)
        self.until("document.querySelector('#message').innerText.includes('recordings analysed')", patience)
        self.engine.run("document.getElementById('save-jsonl').click()")
        self.until("window.kept")
        return [json.loads(line) for line in self.engine.run("return window.kept;").splitlines()]


def furthest(rows: list[dict], expected: list[dict]) -> tuple[int, float]:
    """How many labels are the same, and how far a score is off; an error is 1."""
    same = sum(row.get("label") == other["label"] for row, other in zip(rows, expected, strict=True))
    off = [
        max(abs(row["scores"][name] - score) for name, score in other["scores"].items()) if row.get("scores") else 1.0
        for row, other in zip(rows, expected, strict=True)
    ]
    return same, max(off)


def check(name: str, address: str, files: list[Path], expected: list[dict], pictures: Path | None) -> bool:
    """Print the row of an engine, and say whether it is as Python."""
    engine = ENGINES[name]()
    try:
        visit = Visit(engine, address)
        began = time.perf_counter()
        rows = visit.predicted(files)
        seconds = (time.perf_counter() - began) / len(files)
        same, off = furthest(rows, expected)
        origins = engine.run(ORIGINS)
        figures = f"{same} of {len(rows)} | {off:.4f} | {visit.seconds:.1f} | {1000 * seconds:.0f}"
        print(f"| {name} {engine.version} | {figures} | {visit.text('#status')} |", flush=True)
        for row in rows:
            if "error" in row:
                print(f"{row.get('file')}: {row['error']}", file=sys.stderr)
        if pictures is not None:
            engine.picture(pictures / f"{name}.png")
        return same == len(rows) and off <= NEAR and origins in ([], [address])
    finally:
        engine.quit()


def check_long(name: str, address: str, files: list[Path], seconds: int, predictor: Predictor, at: Path) -> bool:
    """Give one long recording to an engine, and a short one; compare its windows with Python's."""
    whole = np.concatenate([audio.load(file) for file in files])
    soundfile.write(at, np.resize(whole, seconds * audio.SAMPLING_RATE), audio.SAMPLING_RATE)
    expected = predictor.predict(str(at))
    engine = ENGINES[name]()
    try:
        visit = Visit(engine, address)
        began = time.perf_counter()
        row, _ = visit.predicted([at, files[0]], 3 * seconds)
        taken = time.perf_counter() - began
    finally:
        engine.quit()
    ours, theirs = row.get("segments", []), expected["segments"]
    same = sum(one["label"] == other["label"] for one, other in zip(ours, theirs, strict=False))
    print(
        f"\n{seconds:,} s in {name}: {taken:.0f} s, {same:,} of {len(theirs):,} windows as Python's, "
        f"{len(ours):,} in all; the whole is '{row.get('label')}' and '{expected['label']}'"
    )
    return len(ours) == len(theirs) and same >= 0.99 * len(theirs) and row.get("label") == expected["label"]


def main() -> int:
    """Visit the page in every engine, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", default=str(BUNDLED_MODEL))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--long", type=int, help="seconds of a recording for the first of --engines")
    parser.add_argument("--pictures", type=Path, help="folder of a picture of each engine")
    args = parser.parse_args()
    missing = [name for name in ("selenium", "marionette_driver") if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"{missing[0]} is not installed: pip install selenium marionette_driver")
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        site = Path(temporary, "site")
        web_site.write_site(args.model, site)
        worker = site / "worker.js"
        worker.write_text(worker.read_text().replace("isFallbackAdapter", "isNoAdapter"))
        rows = load(args.dataset)
        files = []
        for number in range(0, len(rows), max(1, len(rows) // args.clips))[: args.clips]:
            files.append(Path(temporary, f"{number}.wav"))
            clip = audio.load(rows[number]["audio"])
            soundfile.write(files[-1], clip, audio.SAMPLING_RATE, subtype="FLOAT")
        predictor = Predictor(args.model, backend="onnx")
        expected = predictor.predict(list(map(str, files)))
        print("| engine | labels as Python's | furthest score | s to the first answer | ms a clip | it says |")
        print("| --- | ---: | ---: | ---: | ---: | --- |")
        with served(site, Handler) as address:
            right = [check(name, address, files, expected, args.pictures) for name in args.engines]
            if args.long:
                at = Path(temporary, "long.flac")
                right.append(check_long(args.engines[0], address, files, args.long, predictor, at))
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
