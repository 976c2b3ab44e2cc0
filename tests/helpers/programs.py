"""Python programs in processes of their own, forked where the libraries are in memory already.

To import them takes each process most of its time. Two servers do so, once for each process that
tests: one has what reads no setting of the Hub, and forks the other, which has all.
"""

import atexit
import functools
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
"""Beginnings of what is read when modules of `OURS` are imported."""


class Program:
    """`python WORDS` started; it has the members of `subprocess.Popen` that tests need.

    `output` and `error` are files that exist; without them both go where those of the tests go.
    """

    def __init__(self, words, output=None, error=None, environment=None, folder=".", server=None):
        environment = dict(os.environ if environment is None else environment)
        self.connection = _connect(server or (_full_server() if _is_ours(environment) else _server()))
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
        program = Program(words, output.name, error.name, environment, folder, None if ours else _server())
        try:
            program.wait(timeout)
        finally:
            program.kill()
        return subprocess.CompletedProcess(words, program.returncode, output.read(), error.read())


def _is_ours(environment):
    """Whether our modules find in an environment what they found here."""
    names = {name for name in environment.keys() | os.environ.keys() if name.startswith(WORDS)}
    return all(environment.get(name) == os.environ.get(name) for name in names)


@functools.cache
def _server():
    """Address of the server that has the libraries; it lives as long as this process."""
    address = Path(tempfile.mkdtemp(prefix="ser_hf-"), "libraries")
    there = [name for name in LIBRARIES if importlib.util.find_spec(name.split(".")[0])]
    process = subprocess.Popen([sys.executable, SERVER, address, *there], stdin=subprocess.PIPE)
    atexit.register(process.communicate)  # the end of its input is its end
    return str(address)


@functools.cache
def _full_server():
    """Address of the server that has our package too, in the environment of this process."""
    address = str(Path(_server()).with_name("all"))
    _full_server.program = Program([SERVER, address, *OURS], server=_server())
    return address


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
