"""The app in a process of its own, as a user starts it."""

import socket
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from helpers.programs import Program, bare_server
from helpers.small import ROOT


@contextmanager
def serving(*flags, environment=None, folder=ROOT, ours=True):
    """The app of a folder in a process of its own, on a free port; gives its address."""
    with tempfile.NamedTemporaryFile("r") as log:
        app, address = started(*flags, log=log.name, environment=environment, folder=folder, ours=ours)
        try:
            yield address
        finally:
            app.terminate()
            app.wait(timeout=30)


def started(*flags, log, environment=None, folder=ROOT, ours=True):
    """The app that writes into a log, and its address; it is up.

    Where it is not `ours` it imports the package that its folder has.
    """
    port = free_port()
    server = None if ours else bare_server()
    app = Program(["app.py", "--port", port, *flags], log, environment=environment, folder=folder, server=server)
    return app, when_up(app, f"http://127.0.0.1:{port}", log)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def when_up(app, address, log, seconds=120):
    """Wait for the app that a process is starting; gives its address."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and app.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return address
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    app.kill()
    raise AssertionError(f"the app did not answer:\n{Path(log).read_text()}")
