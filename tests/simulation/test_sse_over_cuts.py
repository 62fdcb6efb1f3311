"""Server-Sent Events over a network that cuts, splits and mutes connections, from a hub that crashes.

The server is small, but its streams, blocks and parser are covey's. A reader resumes by ``Last-Event-ID``; a writer
repeats its request under its key until it is answered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from covey.errors import EngineError
from covey.streams.event import encode_data
from covey.streams.stream import Draft, Stream
from covey.streams.streams import Streams
from covey.testing import Conditions, SimWorld
from covey.wire.event_stream import EventStreamParser, encode_comment

SEEDS = 200
PARTS = 4
EVENTS = 12
READERS = 2
HEARTBEAT_S = 5.0
HUB, PORT = "hub", 80
LOST = (OSError, asyncio.IncompleteReadError, EOFError)
ROUGH = Conditions(
    delay_s=0.005, jitter_s=0.05, refuse_p=0.05, split_p=0.4, cut_p=0.1, mute_p=0.03, cut_after_bytes=1500
)


def headers_of(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


@dataclass
class Hub:
    world: SimWorld

    async def run(self) -> None:
        while True:
            with suppress(EngineError):  # restoring the stream failed: a hub that is started again
                async with Streams(
                    self.world.disk.engine(), clock=self.world.clock, randomness=self.world.randomness
                ) as streams:
                    self.news: Stream[object] = streams.stream("news", object, durable=True)
                    async with await asyncio.start_server(self.serve, HUB, PORT) as server:
                        await server.serve_forever()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):
                await self.send_events(headers_of(head).get("last-event-id"), writer)
            else:
                await self.append(headers_of(head), reader, writer)
        except LOST:
            pass
        finally:
            writer.close()

    async def send_events(self, after: str | None, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        cursor = self.news.reader(after)
        while not cursor.is_done:
            writer.writelines(item.block for item in cursor.take())
            await writer.drain()
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await cursor.wait()
            except TimeoutError:
                writer.write(encode_comment("still here"))

    async def append(self, headers: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        try:
            if body is None:
                await self.news.end()
            else:
                await self.news.append_all([Draft("message", encode_data(body))], once=headers["idempotency-key"])
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        except EngineError:
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")


@dataclass
class Client:
    world: SimWorld
    connections: int = 0

    async def until_done(self, attempt: Callable[[], Awaitable[bool]]) -> None:
        while True:
            with suppress(*LOST):
                if await attempt():
                    return
            await asyncio.sleep(self.world.randomness.uniform(0.0, 0.2))

    async def send(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(2 * HEARTBEAT_S):
            reader, writer = await asyncio.open_connection(HUB, PORT)
        self.connections += 1
        writer.write(request)
        return reader, writer


@dataclass
class Writer(Client):
    async def write(self) -> None:
        for number in range(EVENTS):
            await self.post(number)
            await asyncio.sleep(self.world.randomness.uniform(0.0, 3.0))
        await self.post(None)

    async def post(self, data: object) -> None:
        body = json.dumps(data)
        head = f"POST /news HTTP/1.1\r\nidempotency-key: event-{data}\r\ncontent-length: {len(body)}"

        async def attempt() -> bool:
            reader, writer = await self.send(f"{head}\r\n\r\n{body}".encode())
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    return b" 200 " in await reader.readuntil(b"\r\n\r\n")
            finally:
                writer.close()

        await self.until_done(attempt)


@dataclass
class Reader(Client):
    cursor: str = ""
    seen: list[object] = field(default_factory=list)

    async def read(self) -> None:
        await self.until_done(self.read_until_cut)

    async def read_until_cut(self) -> bool:
        resume = f"last-event-id: {self.cursor}\r\n" if self.cursor else ""
        reader, writer = await self.send(f"GET /news HTTP/1.1\r\n{resume}\r\n".encode())
        try:
            async with asyncio.timeout(2 * HEARTBEAT_S):
                await reader.readuntil(b"\r\n\r\n")
            parser = EventStreamParser(last_event_id=self.cursor)
            while True:
                async with asyncio.timeout(2 * HEARTBEAT_S):
                    chunk = await reader.read(1 << 16)
                for event in parser.receive_data(chunk):
                    assert event.event in {"message", "covey.end"}, event
                    if event.event == "covey.end":
                        return True
                    self.seen.append(json.loads(event.data))
                    self.cursor = event.id
                if not chunk:
                    return False
        finally:
            writer.close()


@dataclass
class Outcome:
    readers: list[Reader]
    connections: int
    trace: str


def simulate(seed: int) -> Outcome:
    world = SimWorld(seed, shuffles=seed % 2 == 1)
    world.network.conditions = ROUGH
    world.disk.error_p = 0.05
    writer = Writer(world)
    readers = [Reader(world) for _ in range(READERS)]
    between = world.randomness.uniform

    async def trouble() -> None:
        """What goes wrong beside the connections."""
        while True:
            await asyncio.sleep(between(1.0, 20.0))
            if between(0.0, 1.0) < 0.5:
                world.crash(HUB, power_cut=between(0.0, 1.0) < 0.5)
                await asyncio.sleep(between(0.0, 5.0))
                world.spawn(Hub(world).run, host=HUB)
            else:
                world.network.partition([HUB], ["reader-0", "writer"])
                await asyncio.sleep(between(0.0, 30.0))
                world.network.heal()

    async def main() -> None:
        world.spawn(Hub(world).run, host=HUB)
        world.spawn(trouble)
        reading = [world.spawn(reader.read, host=f"reader-{place}") for place, reader in enumerate(readers)]
        await asyncio.gather(world.spawn(writer.write, host="writer"), *reading)

    world.run(main)
    return Outcome(readers, writer.connections + sum(reader.connections for reader in readers), world.trace.digest)


@pytest.mark.requirement("simulation.sse-resumes-over-cuts")
@pytest.mark.parametrize("part", range(PARTS))
def test_a_reader_that_resumes_sees_every_event_once_and_in_order(part: int) -> None:
    outcomes = {seed: simulate(seed) for seed in range(part, SEEDS, PARTS)}
    wrong = {
        seed: reader.seen
        for seed, outcome in outcomes.items()
        for reader in outcome.readers
        if reader.seen != list(range(EVENTS))
    }
    assert wrong == {}
    assert sum(outcome.connections for outcome in outcomes.values()) > len(outcomes) * 1.5 * (EVENTS + READERS)
