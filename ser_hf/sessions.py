"""What Gradio keeps of each session: a copy of the page's settings, 60 KB and more, which a call has no use for."""

import asyncio
import re
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from ser_hf.gate import API

if TYPE_CHECKING:
    import gradio

MOST = 1000
"""Visitors who are remembered, and the voice that each has adapted to; then who was away longest is forgotten."""

_FETCHED = re.compile(rf"{API}/call/\w+/(\w+)")


class Forgetful:
    """Middleware that drops what is kept of a call once its answer has been fetched, or nobody waits for it any more.

    A call that names no session is given one that is named like its event, and nobody comes back to it. At 30 calls a
    second Gradio would keep 150 MB more each minute, up to 10,000 sessions, and forget visitors who are still there.
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
