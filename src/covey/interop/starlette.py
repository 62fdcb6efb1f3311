"""Event streams as responses of Starlette, and so of FastAPI.

A response here notices a client that leaves by itself, on every server: Starlette's own streaming response waits for
the next ``send`` to fail under some of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.responses import Response

from covey.hub.http import client_gone
from covey.hub.representation import HEARTBEAT_S
from covey.interop.sse import Asked, Options, Source, Start, plan

if TYPE_CHECKING:
    from starlette.background import BackgroundTask
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from covey.interop.shutdown import Shutdown


class EventStreamResponse(Response):
    """Blocks of an event stream, sent as they come; when the client leaves, ``blocks`` is cancelled and closed."""

    def __init__(
        self,
        blocks: AsyncGenerator[bytes, None],
        *,
        headers: dict[str, str],
        background: BackgroundTask | None = None,
    ) -> None:
        # Starlette's own streaming response leaves the base's constructor out too: it is for a body that is known.
        self._blocks = blocks
        self.status_code = 200
        self.background = background
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; returns when the source ends or the client leaves."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._send_until_gone(receive, send)
        if self.background is not None:
            await self.background()

    async def _send_until_gone(self, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        sending = loop.create_task(self._send_blocks(send))
        gone = loop.create_task(client_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not sending.done():
                sending.cancel()
            await asyncio.wait({sending, gone})
        if not sending.cancelled():
            sending.result()

    async def _send_blocks(self, send: Send) -> None:
        async with aclosing(self._blocks) as blocks:
            async for part in blocks:
                try:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                except OSError:
                    return  # how a server of ASGI 2.4 says that the client has left
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def sse_response(
    source: Source,
    *,
    request: Request | None = None,
    after: str | None = None,
    start: Start = "now",
    kinds: Collection[str] | None = None,
    envelope: bool = False,
    heartbeat_s: float | None = HEARTBEAT_S,
    shutdown: Shutdown | None = None,
    background: BackgroundTask | None = None,
) -> Response:
    """Return a response that sends ``source`` as Server-Sent Events until it ends or the client leaves.

    A stream resumes after the request's ``Last-Event-ID``, else starts where its query says (``?after``, ``?from``),
    else where the arguments say. An iterator gives text, bytes, ``ServerSentEvent``, ``Event``, or anything that can be
    written as JSON, Pydantic models included; what it raises breaks the response off.

    Args:
        source: a stream, or an async iterable.
        request: what is answered; without it a stream does not resume.
        after: the id to read a stream after, where the request names none.
        start: where to begin without one: with what comes next, or with the oldest event.
        kinds: send only these kinds of a stream's events.
        envelope: send a stream's whole events as JSON, unnamed, and not their data under their kind.
        heartbeat_s: seconds of silence, ± 20 %, that are filled: with ``covey.heartbeat`` on a stream, with a comment
            on an iterator. None fills none.
        shutdown: ends the response when the server stops.
        background: what Starlette runs afterwards.

    Raises:
        InvalidInputError: an argument makes no sense. A request that does not is answered with 400.
    """
    asked = Asked()
    if request is not None:
        query = request.query_params
        asked = Asked(request.headers.get("last-event-id"), query.get("after"), query.get("from"))
    options = Options(after=after, start=start, kinds=kinds, envelope=envelope, heartbeat_s=heartbeat_s)
    made = plan(source, asked, options, None if shutdown is None else shutdown.readers)
    headers = dict(made.headers)
    if made.blocks is None:
        return Response(made.body, status_code=made.status, headers=headers, background=background)
    return EventStreamResponse(made.blocks, headers=headers, background=background)
