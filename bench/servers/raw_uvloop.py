"""The limit: an asyncio protocol under uvloop that writes the same bytes to every transport, and nothing else."""

from __future__ import annotations

import asyncio

import uvloop
from bench.servers.control import Publisher, announce, block, listen

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\r\n"

transports: set[asyncio.Transport] = set()


class Reader(asyncio.Protocol):
    """One connection; whatever it sends, it gets the stream."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 -- asyncio calls it so
        self.transport.write(HEAD)
        transports.add(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio calls it so
        transports.discard(self.transport)


async def publish(events: list[str]) -> None:
    data = b"".join([block(event) for event in events])
    for transport in transports:
        transport.write(data)


async def main() -> None:
    listener = listen()
    server = await asyncio.get_running_loop().create_server(Reader, sock=listener)
    announce(listener.getsockname()[1], await Publisher(publish).serve())
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
