"""The hub as any ASGI server loads it (``tests.asgi_app:app``), with a teammate that tells what only it can see."""

from __future__ import annotations

from typing import Final

from tests.serving import TOKEN

import covey
from covey.hub.app import Hub

streams: Final = covey.Streams()
news: Final = streams.stream("news", object)


class Probe:
    """Tells how many readers the hub has, and how many of them wait for the stream's next event."""

    async def readers(self) -> tuple[int, int]:
        assert isinstance(app, Hub)
        return app.readers.count, len(news._wakers)


app: Final = covey.asgi(streams=streams, teammates={"probe": Probe()}, token=TOKEN)
