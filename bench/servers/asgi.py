"""Runs an ASGI app of the fan-out benchmark under uvicorn, as fast as uvicorn goes: uvloop and httptools."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
import uvloop
from bench.servers.control import Publish, Publisher, announce, listen

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Protocol = type[asyncio.Protocol]


class Queues:
    """One queue for each reader, which is how the libraries' own documentation fans out."""

    def __init__(self) -> None:
        self.open: set[asyncio.Queue[str]] = set()

    async def publish(self, events: list[str]) -> None:
        for queue in self.open:
            for event in events:
                queue.put_nowait(event)


class Server(uvicorn.Server):
    """uvicorn, saying where it listens."""

    def __init__(self, config: uvicorn.Config, publisher: Publisher) -> None:
        super().__init__(config)
        self._publisher = publisher

    async def startup(self, sockets: Any = None) -> None:  # noqa: ANN401 -- uvicorn's own signature
        await super().startup(sockets=sockets)
        announce(sockets[0].getsockname()[1], await self._publisher.serve())


def serve(app: App, publish: Publish, *, http: Any = "httptools", turns: int = 1) -> None:  # noqa: ANN401 -- uvicorn's
    """Run until it is killed."""
    uvloop.run(serving(app, publish, http=http, turns=turns))


async def serving(app: App, publish: Publish, *, http: Any, turns: int) -> None:  # noqa: ANN401 -- uvicorn's
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, access_log=False, server_header=False, proxy_headers=False, http=http
    )
    await Server(config, Publisher(publish, turns=turns)).serve(sockets=[listen()])
