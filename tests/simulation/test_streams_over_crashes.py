"""Durable streams on a host that crashes at any moment, over a disk that fails: nothing lost, nothing twice, in order.

Whoever writes has a key for each event and repeats it until it is acknowledged; whoever reads goes on after the last
event it saw. Both remember that outside of the host, as clients on other machines would.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from covey.errors import EngineError
from covey.streams.event import encode_data
from covey.streams.stream import Draft, Stream
from covey.streams.streams import Streams
from covey.testing import SimWorld

SEEDS = 1000
PARTS = 10  # so that a failure shows soon, and two workers share the work
WRITERS = 3
READERS = 2
EVENTS_EACH = 10
HOST = "hub"


@dataclass
class Writer:
    name: str
    has_keys: bool
    acknowledged: list[str] = field(default_factory=list)  # ids, in the order of its events

    async def write(self, stream: Stream[object], world: SimWorld) -> None:
        while (number := len(self.acknowledged)) < EVENTS_EACH:
            draft = Draft("message", encode_data([self.name, number]))
            key = f"{self.name}-{number}" if self.has_keys else None
            try:
                self.acknowledged.append(await stream.append_all([draft], once=key))
            except EngineError:
                await asyncio.sleep(world.randomness.uniform(0.0, 0.01))


@dataclass
class Reader:
    seen: list[tuple[str, object]] = field(default_factory=list)

    async def read(self, stream: Stream[object]) -> None:
        async for event in stream.read(after=self.seen[-1][0] if self.seen else None):
            assert event.kind == "message", event
            self.seen.append((event.id, event.data))


@dataclass
class Outcome:
    writers: list[Writer]
    readers: list[Reader]
    crashes: int
    trace: str

    def faults(self) -> list[str]:
        """Return what went wrong, in words."""
        found: list[str] = []
        for reader in self.readers:
            events = [data for _, data in reader.seen]
            at = {(writer.name, number): i for writer in self.writers for number, i in enumerate(writer.acknowledged)}
            if any(events.count(event) > 1 for event in events):
                found.append("double")
            if any((i, [name, number]) not in reader.seen for (name, number), i in at.items()):
                found.append("lost")
            numbers = [int(i.partition(".")[2]) for i, _ in reader.seen]
            if numbers != list(range(1, len(numbers) + 1)):
                found.append("out of order")
            for writer in self.writers:
                own = [event for event in events if isinstance(event, list) and event[0] == writer.name]
                if own != sorted(own):
                    found.append("out of order")
        return found


def simulate(seed: int, *, has_keys: bool = True) -> Outcome:
    world = SimWorld(seed, shuffles=seed % 2 == 1)
    world.disk.error_p = 0.05
    writers = [Writer(f"w{number}", has_keys) for number in range(WRITERS)]
    readers = [Reader() for _ in range(READERS)]

    async def hub() -> None:
        async with Streams(world.disk.engine(), clock=world.clock, randomness=world.randomness) as streams:
            news = streams.stream("news", object, durable=True)
            reading = [asyncio.create_task(reader.read(news)) for reader in readers]
            await asyncio.gather(*(writer.write(news, world) for writer in writers))
            await news.end()
            await asyncio.gather(*reading)

    async def main() -> int:
        crashes = 0
        running = world.spawn(hub, host=HOST)
        while True:
            if world.randomness.uniform(0.0, 1.0) < 0.5:
                world.crash(HOST, after_turns=int(world.randomness.uniform(0.0, 150.0)))
            done, _ = await asyncio.wait({running}, timeout=world.randomness.uniform(0.0, 0.1))
            if done:
                try:
                    await running
                except EngineError:  # making, restoring or ending the stream failed
                    running = world.spawn(hub, host=HOST)
                    continue
                return crashes
            world.crash(HOST)
            crashes += 1
            running = world.spawn(hub, host=HOST)

    crashes = world.run(main)
    return Outcome(writers, readers, crashes, world.trace.digest)


@pytest.mark.requirement("simulation.streams-survive-crashes")
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_acknowledged_is_lost_and_nothing_comes_twice(part: int) -> None:
    outcomes = {seed: simulate(seed) for seed in range(part, SEEDS, PARTS)}
    assert {seed: faults for seed, outcome in outcomes.items() if (faults := outcome.faults())} == {}
    for outcome in outcomes.values():
        assert {len(reader.seen) for reader in outcome.readers} == {WRITERS * EVENTS_EACH}
    assert sum(outcome.crashes for outcome in outcomes.values()) > len(outcomes)


@pytest.mark.requirement("simulation.streams-survive-crashes")
def test_repeats_without_a_key_are_found_to_double() -> None:
    """The control: the same simulation shows what goes wrong when it does."""
    assert "double" in {fault for seed in range(20) for fault in simulate(seed, has_keys=False).faults()}
