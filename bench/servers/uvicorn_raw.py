"""ASGI by hand under uvicorn: a queue for each reader. `joined` sends all that a queue holds as one message."""

from __future__ import annotations

import asyncio
import sys

from bench.servers.asgi import Message, Queues, Receive, Send, serve
from bench.servers.control import block

HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]

queues = Queues()
is_joined = sys.argv[1] == "joined"


async def app(scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG001 -- ASGI's own signature
    queue: asyncio.Queue[str] = asyncio.Queue()
    queues.open.add(queue)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b": ok\n\n", "more_body": True})
    while True:
        body = block(await queue.get())
        if is_joined:
            body = b"".join([body, *(block(queue.get_nowait()) for _ in range(queue.qsize()))])
        await send({"type": "http.response.body", "body": body, "more_body": True})


if __name__ == "__main__":
    serve(app, queues.publish)
