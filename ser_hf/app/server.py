"""The running app: page, API and MCP behind one gate; it starts warm, ends in order, and leaves
nothing behind."""

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, Response

import ser_hf
from ser_hf.errors import UserError
from ser_hf.evaluation.results import Results
from ser_hf.inference.predictor import Predictor

if TYPE_CHECKING:
    import gradio
from ser_hf.app.middleware import RequestGuard
from ser_hf.app.page import EXAMPLES
from ser_hf.app.uploads import Limits

GRACE = 7.0
"""Seconds for requests that were accepted before the app was told to end; it is gone within 10."""

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_PREFIX = "ser_hf_app-"


class ServingError(UserError):
    """An app that cannot be served."""


@contextmanager
def uploads_folder() -> Iterator[Path]:
    """Where uploads lie, for this process alone; it is gone afterwards, and so are those of
    processes that died.

    Gradio reads the place of its folder when it is imported, so this comes first.
    """
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{_PREFIX}*"):
        if not _alive(left.name.removeprefix(_PREFIX).partition("-")[0]):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _alive(process: str) -> bool:
    """Whether a process may be running; one that is somebody else's counts as running."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def health(predictor: Predictor, limits: Limits, folder: Path | None, sha: str | None) -> dict[str, Any]:
    """What `/health` says of the app: which model it is, how that was tested, and what may be
    asked."""
    results = Results.beside(folder)
    told = (results.protocol, results.protocol_hash, results.leaks) if results else (None, None, None)
    return {
        "status": "ok",
        "model": predictor.public_name,
        "revision": sha or predictor.revision,
        "protocol": told[0],
        "protocol_hash": told[1],
        "leaks_speakers": told[2],
        "backend": predictor.backend,
        "voice": predictor.voice.kind,
        "labels": predictor.labels,
        "version": ser_hf.__version__,
        "limits": asdict(limits),
    }


async def _sweep(keep: float) -> None:
    """Delete uploads, and what was made of them, when they are `keep` seconds old."""
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    while True:
        await asyncio.sleep(min(60, max(0.5, keep / 4)))
        for path in folder.rglob("*"):
            if path.is_file() and path.parent.name != EXAMPLES and time.time() - path.stat().st_mtime > keep:
                path.unlink(missing_ok=True)


class Server(uvicorn.Server):
    """Uvicorn that, when it is told to end, refuses new work and finishes what it accepted."""

    def __init__(self, config: uvicorn.Config, gate: RequestGuard, blocks: "gradio.Blocks") -> None:
        """Serve what `gate` guards."""
        super().__init__(config)
        self._gate, self._blocks, self._keep = gate, blocks, gate.limits.keep
        self._ending: asyncio.Task | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM and SIGINT; a second SIGINT ends at once."""
        if self._gate.draining:
            if sig == signal.SIGINT:
                self.should_exit = self.force_exit = True
            return
        self._gate.draining = True
        self._loop.call_soon_threadsafe(self._drain)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Remember the loop that signals have to reach."""
        self._loop = asyncio.get_running_loop()
        self._sweeping = asyncio.create_task(_sweep(self._keep))
        await super().startup(sockets)

    def _drain(self) -> None:
        self._ending = asyncio.create_task(self._drained())

    async def _drained(self) -> None:
        until = asyncio.get_running_loop().time() + GRACE
        while self._busy() and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)  # the last answers are on their way
        self._sweeping.cancel()
        self._gate.close()
        self.should_exit = True

    def _busy(self) -> bool:
        """Whether a request is being read, waits, is worked on, or its answer has not been
        fetched."""
        queue = self._blocks._queue
        return bool(self._gate.working or len(queue) or any(queue.active_jobs)) or any(
            queue.pending_event_ids_session.values()
        )


def application(
    predictor: Predictor,
    limits: Limits,
    folder: Path | None = None,
    sha: str | None = None,
    mcp: bool = False,
    hosts: set[str] | None = None,
) -> tuple[RequestGuard, "gradio.Blocks"]:
    """The app as ASGI, and its page.

    Args:
        predictor: that answers.
        limits: of a visitor.
        folder: where the model's card and `results.json` lie, if anywhere; a file of that name from
            elsewhere is none.
        sha: the commit of a model on the Hub.
        mcp: serve the tools for language models, too.
        hosts: names under which it may be asked; any if None.

    Raises:
        ServingError: where MCP is wanted and its package is missing.
    """
    if mcp and find_spec("mcp") is None:
        raise ServingError("--mcp needs the package mcp: pip install -e '.[mcp]'")
    import gradio

    from ser_hf.app import middleware, page

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    told = health(predictor, limits, folder, sha)

    @app.get("/health")
    def say_health(response: Response) -> dict:
        response.status_code = 503 if gate.draining else 200
        return told | {"status": "draining" if gate.draining else "ok"}

    blocks = page.build_page(predictor, limits, folder)
    gradio.mount_gradio_app(
        app,
        blocks,
        path="",
        mcp_server=mcp,
        max_file_size=int(limits.file_mb * 2**20),
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        show_error=False,  # our own mistakes are nobody's business; what a visitor can mend is a gr.Error
        footer_links=["api"],
        **page.LOOK,
    )
    blocks.has_launched = True  # launch() says so, mounting does not; until it is said no path is held to the folder
    guarded = middleware.SessionEviction(app, blocks)
    gate = RequestGuard(guarded, limits, Path(os.environ["GRADIO_TEMP_DIR"]), hosts, mcp)
    return gate, blocks


def serve(gate: RequestGuard, blocks: "gradio.Blocks", host: str, port: int) -> None:
    """Serve until the process is told to end; what was accepted is finished then.

    Raises:
        ServingError: if the port cannot be opened.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise ServingError(f"port {port} on {host} cannot be opened ({error}): choose another --port") from error
        config = uvicorn.Config(
            gate, log_level="warning", access_log=False, timeout_graceful_shutdown=1, server_header=False
        )
        shown = f"[{host}]" if ":" in host else host
        print(f"running on http://{shown}:{listening.getsockname()[1]}", flush=True)
        Server(config, gate, blocks).run(sockets=[listening])


def allowed_hosts(host: str, more: list[str]) -> set[str] | None:
    """Host names to answer to: on the machine's own address only its names, against DNS rebinding;
    else any."""
    if host in _LOOPBACK or more:
        return {*_LOOPBACK, host.lower(), *(name.lower() for name in more)}
    return None


def run_server(
    load: Callable[[], tuple[Predictor, Path | None, str | None]],
    limits: Limits,
    host: str,
    port: int,
    mcp: bool = False,
    more_hosts: list[str] | None = None,
) -> None:
    """Load a model, warm it and serve it.

    Args:
        load: gives the predictor, the folder of its card, and its commit.
        limits: of a visitor.
        host: to listen on.
        port: to listen on.
        mcp: serve the tools for language models, too.
        more_hosts: names under which the app may be asked besides those of the machine.

    Raises:
        UserError: if the model cannot be loaded or the port not be opened.
    """
    with uploads_folder():
        predictor, folder, sha = load()
        hosts = allowed_hosts(host, more_hosts or [])
        gate, blocks = application(predictor.warm(), limits, folder, sha, mcp, hosts)
        serve(gate, blocks, host, port)
    sys.stdout.flush()
    os._exit(0)  # a worker may be busy with a recording that nobody waits for any more
