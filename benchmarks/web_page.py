"""The page that runs a model in the browser: its answers against Python's, its time and its memory.

    python benchmarks/web_page.py --dataset DIR [--model DIR] [--clips 200] [--many 500]

Chromium opens the page from a server of files on this machine; whatever asks another host is
refused, and counted. Clips go in as a visitor's files do. The page answers with one thread, with
two, and by the graph in int8. Python answers by the same graphs.

The script exits with 1 where fewer than 99 % of the labels agree, a score differs by more than
0.01, another host was asked, or memory grows by more than 10 % from a fifth of `--many` clips on.
Predictions of one clip in Python, by the fp32 graph, are the named alternative of the times.
"""

import argparse
import functools
import http.server
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from ser_hf import BUNDLED_MODEL
from ser_hf.app import web_site
from ser_hf.data.dataset import load
from ser_hf.inference.predictor import Predictor

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
TIMEOUT = 600_000  # milliseconds
TOGETHER = 50  # clips that are given to the page at a time


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files with their types, and the headers without which a page has one thread."""

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".webmanifest": "application/manifest+json",
    }
    isolated = True

    def end_headers(self) -> None:
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *words: object) -> None:
        """Print nothing."""


class OneThread(Handler):
    """The same without the headers."""

    isolated = False


@contextmanager
def served(folder: Path, handler: type[Handler]) -> Iterator[str]:
    """The address of a folder on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@contextmanager
def opened(browser: Browser, address: str, strangers: list[str]) -> Iterator[Page]:
    """The page in a browser without a cache; requests to other hosts are refused."""
    context = browser.new_context(service_workers="block", accept_downloads=True)

    def decide(route: object) -> None:
        url = route.request.url
        if url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            strangers.append(url)
            route.abort()

    context.route("**/*", decide)
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    yield page
    context.close()


def start(page: Page, address: str) -> float:
    """Open the page and ask for an example; seconds to its answer."""
    begun = time.perf_counter()
    page.goto(address)
    page.locator("#examples button").first.click()
    page.locator("#details .ser-name").wait_for()
    return time.perf_counter() - begun


def predicted(page: Page, files: list[str]) -> tuple[list[dict], float]:
    """Predictions of files, and the seconds a clip."""
    rows, seconds = [], 0.0
    for first in range(0, len(files), TOGETHER):
        chosen = files[first : first + TOGETHER]
        begun = time.perf_counter()
        page.set_input_files("#files", chosen)
        page.locator("#message", has_text="recordings analysed").wait_for()
        seconds += time.perf_counter() - begun
        with page.expect_download() as waiting:
            page.locator("#save-jsonl").click()
        rows += [json.loads(line) for line in Path(waiting.value.path()).read_text().splitlines()]
        page.locator("#examples button").first.click()  # so that the next answer is a new one
        page.locator("#details .ser-name").wait_for()
    return rows, seconds / len(files)


def memory() -> float:
    """MiB of the processes that this one started, each with its share of what they share."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        children.setdefault(int(words[1]), []).append(int(status.parent.name))
    pids, total = children.get(os.getpid(), []), 0
    while pids:
        pid = pids.pop()
        pids += children.get(pid, [])
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def compare(name: str, rows: list[dict], expected: list[dict]) -> bool:
    """Print how far the page is from Python, and return whether that is near enough."""
    same = sum(row.get("label") == other["label"] for row, other in zip(rows, expected, strict=True))
    furthest = max(
        abs(row["scores"][label] - other["scores"][label])
        for row, other in zip(rows, expected, strict=True)
        for label in other["scores"]
    )
    print(f"| {name} | {same} of {len(rows)} | {furthest:.1e} |", flush=True)
    return same >= 0.99 * len(rows) and furthest <= 0.01


def main() -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", default=str(BUNDLED_MODEL))
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    for name, count in (("clips", 200), ("many", 500), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=count)
    args = parser.parse_args()
    is_right = True
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        site, folder = Path(temporary, "site"), Path(temporary, "clips")
        folder.mkdir()
        web_site.write_site(args.model, site)
        rows = load(args.dataset)
        step = max(1, len(rows) // args.clips)
        files = []
        for number in range(0, step * args.clips, step):
            files.append(str(folder / f"{number}.flac"))
            Path(files[-1]).write_bytes(rows[number]["audio"]["bytes"])
        predictors = {graph: Predictor(args.model, backend=name) for graph, name in GRAPHS.items()}
        expected = {graph: predictor.predict(files) for graph, predictor in predictors.items()}
        browser = playwright.chromium.launch(executable_path=args.chromium, args=FLAGS)
        strangers: list[str] = []
        print("| page | labels as Python's | furthest score |\n| --- | ---: | ---: |")
        seconds: dict[str, list[float]] = {"Python, onnx": []}
        for handler, threads in ((OneThread, 1), (Handler, 2)):
            with served(site, handler) as address:
                for graph in GRAPHS:
                    name = f"{graph}, {threads} thread{'s' * (threads > 1)}"
                    with opened(browser, address, strangers) as page:
                        start(page, address)
                        if graph == "int8":
                            page.locator("#tab-model").click()
                            page.locator("#smaller").check()
                            page.locator("#tab-analyse").click()
                        found, seconds_a_clip = predicted(page, files)
                        seconds[name] = [seconds_a_clip]
                        is_right &= compare(name, found, expected[graph])
        with served(site, Handler) as address:
            cold = []
            for _ in range(args.rounds):
                with opened(browser, address, strangers) as page:
                    cold.append(start(page, address))
                begun = time.perf_counter()
                for file in files[:20]:
                    predictors["fp32"].predict(file)
                seconds["Python, onnx"].append((time.perf_counter() - begun) / 20)
            first, last = _growth(browser, address, strangers, files, args.many)
        print("\n| | ms a clip, decoded and shown | times Python's |\n| --- | ---: | ---: |")
        python = statistics.median(seconds["Python, onnx"])
        for name, taken in seconds.items():
            print(f"| {name} | {1000 * statistics.median(taken):.0f} | {statistics.median(taken) / python:.2f} |")
        shown = f"{statistics.median(cold):.1f} s ({min(cold):.1f} to {max(cold):.1f})"
        print(f"\nfirst answer on a cold cache: {shown}")
        size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
        print(f"the site: {size / 2**20:.1f} MiB, its page {_size(web_site.BUNDLE):.2f} MiB")
        print(f"memory after {args.many // 5} clips {first:,.0f} MiB, after {args.many} {last:,.0f} MiB")
        print(f"requests to other hosts: {len(strangers)} {strangers[:3]}")
        browser.close()
    return 0 if is_right and last <= 1.1 * first and not strangers else 1


GRAPHS = {"fp32": "onnx", "int8": "onnx-int8"}
"""Backend in Python of each graph of the page."""


def _growth(browser: Browser, address: str, strangers: list[str], files: list[str], many: int) -> tuple[float, float]:
    """MiB of the browser after a fifth of `many` clips, and after all of them."""
    measured = []
    with opened(browser, address, strangers) as page:
        start(page, address)
        for part in range(5):
            wanted = many // 5
            predicted(page, [files[(part * wanted + number) % len(files)] for number in range(wanted)])
            measured.append(memory())
    return measured[0], measured[-1]


def _size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


if __name__ == "__main__":
    sys.exit(main())
