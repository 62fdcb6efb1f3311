"""What all servers of the fan-out benchmark share: the events, and the port where the load client has them published.

Events are made and published inside the server's process, so that a figure is about fan-out alone. Orders are lines::

    burst COUNT BATCH AHEAD     publish as fast as the server takes it, at most AHEAD of what was delivered
    seen COUNT                  so many events of the burst have been delivered, on average
    rate PER_SECOND COUNT BATCH publish COUNT times, at that pace
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable

BACKLOG = 4096
PADDING = "x" * 160

Publish = Callable[[list[str]], Awaitable[None]]


class Publisher:
    """Makes numbered events and gives them to the server.

    Args:
        publish: gives several events to all readers, in one turn of the loop.
        turns: turns of the loop in which the server has written one publication to everybody. With fewer, a server
            that shares its turns would join publications, and a figure for single writes would be another thing.
    """

    def __init__(self, publish: Publish, *, turns: int = 1) -> None:
        self._publish = publish
        self._turns = turns
        self._number = 0
        self._seen = 0
        self._progress = asyncio.Event()

    async def serve(self) -> int:
        """Take orders from now on; return the port."""
        listener = listen()
        await asyncio.start_server(self._take_orders, sock=listener)
        port: int = listener.getsockname()[1]
        return port

    async def _take_orders(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        running: asyncio.Task[None] | None = None
        while line := await reader.readline():
            order, *numbers = line.decode().split()
            values = [int(number) for number in numbers]
            if order == "seen":
                self._seen = values[0]
                self._progress.set()
                continue
            if running is not None:
                await running
            running = asyncio.create_task(self._burst(*values) if order == "burst" else self._rate(*values))

    async def _burst(self, count: int, batch: int, ahead: int) -> None:
        self._seen = published = 0
        while published < count:
            size = min(batch, count - published)
            await self._publish(self._events(size))
            published += size
            for _ in range(self._turns):
                await asyncio.sleep(0)
            while published - self._seen > ahead:
                self._progress.clear()
                await self._progress.wait()

    async def _rate(self, per_second: int, count: int, batch: int) -> None:
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        for publication in range(count):
            await asyncio.sleep(max(0.0, begin_s + publication / per_second - loop.time()))
            await self._publish(self._events(batch))

    def _events(self, count: int) -> list[str]:
        events = []
        for _ in range(count):
            self._number += 1
            events.append(f"^{time.clock_gettime_ns(time.CLOCK_MONOTONIC):019}.{self._number:010}{PADDING}")
        return events


def block(event: str) -> bytes:
    """Return an event of the benchmark as any server would write it, about 210 bytes."""
    return f"id: 1\ndata: {event}\n\n".encode()


def listen() -> socket.socket:
    """Return a listener on a free port of this machine, with room for a rush of readers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    listener.setblocking(False)  # noqa: FBT003 -- the standard library's own signature
    return listener


def announce(port: int, control: int | str, *, pid: int | None = None) -> None:
    """Tell the benchmark that the server listens, where, and which process it is."""
    print(json.dumps({"port": port, "control": control, "pid": pid or os.getpid()}), flush=True)
