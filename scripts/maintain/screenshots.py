"""Screenshots of all that people look at, for a desktop and a phone, light and dark.

    python scripts/maintain/screenshots.py runs/screens                # of synthetic voices
    python scripts/maintain/screenshots.py runs/screens --folder DIR   # of what a folder holds
    python scripts/maintain/screenshots.py --readme                    # docs/pictures

What cannot be read or reached is named (`page_problems.js`), and the exit code is 1 then. Needs
Chromium.
"""

import argparse
import io
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
PROBLEMS = Path(__file__).with_name("page_problems.js").read_text()

DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
SIZES = {"desktop": DESKTOP, "phone": PHONE}
SCHEMES = ("light", "dark")
TABS = ("Analyse", "Live", "Batch", "Model")

Act = Callable[[Page], None]
"""What a visitor does before the screenshot."""

CARD = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body {{font: 16px/1.6 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere}}
img {{max-width: 100%}} pre {{overflow-x: auto; background: #8882; padding: .7rem}} code {{font-size: .9em}}
table {{display: block; overflow-x: auto; border-collapse: collapse}}
th, td {{border: 1px solid #8886; padding: .3rem .6rem; overflow-wrap: normal}}
blockquote {{border-left: 4px solid #8888; margin-left: 0; padding-left: 1rem}}</style><body>{body}"""
"""About as the Hub shows a card."""


def main() -> int:
    """Take the screenshots that the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, help="folder of the screenshots")
    parser.add_argument("--folder", type=Path, help="with pages, cards and pictures at any depth")
    parser.add_argument("--model", type=Path, help="that the app and the browser's page run; else the bundled one")
    parser.add_argument("--readme", action="store_true", help="renew the pictures of README.md")
    args = parser.parse_args()
    if (args.output is None) != args.readme:
        parser.error("give a folder for the screenshots, or --readme alone")
    with chromium() as browser:
        if args.readme:
            readme(browser)
            return 0
        args.output.mkdir(parents=True, exist_ok=True)
        folder = args.folder or make(args.output / "made")
        found = documents(browser, folder, args.output)
        if args.folder is None:
            found += app(browser, args.output, model_flags(args.model)) + browser_page(browser, args.output, args.model)
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a screen, whose microphone hears a tone."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        sys.exit("chromium is not installed: apt-get install chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=flags)
        yield started
        started.close()


def photograph(browser: Browser, address: str, name: str, output: Path, act: Act | None = None) -> list[str]:
    """Screenshots of a page in all sizes and schemes; returns what is wrong with it."""
    found = []
    for size, options in SIZES.items():
        for scheme in SCHEMES:
            context = browser.new_context(**options, color_scheme=scheme, permissions=["microphone"])
            page = context.new_page()
            page.goto(address)
            if act:
                act(page)
            page.screenshot(path=output / f"{name}-{size}-{scheme}.png", full_page=True)
            found += [f"{name}-{size}-{scheme}: {problem}" for problem in page.evaluate(PROBLEMS)]
            context.close()
    print(name, flush=True)
    return found


def make(folder: Path) -> Path:
    """Everything that commands write for people, of synthetic voices; what is there stays."""
    data, model, audit = folder / "dataset", folder / "model", folder / "audit"
    short = ["--model", "tiny", "--num_train_epochs", "2"]
    test = ["--dataset", data, "--protocol", "speaker"]
    steps: list[tuple[Path, list]] = [
        (data, ["data", "--synthetic", "--output", data]),
        (audit, ["audit", data / "recordings", "--output", audit]),
        (model / "results.json", ["finetune", *short, *test, "--output_dir", model]),
        (
            folder / "calibrated",
            ["calibrate", "--model", model, *test, "--coverage", "0.7", "--output", folder / "calibrated"],
        ),
        (
            folder / "all",
            ["evaluate", "--model", folder / "calibrated", *test, "--also", "all", "--output", folder / "all"],
        ),
        (folder / "simple", ["baseline", "mfcc-svm", *test, "--output", folder / "simple"]),
        (folder / "report.html", ["report", folder]),
        (folder / "leaderboard", ["leaderboard", folder, "--output", folder / "leaderboard"]),
        (
            folder / "leakage",
            ["leakage-curve", "--model", "mfcc-svm", "--dataset", data, "--output", folder / "leakage"],
        ),
        (folder / "why.png", ["explain", example(data), "--model", model, "--output", folder / "why.png"]),
        (folder / "labels", ["label", data / "recordings", "--output", folder / "labels"]),
        (folder / "labels" / "_report", ["label-report", folder / "labels"]),
    ]
    for product, words in steps:
        if not product.exists():
            ser_hf(*words)
    return folder


def example(data: Path) -> Path:
    """Where a recording of an angry voice will lie."""
    return data / "recordings" / "ravdess" / "Actor_21" / "03-01-05-01-01-01-21.wav"


def ser_hf(*words: object) -> None:
    """Run a command of the package; an audit that found something is no failure."""
    print("$ ser-hf", *words, flush=True)
    code = subprocess.run(
        [sys.executable, "-m", "ser_hf.cli.main", *map(str, words)], stdout=subprocess.DEVNULL
    ).returncode
    if code not in (0, 3):
        sys.exit(code)


def documents(browser: Browser, folder: Path, output: Path) -> list[str]:
    """Screenshots of every page, card and picture below a folder."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".html", ".md", ".png")):
        name = re.sub(r"\W+", "_", str(path.relative_to(folder).with_suffix("")))
        if path.suffix == ".png":
            shutil.copy(path, output / f"{name}.png")
            half(output / f"{name}.png", output / f"{name}-half.png")
        elif path.suffix == ".html":
            found += photograph(browser, path.resolve().as_uri(), name, output)
        else:
            shown = path.with_name(f".{path.stem}.html")
            shown.write_text(card_page(path.read_text()))
            found += photograph(browser, shown.resolve().as_uri(), name, output)
            shown.unlink()
    return found


def card_page(card: str) -> str:
    """A card as HTML, about as the Hub shows it."""
    from markdown_it import MarkdownIt

    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    return CARD.format(body=MarkdownIt().enable("table").render(body))


def half(picture: Path, output: Path) -> None:
    """The picture at half of the size at which a page shows it."""
    with Image.open(picture) as image:
        width = 272
        image.convert("RGB").resize((width, image.height * width // image.width), Image.Resampling.LANCZOS).save(output)


def model_flags(model: Path | None) -> list[str]:
    """The flags of `ser-hf app` for a model."""
    return ["--model", str(model)] if model else []


@contextmanager
def serving(flags: list[str]) -> Iterator[str]:
    """The app in a process of its own; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "ser_hf.cli.main", "app", "--port", str(port), *flags]
    with tempfile.TemporaryFile() as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        try:
            yield when_up(f"http://127.0.0.1:{port}/", process)
        finally:
            process.terminate()


def when_up(address: str, process: subprocess.Popen, seconds: float = 300) -> str:
    """Wait until an address answers."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return address
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    sys.exit(f"ser-hf app did not answer at {address}")


def app(browser: Browser, output: Path, flags: list[str]) -> list[str]:
    """Screenshots of the Gradio page: an answer, a timeline, and each tab."""

    def take(voice: str) -> Act:
        return lambda page: take_example(page, voice)

    def tab(name: str) -> Act:
        return lambda page: open_tab(page, name)

    with serving(flags) as address:
        found = photograph(browser, address, "app_answer", output, take("synthetic angry"))
        found += photograph(browser, address, "app_timeline", output, take("synthetic conversation"))
        found += photograph(browser, address, "app_batch_answered", output, batch)
        for name in TABS:
            found += photograph(browser, address, f"app_{name.lower()}", output, tab(name))
    return found


def take_example(page: Page, voice: str) -> None:
    """Click one of the synthetic voices, and wait for its answer."""
    page.get_by_text(voice, exact=True).first.click()
    page.locator("#answer .ser-label").first.wait_for(timeout=60_000)
    page.wait_for_timeout(1_500)  # the player draws itself


def open_tab(page: Page, name: str) -> None:
    """Open a tab; a phone has the last ones behind a button."""
    page.get_by_text("synthetic conversation").first.wait_for(timeout=60_000)
    tab = page.get_by_role("tab", name=name)
    if not tab.count():
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()
    page.wait_for_timeout(1_000)


def batch(page: Page) -> None:
    """Analyse several recordings, of which one cannot be read and one has a long name."""
    from ser_hf.app.examples import write_examples

    open_tab(page, "Batch")
    with tempfile.TemporaryDirectory() as temporary:
        files = write_examples(Path(temporary))
        files.append(Path(temporary) / "a name as long as those that recorders of telephone calls give 2026-11-28.wav")
        files[-1].write_text("no sound in here")
        page.locator("#files input[type=file]").set_input_files([str(file) for file in files])
        page.locator("#files").get_by_text("recorders").first.wait_for()
        page.get_by_role("button", name="Analyse all").click()
        page.locator("#table td[colspan]").first.wait_for(timeout=60_000)


def browser_page(browser: Browser, output: Path, model: Path | None) -> list[str]:
    """Screenshots of the page that runs the model in the browser."""
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    from ser_hf import BUNDLED_MODEL

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    def opened(name: str, voice: str | None = None) -> Act:
        def act(page: Page) -> None:
            page.wait_for_selector("html[data-ready]", timeout=120_000)
            page.locator(f"#tab-{name}").click()
            if voice:
                page.get_by_role("button", name=voice).click()
                page.locator("#headline .ser-label").wait_for(timeout=120_000)
            page.wait_for_timeout(500)

        return act

    with tempfile.TemporaryDirectory() as temporary:
        ser_hf("export", "--web", "--model", model or BUNDLED_MODEL, "--output", Path(temporary) / "site")
        handler = partial(Quiet, directory=Path(temporary) / "site")
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/"
            found = photograph(browser, address, "web_answer", output, opened("analyse", "synthetic angry"))
            found += photograph(browser, address, "web_timeline", output, opened("analyse", "synthetic conversation"))
            found += photograph(browser, address, "web_live", output, opened("live"))
            found += photograph(browser, address, "web_model", output, opened("model"))
            server.shutdown()
    return found


def readme(browser: Browser) -> None:
    """The Gradio page with an answer of the bundled model, as README.md shows it."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    tall = PHONE | {"viewport": {"width": 390, "height": 1060}, "device_scale_factor": 1.5}
    sizes = {"page": {"viewport": {"width": 1200, "height": 730}}, "page_phone": tall}
    with serving([]) as address:
        for name, options in sizes.items():
            context = browser.new_context(**options)
            page = context.new_page()
            page.goto(address)
            take_example(page, "synthetic conversation")
            save_small(page.screenshot(), PICTURES / f"{name}.png")
            context.close()


def save_small(content: bytes, path: Path) -> None:
    """A PNG with a palette, about a third as large."""
    with Image.open(io.BytesIO(content)) as image:
        small = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    sys.exit(main())
