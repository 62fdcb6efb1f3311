"""sse-starlette under uvicorn, as its documentation shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from bench.servers.asgi import Message, Queues, Receive, Send, serve
from sse_starlette import EventSourceResponse

queues = Queues()


async def app(scope: Message, receive: Receive, send: Send) -> None:
    queue: asyncio.Queue[str] = asyncio.Queue()
    queues.open.add(queue)

    async def events() -> AsyncIterator[dict[str, str]]:
        yield {"comment": "ok"}
        while True:
            yield {"id": "1", "data": await queue.get()}

    await EventSourceResponse(events())(scope, receive, send)


if __name__ == "__main__":
    serve(app, queues.publish)
