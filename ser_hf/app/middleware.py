"""The request guard: which requests reach the app, how large they are, how often a client asks.

It is ASGI middleware, since a body must be refused while it is read. A framework's own hooks run
after the body is there.
"""

import asyncio
import contextlib
import json
import re
import time
from collections import deque
from collections.abc import MutableMapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ser_hf.app import uploads
from ser_hf.app.uploads import Limits

API = "/gradio_api"
"""Where Gradio's own routes begin."""

# Gradio has some seventy routes. What the page and gradio_client need of them is open. Among the
# rest are proxying of addresses, editing, profiling and run history. A route that an update of
# Gradio adds is closed until it is listed here.
_GET = re.compile(
    r"/|/health|/config/?|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/(?:static|assets|svelte)/.+"
    rf"|{API}/(?:info/?|app_id/?|queue/data|upload_progress|heartbeat/\w+|file=.+)"
)
_POST_FILES = re.compile(rf"/predict|/timeline|/batch|{API}/upload")
_POST_JSON = re.compile(
    rf"{API}/(?:queue/join|run/predict)"
)  # the latter for what is not queued: a click on an example
_POST_SIGNAL = re.compile(rf"{API}/(?:reset/?|cancel|stream/\w+(?:/close)?)")  # of a call that is running
_MCP = re.compile(rf"{API}/mcp(?:/.*)?")
_CLOSED_CALL = re.compile(rf"{API}/(?:call|run|api)/.+")
_RESULTS = f"{API}/queue/data"

_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:/?/", re.IGNORECASE)
_NO_ADDRESS = "Addresses are not fetched: upload the recording, or send it as a data: URI."
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    # A model's card may name pictures that lie elsewhere. Fetching them tells others who reads it.
    (b"content-security-policy", b"img-src 'self' data: blob:; media-src 'self' data: blob:; object-src 'none'"),
    (b"permissions-policy", b"microphone=(self), camera=(), geolocation=()"),
    (b"cross-origin-opener-policy", b"same-origin-allow-popups"),
]
_ENVELOPE = 2**20  # bytes of a body besides the recordings in it
_DISCARDED = 2**28  # bytes of a refused body that are read all the same, and dropped


class RequestGuard:
    """Middleware around the app.

    Attributes:
        draining: whether new work is refused, as before the end.
        working: how many requests are being answered.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, folder: Path, hosts: set[str] | None = None, mcp: bool = False
    ) -> None:
        """Guard an app.

        Args:
            app: what is guarded.
            limits: of a visitor.
            folder: of uploads. JSON may name files in it and nowhere else.
            hosts: names under which the app may be asked; any if None.
            mcp: whether the route of MCP is open.
        """
        self.app, self.limits, self.folder, self.hosts, self.mcp = app, limits, folder.resolve(), hosts, mcp
        self.draining, self.working = False, 0
        self._rate = RateLimit(limits.per_minute)
        self._closed = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # the page needs no web socket
            return await send({"type": "websocket.close", "code": 1008})
        send = _with_headers(send)
        if refusal := self._refusal(scope):
            return await _respond(send, *refusal)
        # A result is fetched by GET, and has to arrive before the app may end.
        is_work = scope["method"] == "POST" or scope["path"] == _RESULTS
        self.working += is_work
        try:
            if scope["method"] == "POST":
                await self._checked_body(scope, receive, send)
            else:
                await self.app(scope, self._until_closed(receive), send)
        finally:
            self.working -= is_work

    def close(self) -> None:
        """End the connections that open tabs hold to learn of news."""
        self._closed.set()

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

    def _refusal(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        """Status, message and headers for a request that is refused unread."""
        method, path = scope["method"], scope["path"]
        if not self._is_open(method, path):
            if _CLOSED_CALL.fullmatch(path):
                return 404, "This route is closed: curl -F file=@clip.wav to /predict, /timeline or /batch instead.", {}
            return 404, "There is nothing here.", {}
        if self.hosts is not None and _host(scope) not in self.hosts:
            return 421, "This app does not answer to that host name: pass --allowed_host to let it.", {}
        if method != "POST" or _POST_SIGNAL.fullmatch(path):  # a running call may go on to its end
            return None
        if self.draining:
            return 503, "The app is shutting down: ask again in a minute.", {"retry-after": "60"}
        if wait := self._rate.seconds_to_wait((scope.get("client") or ("", 0))[0]):
            message = f"More than {self.limits.per_minute} requests in a minute: wait {wait} s and ask again."
            return 429, message, {"retry-after": str(wait)}
        return None

    def _is_open(self, method: str, path: str) -> bool:
        if self.mcp and _MCP.fullmatch(path):
            return True
        posts = (_POST_FILES, _POST_JSON, _POST_SIGNAL)
        routes = {"GET": (_GET,), "HEAD": (_GET,), "POST": posts, "OPTIONS": (_GET, *posts)}
        return any(route.fullmatch(path) for route in routes.get(method, ()))

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
            return await _respond(send, 413, message, {"connection": "close"})
        if fault := fault_of(content, self.folder):
            if fault == _NO_ADDRESS and _MCP.fullmatch(scope["path"]):
                return await _respond_mcp(send, content, fault)
            return await _respond(send, 400, fault)
        await self.app(scope, body.replay(content), send)

    async def _pass_files(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass files on while they are read; refuse them as soon as they are too large."""
        single = scope["path"] in ("/predict", "/timeline")
        most = self.limits.file_mb if single else max(self.limits.file_mb, self.limits.zip_mb)
        body = Body(scope, receive, int(most * 2**20) + _ENVELOPE)
        response = Response413(send, body, uploads.size_refusal(self.limits))
        if body.declared > body.most:
            return await response.refuse()
        try:
            await self.app(scope, body.receive, response.send)
        except (ClientDisconnect, BodyTooLarge):
            if not response.refused:
                raise


class RateLimit:
    """At most so many requests of a client in any 60 seconds."""

    def __init__(self, per_minute: int) -> None:
        """No limit where `per_minute` is 0."""
        self.per_minute = per_minute
        self._times: dict[str, deque[float]] = {}

    def seconds_to_wait(self, client: str) -> int:
        """Count a request of `client`, an IP address; the seconds until it may ask, 0 for now."""
        if not self.per_minute or _is_this_machine(client):
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
        length = _header(scope, b"content-length")
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


class Response413:
    """Passes a response on; any 413 gets our words, once the client has sent all."""

    def __init__(self, send: Send, body: Body, message: str) -> None:
        """`message` is what the client reads in place of a 413 of the app."""
        self._send, self._body, self._message = send, body, message
        self.refused = False

    async def send(self, message: Message) -> None:
        """Pass a message of the app on."""
        if message.get("status") == 413:  # ours, of the body; or Gradio's, of one file
            await self.refuse()
        elif not self.refused:
            await self._send(message)

    async def refuse(self) -> None:
        """Send the refusal, once."""
        if not self.refused:
            self.refused = True
            await self._body.discard()
            await _respond(self._send, 413, self._message, {"connection": "close"})


def fault_of(content: bytes, folder: Path) -> str:
    """Why a JSON body is refused: a file outside `folder`, or an address. Empty if it is not.

    Gradio would read such a file, and fetch the address, before any code of ours sees them.
    """
    try:
        message = json.loads(content or b"null")
    except (ValueError, RecursionError):
        return "This is not JSON."
    values: list[Any] = [message]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            if "path" in value and (fault := _path_fault(value["path"], folder)):
                return fault
            # clients repeat an upload's own address under `url`, which is never read
            values.extend(item for key, item in value.items() if not (key == "url" and value.get("path")))
        elif isinstance(value, list):
            values.extend(value)
        elif isinstance(value, str) and _ADDRESS.match(value):
            return _NO_ADDRESS
    return ""


def _path_fault(path: object, folder: Path) -> str:
    if isinstance(path, str) and _ADDRESS.match(path):
        return _NO_ADDRESS
    # a NUL ends a path for the system, and is an error to resolve()
    inside = isinstance(path, str) and "\0" not in path and Path(path).resolve().is_relative_to(folder)
    return "" if inside else "Only uploads are read: upload the recording first."


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _host(scope: Scope) -> str:
    return re.sub(r":\d*$", "", _header(scope, b"host")).strip("[]").lower()


def _is_this_machine(client: str) -> bool:
    """Health checks ask from here, and Gradio's MCP server asks its own app."""
    try:
        return ip_address(client).is_loopback
    except ValueError:
        return False


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            present = {key.lower() for key, _ in message.get("headers", [])}
            new = [pair for pair in _HEADERS if pair[0] not in present]
            message = {**message, "headers": [*message.get("headers", []), *new]}
        await send(message)

    return send_with_headers


async def _respond_mcp(send: Send, content: bytes, message: str) -> None:
    """An error in the form of MCP (JSON-RPC 2.0, invalid parameters)."""
    call = json.loads(content)
    number = call.get("id") if isinstance(call, dict) else None
    response = {"jsonrpc": "2.0", "id": number, "error": {"code": -32602, "message": message}}
    await _send_json(send, 200, json.dumps(response).encode(), {})


async def _respond(send: Send, status: int, message: str, headers: dict[str, str] | None = None) -> None:
    await _send_json(send, status, json.dumps(error_body(message)).encode(), headers or {})


def error_body(message: str) -> dict[str, str]:
    """An error as JSON: `error` for our clients, `detail` for Gradio's."""
    return {"error": message, "detail": message}


async def _send_json(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    lines = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    encoded = [(key.encode(), value.encode()) for key, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
