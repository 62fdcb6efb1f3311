"""A hub on a real socket inside the test's own loop, so that its streams are at hand and its clock can be given."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

import httpx2
import uvicorn

from covey.calls.journal import Journal
from covey.calls.markers import idempotent
from covey.engines.memory import MemoryEngine
from covey.errors import RefusedError
from covey.hub.app import Hub
from covey.hub.auth import Outside
from covey.hub.native import TakeoverProtocol
from covey.streams.streams import Streams
from covey.team.members import Spawned, StopReport, Team
from covey.wire.event_stream import EventStreamParser, ServerSentEvent

TOKEN = "token-of-the-hub-under-test-0123456789"


class Greeter:
    """A teammate like any user's."""

    def __init__(self) -> None:
        self.counted = 0
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    async def greet(self, name: str, times: int = 1) -> str:
        """Greet someone. The second sentence is not for the summary."""
        return " ".join([f"hello {name}"] * times)

    async def hold(self) -> str:
        self.entered.set()
        await self.release.wait()
        return "released"

    async def fail(self) -> None:
        message = "a secret detail"
        raise RuntimeError(message)

    async def time_out(self) -> None:
        message = "a secret detail"
        raise TimeoutError(message)

    async def count(self, step: int = 1) -> int:
        self.counted += step
        return self.counted

    @idempotent
    async def peek(self) -> int:
        return self.counted

    async def refuse_once(self) -> str:
        self.counted += 1
        if self.counted == 1:
            raise RefusedError("not now", retry_after_s=1.0)
        return "taken"

    async def give_what_is_no_json(self) -> object:
        return object()

    def not_a_call(self) -> str:
        return "never"

    async def _private(self) -> str:
        return "never"


class Sleeper:
    """A resident without a process."""

    state = "asleep"

    def __init__(self, name: str, streams: Streams) -> None:
        self._stream = streams.create(f"{name}.out", object, is_owned=True)

    async def start(self) -> None:
        await self._stream.append({"hello": 1}, kind="started")

    async def stop(self, *, timeout_s: float) -> StopReport:
        self._stream.close()
        return StopReport(steps=("asked",), exit=0)

    async def snore(self) -> str:
        return "zzz"


class Served:
    """The hub, what it serves, and a client with its token."""

    def __init__(self, hub: Hub, url: str, greeter: Greeter) -> None:
        self.hub = hub
        self.streams = hub.streams
        self.team = hub.team
        self.url = url
        self.greeter = greeter
        self.server: uvicorn.Server
        self.http = httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False)

    def anonymous(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.url, trust_env=False)


class Events:
    """Server-Sent Events of one response, one at a time, with a bounded wait for each."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self._chunks = response.aiter_raw()
        self._parser = EventStreamParser()
        self._ready: list[ServerSentEvent] = []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ServerSentEvent:
        while not self._ready:
            async with asyncio.timeout(10):
                chunk = await anext(self._chunks)
            self._ready = self._parser.receive_data(chunk)
        return self._ready.pop(0)


async def until(is_true: Callable[[], object]) -> None:
    """Return when ``is_true`` says so; for what has no event to wait for. Fails after ten seconds."""
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 -- what is looked at is another program's or a peer's state
            await asyncio.sleep(0.005)


@asynccontextmanager
async def open_events(client: httpx2.AsyncClient, path: str, **headers: str) -> AsyncIterator[Events]:
    request_headers = {"accept": "text/event-stream", **{name.replace("_", "-"): v for name, v in headers.items()}}
    async with client.stream("GET", path, headers=request_headers, timeout=10) as response:
        yield Events(response)


@asynccontextmanager
async def serving(
    *, token: str | None = TOKEN, origins: frozenset[str] = frozenset(), is_native: bool = False
) -> AsyncIterator[Served]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    streams = Streams()

    async def spawn(name: str) -> Spawned:
        sleeper = Sleeper(name, streams)
        await sleeper.start()
        return Spawned(resident=sleeper, place="here", methods=("snore",))

    team = Team(streams, kinds={"sleeper": spawn})
    greeter = Greeter()
    team.add("ada", greeter)
    hub = Hub(
        streams=streams,
        team=team,
        journal=Journal(MemoryEngine(is_open=True), incarnation="run1"),
        token=token,
        outside=Outside(hosts=frozenset({f"127.0.0.1:{port}"}), origins=origins),
        clock=streams.clock,
        randomness=streams.randomness,
    )
    served = Served(hub, f"http://127.0.0.1:{port}", greeter)
    config = uvicorn.Config(
        hub,
        lifespan="off",
        log_config=None,
        http=TakeoverProtocol if is_native else "httptools",
        ws="websockets-sansio",
        timeout_graceful_shutdown=1,
    )
    served.server = server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.create_task(server._serve([listener]))
    try:
        await until(lambda: server.started)
        yield served
    finally:
        await served.http.aclose()
        hub.readers.drain()
        server.should_exit = True
        await running
        await hub.fanout.wait_closed(timeout_s=5)
        streams.close()
