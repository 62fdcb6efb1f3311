from __future__ import annotations

import asyncio

import pytest

from covey.calls.journal import Failed, Journal, Outcome
from covey.engines.memory import MemoryEngine
from covey.errors import EngineError, KeyReusedError, RefusedError, TeammateLostError


class Work:
    """What a call does: counts, and waits when it is told to."""

    def __init__(self, *, waits: bool = False) -> None:
        self.runs = 0
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        if not waits:
            self.may_end.set()

    async def __call__(self) -> bytes:
        self.runs += 1
        self.begun.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            raise Failed(b"cancelled") from None
        return b"result %d" % self.runs


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine(is_open=True)


@pytest.fixture
def journal(engine: MemoryEngine) -> Journal:
    return Journal(engine, incarnation="run1")


@pytest.mark.requirement("journal.replays")
async def test_a_repeat_is_answered_and_not_run(journal: Journal, engine: MemoryEngine) -> None:
    work = Work()
    first = await journal.run("c", b"d", work)
    assert first == Outcome(is_result=True, body=b"result 1")
    assert await journal.run("c", b"d", work) == first
    assert await Journal(engine, incarnation="run2").run("c", b"d", work) == first
    assert work.runs == 1


@pytest.mark.requirement("journal.replays")
async def test_a_failure_is_an_outcome_too(journal: Journal) -> None:
    async def fail() -> bytes:
        raise Failed(b"why")

    outcomes = [await journal.run("c", b"d", fail) for _ in range(2)]
    assert outcomes == [Outcome(is_result=False, body=b"why")] * 2


@pytest.mark.requirement("journal.attaches")
async def test_a_repeat_joins_the_running_call_and_one_who_leaves_takes_nobody_along(journal: Journal) -> None:
    work = Work(waits=True)
    callers = [asyncio.create_task(journal.run("c", b"d", work)) for _ in range(3)]
    await work.begun.wait()
    callers[0].cancel()
    await asyncio.gather(callers[0], return_exceptions=True)
    work.may_end.set()
    assert [await caller for caller in callers[1:]] == [Outcome(is_result=True, body=b"result 1")] * 2
    assert (work.runs, len(journal)) == (1, 0)


@pytest.mark.requirement("journal.key-reused")
async def test_other_arguments_under_the_key_are_refused_while_it_runs_and_after(journal: Journal) -> None:
    work = Work(waits=True)
    running = asyncio.create_task(journal.run("c", b"d", work))
    await work.begun.wait()
    with pytest.raises(KeyReusedError):
        await journal.run("c", b"other", work)
    work.may_end.set()
    await running
    with pytest.raises(KeyReusedError):
        await journal.run("c", b"other", work)
    assert work.runs == 1


@pytest.mark.requirement("journal.maybe-executed")
async def test_a_call_whose_run_died_is_reported_and_not_run_again(journal: Journal, engine: MemoryEngine) -> None:
    await engine.journal_start("c", b"d", "an earlier run", keep_s=60)
    work = Work()
    with pytest.raises(TeammateLostError) as caught:
        await journal.run("c", b"d", work)
    assert caught.value.maybe_executed
    assert work.runs == 0


@pytest.mark.requirement("journal.idempotent")
async def test_an_idempotent_call_whose_run_died_is_run_again(journal: Journal, engine: MemoryEngine) -> None:
    await engine.journal_start("c", b"d", "an earlier run", keep_s=60)
    work = Work()
    outcome = await journal.run("c", b"d", work, is_idempotent=True)
    assert (outcome.body, work.runs) == (b"result 1", 1)
    assert await journal.run("c", b"d", work, is_idempotent=True) == outcome
    assert work.runs == 1


@pytest.mark.requirement("journal.refusals")
async def test_a_refusal_is_not_journalled(journal: Journal) -> None:
    work = Work()

    async def refuse() -> bytes:
        raise RefusedError("full", retry_after_s=1.0)

    with pytest.raises(RefusedError):
        await journal.run("c", b"d", refuse)
    assert (await journal.run("c", b"d", work)).body == b"result 1"


@pytest.mark.requirement("journal.cancel")
async def test_a_cancel_says_which_it_was(journal: Journal) -> None:
    work = Work(waits=True)
    running = asyncio.create_task(journal.run("c", b"d", work))
    await work.begun.wait()
    assert journal.cancel("c") == "cancelled"
    assert await running == Outcome(is_result=False, body=b"cancelled")
    assert await journal.run("c", b"d", work) == Outcome(is_result=False, body=b"cancelled")
    assert journal.cancel("c") == "finished"
    assert journal.cancel("unknown") is None


@pytest.mark.requirement("journal.cancel")
async def test_a_call_cancelled_before_it_began_never_ran_and_may_be_sent_again() -> None:
    class Slow(MemoryEngine):
        may_start = asyncio.Event()

        async def journal_start(self, *args: object, **kwargs: object) -> None:
            await self.may_start.wait()
            return await super().journal_start(*args, **kwargs)  # type: ignore[arg-type, return-value]

    engine = Slow(is_open=True)
    journal = Journal(engine, incarnation="run1")
    work = Work()
    running = asyncio.create_task(journal.run("c", b"d", work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert journal.cancel("c") == "not started"
    with pytest.raises(RefusedError):
        await running
    assert (work.runs, len(journal)) == (0, 0)
    engine.may_start.set()
    assert (await journal.run("c", b"d", work)).body == b"result 1"


@pytest.mark.requirement("journal.committed")
async def test_nothing_runs_that_could_not_be_journalled() -> None:
    journal = Journal(MemoryEngine(is_open=True, bytes_max=10), incarnation="run1")
    work = Work()
    with pytest.raises(EngineError):
        await journal.run("c", b"d", work)
    assert (work.runs, len(journal)) == (0, 0)


@pytest.mark.requirement("journal.close")
async def test_closing_gives_every_running_call_an_outcome(journal: Journal) -> None:
    work = Work(waits=True)
    running = asyncio.create_task(journal.run("c", b"d", work))
    await work.begun.wait()
    await journal.close()
    assert await running == Outcome(is_result=False, body=b"cancelled")
    assert len(journal) == 0


class SlowEngine(MemoryEngine):
    """Records an outcome when it is let."""

    def __init__(self) -> None:
        super().__init__(is_open=True)
        self.is_recording = asyncio.Event()
        self.may_record = asyncio.Event()

    async def journal_done(self, key: str, outcome: bytes) -> None:
        self.is_recording.set()
        await self.may_record.wait()
        await super().journal_done(key, outcome)


@pytest.mark.requirement("journal.cancel")
async def test_a_cancel_while_the_outcome_is_recorded_comes_too_late() -> None:
    engine = SlowEngine()
    journal = Journal(engine, incarnation="run1")
    work = Work()
    running = asyncio.create_task(journal.run("c", b"d", work))
    await engine.is_recording.wait()
    assert journal.cancel("c") == "finished"
    closing = asyncio.create_task(journal.close())  # which cancels it all the same
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    engine.may_record.set()
    assert await running == Outcome(is_result=True, body=b"result 1")
    await closing
    assert await Journal(engine, incarnation="run2").run("c", b"d", work) == Outcome(is_result=True, body=b"result 1")
    assert work.runs == 1


@pytest.mark.requirement("journal.cancel")
async def test_a_call_cancelled_before_its_first_step_is_told_and_forgotten(journal: Journal) -> None:
    work = Work()
    running = asyncio.create_task(journal.run("c", b"d", work))
    asyncio.get_running_loop().call_soon(journal.cancel, "c")
    with pytest.raises(RefusedError, match="before it began"):
        await asyncio.wait_for(running, 10)
    assert (work.runs, len(journal)) == (0, 0)
    assert (await journal.run("c", b"d", work)).body == b"result 1"
