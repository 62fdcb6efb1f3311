from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from covey.errors import InvalidInputError, LocalProtocolError
from covey.testing import DeadlockError, SimWorld


@pytest.mark.requirement("testing.world.errors-are-seen")
def test_what_main_returns_and_raises_comes_out_with_the_seed() -> None:
    async def give() -> str:
        return "it"

    async def fail() -> None:
        await asyncio.sleep(2)
        raise KeyError("no")

    assert SimWorld().run(give()) == "it"
    with pytest.raises(KeyError) as caught:
        SimWorld(41).run(fail)
    assert caught.value.__notes__ == ["in SimWorld(seed=41), after 2.000000 s"]


@pytest.mark.requirement("testing.world.errors-are-seen")
def test_an_error_that_nobody_awaited_comes_out() -> None:
    world = SimWorld()

    async def fail() -> None:
        raise KeyError("no")

    async def main() -> None:
        world.spawn(fail, host="hub")
        for _ in range(3000):  # more than a world keeps of those that went well
            world.spawn(asyncio.sleep(0))
            await asyncio.sleep(1)

    with pytest.raises(KeyError):
        world.run(main)


@pytest.mark.requirement("testing.world.errors-are-seen")
def test_an_error_that_was_awaited_does_not() -> None:
    world = SimWorld()

    async def fail() -> None:
        raise KeyError("no")

    async def main() -> str:
        with pytest.raises(KeyError):
            await world.spawn(fail)
        return "fine"

    assert world.run(main) == "fine"


@pytest.mark.requirement("testing.world.errors-are-seen")
def test_a_deadlock_names_the_error_that_led_to_it() -> None:
    world = SimWorld()
    answer = world.loop.create_future()

    async def fail() -> None:
        raise KeyError("no")

    async def main() -> None:
        world.spawn(fail)
        await answer

    with pytest.raises(DeadlockError) as caught:
        world.run(main)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.requirement("testing.world.errors-are-seen")
def test_an_error_in_a_callback_comes_out() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon([].pop)
        await asyncio.sleep(1)

    with pytest.raises(IndexError):
        SimWorld().run(main)


@pytest.mark.requirement("testing.world.errors-are-seen")
def test_a_world_runs_once() -> None:
    async def main() -> None:
        await asyncio.sleep(1)

    world = SimWorld()
    world.run(main)
    with pytest.raises(LocalProtocolError):
        world.run(main)


@pytest.mark.requirement("testing.world.crash")
def test_a_crash_lets_nothing_run_any_more() -> None:
    world = SimWorld()
    said: list[str] = []

    async def work() -> None:
        try:
            asyncio.get_running_loop().call_later(2, said.append, "timer")
            helper = asyncio.create_task(asyncio.sleep(3))
            helper.add_done_callback(lambda _: said.append("helper"))
            await helper
        finally:
            said.append("last word")

    async def main() -> list[str]:
        world.spawn(work, host="hub")
        await asyncio.sleep(1)
        world.crash("hub")
        world.crash("hub")  # harmless
        world.crash("nowhere")
        await asyncio.sleep(10)
        return list(said)

    assert world.run(main) == []


@pytest.mark.requirement("testing.world.crash")
def test_a_host_starts_again_as_another_process() -> None:
    world = SimWorld()

    async def work() -> str:
        return "again"

    async def main() -> str:
        world.spawn(asyncio.sleep(100), host="hub")
        world.crash("hub")
        return await world.spawn(work, host="hub")

    assert world.run(main) == "again"
    assert "hub/2 starts" in str(world.trace)


@pytest.mark.requirement("testing.world.crash")
@pytest.mark.parametrize("turns", range(5))
def test_a_crash_after_so_many_turns_of_the_host(turns: int) -> None:
    world = SimWorld()
    steps = 0

    async def work() -> None:
        nonlocal steps
        while True:
            steps += 1
            await asyncio.sleep(0)

    async def main() -> int:
        world.spawn(work, host="hub")
        world.crash("hub", after_turns=turns)
        await asyncio.sleep(1)
        return steps

    assert world.run(main) == turns


@pytest.mark.requirement("testing.world.crash")
def test_what_crashed_is_let_go_of_without_a_warning() -> None:
    world = SimWorld()

    async def work() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(100))
                await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)  # in vain
            raise KeyError("unseen")

    async def outer() -> None:
        try:
            await work()
        finally:
            await asyncio.gather(asyncio.sleep(1), asyncio.sleep(2))

    async def main() -> None:
        world.spawn(outer, host="hub")
        await asyncio.sleep(1)
        world.crash("hub")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        world.run(main)
        gc.collect()
    assert world.now_s < 10


@pytest.mark.requirement("testing.world.crash")
def test_what_still_runs_at_the_end_is_cancelled_and_may_clean_up() -> None:
    world = SimWorld()
    said: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)
            said.append("last word")

    async def main() -> None:
        world.spawn(work, host="hub")
        await asyncio.sleep(1)

    world.run(main)
    assert said == ["last word"]


@pytest.mark.requirement("testing.world.crash")
def test_the_outside_is_no_host() -> None:
    world = SimWorld()

    async def main() -> None:
        with pytest.raises(InvalidInputError):
            world.spawn(main, host="outside")

    world.run(main)


@pytest.mark.requirement("testing.world.same-seed-same-trace")
def test_the_trace_has_what_was_noted_and_stands_still_after_the_end() -> None:
    world = SimWorld()

    async def late() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            world.note("too late")

    async def main() -> None:
        world.spawn(late, host="hub", name="late")
        await asyncio.sleep(0.5)
        world.note("here")

    world.run(main)
    assert list(world.trace.lines) == ["0.000000 hub/1 starts late", "0.500000 here"]
    assert world.trace.count == 2


@pytest.mark.requirement("testing.world.same-seed-same-trace")
def test_randomness_comes_from_the_seed() -> None:
    async def main() -> None:
        await asyncio.sleep(0)

    tokens: list[str] = []
    for seed in (1, 1, 2):
        world = SimWorld(seed)
        world.run(main)
        tokens.append(world.randomness.token(20))
    assert tokens[0] == tokens[1] != tokens[2]
