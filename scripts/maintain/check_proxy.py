"""The app behind nginx, as `configs/nginx/ser-hf.conf` sets it up: all that a visitor does.

    python scripts/maintain/check_proxy.py [--model DIR] [--root_path /ser]

Needs nginx, openssl and Chromium (Debian: `apt-get install nginx-light openssl chromium`) and the
package playwright. Both servers listen on this machine alone, under a name that only this browser
knows, with a certificate made for it. Exits with 1 where something fails.
"""

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import playwright.sync_api

from ser_hf import BUNDLED_MODEL
from ser_hf.app import examples

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "nginx" / "ser-hf.conf"
NAME = "ser.example"
EVIL = {"Origin": "https://evil.example"}
WAIT = 60_000  # milliseconds


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def nginx_config(text: str, folder: Path, app: int, https: int, root_path: str) -> str:
    """The server blocks of the example with other ports, another certificate and another path."""
    for old, new in (
        ("127.0.0.1:7860", f"127.0.0.1:{app}"),
        ("    listen [::]:80;\n", ""),
        ("    listen [::]:443 ssl;\n", ""),
        ("listen 80;", f"listen 127.0.0.1:{free_port()};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{https} ssl;"),
        ("/etc/ssl/certs/ser.example.pem", f"{folder}/cert.pem"),
        ("/etc/ssl/private/ser.example.key", f"{folder}/key.pem"),
    ):
        if old not in text:
            raise SystemExit(f"{CONFIG.name} has no '{old.strip()}'")
        text = text.replace(old, new)
    if root_path:
        text = text.replace("location / {", f"rewrite ^{root_path}/(.*)$ /$1;\n    location / {{")
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    types = "include /etc/nginx/mime.types;\n"
    return (
        f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nworker_processes 1;\n"
        f"events {{ worker_connections 256; }}\nhttp {{\naccess_log {folder}/access.log;\n{types}{places}{text}}}\n"
    )


@contextmanager
def servers(model: str, root_path: str, folder: Path) -> Iterator[tuple[subprocess.Popen, int, int]]:
    """The app, and nginx in front of it; gives the app and both ports."""
    app_port, https = free_port(), free_port()
    subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    keys = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject, *keys],
        check=True,
        capture_output=True,
    )
    (folder / "nginx.conf").write_text(nginx_config(CONFIG.read_text(), folder, app_port, https, root_path))
    flags = ["--model", model, "--port", str(app_port), "--allowed_host", NAME, "--file_mb", "5"]
    flags += ["--root_path", root_path] if root_path else []
    app = subprocess.Popen([sys.executable, str(ROOT / "app.py"), *flags], stdout=subprocess.DEVNULL)
    nginx = subprocess.Popen([shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(folder / "nginx.conf")])
    try:
        for _ in range(240):
            try:
                httpx.get(f"http://127.0.0.1:{app_port}/health")
                break
            except httpx.TransportError:
                time.sleep(0.5)
        yield app, app_port, https
    finally:
        for process in (app, nginx):
            process.terminate()
            process.wait(timeout=30)


class Checks:
    """Runs what is checked one after the other, and notes what fails."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def run(self, what: str, check: Callable[[], object]) -> None:
        """Run one check, which raises or gives what is shown."""
        began = time.perf_counter()
        try:
            shown = check()
        except (AssertionError, OSError, httpx.HTTPError, playwright.sync_api.Error) as error:
            self.failed.append(what)
            shown = f"FAILED: {type(error).__name__}: {str(error)[:400]}"
        print(f"{what}: {shown} ({time.perf_counter() - began:.1f} s)", flush=True)


def check_programs(checks: Checks, port: int, direct: int, root: str, clip: Path) -> None:
    """What programs may ask, through the proxy and past it."""
    outside = httpx.Client(
        base_url=f"https://127.0.0.1:{port}{root}", verify=False, headers={"Host": NAME}, timeout=120
    )
    content = clip.read_bytes()

    def predict() -> str:
        answer = outside.post("/predict", files={"file": (clip.name, content)})
        assert answer.status_code == 200, answer.text
        return answer.json()["label"]

    def refused(status: int, **request: object) -> str:
        answer = outside.request(**request)
        assert answer.status_code == status, f"{answer.status_code} {answer.text[:200]}"
        return f"{status} {answer.text[:90]}"

    checks.run("POST /predict", predict)
    checks.run("health", lambda: refused(200, method="GET", url="/health"))
    checks.run("metrics from outside", lambda: refused(404, method="GET", url="/metrics"))
    forwarded = {"X-Forwarded-For": "203.0.113.7"}
    checks.run(
        "metrics through a proxy that forgets to close them",
        lambda: httpx.get(f"http://127.0.0.1:{direct}/metrics", headers=forwarded).status_code == 403,
    )
    checks.run(
        "a page of another site", lambda: refused(403, method="POST", url="/predict", content=b"x", headers=EVIL)
    )
    huge = {"file": ("huge.wav", b"\0" * (7 << 20))}
    checks.run("a recording beyond --file_mb", lambda: refused(413, method="POST", url="/predict", files=huge))

    def rate() -> str:
        """The client is the one that nginx sees, whatever it claims."""
        claims = ({"X-Forwarded-For": f"203.0.113.{number}"} for number in range(1, 130))
        statuses = [outside.post("/predict", content=b"x", headers=claim).status_code for claim in claims]
        assert statuses[-1] == 429
        return f"429 after {statuses.index(429)} requests"

    checks.run("requests of one client that claims to be many", rate)
    names = ("ser_hf_http_refusals_total", "ser_hf_predictions_total", "ser_hf_task_duration_seconds_count")
    lines = httpx.get(f"http://127.0.0.1:{direct}/metrics").text.splitlines()
    for line in lines:
        if line.startswith(names) and not line.endswith(" 0.0"):
            print("   ", line)


def check_page(checks: Checks, browser: playwright.sync_api.Browser, port: int, root: str, clips: list[Path]) -> None:
    """What a visitor does on the page."""
    context = browser.new_context(ignore_https_errors=True, permissions=["microphone"])
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on(
        "requestfailed",
        lambda request: faults.append(f"{request.failure} {request.url}") if _is_fault(request) else None,
    )
    page.on("response", lambda answer: faults.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)

    def opened() -> str:
        page.goto(f"https://{NAME}:{port}{root}/")
        page.locator("#recording input[type=file]").first.wait_for(state="attached", timeout=WAIT)
        return page.title()

    def uploaded() -> str:
        page.locator("#recording input[type=file]").first.set_input_files(clips[0])
        page.locator("#answer .ser-label, #answer [role=alert]").first.wait_for(timeout=WAIT)
        return page.locator("#answer .ser-label").inner_text(timeout=1_000)

    def batch() -> str:
        page.get_by_role("tab", name="Batch").click()
        page.locator("#files input[type=file]").set_input_files(clips)
        page.locator("#files").get_by_text(clips[-1].stem[:8]).first.wait_for()
        page.get_by_role("button", name="Analyse all").click()
        message = page.locator("#batch-message").get_by_text("recordings analysed")
        message.wait_for(timeout=WAIT)
        with page.expect_download() as saved:
            page.locator("#csv").click()
        rows = Path(saved.value.path()).read_text().splitlines()
        assert len(rows) == len(clips) + 1, rows
        return message.inner_text()

    def live() -> str:
        """Answers come each second while somebody speaks, not all at the end."""
        page.get_by_role("tab", name="Live").click()
        page.wait_for_timeout(1_500)  # Gradio loads its recorder after it shows the button
        page.locator("#live button", has_text="Record").first.click()
        seconds = []
        for second in range(2, 6):
            script = f"/0:0{second} recorded/.test(document.querySelector('#live-prediction').innerText)"
            page.wait_for_function(script, timeout=20_000)
            seconds.append(time.perf_counter())
        page.locator("#live button", has_text="Stop").first.click()
        return "answers after " + ", ".join(f"{second - seconds[0]:.1f}" for second in seconds) + " s"

    for what, check in (("the page", opened), ("an upload", uploaded), ("a batch", batch), ("live", live)):
        checks.run(what, check)
    if root:  # what is linked from the page
        checks.run("links of the page", lambda: linked(page, root))
    checks.run("errors of the page", lambda: _none(faults))
    context.close()


def linked(page: playwright.sync_api.Page, root: str) -> str:
    """Where the links and scripts of the page lead."""
    script = """
        [...document.querySelectorAll("[src],[href]")].map(one => new URL(one.src || one.href, location))
            .filter(one => one.origin == location.origin).map(one => one.pathname)
    """
    # Gradio links a manifest that it has for an installed page alone
    outside = {path for path in page.evaluate(script) if not path.startswith(root)} - {"/manifest.json"}
    assert not outside, outside
    return "all below the path"


def _is_fault(request: playwright.sync_api.Request) -> bool:
    """Whether a request failed that the page did not end itself, as it ends a stream of events."""
    streams = ("/queue/data", "/upload_progress")
    return not any(name in request.url for name in streams) or "ERR_ABORTED" not in (request.failure or "")


def _none(faults: list[str]) -> str:
    assert not faults, faults[:6]
    return "none"


def check_end(checks: Checks, app: subprocess.Popen, port: int, root: str, clip: Path) -> None:
    """SIGTERM while requests are answered through the proxy."""

    def end() -> str:
        address, content = f"https://127.0.0.1:{port}{root}/predict", clip.read_bytes()

        def ask(_: int) -> tuple[int, float]:
            headers = {"Host": NAME}
            answer = httpx.post(address, files={"file": content}, headers=headers, verify=False, timeout=60)
            return answer.status_code, time.perf_counter()

        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(ask, number) for number in range(6)]
            time.sleep(0.3)
            app.send_signal(signal.SIGTERM)
            began = time.perf_counter()
            code = app.wait(timeout=30)
            seconds = time.perf_counter() - began
            statuses, times = zip(*(answer.result() for answer in asked), strict=True)
        assert code == 0, code
        assert set(statuses) <= {200, 503}, statuses  # 503 on a machine too busy for 7 s
        assert seconds < 10, seconds
        return f"{statuses} within {max(times) - began:.1f} s, gone after {seconds:.1f} s"

    checks.run("SIGTERM", end)


def main() -> int:
    """Start both servers, and check."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=str(BUNDLED_MODEL))
    parser.add_argument("--root_path", default="", help="publish the app under this path, as /ser")
    args = parser.parse_args()
    checks = Checks()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        *clips, talk = examples.write_examples(folder / "clips")
        with servers(args.model, args.root_path, folder) as (_, direct, port):
            flags = ["--no-sandbox", f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]
            flags += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
            flags.append(f"--use-file-for-fake-audio-capture={talk}")
            with playwright.sync_api.sync_playwright() as started:
                browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
                check_page(checks, browser, port, args.root_path, clips)
                browser.close()
            check_programs(checks, port, direct, args.root_path, clips[0])
        with servers(args.model, args.root_path, folder) as (app, _, port):  # this client may ask again
            check_end(checks, app, port, args.root_path, talk)
        print((folder / "error.log").read_text(), end="")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
