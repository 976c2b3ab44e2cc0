"""The request guard: which requests reach the app, how large they are, how often a client asks.

It is ASGI middleware, since a body must be refused while it is read. A framework's own hooks run
after the body is there.
"""

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ser_hf.app import answers, calls, uploads
from ser_hf.app.calls import Calls
from ser_hf.app.metrics import CLIENT_CLOSED, Exchange, Metrics
from ser_hf.app.origins import Origins, client_network, header, is_this_machine
from ser_hf.app.uploads import Limits

API = "/gradio_api"
"""Where Gradio's own routes begin."""

# Gradio has some seventy routes. What the page and gradio_client need of them is open. Among the
# rest are proxying of addresses, editing, profiling and run history. A route that an update of
# Gradio adds is closed until it is listed here.
_GET = re.compile(
    r"/|/health|/config/?|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json"
    r"|/browser(?:/(?:[\w.-]{1,99}/){0,2}[\w .-]{0,99})?"
    r"|/(?:static|assets|svelte)/(?:[^/]{1,255}/){0,9}[^/]{1,255}"
    rf"|{API}/(?:info/?|app_id/?|queue/data|upload_progress|heartbeat/\w+|file=.+)"
)
_POST_FILES = re.compile(rf"/predict|/timeline|/batch|{API}/upload")
_POST_JSON = re.compile(
    rf"{API}/(?:queue/join|run/predict)"
)  # the latter for what is not queued: a click on an example
_POST_SIGNAL = re.compile(rf"{API}/(?:reset/?|cancel|stream/\w+(?:/close)?)")  # of a call that is running
METRICS = "/metrics"
_MCP = re.compile(rf"{API}/mcp(?:/.*)?")
_CLOSED_CALL = re.compile(rf"{API}/(?:call|run|api)/.+")
_STREAM = re.compile(rf"{API}/stream/(\w+)")
_RESULTS = f"{API}/queue/data"
# What a link or a health check may ask from anywhere: it tells nothing of a visitor.
_FROM_ANYWHERE = re.compile(
    r"/(?:|browser/?|health|robots\.txt|favicon\.ico|manifest\.json|theme\.css|(?:static|assets)/.+)"
)
_RANGE = re.compile(r"bytes=(?:\d{1,18}-\d{0,18}|-\d{1,18})")
_HOST = re.compile(r"(?:[\w.-]+|\[[\da-f:.]+\])(?::\d{0,5})?", re.IGNORECASE | re.ASCII)

_ENVELOPE = 2**20  # bytes of a body besides the recordings in it
_DISCARDED = 2**28  # bytes of a refused body that are read all the same, and dropped


class Access(NamedTuple):
    """Who may ask the app, and for what."""

    hosts: set[str] | None = None
    """Names under which the app may be asked; any if None."""

    origins: Origins = Origins()
    """Pages of other sites that may ask."""

    mcp: bool = False
    """Whether the route of MCP is open."""

    metrics: Literal["none", "local", "all"] = "local"
    """Who may read `/metrics`: nobody, this machine unless through a proxy, or everybody."""


class Refusal(NamedTuple):
    """Why a request is refused."""

    reason: str
    """One of `ser_hf.app.metrics.REFUSALS`."""

    status: int
    message: str
    headers: dict[str, str] = {}  # noqa: RUF012


_DRAINING = Refusal("draining", 503, "The app is shutting down: ask again in a minute.", {"retry-after": "60"})


class RequestGuard:
    """Middleware around the app.

    Attributes:
        draining: whether new work is refused, as before the end.
        working: how many requests are being answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        folder: Path,
        access: Access,
        page_calls: Calls,
        scripts: Iterable[bytes],
        metrics: Metrics,
    ) -> None:
        """Guard an app.

        Args:
            app: what is guarded.
            limits: of a visitor.
            folder: of uploads. JSON may name files in it and nowhere else.
            access: who may ask, and for what.
            page_calls: the functions of the page, and what each takes.
            scripts: those which the page adds to itself while it runs.
            metrics: that count requests and refusals.
        """
        self.app, self.limits, self.folder, self.access = app, limits, folder.resolve(), access
        self.draining, self.working = False, 0
        self._calls, self._scripts, self._metrics = page_calls, list(scripts), metrics
        self._rate = RateLimit(limits.per_minute)
        self._closed = asyncio.Event()
        self._posts: set[asyncio.Task] = set()  # that are being answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # the page needs no web socket
            return await send({"type": "websocket.close", "code": 1008})
        with self._metrics.exchange(scope, send) as exchange:
            await self._answer(scope, receive, exchange)

    async def _answer(self, scope: Scope, receive: Receive, exchange: Exchange) -> None:
        in_words = not _MCP.fullmatch(scope["path"])
        send = answers.Answer(exchange.send, scope, self.access.origins, self._scripts, in_words).send
        if refusal := self._refusal(scope):
            return await self._refuse(send, refusal)
        if scope["method"] == "OPTIONS":
            return await answers.send_body(send, 204, b"", self._preflight_headers(scope))
        if scope["path"] == _RESULTS and not self._calls.is_known(_last(scope, "session_hash")):
            return await answers.respond_unknown_session(send)
        # A result is fetched by GET, and has to arrive before the app may end.
        is_work = scope["method"] == "POST" or scope["path"] == _RESULTS
        self.working += is_work
        try:
            if scope["method"] == "POST":
                await self._post(scope, receive, send, exchange)
            else:
                await self.app(_for_gradio(scope), self._until_closed(receive), send)
        finally:
            self.working -= is_work

    async def _post(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        """Answer a POST; one that is not done when the guard is closed is refused."""
        task = asyncio.current_task()
        assert task is not None  # a server calls the guard in one
        self._posts.add(task)
        try:
            await self._checked_body(scope, receive, send)
        except asyncio.CancelledError:
            if not self._closed.is_set() or exchange.status != CLIENT_CLOSED:
                raise
            task.uncancel()
            return await self._refuse(send, _DRAINING)
        finally:
            self._posts.discard(task)
        if exchange.status == 503:  # our queue and Gradio's say so, and nothing else behind the guard
            self._metrics.refused("queue_full")

    async def _refuse(self, send: Send, refusal: Refusal) -> None:
        self._metrics.refused(refusal.reason)
        await answers.respond(send, *refusal[1:])

    def close(self) -> None:
        """End the connections that open tabs hold, and give up what is not done."""
        self._closed.set()
        for task in self._posts:
            task.cancel()

    def _until_closed(self, receive: Receive) -> Receive:
        """`receive` that reports a disconnected client once the guard is closed."""

        async def receive_or_end() -> Message:
            tasks = [asyncio.ensure_future(receive()), asyncio.ensure_future(self._closed.wait())]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:  # this coroutine is cancelled itself when the response is complete
                for task in tasks:
                    task.cancel()
            return tasks[0].result() if tasks[0] in done else {"type": "http.disconnect"}

        return receive_or_end

    def _refusal(self, scope: Scope) -> Refusal | None:
        """Why a request is refused unread; None if it is not."""
        method, path = scope["method"], scope["path"]
        if not self._is_open(scope):
            if _CLOSED_CALL.fullmatch(path):
                message = "This route is closed: curl -F file=@clip.wav to /predict, /timeline or /batch instead."
                return Refusal("closed", 404, message)
            return Refusal("closed", 404, "There is nothing here.")
        hosts = self.access.hosts
        if not _HOST.fullmatch(header(scope, b"host")) or (hosts is not None and _host(scope) not in hosts):
            message = "This app does not answer to that host name: pass --allowed_host to let it."
            return Refusal("foreign_host", 421, message)
        may_visit = method in ("GET", "HEAD") and _FROM_ANYWHERE.fullmatch(path)
        if not may_visit and (refusal := self.access.origins.refusal(scope)):
            return Refusal("foreign_page", 403, refusal)
        if path == METRICS and self.access.metrics == "local" and not is_this_machine(scope):
            message = "The metrics are for this machine alone: start the app with --metrics all to show them."
            return Refusal("remote", 403, message)
        if method != "POST" or _POST_SIGNAL.fullmatch(path):  # a running call may go on to its end
            return None
        if self.draining:
            return _DRAINING
        if not is_this_machine(scope) and (wait := self._rate.seconds_to_wait(client_network(scope))):
            message = f"More than {self.limits.per_minute} requests in a minute: wait {wait} s and ask again."
            return Refusal("rate", 429, message, {"retry-after": str(wait)})
        return None

    def _is_open(self, scope: Scope) -> bool:
        # Gradio has pages beside the first one, and links to a state of a page; ours has neither
        if scope["path"] == "/" and (_last(scope, "page") or _last(scope, "deep_link")):
            return False
        return scope["method"] in self._methods(scope["path"])

    def _methods(self, path: str) -> list[str]:
        if path == METRICS:
            return [] if self.access.metrics == "none" else ["GET", "OPTIONS"]
        if self.access.mcp and _MCP.fullmatch(path):
            return ["GET", "POST", "DELETE", "OPTIONS"]
        methods = ["GET", "HEAD"] if _GET.fullmatch(path) else []
        methods += ["POST"] if any(one.fullmatch(path) for one in (_POST_FILES, _POST_JSON, _POST_SIGNAL)) else []
        return [*methods, "OPTIONS"] if methods else []

    def _preflight_headers(self, scope: Scope) -> dict[str, str]:
        """What a browser asks before it lets a page of another origin send a request."""
        methods = ", ".join(self._methods(scope["path"]))
        if not self.access.origins.allowed_source(scope):
            return {"allow": methods}
        wanted = header(scope, b"access-control-request-headers")
        return {"allow": methods, "access-control-allow-methods": methods, "access-control-allow-headers": wanted}

    async def _checked_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a POST on, unless its body is too large or names what must not be read."""
        if _POST_FILES.fullmatch(scope["path"]):
            return await self._pass_files(scope, receive, send)
        # MCP sends a recording as base64 inside the JSON, which is a third longer
        most = int(self.limits.file_mb * 2**20 * 4 / 3) + _ENVELOPE
        body = Body(scope, receive, most)
        try:
            content = await body.read()
        except BodyTooLarge:
            await body.discard()
            message = f"A request may have {most // 2**20} MB: upload the recording instead."
            return await self._refuse(send, Refusal("too_big", 413, message, {"connection": "close"}))
        try:
            message = calls.json_of(content)
        except ValueError as error:
            return await self._refuse(send, Refusal("malformed", 400, str(error)))
        if fault := calls.file_fault(message, self.folder):
            if fault == calls.NO_ADDRESS and _MCP.fullmatch(scope["path"]):
                self._metrics.refused("malformed")
                return await answers.respond_mcp(send, message, fault)
            return await self._refuse(send, Refusal("malformed", 400, fault))
        if fault := self._call_fault(scope, message):
            return await self._refuse(send, Refusal("malformed", 422, fault))
        await self.app(_for_gradio(scope), body.replay(content), send)

    def _call_fault(self, scope: Scope, message: object) -> str:
        """Why a call of a function of the page is refused; empty if it is not, or is no call."""
        stream = _STREAM.fullmatch(scope["path"])
        if stream is None and not _POST_JSON.fullmatch(scope["path"]):
            return ""
        if not header(scope, b"content-type").lower().startswith("application/json"):
            return "The body must be JSON, with the header Content-Type: application/json."
        return self._calls.fault(message, stream and stream[1])

    async def _pass_files(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass files on while they are read; refuse them as soon as they are too large."""
        single = scope["path"] in ("/predict", "/timeline")
        most = self.limits.file_mb if single else max(self.limits.file_mb, self.limits.zip_mb)
        body = Body(scope, receive, int(most * 2**20) + _ENVELOPE)
        response = answers.Response413(send, body.discard, uploads.size_refusal(self.limits))
        try:
            if body.declared > body.most:
                return await response.refuse()
            await self.app(_for_gradio(scope), body.receive, response.send)
        except (ClientDisconnect, BodyTooLarge):
            if not response.refused:
                raise
        finally:
            if response.refused:
                self._metrics.refused("too_big")


class RateLimit:
    """At most so many requests of a client in any 60 seconds."""

    def __init__(self, per_minute: int) -> None:
        """No limit where `per_minute` is 0."""
        self.per_minute = per_minute
        self._times: dict[str, deque[float]] = {}

    def seconds_to_wait(self, client: str) -> int:
        """Count a request of `client`, an address; the seconds until it may ask, 0 for now."""
        if not self.per_minute:
            return 0
        now, times = time.monotonic(), self._times.setdefault(client, deque())
        while times and times[0] <= now - 60:
            times.popleft()
        if len(times) >= self.per_minute:
            return int(times[0] + 60 - now) + 1
        times.append(now)
        if len(self._times) > 10_000:  # clients who have long gone
            self._times = {
                name: requests for name, requests in self._times.items() if requests and requests[-1] > now - 60
            }
        return 0


class BodyTooLarge(HTTPException):
    """A body beyond its limit; raised inside an app, Starlette makes a 413 response of it."""

    def __init__(self) -> None:
        """The words come from whoever responds."""
        super().__init__(413)


class Body:
    """The body of a request, counted while it is read."""

    def __init__(self, scope: Scope, receive: Receive, most: int) -> None:
        """`most` bytes are read of what `receive` gives."""
        length = header(scope, b"content-length")
        self.declared, self.most = int(length) if length.isdigit() else 0, most
        self._receive, self._size, self._complete = receive, 0, False

    async def receive(self) -> Message:
        """The next message.

        Raises:
            BodyTooLarge: as soon as it is, or says that it will be.
        """
        if max(self.declared, self._size) > self.most:
            raise BodyTooLarge
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._size > self.most:
            raise BodyTooLarge
        return message

    async def read(self) -> bytes:
        """All of it.

        Raises:
            BodyTooLarge: as `receive`.
        """
        parts = []
        while not self._complete:
            parts.append((await self.receive()).get("body", b""))
        return b"".join(parts)

    def replay(self, content: bytes) -> Receive:
        """A `receive` that gives what was read, once, and then what comes after it."""
        messages: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive_again() -> Message:
            return messages.pop() if messages else await self._receive()

        return receive_again

    async def discard(self) -> None:
        """Let the rest come, within reason: a client that is cut off reads no refusal."""
        left = _DISCARDED
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while left > 0 and not self._complete:
                    message = await self._receive()
                    left -= len(message.get("body", b"")) or 1
                    self._complete = not message.get("more_body", False)


def _host(scope: Scope) -> str:
    return re.sub(r":\d*$", "", header(scope, b"host")).strip("[]").lower()


def _last(scope: Scope, name: str) -> str:
    """A value of the query; the last one, as Starlette reads it. Empty where it is missing."""
    return parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=None).get(name, [""])[-1]


def _for_gradio(scope: Scope) -> Scope:
    """A request without the headers that Gradio would answer wrongly, or stumble over."""
    forwarded = header(scope, b"x-forwarded-host").partition(",")[0].strip()
    dropped = {b"origin", b"x-gradio-server"}  # its own rules let in any origin; a page could be sent elsewhere
    if not _RANGE.fullmatch(header(scope, b"range")):
        dropped.add(b"range")
    if not _HOST.fullmatch(forwarded):
        dropped.add(b"x-forwarded-host")
    if scope["path"] == "/":
        dropped.add(b"accept-encoding")  # the scripts in the page are read for its policy
    return {**scope, "headers": [pair for pair in scope["headers"] if pair[0] not in dropped]}
