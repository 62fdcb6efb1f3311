"""The shipped hub and the shipped client, over the HTTP server and client that they really use, in a bad network."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

import httpx2
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

import covey
from covey.client.sse import subscribe
from covey.streams.durable import DurableStream
from covey.testing import Conditions, SimWorld

SEEDS = 40
PARTS = 2
EVENTS = 10
HUB, URL = "hub", "http://hub/v1/streams/news"
TOKEN = "a-token-for-simulations"
ROUGH = Conditions(delay_s=0.005, jitter_s=0.05, refuse_p=0.05, split_p=0.4, cut_p=0.05, mute_p=0.01)


async def serve(world: SimWorld) -> None:
    """Run a hub on this host, as ``covey serve`` does with real sockets."""
    async with covey.Streams(world.disk.engine(), clock=world.clock, randomness=world.randomness) as streams:
        news = streams.stream("news", object, durable=True)
        assert isinstance(news, DurableStream)
        await news.open()  # readers are told its epoch, so that must outlive a crash too
        config = uvicorn.Config(covey.asgi(streams=streams, token=TOKEN), lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: HttpToolsProtocol(config=config, server_state=state, app_state={}), port=80
        )
        await server.serve_forever()


async def write(world: SimWorld) -> None:
    """Append, and repeat under the same key until it is acknowledged; then end the stream."""
    between = world.randomness.uniform
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10.0) as client:
        for number in range(EVENTS + 1):
            await asyncio.sleep(between(0.0, 3.0))
            for _ in range(1000):
                with suppress(httpx2.TransportError):
                    if number == EVENTS:
                        answer = await client.delete(URL)
                    else:
                        key = {"Idempotency-Key": f"event-{number}"}
                        answer = await client.post(URL, json={"data": number}, headers=key)
                    if answer.is_success:
                        break
                    assert answer.status_code in {409, 410, 503}, answer.text
                    if number == EVENTS:
                        break
                await asyncio.sleep(between(0.0, 0.5))


@dataclass
class Outcome:
    seen: list[str] = field(default_factory=list)
    trace: str = ""


def simulate(seed: int) -> Outcome:
    world = SimWorld(seed)
    world.network.conditions = ROUGH
    outcome = Outcome()

    async def read() -> None:
        # A hub says how often it gives a sign of life, but a connection may go mute before that.
        events = subscribe(URL, token=TOKEN, start="start", silence_s=60.0, randomness=world.randomness)
        async for event in events:
            assert event.event == "message", event
            outcome.seen.append(event.data)

    async def main() -> None:
        world.spawn(serve(world), host=HUB)
        await asyncio.sleep(1)
        reading = world.spawn(read, host="reader")
        writing = world.spawn(write(world), host="writer")
        for _ in range(3):
            await asyncio.sleep(world.randomness.uniform(1.0, 8.0))
            world.crash(HUB, power_cut=world.randomness.uniform(0.0, 1.0) < 0.5)
            await asyncio.sleep(world.randomness.uniform(0.0, 2.0))
            world.spawn(serve(world), host=HUB)
        await asyncio.gather(reading, writing)

    world.run(main)
    outcome.trace = world.trace.digest
    return outcome


@pytest.mark.requirement("simulation.hub-and-client-lose-nothing")
@pytest.mark.parametrize("part", range(PARTS))
def test_a_subscriber_sees_every_event_once_and_in_order(part: int) -> None:
    seen = {seed: simulate(seed).seen for seed in range(part, SEEDS, PARTS)}
    expected = [str(number) for number in range(EVENTS)]
    assert {seed: events for seed, events in seen.items() if events != expected} == {}
