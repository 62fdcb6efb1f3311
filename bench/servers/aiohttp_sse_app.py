"""aiohttp-sse under uvloop, as its documentation shows it."""

from __future__ import annotations

import asyncio

import uvloop
from aiohttp import web
from aiohttp_sse import sse_response
from bench.servers.asgi import Queues
from bench.servers.control import BACKLOG, Publisher, announce, listen

queues = Queues()


async def events(request: web.Request) -> web.StreamResponse:
    queue: asyncio.Queue[str] = asyncio.Queue()
    queues.open.add(queue)
    async with sse_response(request) as response:
        while response.is_connected():
            await response.send(await queue.get(), id="1")
    return response


async def main() -> None:
    app = web.Application()
    app.router.add_get("/", events)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = listen()
    await web.SockSite(runner, listener, backlog=BACKLOG).start()
    announce(listener.getsockname()[1], await Publisher(queues.publish).serve())
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
