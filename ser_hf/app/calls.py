"""What clients may ask of the functions of the page, checked before Gradio sees it.

Gradio reads a file, fetches an address and converts values before any code of ours runs. What it
cannot convert is an error without words for the client, and a traceback in the log.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

if TYPE_CHECKING:
    import gradio as gr

NO_ADDRESS = "Addresses are not fetched: upload the recording, or send it as a data: URI."
_NO_UPLOAD = "Only uploads are read: upload the recording first."
_GONE = "This upload is no longer here: upload the recording again."
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:/?/", re.IGNORECASE)
_SESSION = re.compile(r"[\w.-]{1,100}", re.ASCII)


def json_of(content: bytes) -> Any:
    """The JSON of a body; None where it is empty.

    Raises:
        ValueError: for what is no JSON, or nested too deep.
    """
    try:
        return json.loads(content or b"null")
    except (ValueError, RecursionError):
        raise ValueError("This is not JSON.") from None


def file_fault(message: object, folder: Path) -> str:
    """Why JSON is refused: a file that is no upload in `folder`, or an address; empty if it is not.

    Gradio would read such a file, and fetch the address, before any code of ours sees them.
    """
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
            return NO_ADDRESS
    return ""


def _path_fault(path: object, folder: Path) -> str:
    if not isinstance(path, str):
        return _NO_UPLOAD
    if _ADDRESS.match(path):
        return NO_ADDRESS
    try:
        if not Path(path).resolve().is_relative_to(folder):
            return _NO_UPLOAD
        return "" if Path(path).is_file() else _GONE
    except (ValueError, OSError):  # no name of a file: NUL, half a surrogate pair, too long
        return _NO_UPLOAD


class Calls:
    """The functions of a page, and the sessions that wait for their results."""

    def __init__(self, page: "gr.Blocks") -> None:
        """Check calls of the functions of `page`."""
        self._page = page

    def is_known(self, session: str) -> bool:
        """Whether anybody joined the queue in this session."""
        return session in self._page._queue.pending_messages_per_session

    def fault(self, message: object, event: str | None = None) -> str:
        """Why a call is refused, in one line; empty if it is not.

        Args:
            message: the JSON of a request to the queue.
            event: the call that is running, of a request that feeds it.
        """
        if not isinstance(message, dict):
            return "The body must be a JSON object with data, fn_index and session_hash."
        if event is None:
            session = message.get("session_hash")
            if not isinstance(session, str) or not _SESSION.fullmatch(session):
                return "session_hash must be 1 to 100 letters, digits, dots or dashes."
            number = message.get("fn_index")
            function = self._page.fns.get(number) if type(number) is int else None
        else:
            running = self._page._queue.event_ids_to_events.get(event)
            if running is None:
                return f"No call {event[:40]!r} is running: join the queue first."
            number, function = message.get("fn_index"), running.fn
        if function is None or function.fn is None:
            return f"There is no function {number!r:.40}: fn_index must be an id under dependencies in /config."
        return _data_fault(message.get("data"), function.inputs)


def _data_fault(data: object, inputs: Sequence[Any]) -> str:
    names = ", ".join(_name(block) for block in inputs) or "none"
    if not isinstance(data, list):
        return f"data must be a list with a value for each input ({names})."
    if len(data) != len(inputs):
        return f"data has {len(data)} values, {len(inputs)} are needed: one for each input ({names})."
    return next((fault for value, block in zip(data, inputs, strict=True) if (fault := _value_fault(value, block))), "")


def _name(block: Any) -> str:
    return getattr(block, "label", None) or block.get_block_name()


def _value_fault(value: object, block: Any) -> str:
    """Why a component of Gradio cannot take a value."""
    if value is None or block.stateful:  # the server keeps a state; what comes for it is not read
        return ""
    if model := getattr(block, "data_model", None):
        try:
            model.model_validate(value, context={"validate_meta": True})
        except (ValidationError, AttributeError):  # Gradio asks what is no dict for its items
            upload = '{"path": ..., "meta": {"_type": "gradio.FileData"}}'
            wanted = f"a list of uploads, each {upload}" if "root" in model.model_fields else f"an upload, {upload}"
            return f"{_name(block)} must be {wanted}."
        return ""
    if block.get_block_name() == "dataset":
        right = type(value) is int and 0 <= value < len(block.samples)
        return "" if right else f"{_name(block)} must be a number from 0 to {len(block.samples) - 1}."
    kind, words = _KINDS.get(block.get_block_name(), (None, ""))
    return f"{_name(block)} must be {words}." if kind and type(value) is not kind else ""


_KINDS = {"checkbox": (bool, "true or false"), "textbox": (str, "text")}
