"""The app in a process of its own, as a user starts it."""

import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

from helpers.small import ROOT


@contextmanager
def serving(*flags, environment=None):
    """The app as a user starts it, in a process of its own on a free port; gives its address."""
    port = free_port()
    command = [sys.executable, ROOT / "app.py", "--port", port, *flags]
    with tempfile.TemporaryFile("w+") as log:
        app = subprocess.Popen(
            [str(word) for word in command], stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )
        try:
            yield when_up(app, f"http://127.0.0.1:{port}", log)
        finally:
            app.terminate()
            app.wait(timeout=30)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def when_up(app, address, log):
    """Wait for the app that a process is starting; gives its address."""
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return address
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if app.poll() is not None:
                log.seek(0)
                raise AssertionError(log.read()) from None
            time.sleep(0.25)
    raise AssertionError(f"{address} did not answer within a minute")
