"""An HTTP server on a real socket that answers as a test tells it to, also in ways that no proper server would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple


class Received(NamedTuple):
    """A request as it arrived."""

    line: str
    headers: Mapping[str, str]
    body: bytes
    at_s: float
    connection: int


# Writes an answer to its connection; whether that can be used again.
Answer = Callable[[asyncio.StreamWriter], Awaitable[bool]]


def answer(status: int, body: bytes | Mapping[str, object] = b"", **headers: str) -> Answer:
    """Return a whole answer; a mapping is sent as JSON, and ``_`` in the names of headers stands for ``-``."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "text/plain" if isinstance(body, bytes) else "application/json"
    lines = {"content-type": kind, "content-length": str(len(content))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }

    async def write(writer: asyncio.StreamWriter) -> bool:
        writer.write(_head(status, lines) + content)
        await writer.drain()
        return True

    return write


def events(*parts: bytes, ends: str = "well") -> Answer:
    """Return an event stream. How it ends: ``well``, ``cut`` (the connection breaks) or ``stalls`` (nothing comes)."""

    async def write(writer: asyncio.StreamWriter) -> bool:
        writer.write(_head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
        for part in parts:
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
        if ends == "stalls":
            await asyncio.get_running_loop().create_future()
        if ends == "well":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return ends == "well"

    return write


async def hang(writer: asyncio.StreamWriter) -> bool:
    """Never answer."""
    await asyncio.get_running_loop().create_future()
    return False


async def hang_up(writer: asyncio.StreamWriter) -> bool:
    """Close the connection without an answer."""
    return False


class ScriptedServer:
    """Gives each request the next answer, the last one for ever."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[Answer] = []
        self.received: list[Received] = []
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def will(self, *answers: Answer) -> None:
        """Begin a new script."""
        self.answers = list(answers)
        self.received = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        connection = self.connections
        try:
            while True:
                request = await self._receive(reader, connection)
                self.received.append(request)
                chosen = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if not await chosen(writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @staticmethod
    async def _receive(reader: asyncio.StreamReader, connection: int) -> Received:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Received(head[0], headers, body, asyncio.get_running_loop().time(), connection)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} as told", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


@asynccontextmanager
async def scripted_server(*answers: Answer) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    scripted.will(*answers)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    async with server:
        scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield scripted
        server.close()
        await scripted.stop()
