"""The running app under load: many clients at once, bad requests among them, and an end meanwhile.

    python benchmarks/load.py --model DIR --dataset DIR

    python benchmarks/load.py --model DIR --dataset DIR --metrics_cost 2000

Starts the app on a free port of this machine. `--clients` threads each send a recording to
`POST /predict`, over and over, for `--seconds`. Every answer must be the bytes that `Predictor`
gives. `--bad` requests of the kinds that are named below are mixed in: each must be refused in
words, without a path or a traceback. Then the app is told to end (SIGTERM) while all clients go on:
what was accepted must be answered, the process gone within 10 s and its folder with it. Exits with
1 where any of that does not hold. The only error that is allowed is a full queue.

With `--metrics_cost N` it measures what counting adds to a request: N requests go to each of two
apps in this process, in turn. One of them counts nothing.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import httpx
import psutil

from ser_hf.app import server
from ser_hf.app.metrics import Metrics
from ser_hf.app.middleware import API
from ser_hf.app.uploads import Limits
from ser_hf.data import dataset
from ser_hf.inference.predictor import Predictor

APP = Path(__file__).parent.parent / "app.py"


class Client:
    """A client that speaks plain HTTP and keeps its connection."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=60)

    def predict(self, content: bytes, name: str, route: str = "/predict") -> tuple[str, str]:
        """Send a recording; the kind of the outcome, and the text."""
        return _outcome(self.http.post(route, files={"file": (name, content)}))

    def join(self, body: bytes | dict) -> tuple[str, str]:
        """Join Gradio's queue, as the page does."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return _outcome(self.http.post(f"{API}/queue/join", content=content))


def _outcome(response: httpx.Response) -> tuple[str, str]:
    if response.status_code == 200:
        return "ok", response.text
    return "queue full" if "queue is full" in response.text else f"{response.status_code}", response.text


BAD = 4
"""Clients that send bad requests."""


def bad_requests(clip: bytes) -> dict[str, Callable[[Client], tuple[str, str]]]:
    """A request of each bad kind, by its name; each gives what `Client.predict` gives."""
    bomb = BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", b"\0" * (600 << 20))

    def of_path(path: object) -> Callable[[Client], tuple[str, str]]:
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
        return lambda client: client.join({"data": data, "fn_index": 0, "session_hash": "bad"})

    return {
        "corrupt": lambda client: client.predict(clip[:200] + os.urandom(2_000), "corrupt.flac"),
        "text": lambda client: client.predict(b"no sound in here", "notes.wav"),
        "empty": lambda client: client.predict(b"", "empty.wav"),
        "huge": lambda client: client.predict(b"\0" * (52 << 20), "huge.wav"),
        "path": of_path("/etc/passwd"),
        "climbing": of_path("../../../etc/passwd"),
        "address": of_path("http://127.0.0.1:9/a.wav"),
        "wrong type": of_path(5),
        "zip bomb": lambda client: client.predict(bomb.getvalue(), "bomb.zip", "/batch"),
        "no JSON": lambda client: client.join(b'{"data": ['),
    }


class Load:
    """What all clients share."""

    def __init__(self, url: str, clips: list[tuple[str, bytes, str]]) -> None:
        self.url, self.clips = url, clips
        self.seconds: list[float] = []
        self.kinds: Counter = Counter()
        self.wrong: list[str] = []
        self.stop, self.lock = threading.Event(), threading.Lock()

    def good(self, seed: int) -> None:
        """Ask again and again until told to stop; a refusal to come in, when the app ends, is no
        error."""
        rng, client = random.Random(seed), Client(self.url)
        while not self.stop.is_set():
            name, content, expected = rng.choice(self.clips)
            started = time.perf_counter()
            try:
                kind, text = client.predict(content, name)
            except httpx.TransportError as error:
                kind, text = f"broken ({type(error).__name__})", ""
            with self.lock:
                self.kinds[kind] += 1
                if kind == "ok":
                    self.seconds.append(time.perf_counter() - started)
                    if text != f"{expected}\n":
                        self.wrong.append(f"{name}: another answer than Predictor's")
            if kind not in ("ok", "queue full"):
                return

    def bad(self, kinds: dict[str, Callable], number: int, first: int) -> None:
        """Send bad requests one after the other."""
        client = Client(self.url)
        for index in range(first, first + number):
            name = list(kinds)[index % len(kinds)]
            kind, text = kinds[name](client)
            if kind == "ok" or (kind.isdigit() and not 400 <= int(kind) < 500):
                self.wrong.append(f"bad request '{name}' was answered with {kind}: {text[:200]}")
            if re.search(r"Traceback|/tmp/|root:|site-packages", text):
                self.wrong.append(f"bad request '{name}' reveals the machine: {text[:200]}")


def start(model: str, folder: Path, *flags: str) -> tuple[subprocess.Popen, str]:
    """Start the app with its temporary files in `folder`; gives the process and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(APP), "--model", model, "--port", str(port), *flags]
    app = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(folder)}, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            httpx.get(f"{url}/health")
            return app, url
        except httpx.TransportError:
            time.sleep(0.5)
    raise SystemExit("the app did not start")


def end(app: subprocess.Popen, load: Load, folder: Path) -> None:
    """Tell the app to end while the clients go on asking."""
    before = load.kinds.copy()
    signalled = time.perf_counter()
    app.send_signal(signal.SIGTERM)
    code = app.wait(timeout=30)
    seconds = time.perf_counter() - signalled
    load.stop.set()
    time.sleep(1)
    after = load.kinds - before
    left = [path.name for path in folder.glob("ser_hf_app-*")]
    print(f"SIGTERM under load: gone after {seconds:.1f} s, exit code {code}; meanwhile {dict(after)}")
    if seconds > 10 or code or left or after["error event"] or any(kind.startswith("broken (Read") for kind in after):
        load.wrong.append(f"the end took {seconds:.1f} s, exit code {code}, left {left}, outcomes {dict(after)}")


class Uncounted(Metrics):
    """Metrics that count nothing."""

    class _Exchange:
        status = 0

        def __init__(self, send: Callable) -> None:
            self.send = send

    def exchange(self, scope: dict, send: Callable) -> nullcontext:
        return nullcontext(self._Exchange(send))

    def task(self, kind: str) -> nullcontext:
        return nullcontext()

    def answered(self, prediction: dict) -> None: ...


def measure_metrics(model: str, clip: tuple[str, bytes], count: int) -> None:
    """Time requests to an app that counts and to one that does not, in turn, and one scrape."""
    predictor, limits = Predictor(model).warm(), Limits(per_minute=0)

    async def ask(client: httpx.AsyncClient, request: dict) -> float:
        began = time.perf_counter()
        response = await client.request(**request)
        assert response.status_code == 200
        return time.perf_counter() - began

    async def compare() -> None:
        metrics = [Uncounted(), Metrics()]
        apps = [server.application(predictor, limits, metrics=one) for one in metrics]
        clients = [httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") for app in apps]
        for what, request in (
            ("GET /health", {"method": "GET", "url": "/health"}),
            ("POST /predict", {"method": "POST", "url": "/predict", "files": {"file": clip}}),
        ):
            seconds: list[list[float]] = [[], []]
            for number in range(count):
                for which in (0, 1) if number % 2 else (1, 0):
                    seconds[which].append(await ask(clients[which], request))
            without, with_ = (statistics.median(one) for one in seconds)
            print(f"{what}: {1e3 * without:.3f} ms without metrics, {1e3 * with_:.3f} ms with (median of {count:,})")
        scrapes = [await ask(clients[1], {"method": "GET", "url": "/metrics"}) for _ in range(100)]
        print(f"GET /metrics: {1e3 * statistics.median(scrapes):.1f} ms, {len(metrics[1].text()[0]) / 1024:.0f} KiB")

    with server.uploads_folder():
        asyncio.run(compare())


def main() -> int:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--bad", type=int, default=200)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--metrics_cost", type=int, default=0, metavar="N")
    args = parser.parse_args()
    rows = dataset.load(args.dataset).shuffle(seed=0).select(range(args.clips))
    sources = [{"bytes": row["audio"]["bytes"], "path": f"{Path(row['file']).stem}.flac"} for row in rows]
    if args.metrics_cost:
        measure_metrics(args.model, (sources[0]["path"], sources[0]["bytes"]), args.metrics_cost)
        return 0
    expected = Predictor(args.model).predict(sources)
    clips = [
        (source["path"], source["bytes"], json.dumps(prediction))
        for source, prediction in zip(sources, expected, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        app, url = start(args.model, Path(folder))
        load, process = Load(url, clips), psutil.Process(app.pid)
        threads = [threading.Thread(target=load.good, args=(seed,), daemon=True) for seed in range(args.clients)]
        kinds = bad_requests(clips[0][1])
        shares = [args.bad // BAD + (place < args.bad % BAD) for place in range(BAD)]
        bad = [threading.Thread(target=load.bad, args=(kinds, share, place)) for place, share in enumerate(shares)]
        threads += bad
        for thread in threads:
            thread.start()
        memory = []
        for _ in range(6):
            time.sleep(args.seconds / 6)
            memory.append(process.memory_info().rss / 2**20)
        for thread in bad:
            thread.join()
        report(load, args, memory)
        end(app, load, Path(folder))
    for message in dict.fromkeys(load.wrong):
        print(f"WRONG: {message}", file=sys.stderr)
    return 1 if load.wrong else 0


def report(load: Load, args: argparse.Namespace, memory: list[float]) -> None:
    """Print the figures, and note what should not be."""
    kinds = load.kinds.copy()
    cuts = statistics.quantiles(load.seconds, n=100)
    print(f"{args.clients} clients, {args.seconds:g} s: {len(load.seconds) / args.seconds:.1f} requests/s")
    print(f"seconds a request: p50 {cuts[49]:.2f}, p95 {cuts[94]:.2f}, p99 {cuts[98]:.2f}")
    print(f"outcomes: {dict(kinds)}; {args.bad} bad requests mixed in")
    print(f"memory of the app, MiB, over time: {' '.join(f'{mib:.0f}' for mib in memory)}")
    if unexpected := {kind: count for kind, count in kinds.items() if kind not in ("ok", "queue full")}:
        load.wrong.append(f"outcomes {unexpected}")


if __name__ == "__main__":
    sys.exit(main())
