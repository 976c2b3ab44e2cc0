"""What goes out: headers against abuse, the policy of the page, errors in words."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

from starlette.types import Message, Scope, Send

from ser_hf.app.origins import Origins, header

_PAGE = re.compile(r"/")
_PAGE_FILES = re.compile(r"/(?:static|assets|svelte)/.+|/theme\.css|/favicon\.ico|/manifest\.json")

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin-allow-popups",
    "cross-origin-resource-policy": "same-origin",
}
_STYLES = "'self' 'unsafe-inline'"  # Gradio draws by style attributes
_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)


def page_policy(scripts: Iterable[bytes] = (), frames: Iterable[str] = ()) -> str:
    """The content security policy of the page and its files.

    Args:
        scripts: inline scripts that may run. Others in the page are blocked.
        frames: origins of pages that may show this one in a frame.

    Returns:
        The header's value. Pictures, too, come from the app alone. A model's card may name others,
        and fetching those would tell strangers who reads it.
    """
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one).digest()).decode()}'" for one in scripts)
    directives = {
        "default-src": "'none'",
        "script-src": f"'self' 'unsafe-eval' {hashes}".strip(),  # Gradio compiles its templates
        "style-src": _STYLES,
        "img-src": "'self' data: blob:",
        "media-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self' blob:",  # the player reads what was recorded
        "worker-src": "'self' blob:",  # the recorder's
        "manifest-src": "'self'",
        "base-uri": "'self'",
        "form-action": "'none'",
        "frame-ancestors": " ".join(frames) or "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


_BROWSER_PAGE = re.compile(r"/browser(?:/.*)?")
WEB_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""The policy of the page whose model runs in the visitor's browser."""
_ISOLATED = {"cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp"}
"""Headers without which that page has one thread."""

DATA_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox"
"""The policy of results and uploads, which are read and never shown as a page."""


NO_FILE = "There is no file in the form: send one, as curl -F files=@clip.wav does."


class Answer:
    """Passes one answer on: with headers, and an error in words."""

    def __init__(
        self, send: Send, scope: Scope, origins: Origins, scripts: Iterable[bytes] = (), in_words: bool = True
    ) -> None:
        """Answer a request.

        Args:
            send: to the client.
            scope: of the request.
            origins: pages that may read the answer, or show the page in a frame.
            scripts: those which the page adds to itself while it runs.
            in_words: whether errors are put into our form; those of MCP have one of their own.
        """
        self._send, self._scope, self._origins, self._scripts = send, scope, origins, scripts
        self._in_words = in_words
        self._is_page = _PAGE.fullmatch(scope["path"]) is not None
        self._is_upload = scope["path"].endswith("/upload")
        self._start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        """Pass a message of the app on; the page and errors are held until they are complete."""
        if message["type"] == "http.response.start":
            if self._is_page or self._is_upload or (self._in_words and message["status"] >= 400):
                self._start = message
            else:
                await self._send({**message, "headers": self._headers(message, self._policy())})
        elif self._start is not None and message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_held(self._start, self._body)
        else:
            await self._send(message)

    async def _send_held(self, start: Message, body: bytes) -> None:
        if self._is_upload and body == b"[]":  # a form without a file, or one that breaks off
            start, body = {**start, "status": 400}, json.dumps(error_body(NO_FILE)).encode()
        headers = dict(self._headers(start, self._policy()))
        if self._scope["method"] != "HEAD" and b"content-encoding" not in headers:
            if start["status"] >= 400:
                body = _in_words(start["status"], body)
                headers[b"content-type"] = b"application/json"
            elif "gzip" in header(self._scope, b"accept-encoding"):
                body = gzip.compress(body, 5)
                headers[b"content-encoding"] = b"gzip"
            headers[b"content-length"] = str(len(body)).encode()
        await self._send({**start, "headers": list(headers.items())})
        await self._send({"type": "http.response.body", "body": body})

    def _policy(self) -> str:
        if self._is_page:
            return page_policy([*_INLINE_SCRIPT.findall(self._body), *self._scripts], self._origins.allowed)
        if _BROWSER_PAGE.fullmatch(self._scope["path"]):
            return WEB_POLICY
        return page_policy() if _PAGE_FILES.fullmatch(self._scope["path"]) else DATA_POLICY

    def _headers(self, message: Message, policy: str) -> list[tuple[bytes, bytes]]:
        new = _HEADERS | {"content-security-policy": policy}
        if _BROWSER_PAGE.fullmatch(self._scope["path"]):
            new |= _ISOLATED | {"cache-control": "no-cache"}
        elif not _PAGE_FILES.fullmatch(self._scope["path"]):
            new["cache-control"] = "no-store"
        if self._origins.allowed:
            new["vary"] = "Accept-Encoding, Origin"
        if source := self._origins.allowed_source(self._scope):
            new |= cors_headers(source)
        encoded = {key.encode(): value.encode("latin-1") for key, value in new.items()}
        return [pair for pair in message.get("headers", []) if pair[0].lower() not in encoded] + list(encoded.items())


class Response413:
    """Passes a response on; any 413 gets our words, once the client has sent all."""

    def __init__(self, send: Send, discard: Callable[[], Awaitable[None]], message: str) -> None:
        """Pass to `send`.

        Args:
            send: to the client.
            discard: lets the rest of the body come.
            message: what the client reads in place of a 413 of the app.
        """
        self._send, self._discard, self._message = send, discard, message
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
            await self._discard()
            await respond(self._send, 413, self._message, {"connection": "close"})


def cors_headers(source: str) -> dict[str, str]:
    """What lets a browser hand an answer to the page at `source`."""
    return {"access-control-allow-origin": source, "access-control-allow-credentials": "true"}


def error_body(message: str) -> dict[str, str]:
    """An error as JSON: `error` for our clients, `detail` for Gradio's."""
    return {"error": message, "detail": message}


async def respond(send: Send, status: int, message: str, headers: dict[str, str] | None = None) -> None:
    """Answer with an error."""
    await send_json(send, status, error_body(message), headers)


async def respond_mcp(send: Send, call: object, message: str) -> None:
    """Answer a call with an error in the form of MCP (JSON-RPC 2.0, invalid parameters)."""
    number = call.get("id") if isinstance(call, dict) else None
    await send_json(send, 200, {"jsonrpc": "2.0", "id": number, "error": {"code": -32602, "message": message}})


async def respond_unknown_session(send: Send) -> None:
    """Answer who asks for results without a call, in the form that Gradio's clients read."""
    message = "Nothing was asked in this session: join the queue first."
    event = {"msg": "unexpected_error", "message": message, "session_not_found": True, "success": False}
    await send_body(send, 200, f"data: {json.dumps(event)}\n\n".encode(), {"content-type": "text/event-stream"})


async def send_json(send: Send, status: int, content: dict, headers: dict[str, str] | None = None) -> None:
    """Answer with JSON."""
    await send_body(send, status, json.dumps(content).encode(), {"content-type": "application/json"} | (headers or {}))


async def send_body(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    """Answer with these bytes."""
    encoded = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
    length = [] if status == HTTPStatus.NO_CONTENT else [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": encoded + length})
    await send({"type": "http.response.body", "body": body})


def invalid_request_message(errors: Iterable[dict[str, Any]]) -> str:
    """What pydantic found wrong with a request, in one line."""
    parts = [f"{'.'.join(map(str, error['loc'][1:])) or 'the body'}: {error['msg']}" for error in errors]
    return f"The request cannot be read: {'; '.join(parts)}"


def _in_words(status: int, body: bytes) -> bytes:
    """An error of Gradio or Starlette with a message that clients and people can read."""
    text = body.decode("utf-8", "replace")
    try:
        content = json.loads(text)
    except ValueError:
        content = text
    values = content if isinstance(content, dict) else {"detail": content}
    message = next((value for name in ("error", "detail") if isinstance(value := values.get(name), str) and value), "")
    phrase = HTTPStatus(status).phrase
    if message in ("", phrase):
        message = _WITHOUT_WORDS.get(status, phrase)
    return json.dumps(values | error_body(message[:_LONGEST])).encode()


_LONGEST = 400  # characters of a message; some repeat what was asked


_WITHOUT_WORDS = {
    404: "There is nothing here.",
    405: "This route is asked in another way: docs/serving.md has examples.",
    500: "The app could not answer this. Its log says why.",
}
