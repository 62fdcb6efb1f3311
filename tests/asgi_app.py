"""The hub as any ASGI server loads it, with a teammate that tells what only it can see.

``hub`` is the hub alone, ``app`` the same within a lifespan that sends readers away when the server is told to stop.
"""

from __future__ import annotations

from typing import Final

from tests.serving import TOKEN

import covey
from covey.hub.app import Hub
from covey.hub.http import Receive, Scope, Send
from covey.interop.shutdown import Shutdown

streams: Final = covey.Streams()
news: Final = streams.stream("news", object)


class Probe:
    """Tells how many readers the hub has, and how many of them wait for the stream's next event."""

    async def readers(self) -> tuple[int, int]:
        assert isinstance(hub, Hub)
        return hub.readers.count, len(news._wakers)


hub: Final = covey.asgi(streams=streams, teammates={"probe": Probe()}, token=TOKEN)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        await hub(scope, receive, send)
        return
    await receive()
    with Shutdown(hub).on_signals():
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
