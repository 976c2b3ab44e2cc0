"""The running app: page, API and MCP behind the request guard.

It answers its first request without delay, finishes what it accepted when it is asked to end, and
leaves no file behind.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

import ser_hf
from ser_hf.app import examples
from ser_hf.app.answers import NO_FILE, error_body, invalid_request_message
from ser_hf.app.calls import Calls
from ser_hf.app.metrics import Metrics
from ser_hf.app.middleware import METRICS, Access, RequestGuard
from ser_hf.app.uploads import Limits
from ser_hf.errors import UserError
from ser_hf.evaluation.results import Results
from ser_hf.inference.predictor import Predictor
from ser_hf.utils import packages

GRACE = 7.0
"""Seconds for requests that were accepted before the app was asked to end; it is gone within 10."""

_QUIET = 0.3  # seconds without work after which none is left: a client joins the queue, then asks for the result
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
PROXIES = "127.0.0.1,::1,::ffff:127.0.0.1"
"""Addresses of proxies that are believed: this machine's, the last where `--host` is `::`."""
_PREFIX = "ser_hf_app-"


@contextmanager
def uploads_folder() -> Iterator[Path]:
    """A folder for the uploads of this process, removed afterwards.

    Folders of processes that died are removed, too. Gradio reads where its folder lies when it is
    imported, so this has to come first.
    """
    place = Path(tempfile.gettempdir())
    for leftover in place.glob(f"{_PREFIX}*"):
        if not _alive(leftover.name.removeprefix(_PREFIX).partition("-")[0]):
            shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("GRADIO_TEMP_DIR")
        if before is not None:
            os.environ["GRADIO_TEMP_DIR"] = before


def _alive(process: str) -> bool:
    """Whether a process may be running; one of another user counts as running."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def health(predictor: Predictor, limits: Limits, folder: Path | None, commit: str | None) -> dict[str, Any]:
    """The answer of `/health`: the model that the app serves, its test, and the limits."""
    results = Results.beside(folder)
    return {
        "status": "ok",
        "model": predictor.public_name,
        "revision": commit or predictor.revision,
        "protocol": results.protocol if results else None,
        "protocol_hash": results.protocol_hash if results else None,
        "leaks_speakers": results.leaks if results else None,
        "backend": predictor.backend,
        "labels": predictor.labels,
        "version": ser_hf.__version__,
        "limits": asdict(limits),
    }


async def _sweep(keep: float) -> None:
    """Delete uploads, and what was made of them, when they are `keep` seconds old."""
    folder = os.environ["GRADIO_TEMP_DIR"]
    while True:
        await asyncio.sleep(min(60, max(0.5, keep / 4)))
        delete_uploads(folder, keep)


def delete_uploads(folder: str | PathLike, keep: float) -> None:
    """Delete the uploads below a folder that are `keep` seconds old; Gradio may be faster."""
    for place, _, names in os.walk(os.fspath(folder)):
        if Path(place).name == examples.FOLDER:
            continue
        for path in (Path(place, name) for name in names):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > keep:
                    path.unlink()


class Server(uvicorn.Server):
    """Uvicorn that, when it is asked to end, refuses new work and finishes what it accepted."""

    def __init__(self, config: uvicorn.Config, guard: RequestGuard) -> None:
        """Serve what `guard` guards."""
        super().__init__(config)
        self._guard = guard

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM and SIGINT; a second SIGINT ends at once."""
        if self._guard.draining:
            if sig == signal.SIGINT:
                self.should_exit = self.force_exit = True
            return
        self._guard.draining = True
        self._loop.call_soon_threadsafe(self._start_draining)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Remember the loop, which a signal may have to wake from here on, and begin to sweep."""
        self._loop = asyncio.get_running_loop()
        self._sweeping = asyncio.create_task(_sweep(self._guard.limits.keep))
        await super().serve(sockets)

    def _start_draining(self) -> None:
        self._draining = asyncio.create_task(self._drain())  # a loop holds its tasks by weak references only

    async def _drain(self) -> None:
        """Wait for what was accepted, then end."""
        end = self._loop.time() + GRACE
        last_work = self._loop.time()
        while self._loop.time() < min(end, last_work + _QUIET):
            if self._guard.working:
                last_work = self._loop.time()
            await asyncio.sleep(0.05)
        self._sweeping.cancel()
        self._guard.close()
        self.should_exit = True


def application(
    predictor: Predictor,
    limits: Limits,
    folder: Path | None = None,
    commit: str | None = None,
    access: Access = Access(),  # noqa: B008
    web: Path | None = None,
    metrics: Metrics | None = None,
    root_path: str = "",
) -> RequestGuard:
    """The app as ASGI.

    Args:
        predictor: that answers.
        limits: of a visitor.
        folder: where the model's card and `results.json` lie, if anywhere. A `results.json` that
            ser_hf did not write is ignored.
        commit: of a model on the Hub.
        access: who may ask the app, and for what.
        web: folder of the page that runs the same model in the visitor's browser.
        metrics: that were begun before the model was loaded; new ones where None.
        root_path: under which a proxy publishes the app, as `/ser`.
    """
    # Gradio takes seconds to import, and has to come after `uploads_folder`
    import gradio

    from ser_hf.app import api, page

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    description = health(predictor, limits, folder, commit)
    metrics = metrics or Metrics()

    @app.get("/health")
    def answer_health(response: Response) -> dict:
        response.status_code = 503 if guard.draining else 200
        return description | {"status": "draining" if guard.draining else "ok"}

    if access.metrics != "none":
        metrics.describe(predictor)

        @app.get(METRICS)
        async def answer_metrics(request: Request) -> Response:
            # in the loop, where no queue changes while its length is read
            content, content_type = metrics.text(request.headers.get("accept", ""))
            return Response(content, media_type=content_type)

    @app.get("/robots.txt", response_class=PlainTextResponse)
    def answer_robots() -> str:
        return "User-agent: *\nDisallow: /\n"

    @app.exception_handler(HTTPException)
    def answer_error(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(error.detail), error.status_code, error.headers)

    api.RecordingRoutes(predictor, limits, metrics).add_to(app)
    if web is not None:
        app.mount("/browser", StaticFiles(directory=web, html=True))
    blocks = page.build_page(predictor, limits, folder, web is not None, metrics)
    scripts = [page.SCRIPT.encode()]
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    guard = RequestGuard(app, limits, uploads, access, Calls(blocks), scripts, metrics)
    gradio.mount_gradio_app(
        app,
        blocks,
        path="",  # after the routes above, which it would swallow
        root_path=root_path or None,
        app_kwargs={"exception_handlers": {RequestValidationError: _answer_invalid, TypeError: _answer_no_file}},
        mcp_server=access.mcp,
        max_file_size=int(limits.file_mb * 2**20),
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        show_error=False,  # tracebacks are for the log alone; what a visitor can mend is a gr.Error
        footer_links=["api"],
        **page.LOOK,
    )
    # Gradio holds paths to its upload folder only once this is set. Mounting does not set it.
    blocks.has_launched = True
    return guard


def _answer_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    """The answer to a malformed request; FastAPI's own repeats it, which may be no JSON."""
    return JSONResponse(error_body(invalid_request_message(error.errors())), 422)


def _answer_no_file(request: Request, error: TypeError) -> JSONResponse:
    """In place of the error that Gradio raises for a form whose field `files` is no file."""
    if not request.url.path.endswith("/upload"):
        raise error
    return JSONResponse(error_body(NO_FILE), 400)


def serve(guard: RequestGuard, host: str, port: int) -> None:
    """Serve until the process is asked to end; what was accepted is finished then.

    Raises:
        UserError: if the port cannot be opened.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise UserError(f"port {port} on {host} cannot be opened ({error}): choose another --port") from error
        config = uvicorn.Config(
            guard,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=1,
            server_header=False,
            forwarded_allow_ips=os.environ.get("FORWARDED_ALLOW_IPS", PROXIES),
        )
        url_host = f"[{host}]" if ":" in host else host
        print(f"running on http://{url_host}:{listening.getsockname()[1]}", flush=True)
        Server(config, guard).run(sockets=[listening])


def allowed_hosts(host: str, more: list[str]) -> set[str] | None:
    """Host names to answer to: on loopback its own, against DNS rebinding; else any (None)."""
    if host in _LOOPBACK or more:
        return {*_LOOPBACK, host.lower(), *(name.lower() for name in more)}
    return None


def _check_web(web: Path, predictor: Predictor) -> None:
    """Refuse a page of another model: a visitor would get two answers to one recording."""
    settings = web / "ser_hf.json"
    if not settings.is_file():
        raise UserError(f"--web is '{web}', which holds no ser_hf.json: name what `ser-hf export --web` wrote")
    try:
        digest = json.loads(settings.read_text(encoding="utf-8"))["digest"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"'{settings}' names no model: export the page again") from None
    if digest != predictor.session.backend.digest:
        raise UserError(f"'{web}' is a page of other weights than those of '{predictor.name}': export it again")


def run_server(
    load: Callable[[], tuple[Predictor, Path | None, str | None]],
    limits: Limits,
    host: str,
    port: int,
    access: Access,
    web: Path | None = None,
    root_path: str = "",
) -> None:
    """Load a model, warm it and serve it. The process ends with it.

    Args:
        load: gives the predictor, the folder of its card, and its commit.
        limits: of a visitor.
        host: to listen on.
        port: to listen on.
        access: who may ask the app, and for what.
        web: folder that `ser-hf export --web` wrote of the same model.
        root_path: under which a proxy publishes the app.

    Raises:
        UserError: if the model cannot be loaded or the port not be opened, where MCP is wanted and
            its package is missing, and for a `web` of another model.
    """
    if access.mcp:
        packages.require("--mcp", "mcp", "'ser-hf[mcp]'")
    with uploads_folder():
        metrics = Metrics()
        with metrics.load_seconds.time():
            predictor, folder, commit = load()
        if web is not None:
            _check_web(web, predictor)
        with metrics.warm_seconds.time():
            predictor.warm()
        guard = application(predictor, limits, folder, commit, access, web, metrics, root_path)
        serve(guard, host, port)
    sys.stdout.flush()
    # A thread may still work on a recording whose time is over. A usual exit would wait for it.
    os._exit(0)
