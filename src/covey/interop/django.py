"""Event streams as responses of Django's async views, under ASGI."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from typing import TYPE_CHECKING

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from covey.errors import LocalProtocolError
from covey.hub.representation import HEARTBEAT_S
from covey.interop.sse import Asked, Options, Source, Start, plan

if TYPE_CHECKING:
    from django.http.response import HttpResponseBase

    from covey.interop.shutdown import Shutdown


class EventStreamResponse(StreamingHttpResponse):
    """Blocks of an event stream, sent as they come; when the client leaves, ``blocks`` is cancelled and closed."""

    def __init__(self, blocks: AsyncGenerator[bytes, None], *, headers: dict[str, str]) -> None:
        super().__init__(blocks, headers=headers)
        self._blocks = blocks

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the blocks themselves: through Django's wrapper a close would not reach them."""
        return self._blocks

    def __iter__(self) -> Iterator[bytes]:
        """Refuse: under WSGI Django would first wait for the end of what has none."""
        message = "an event stream was asked for under WSGI"
        raise LocalProtocolError(message, hint="serve the project's asgi.py with an ASGI server")


def sse_response(
    source: Source,
    *,
    request: HttpRequest | None = None,
    after: str | None = None,
    start: Start = "now",
    kinds: Collection[str] | None = None,
    envelope: bool = False,
    heartbeat_s: float | None = HEARTBEAT_S,
    shutdown: Shutdown | None = None,
) -> HttpResponseBase:
    """Return a response that sends ``source`` as Server-Sent Events; see ``covey.interop.starlette.sse_response``.

    Return it from an ``async def`` view: streams are written and read in the thread of the event loop.

    Raises:
        InvalidInputError: an argument makes no sense. A request that does not is answered with 400.
    """
    asked = Asked()
    if request is not None:
        asked = Asked(request.headers.get("Last-Event-ID"), request.GET.get("after"), request.GET.get("from"))
    options = Options(after=after, start=start, kinds=kinds, envelope=envelope, heartbeat_s=heartbeat_s)
    made = plan(source, asked, options, None if shutdown is None else shutdown.readers)
    headers = dict(made.headers)
    if made.blocks is None:
        return HttpResponse(made.body, status=made.status, headers=headers)
    # Said here so that Django's GZipMiddleware leaves the stream alone: it would hold events until its buffer is full.
    return EventStreamResponse(made.blocks, headers={**headers, "content-encoding": "identity"})
