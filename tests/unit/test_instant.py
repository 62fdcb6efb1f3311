from __future__ import annotations

import asyncio
import socket
import time

import pytest

import covey
from covey.ports.system import SystemClock
from covey.testing import NotSimulatedError, SimWorld, instant


@pytest.mark.requirement("testing.instant.nothing-waits")
async def test_sleeps_and_timeouts_take_no_time() -> None:
    begin_s = time.perf_counter()
    with instant() as clock:
        at_s = clock.monotonic_s()
        await asyncio.sleep(1000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(500):
                await asyncio.Event().wait()
        assert clock.monotonic_s() - at_s == pytest.approx(1500, abs=5)
    assert time.perf_counter() - begin_s < 5


@pytest.mark.requirement("testing.instant.nothing-waits")
async def test_the_waits_and_deadlines_of_a_policy_take_no_time() -> None:
    tries = 0

    async def unreachable() -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            await asyncio.Event().wait()
        raise ConnectionRefusedError

    begin_s = time.perf_counter()
    with instant(), pytest.raises(covey.CoveyError):
        await covey.Target("peer", policy=covey.Policy(timeout_s=300, attempt_timeout_s=200)).call(unreachable)
    assert tries == 3
    assert time.perf_counter() - begin_s < 5


@pytest.mark.requirement("testing.instant.nothing-waits")
async def test_every_system_clock_goes_along_and_comes_back() -> None:
    clock = SystemClock()
    before = clock.monotonic_s(), clock.wall_s()
    with instant():
        await asyncio.sleep(1000)
        assert clock.monotonic_s() - before[0] == pytest.approx(1000, abs=5)
        assert clock.wall_s() - before[1] == pytest.approx(1000, abs=5)
    assert clock.monotonic_s() - before[0] < 60
    assert asyncio.get_running_loop().time() == pytest.approx(time.monotonic(), abs=5)


@pytest.mark.requirement("testing.instant.nothing-waits")
async def test_what_is_ready_comes_before_time_jumps() -> None:
    here, there = socket.socketpair()
    with there:
        there.sendall(b"ready\n")
    reader, writer = await asyncio.open_connection(sock=here)
    with instant():
        async with asyncio.timeout(1):
            assert await reader.readline() == b"ready\n"
    writer.close()
    await writer.wait_closed()


@pytest.mark.requirement("testing.instant.nothing-waits")
def test_a_loop_whose_time_is_not_asyncios_is_refused() -> None:
    async def main() -> None:
        with instant():
            pass

    with pytest.raises(NotSimulatedError, match="SimLoop cannot jump"):
        SimWorld().run(main)
