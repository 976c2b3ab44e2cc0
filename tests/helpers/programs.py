"""Python programs in processes of their own, forked where the libraries are in memory already.

To import them takes each process most of its time. Servers do so, once for all processes of a test
run: one has what reads no setting of the Hub, and forks others, which have all, each in an
environment.
"""

import functools
import hashlib
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock

SERVER = Path(__file__).with_name("fork_server.py")
LIBRARIES = [
    "torch._dynamo",
    "torch.distributed.tensor",
    "torch.utils.tensorboard",
    "torchaudio",
    "scipy.stats",
    "scipy.signal",
    "sklearn.model_selection",
    "pandas",
    "pyarrow.dataset",
    "matplotlib.figure",
    "fastapi",
    "aiohttp",
    "onnx",
    "mcp.server.fastmcp",
]
"""None imports huggingface_hub, whose settings are read when it is imported."""
OURS = ["gradio", "ser_hf.app.page", "ser_hf.app.server", "ser_hf.training.finetune", "ser_hf.cli.main"]
WORDS = ("HF_", "TRANSFORMERS_", "GRADIO_", "PYTHONPATH")
"""Beginnings of what is read when modules of `OURS` are imported; the token is read whenever it is
needed."""
RUN = Path(os.environ["HF_HOME"])
"""The folder that all processes of a test run share."""


class Program:
    """`python WORDS` started; it has the members of `subprocess.Popen` that tests need.

    `output` and `error` are files that exist; without them both go where those of the tests go.
    """

    def __init__(self, words, output=None, error=None, environment=None, folder=".", server=None):
        environment = dict(os.environ if environment is None else environment)
        self.connection = _connect(server or _server_for(environment))
        self.lines = self.connection.makefile("rw")
        request = {"words": [str(word) for word in words], "environment": environment, "folder": str(folder)}
        request["outputs"] = [str(path) for path in (output, error or output) if path]
        print(json.dumps(request), file=self.lines, flush=True)
        self.pid, self.returncode = int(self.lines.readline()), None

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self.connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a program", timeout)
            self.returncode = int(self.lines.readline())
            self.lines.close()
            self.connection.close()
        return self.returncode

    def poll(self):
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run(words, environment=None, folder=".", timeout=240, ours=True):
    """What `subprocess.run` gives for `python WORDS`, with what it wrote as text.

    Where the program is not `ours` none of our modules is in memory when it begins.
    """
    with tempfile.NamedTemporaryFile("r") as output, tempfile.NamedTemporaryFile("r") as error:
        program = Program(words, output.name, error.name, environment, folder, None if ours else bare_server())
        try:
            program.wait(timeout)
        finally:
            program.kill()
        return subprocess.CompletedProcess(words, program.returncode, output.read(), error.read())


def keep(environment):
    """Let a server be for the programs of an environment, of which there will be many."""
    _KEPT.add(_settings(environment))


def _settings(environment):
    return tuple(sorted(item for item in environment.items() if item[0].startswith(WORDS) and item[0] != "HF_TOKEN"))


_OWN = _settings(os.environ)
_KEPT = {_OWN}


def own_server():
    """Address of the server whose modules found what they found in this process."""
    return _full_server(_OWN)


def _server_for(environment):
    """Address of a server whose modules found what they would find in an environment."""
    settings = _settings(environment)
    if settings == _settings(os.environ):
        return own_server()  # what libraries set since they were imported is theirs
    return _full_server(settings) if settings in _KEPT else bare_server()


@functools.cache
def bare_server():
    """Address of the server that has the libraries; it ends when the test run has ended."""
    address = RUN / "libraries"
    there = [name for name in LIBRARIES if importlib.util.find_spec(name.split(".")[0])]
    running = os.open(RUN / "running", os.O_RDONLY | os.O_NONBLOCK)  # its end is that of the run
    _start_once(address, lambda: subprocess.Popen([sys.executable, SERVER, address, *there], stdin=running))
    os.close(running)
    return str(address)


@functools.cache
def _full_server(settings):
    """Address of the server that has our package too, in an environment of those settings."""
    address = RUN / hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
    others = {name: value for name, value in os.environ.items() if not name.startswith(WORDS)}
    environment = others | dict(settings)
    _start_once(address, lambda: Program([SERVER, address, *OURS], environment=environment, server=bare_server()))
    return str(address)


_STARTED = []


def _start_once(address, start):
    """Start a server, unless another process of the test run has done so."""
    with FileLock(f"{address}.lock"):
        if not Path(f"{address}.started").exists():
            _STARTED.append(start())  # what nobody holds is ended or complained of
            Path(f"{address}.started").touch()


def _connect(address, seconds=600):
    """Wait for a server that imports its modules."""
    until = time.monotonic() + seconds
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address)
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
