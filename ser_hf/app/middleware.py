"""The door of the app: what may come in, how much of it, and how often. Everything else never
reaches Gradio.

It is ASGI middleware, since a body must be refused while it is read, and not when it is there.
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
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ser_hf.app.uploads import Limits

if TYPE_CHECKING:
    import gradio


API = "/gradio_api"

_READ = re.compile(
    rf"/|/health|/config/?|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/static/.+|/assets/.+|/svelte/.+"
    rf"|{API}/(?:info/?|openapi\.json|app_id/?|user/?|theme\.css|startup-events|queue/data|upload_progress|queue/status"
    rf"|heartbeat/\w+|call/\w+/\w+|file=.+|login_check/?|token/?)"
)
_WORK = re.compile(rf"{API}/(?:upload|queue/join|(?:call|run|api)/\w+/?|call/v2/\w+/?|component_server)")
_SMALL = re.compile(rf"{API}/(?:reset/?|cancel|stream/\w+(?:/close)?)")
_MCP = re.compile(rf"{API}/mcp(?:/.*)?")
"""What the page, its clients and MCP ask for. Proxying, deep links, editing, profiling, run history
are not in it."""

_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:/?/", re.IGNORECASE)
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    # a model's card may name pictures that lie elsewhere, and asking for them would tell who reads
    # it
    (b"content-security-policy", b"img-src 'self' data: blob:; media-src 'self' data: blob:; object-src 'none'"),
    (b"permissions-policy", b"microphone=(self), camera=(), geolocation=()"),
    (b"cross-origin-opener-policy", b"same-origin-allow-popups"),
]
_NOT_FETCHED = "Addresses are not fetched: upload the recording, or send it as a data: URI."
_MESSAGE = 2**20  # bytes of JSON that no recording is in
_DISCARDED = 2**28  # bytes of a refused body that are read all the same, and dropped


class RequestGuard:
    """Middleware; `draining` refuses new work, `working` counts the requests that are being
    answered."""

    def __init__(
        self, app: ASGIApp, limits: Limits, folder: Path, hosts: set[str] | None = None, mcp: bool = False
    ) -> None:
        """Guard an app.

        Args:
            app: what is guarded.
            limits: of a visitor.
            folder: of uploads, the only one that is read.
            hosts: names under which it may be asked, any if None.
            mcp: open its route.
        """
        self.app, self.limits, self.folder, self.hosts, self.mcp = app, limits, folder.resolve(), hosts, mcp
        self.draining, self.working = False, 0
        self._closed = asyncio.Event()
        self._asked: dict[str, deque[float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # the page needs no web socket
            return await send({"type": "websocket.close", "code": 1008})
        send = _with_headers(send)
        if refused := self._refusal(scope):
            return await _answer(send, *refused)
        if scope["method"] != "POST":
            return await self.app(scope, self._until_closed(receive), send)
        self.working += 1
        try:
            await self._work(scope, receive, send)
        finally:
            self.working -= 1

    def close(self) -> None:
        """End the connections that are held open for news, as those of open tabs are."""
        self._closed.set()

    def _until_closed(self, receive: Receive) -> Receive:
        async def received() -> Message:
            waiting = [asyncio.ensure_future(receive()), asyncio.ensure_future(self._closed.wait())]
            try:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:  # it may be cancelled itself, when the answer is complete
                for one in waiting:
                    one.cancel()
            return waiting[0].result() if waiting[0] in done else {"type": "http.disconnect"}

        return received

    def _refusal(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        method, path = scope["method"], scope["path"]
        kinds = {"GET": (_READ,), "HEAD": (_READ,), "POST": (_WORK, _SMALL), "OPTIONS": (_READ, _WORK, _SMALL)}
        known = any(kind.fullmatch(path) for kind in kinds.get(method, ()))
        if not known and not (self.mcp and _MCP.fullmatch(path)):
            return 404, "There is nothing here.", {}
        if self.hosts is not None and _host(scope) not in self.hosts:
            return 421, "This app does not answer to that host name: pass --allowed_host to let it.", {}
        if method != "POST" or _SMALL.fullmatch(path):
            return None
        if self.draining:
            return 503, "The app is shutting down: ask again in a minute.", {"retry-after": "60"}
        if wait := self._too_often(scope):
            says = f"More than {self.limits.per_minute} requests in a minute: wait {wait} s and ask again."
            return 429, says, {"retry-after": str(wait)}
        return None

    def _too_often(self, scope: Scope) -> int:
        """Seconds that a client has to wait; 0 where it need not."""
        client = (scope.get("client") or ("", 0))[0]
        if not self.limits.per_minute or _is_this_machine(client):
            return 0
        now, asked = time.monotonic(), self._asked.setdefault(client, deque())
        while asked and asked[0] <= now - 60:
            asked.popleft()
        if len(asked) >= self.limits.per_minute:
            return int(asked[0] + 60 - now) + 1
        asked.append(now)
        if len(self._asked) > 10_000:  # clients who have long gone
            self._asked = {name: times for name, times in self._asked.items() if times and times[-1] > now - 60}
        return 0

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == f"{API}/upload":
            return await self._upload(scope, receive, send)
        most = int(self.limits.file_mb * 2**20 * 4 / 3) + _MESSAGE  # a recording may be in it as base64
        says = f"A request may have {most // 2**20} MB: upload the recording instead."
        body = await _body(scope, receive, most)
        if body is None:
            await _discard(receive)
            return await _answer(send, 413, says, {"connection": "close"})
        if fault := _fault(body, self.folder):
            if fault == _NOT_FETCHED and _MCP.fullmatch(scope["path"]):
                return await _answer_mcp(send, body, fault)
            return await _answer(send, 400, fault)
        await self.app(scope, _replayed(body, receive), send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass files on while they are read, and refuse them as soon as they are too large: one, or
        all together."""
        says = f"One recording may have {self.limits.file_mb:g} MB, all together {self.limits.zip_mb:g}: send less."
        most = int(max(self.limits.file_mb, self.limits.zip_mb) * 2**20) + _MESSAGE
        if _declared(scope) > most:
            await _discard(receive)
            return await _answer(send, 413, says, {"connection": "close"})
        seen, complete, refused = 0, False, False

        async def counted() -> Message:
            nonlocal seen, complete
            message = await receive()
            seen += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if seen <= most:
                return message
            await refuse()
            return {"type": "http.disconnect"}

        async def refuse() -> None:
            nonlocal refused
            if not refused:
                refused = True
                await (asyncio.sleep(0) if complete else _discard(receive))
                await _answer(send, 413, says, {"connection": "close"})

        async def passed(message: Message) -> None:
            if message.get("status") == 413:  # Gradio's, of one file
                await refuse()
            elif not refused:
                await send(message)

        try:
            await self.app(scope, counted, passed)
        except ClientDisconnect:  # Gradio's word for a body that we broke off
            if not refused:
                raise


def _fault(body: bytes, folder: Path) -> str:
    """Why a JSON body is not let in; empty where it is."""
    try:
        message = json.loads(body or b"null")
    except (ValueError, RecursionError):
        return "This is not JSON."
    waiting: list[Any] = [message]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if "path" in one and (fault := _misplaced(one["path"], folder)):
                return fault
            # clients repeat an upload's own address under `url`, which is never read
            waiting.extend(value for key, value in one.items() if not (key == "url" and one.get("path")))
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, str) and _ADDRESS.match(one):
            return _NOT_FETCHED
    return ""


def _misplaced(path: object, folder: Path) -> str:
    if isinstance(path, str) and _ADDRESS.match(path):
        return _NOT_FETCHED
    # a NUL ends a path for the system, and is an error to resolve()
    inside = isinstance(path, str) and "\0" not in path and Path(path).resolve().is_relative_to(folder)
    return "" if inside else "Only uploads are read: upload the recording first."


async def _body(scope: Scope, receive: Receive, most: int) -> bytes | None:
    """The whole body, or None where it is too large."""
    if _declared(scope) > most:
        return None
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > most:
            return None
    return b"".join(parts)


async def _discard(receive: Receive) -> None:
    """Let what is refused come to its end, within reason: who is cut off while sending does not
    read why."""
    left = _DISCARDED
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b"")) or 1
                if not message.get("more_body", False):
                    return


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _declared(scope: Scope) -> int:
    length = _header(scope, b"content-length")
    return int(length) if length.isdigit() else 0


def _host(scope: Scope) -> str:
    return re.sub(r":\d*$", "", _header(scope, b"host")).strip("[]").lower()


def _is_this_machine(client: str) -> bool:
    """Gradio's MCP server asks its own app, and health checks do."""
    try:
        return ip_address(client).is_loopback
    except ValueError:
        return False


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            present = {key.lower() for key, _ in message.get("headers", [])}
            new = [pair for pair in _HEADERS if pair[0] not in present]
            message = {**message, "headers": [*message.get("headers", []), *new]}
        await send(message)

    return sending


async def _answer_mcp(send: Send, body: bytes, says: str) -> None:
    """An error as MCP has them (JSON-RPC 2.0, invalid parameters)."""
    message = json.loads(body)
    number = message.get("id") if isinstance(message, dict) else None
    told = {"jsonrpc": "2.0", "id": number, "error": {"code": -32602, "message": says}}
    await _send_json(send, 200, json.dumps(told).encode(), {})


async def _answer(send: Send, status: int, says: str, headers: dict[str, str] | None = None) -> None:
    await _send_json(send, status, json.dumps({"error": says, "detail": says}).encode(), headers or {})


async def _send_json(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    lines = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    encoded = [(key.encode(), value.encode()) for key, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


MOST = 1000
"""Visitors who are remembered, and the voice that each has adapted to; then who was away longest is
forgotten."""

_FETCHED = re.compile(rf"{API}/call/\w+/(\w+)")


class SessionEviction:
    """Middleware that drops what is kept of a call once its answer has been fetched, or nobody
    waits for it any more.

    A call that names no session is given one that is named like its event, and nobody comes back to
    it. At 30 calls a second Gradio would keep 150 MB more each minute, up to 10,000 sessions, and
    forget visitors who are still there.
    """

    def __init__(self, app: ASGIApp, blocks: "gradio.Blocks") -> None:
        """`app` serves `blocks`."""
        self.app, self.blocks = app, blocks
        blocks.state_holder.capacity = MOST
        self._forgetting: dict[str, asyncio.Task] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, then forget."""
        fetched = scope["type"] == "http" and scope["method"] == "GET" and _FETCHED.fullmatch(scope["path"])
        try:
            await self.app(scope, receive, send)
        finally:
            if fetched and fetched[1] not in self._forgetting:
                self._forgetting[fetched[1]] = asyncio.create_task(self._forget(fetched[1]))

    async def _forget(self, event: str) -> None:
        queue, holder = self.blocks._queue, self.blocks.state_holder
        while event in queue.event_ids_to_events:  # Gradio tidies up after the answer, and would ask for it once more
            await asyncio.sleep(0.05)
        kept = (queue.pending_event_ids_session, queue.pending_messages_per_session)
        with holder.lock:
            for one in (*kept, holder.session_data, holder.time_last_used):
                one.pop(event, None)
        del self._forgetting[event]
