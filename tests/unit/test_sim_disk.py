from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from covey.errors import EngineError
from covey.ports.engine import Record
from covey.testing import SimWorld
from covey.testing.engines import EngineCheck, EngineSubject, engine_checks

RECORD = Record(0.0, "message", b"1")


@pytest.mark.requirement("testing.disk.is-an-engine")
@pytest.mark.parametrize("check", engine_checks(), ids=str)
def test_the_engine_does_what_every_engine_does(check: EngineCheck) -> None:
    world = SimWorld()
    world.run(lambda: check.run(EngineSubject(world.disk.engine, asyncio.sleep)), limit_s=1e9)


def found_after_a_crash(seed: int) -> tuple[int, int]:
    """Return how many appends were acknowledged before a crash, and how many are there after it."""
    world = SimWorld(seed)
    acknowledged = 0

    async def write() -> None:
        nonlocal acknowledged
        engine = world.disk.engine()
        await engine.open()
        await engine.open_log("log", epoch="a", settings=b"{}")
        while True:
            await engine.append("log", [RECORD])
            acknowledged += 1

    async def count() -> int:
        engine = world.disk.engine()
        await engine.open()
        return len(await engine.read_after("log", 0, limit=1000))

    async def main() -> int:
        world.spawn(write, host="hub")
        await asyncio.sleep(world.randomness.uniform(0.1, 0.5))
        world.crash("hub")
        return await world.spawn(count, host="hub")

    found = world.run(main)
    return acknowledged, found


@pytest.mark.requirement("testing.disk.keeps-what-was-acknowledged")
def test_a_crash_loses_nothing_but_what_was_not_acknowledged() -> None:
    beyond = Counter(found - acknowledged for acknowledged, found in map(found_after_a_crash, range(100)))
    assert beyond.keys() == {0, 1}  # the append on its way was committed, or not
    assert min(beyond.values()) > 20


@pytest.mark.requirement("testing.disk.keeps-what-was-acknowledged")
def test_a_write_that_fails_was_not_done() -> None:
    world = SimWorld(1)

    async def main() -> None:
        engine = world.disk.engine()
        await engine.open()
        await engine.open_log("log", epoch="a", settings=b"{}")
        world.disk.error_p = 0.5
        answers = await asyncio.gather(*(engine.append("log", [RECORD]) for _ in range(100)), return_exceptions=True)
        done = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert {type(answer) for answer in answers} == {list, EngineError}
        assert done == [[number] for number in range(1, len(done) + 1)]
        assert len(await engine.read_after("log", 0, limit=1000)) == len(done)

    world.run(main)


@pytest.mark.requirement("testing.disk.keeps-what-was-acknowledged")
def test_a_storage_has_one_process_at_a_time() -> None:
    world = SimWorld()

    async def hold() -> None:
        await world.disk.engine("shared").open()
        await asyncio.sleep(1000)

    async def main() -> None:
        world.spawn(hold, host="hub")
        await asyncio.sleep(1)
        with pytest.raises(EngineError, match="held by hub/1"):
            await world.disk.engine("shared").open()
        world.crash("hub")
        engine = world.disk.engine("shared")
        await engine.open()
        await engine.close()

    world.run(main)
