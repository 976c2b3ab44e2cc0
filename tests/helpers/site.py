"""A static site on this machine, and a visitor of its page in a browser."""

import http.server
import os
import threading
from pathlib import Path

SCREENSHOTS = os.environ.get("SER_HF_SCREENSHOT", "")  # a folder
READY = "html[data-ready]"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder as a plain host does; a test may take files away, or forbid WebAssembly."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.partition("?")[0].lstrip("/")
        self.server.asked.append(path)
        if path in self.server.missing:
            return self.send_error(404)
        return super().do_GET()

    def end_headers(self):
        if self.server.policy and self.path.startswith("/worker.js"):
            self.send_header("content-security-policy", self.server.policy)
        super().end_headers()

    def log_message(self, *_):
        pass


class Site(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), lambda *args: Handler(*args, directory=folder))
        self.missing, self.policy, self.asked = set(), "", []
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Visit:
    """A page, with what it asked of other hosts and what its policy blocked."""

    def __init__(self, browser, url, **options):
        self.url, self.outside, self.errors = url, [], []
        self.context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}} | options)
        self.context.on("request", self._note)  # those of the worker and of the service worker, too
        self.context.expose_function("note_violation", lambda *what: self.errors.append(what))
        self.context.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (seen) => note_violation(seen.effectiveDirective, seen.blockedURI, seen.sourceFile))"
        )
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.goto(url)

    def _note(self, request):
        if not request.url.startswith((self.url, f"blob:{self.url}", "data:")):
            self.outside.append(request.url)

    def ready(self):
        self.page.wait_for_selector(READY, timeout=60_000)
        return self

    def upload(self, *files):
        self.page.locator("#files").set_input_files([str(file) for file in files])
        self.page.locator("#working").wait_for(state="hidden", timeout=60_000)
        return self.page.locator("#answer")

    def close(self, name):
        if SCREENSHOTS:
            self.page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)
        self.context.close()
        assert self.outside == []


def until(page, expression):
    """Wait for what is true; the page's policy lets Playwright's own waiting evaluate nothing."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")
