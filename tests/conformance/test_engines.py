from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from covey.engines.memory import MemoryEngine
from covey.engines.sqlite import SqliteEngine
from covey.errors import EngineError
from covey.ports.engine import Once, Record
from covey.testing.clock import ManualClock
from covey.testing.engines import EngineCheck, EngineSubject, check_engine, engine_checks

Make = Callable[[Path], EngineSubject]


def memory(folder: Path) -> EngineSubject:
    clock = ManualClock()
    return EngineSubject(lambda: MemoryEngine(clock=clock), pass_time=passing(clock), is_durable=False)


def sqlite_commit(folder: Path) -> EngineSubject:
    clock = ManualClock()
    return EngineSubject(lambda: SqliteEngine(folder / "covey.db", clock=clock), pass_time=passing(clock))


def sqlite_fsync(folder: Path) -> EngineSubject:
    clock = ManualClock()
    return EngineSubject(
        lambda: SqliteEngine(folder / "covey.db", durability="fsync", clock=clock), pass_time=passing(clock)
    )


def passing(clock: ManualClock) -> Callable[[float], Awaitable[None]]:
    async def pass_time(seconds: float) -> None:
        clock.advance(seconds)

    return pass_time


CASES = [
    pytest.param(make, check, id=f"{make.__name__}-{check}")
    for make, is_durable in ((memory, False), (sqlite_commit, True), (sqlite_fsync, True))
    for check in engine_checks(is_durable=is_durable)
]


@pytest.mark.requirement("engine.conformance")
@pytest.mark.parametrize(("make", "check"), CASES)
async def test_an_engine_does_what_every_engine_must(make: Make, check: EngineCheck, tmp_path: Path) -> None:
    await check.run(make(tmp_path))


@pytest.mark.requirement("engine.conformance")
async def test_all_checks_run_one_after_the_other_on_one_storage(tmp_path: Path) -> None:
    await check_engine(sqlite_commit(tmp_path))


class _RepeatsNumbers(MemoryEngine):
    async def append(
        self, name: str, records: Sequence[Record], *, expect_head: int | None = None, once: Once | None = None
    ) -> list[int]:
        numbers = await super().append(name, records, expect_head=expect_head, once=once)
        return [1 for _ in numbers]


class _LosesRecords(MemoryEngine):
    async def append(
        self, name: str, records: Sequence[Record], *, expect_head: int | None = None, once: Once | None = None
    ) -> list[int]:
        numbers = await super().append(name, records, expect_head=expect_head, once=once)
        await self.trim(name, numbers[-1])
        return numbers


class _ForgetsTokens(MemoryEngine):
    def _next(self) -> int:
        return 1


class _NeverExpires(MemoryEngine):
    def __init__(self) -> None:
        super().__init__(clock=ManualClock())


@pytest.mark.requirement("engine.conformance.finds-faults")
@pytest.mark.parametrize("faulty", [_RepeatsNumbers, _LosesRecords, _ForgetsTokens, _NeverExpires])
async def test_a_faulty_engine_is_found(faulty: Callable[[], MemoryEngine], tmp_path: Path) -> None:
    subject = replace(memory(tmp_path), make_engine=faulty)
    with pytest.raises(AssertionError) as failure:
        await check_engine(subject)
    assert any(note.startswith("check '") for note in failure.value.__notes__)


@pytest.mark.requirement("engine.conformance.finds-faults")
async def test_an_engine_that_forgets_is_not_durable(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        await check_engine(replace(memory(tmp_path), is_durable=True))


@pytest.mark.requirement("engine.memory.bounded")
async def test_a_full_memory_engine_refuses_and_goes_on_once_there_is_room() -> None:
    engine = MemoryEngine(bytes_max=100_000)
    await engine.open()
    await engine.open_log("a", epoch="e", settings=b"")
    record = Record(1.0, "k", b"x" * 30_000)
    await engine.append("a", [record, record])
    with pytest.raises(EngineError, match="full"):
        await engine.append("a", [record, record])
    with pytest.raises(EngineError, match="full"):
        await engine.put("k", b"x" * 50_000)
    assert [found.seq for found in await engine.read_after("a", 0, limit=9)] == [1, 2]
    await engine.trim("a", 3)
    assert await engine.append("a", [record, record]) == [3, 4]
    await engine.append("a", [Record(1.0, "k", b"")], once=Once("key", b"digest"))
    await engine.delete_log("a")
    assert engine._bytes == 0
    assert await engine.put("k", b"x" * 90_000) == 1
    await engine.close()


@pytest.mark.requirement("engine.memory.bounded")
async def test_expired_leases_and_journal_entries_leave_the_memory() -> None:
    clock = ManualClock()
    engine = MemoryEngine(clock=clock, bytes_max=2_000_000)
    await engine.open()
    for number in range(20_000):
        clock.advance(1.0)
        await engine.acquire(f"lease{number}", "ada", ttl_s=5.0)
        await engine.journal_start(f"call{number}", b"d", "run", keep_s=5.0)
    assert len(engine._leases) + len(engine._journal) < 4096
    await engine.close()
