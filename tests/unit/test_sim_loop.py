from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from covey.testing import DeadlockError, NotSimulatedError, SimulationError, SimWorld
from covey.testing.loop import SimLoop


@pytest.mark.requirement("testing.loop.time-jumps")
def test_an_hour_takes_no_time() -> None:
    world = SimWorld()

    async def main() -> float:
        begin_s = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time() - begin_s

    begin_s = time.perf_counter()
    assert world.run(main) == 3600
    assert world.now_s == 3600
    assert time.perf_counter() - begin_s < 5


@pytest.mark.requirement("testing.loop.time-jumps")
def test_the_clock_goes_with_the_loop() -> None:
    world = SimWorld()

    async def main() -> tuple[float, float]:
        before = world.clock.monotonic_s(), world.clock.wall_s()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await asyncio.Event().wait()
        return world.clock.monotonic_s() - before[0], world.clock.wall_s() - before[1]

    assert world.run(main) == pytest.approx((2.5, 2.5))


@pytest.mark.requirement("testing.loop.order")
def test_timers_of_one_moment_go_off_in_the_order_in_which_they_were_set() -> None:
    order: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in range(100):
            loop.call_later(1, order.append, number)
        await asyncio.sleep(1)

    SimWorld(shuffles=True).run(main)
    assert order == list(range(100))


def order_of_wakeups(world: SimWorld) -> list[int]:
    order: list[int] = []

    async def wait(number: int, event: asyncio.Event) -> None:
        await event.wait()
        order.append(number)

    async def main() -> None:
        event = asyncio.Event()
        tasks = [asyncio.create_task(wait(number, event)) for number in range(10)]
        await asyncio.sleep(1)
        event.set()
        await asyncio.gather(*tasks)

    world.run(main)
    return order


@pytest.mark.requirement("testing.loop.order")
def test_tasks_wake_in_order_unless_they_are_shuffled() -> None:
    assert order_of_wakeups(SimWorld(7)) == list(range(10))
    shuffled = [order_of_wakeups(SimWorld(seed, shuffles=True)) for seed in (7, 7, 8)]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert sorted(shuffled[0]) == list(range(10))


@pytest.mark.requirement("testing.loop.order")
def test_shuffling_leaves_callbacks_and_first_steps_in_order() -> None:
    order: list[int] = []

    async def step(number: int) -> None:
        order.append(number)

    async def main() -> None:
        tasks: list[asyncio.Task[None]] = []
        for number in range(0, 50, 2):
            asyncio.get_running_loop().call_soon(order.append, number)
            tasks.append(asyncio.create_task(step(number + 1)))
        await asyncio.gather(*tasks)

    SimWorld(3, shuffles=True).run(main)
    assert order == list(range(50))


@pytest.mark.requirement("testing.loop.says-why-it-stopped")
def test_a_deadlock_names_who_waits_and_where() -> None:
    world = SimWorld(5)

    async def stuck() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        world.spawn(stuck, host="laptop", name="reader")
        await asyncio.sleep(2)
        await stuck()

    with pytest.raises(DeadlockError) as caught:
        world.run(main)
    text = caught.value.message
    assert "at 2.000000 s" in text
    assert "reader (laptop/1) waits in Event.wait" in text
    assert "main (outside/0) waits in Event.wait" in text


@pytest.mark.requirement("testing.loop.says-why-it-stopped")
def test_a_cancelled_timer_does_not_hide_a_deadlock() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(50, print).cancel()
        await asyncio.Event().wait()

    world = SimWorld()
    with pytest.raises(DeadlockError, match=r"at 0\.000000 s"):
        world.run(main)


@pytest.mark.requirement("testing.loop.says-why-it-stopped")
def test_a_run_over_its_limit_is_an_error() -> None:
    async def main() -> None:
        for _ in range(1000):
            await asyncio.sleep(60)

    with pytest.raises(SimulationError, match=r"main .* waits in sleep") as caught:
        SimWorld().run(main, limit_s=3600)
    assert caught.value.hint == "give run() a higher limit_s if it should take that long"


@pytest.mark.requirement("testing.loop.says-why-it-stopped")
def test_a_loop_that_lets_no_time_pass_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covey.testing.loop.TURNS_AT_ONCE_MAX", 1000)

    async def main() -> None:
        for _ in range(2000):
            await asyncio.sleep(0)

    with pytest.raises(SimulationError, match="no time passed"):
        SimWorld().run(main)


def real_world() -> dict[str, Callable[[], Awaitable[object]]]:
    def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def watch() -> None:
        loop().add_reader(0, print)

    async def signal() -> None:
        loop().add_signal_handler(2, print)

    async def receive() -> None:
        with socket.socket() as real:
            await loop().sock_recv(real, 1)

    async def tls() -> None:
        await asyncio.open_connection("hub", 443, ssl=True)

    return {
        "threads": lambda: asyncio.to_thread(print),
        "child processes": lambda: asyncio.create_subprocess_exec(sys.executable, stdin=subprocess.DEVNULL),
        "file descriptors": watch,
        "signals": signal,
        "real sockets": receive,
        "ssl": tls,
        "datagrams": lambda: loop().create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0)),
        "Unix sockets": lambda: asyncio.open_unix_connection("socket"),
    }


@pytest.mark.requirement("testing.loop.refuses-the-real-world")
@pytest.mark.parametrize("what", real_world())
def test_the_real_world_is_refused(what: str) -> None:
    async def main() -> None:
        await real_world()[what]()

    with pytest.raises(NotSimulatedError, match=what) as caught:
        SimWorld().run(main)
    assert isinstance(caught.value, NotImplementedError)  # what libraries expect of a loop that lacks something


@pytest.mark.requirement("testing.loop.refuses-the-real-world")
def test_another_thread_is_refused() -> None:
    refused: list[BaseException] = []

    def call(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.call_soon_threadsafe(print)
        except NotSimulatedError as error:
            refused.append(error)

    async def main() -> None:
        thread = threading.Thread(target=call, args=(asyncio.get_running_loop(),))
        thread.start()
        thread.join()

    SimWorld().run(main)
    assert len(refused) == 1


@pytest.mark.requirement("testing.loop.refuses-the-real-world")
def test_a_loop_alone_has_no_network() -> None:
    loop = SimLoop(shuffle=random.Random(0))
    with contextlib.closing(loop), pytest.raises(NotSimulatedError, match="use a SimWorld"):
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, "hub", 80))


@pytest.mark.requirement("testing.loop.time-jumps")
def test_timeouts_that_did_not_come_are_let_go_of() -> None:
    async def main() -> int:
        for _ in range(5000):
            async with asyncio.timeout(3600):
                await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        return len(loop._timers)

    assert SimWorld().run(main) < 1000
