"""What every engine must do, as checks that any implementation of ``ports.engine`` can run.

With pytest::

    @pytest.mark.parametrize("check", engine_checks(), ids=str)
    async def test_the_engine(check: EngineCheck) -> None:
        await check.run(EngineSubject(make_engine=..., pass_time=...))

Without: ``await check_engine(subject)``. Every check uses names of its own, so that all can run on one storage.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from covey.errors import (
    EngineError,
    HeadMovedError,
    InvalidInputError,
    KeyReusedError,
    StreamClosedError,
    StreamNotFoundError,
    TooLargeError,
)
from covey.ports.engine import (
    APPEND_RECORDS_MAX,
    DATA_BYTES_MAX,
    FIELDS_BYTES_MAX,
    KEY_BYTES_MAX,
    REQUEST_BYTES_MAX,
    Committed,
    Engine,
    Once,
    Record,
)

E = TypeVar("E", bound=BaseException)


@dataclass(frozen=True)
class EngineSubject:
    """An engine to check.

    Args:
        make_engine: returns an engine on the same storage each time, not open yet; a second one, made after the first
            was closed, is a restart.
        pass_time: lets that many seconds pass for the engine: moves its clock, or waits.
        is_durable: what was acknowledged is there after a restart.
    """

    make_engine: Callable[[], Engine]
    pass_time: Callable[[float], Awaitable[None]]
    is_durable: bool = True
    token: str = field(default_factory=lambda: secrets.token_hex(4))

    @asynccontextmanager
    async def engine(self) -> AsyncGenerator[Engine]:
        """Open an engine and close it."""
        engine = self.make_engine()
        await engine.open()
        try:
            yield engine
        finally:
            await engine.close()

    def name(self, text: str) -> str:
        """Return a name for a log or key that no other run of a check uses."""
        return f"{text}-{self.token}"


@dataclass(frozen=True)
class EngineCheck:
    """One behaviour, and what shows it: raises ``AssertionError`` where an engine lacks it."""

    name: str
    run: Callable[[EngineSubject], Awaitable[None]]
    needs_durability: bool = False

    def __str__(self) -> str:
        return self.name


def engine_checks(*, is_durable: bool = True) -> list[EngineCheck]:
    """Return the checks for an engine that is durable, or for one that isn't."""
    return [check for check in _CHECKS if is_durable or not check.needs_durability]


async def check_engine(subject: EngineSubject) -> None:
    """Run all checks.

    Raises:
        AssertionError: the engine fails one; a note names it.
    """
    for check in engine_checks(is_durable=subject.is_durable):
        try:
            await check.run(subject)
        except BaseException as error:
            error.add_note(f"check {check.name!r}")
            raise


_CHECKS: Final[list[EngineCheck]] = []
_Run = Callable[[EngineSubject], Awaitable[None]]


def _check(name: str, *, needs_durability: bool = False) -> Callable[[_Run], _Run]:
    def note(run: _Run) -> _Run:
        _CHECKS.append(EngineCheck(name, run, needs_durability))
        return run

    return note


def _expect(is_true: bool, message: str) -> None:  # noqa: FBT001 -- reads as the assert that -O would remove
    if not is_true:
        raise AssertionError(message)


def _equal(found: object, expected: object) -> None:
    _expect(found == expected, f"found {found!r}, expected {expected!r}")


async def _raises(kind: type[E], request: Awaitable[object]) -> E:
    try:
        answer = await request
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, found {answer!r}")


def _records(*texts: str) -> list[Record]:
    return [Record(1764000000.125 + index, "message", f'"{text}"'.encode()) for index, text in enumerate(texts)]


async def _log(engine: Engine, name: str) -> str:
    await engine.open_log(name, epoch=secrets.token_hex(4), settings=b"{}")
    return name


async def _read_all(engine: Engine, name: str, seq: int = 0, *, limit: int = 1000) -> list[Committed]:
    found: list[Committed] = []
    while part := await engine.read_after(name, seq, limit=limit):
        found += part
        seq = part[-1].seq
    return found


# ---- logs


@_check("log.append-and-read")
async def _append_and_read(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        name = await _log(engine, subject.name("append"))
        rich = Record(0.1 + 0.2, "stdout", b'{"a":"\xc3\xa9\x00"}', by="ada ü", key="k\n1")
        _equal(await engine.append(name, [rich, *_records("b")]), [1, 2])
        _equal(await engine.append(name, _records("c")), [3])
        expected = [Committed(1, rich), Committed(2, _records("b")[0]), Committed(3, _records("c")[0])]
        _equal(await engine.read_after(name, 0, limit=10), expected)
        _equal(await engine.read_after(name, 1, limit=10), expected[1:])
        _equal(await engine.read_after(name, 1, limit=1), expected[1:2])
        _equal(await engine.read_after(name, 3, limit=10), [])


@_check("log.numbers-out-of-range")
async def _numbers_out_of_range(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        name = await _log(engine, subject.name("range"))
        await engine.append(name, _records("a"))
        for seq in (-1, -(10**30)):
            _equal([found.seq for found in await engine.read_after(name, seq, limit=10)], [1])
        for seq in (2, (1 << 63) - 1, 1 << 63, 10**30):
            _equal(await engine.read_after(name, seq, limit=10), [])
        for limit in (0, -1):
            _equal(await engine.read_after(name, 0, limit=limit), [])
        _equal(len(await engine.read_after(name, 0, limit=10**30)), 1)
        for oldest in (-(10**30), 0, 1):
            await engine.trim(name, oldest)
        _equal(len(await engine.read_after(name, 0, limit=10)), 1)
        await engine.trim(name, 10**30)
        _equal(await engine.append(name, _records("b")), [2])


@_check("log.state")
async def _state(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        name = subject.name("state")
        state = await engine.open_log(name, epoch="first1", settings=b'{"a":1}')
        _equal((state.name, state.epoch, state.settings), (name, "first1", b'{"a":1}'))
        _equal((state.oldest, state.head, state.is_ended), (1, 0, False))
        await engine.append(name, _records("a", "b", "c"))
        await engine.trim(name, 2)
        again = await engine.open_log(name, epoch="second", settings=b"{}")
        _equal((again.epoch, again.settings, again.oldest, again.head), ("first1", b'{"a":1}', 2, 3))
        await engine.end_log(name)
        listed = [state for state in await engine.logs() if state.name == name]
        _equal([(state.oldest, state.head, state.is_ended) for state in listed], [(2, 3, True)])


@_check("log.listed-by-name")
async def _listed(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        ours = sorted(subject.name(text) for text in ("b", "a.x", "a", "B"))
        for name in reversed(ours):
            await _log(engine, name)
        _equal([state.name for state in await engine.logs() if state.name in ours], ours)


@_check("log.order-of-calls")
async def _order(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        names = [await _log(engine, subject.name(f"order{number}")) for number in range(3)]
        requests = [
            asyncio.ensure_future(engine.append(names[number % 3], _records(str(number)))) for number in range(300)
        ]
        numbers = await asyncio.gather(*requests)
        for index, name in enumerate(names):
            _equal(
                [found.record.data for found in await _read_all(engine, name)],
                [f'"{number}"'.encode() for number in range(index, 300, 3)],
            )
        _equal(numbers, [[1 + number // 3] for number in range(300)])


@_check("log.conditional-append")
async def _conditional(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        name = subject.name("conditional")
        state = await engine.open_log(name, epoch="e", settings=b"")
        _equal(await engine.append(name, _records("a"), expect_head=0), [1])
        error = await _raises(HeadMovedError, engine.append(name, _records("b"), expect_head=0))
        _equal(error.head, f"{state.epoch}.1")
        await _raises(HeadMovedError, engine.append(name, _records("b"), expect_head=10**30))
        answers = await asyncio.gather(
            *(engine.append(name, _records("c"), expect_head=1) for _ in range(20)), return_exceptions=True
        )
        _equal([answer for answer in answers if not isinstance(answer, HeadMovedError)], [[2]])
        _equal(len(await _read_all(engine, name)), 2)


@_check("log.append-once")
async def _append_once(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        name, other = await _log(engine, subject.name("once")), await _log(engine, subject.name("once-other"))
        once = Once("key ü", b"digest")
        _equal(await engine.append(name, _records("a", "b"), once=once), [1, 2])
        _equal(await engine.append(name, _records("c")), [3])
        _equal(await engine.append(name, _records("a", "b"), once=once, expect_head=0), [1, 2])
        await _raises(KeyReusedError, engine.append(name, _records("x"), once=Once("key ü", b"another")))
        _equal(await engine.append(other, _records("x"), once=Once("key ü", b"another")), [1])
        answers = await asyncio.gather(*(engine.append(name, _records("d"), once=Once("k", b"")) for _ in range(20)))
        _equal(answers, [[4]] * 20)
        await engine.end_log(name)
        _equal(await engine.append(name, _records("a", "b"), once=once), [1, 2])
        await engine.delete_log(other)
        await _log(engine, other)
        _equal(await engine.append(other, _records("z"), once=Once("key ü", b"third")), [1])
        refused = Once("refused", b"")
        await _raises(HeadMovedError, engine.append(other, _records("a"), once=refused, expect_head=7))
        _equal(await engine.append(other, _records("a"), once=refused), [2])
        await _raises(InvalidInputError, engine.append(other, _records("a"), once=Once("", b"")))


@_check("log.append-once-over-a-restart", needs_durability=True)
async def _append_once_over_a_restart(subject: EngineSubject) -> None:
    name, once = subject.name("once-restart"), Once("k", b"digest")
    async with subject.engine() as engine:
        await _log(engine, name)
        _equal(await engine.append(name, _records("a"), once=once), [1])
    async with subject.engine() as engine:
        state = await engine.open_log(name, epoch="again", settings=b"")
        _equal(state.head, 1)
        _equal(await engine.append(name, _records("a"), once=once), [1])
        _equal(len(await _read_all(engine, name)), 1)


@_check("log.ended")
async def _ended(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        name = await _log(engine, subject.name("ended"))
        await engine.append(name, _records("a"))
        await engine.end_log(name)
        await engine.end_log(name)
        await _raises(StreamClosedError, engine.append(name, _records("b")))
        _equal(len(await engine.read_after(name, 0, limit=10)), 1)


@_check("log.missing")
async def _missing(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        name = subject.name("missing")
        await _raises(StreamNotFoundError, engine.append(name, _records("a")))
        await _raises(StreamNotFoundError, engine.read_after(name, 0, limit=1))
        await _raises(StreamNotFoundError, engine.trim(name, 1))
        await _raises(StreamNotFoundError, engine.end_log(name))
        await engine.delete_log(name)


@_check("log.trimmed")
async def _trimmed(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        name = await _log(engine, subject.name("trimmed"))
        await engine.append(name, _records(*"abcdef"))
        await engine.trim(name, 4)
        await engine.trim(name, 2)
        _equal([found.seq for found in await engine.read_after(name, 0, limit=2)], [4, 5])
        _equal([found.seq for found in await engine.read_after(name, 4, limit=9)], [5, 6])
        await engine.trim(name, 7)
        _equal(await engine.read_after(name, 0, limit=9), [])
        state = await engine.open_log(name, epoch="x", settings=b"")
        _equal((state.oldest, state.head), (7, 6))
        _equal(await engine.append(name, _records("g")), [7])


@_check("log.deleted")
async def _deleted(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        name = subject.name("deleted")
        await engine.open_log(name, epoch="one", settings=b"1")
        await engine.append(name, _records("a", "b"))
        await engine.end_log(name)
        await engine.delete_log(name)
        await _raises(StreamNotFoundError, engine.read_after(name, 0, limit=1))
        state = await engine.open_log(name, epoch="two", settings=b"2")
        _equal((state.epoch, state.head, state.is_ended, state.settings), ("two", 0, False, b"2"))
        _equal(await engine.append(name, _records("c")), [1])
        _equal([found.record.data for found in await _read_all(engine, name)], [b'"c"'])


@_check("log.large")
async def _large(subject: EngineSubject) -> None:
    """Reads are bounded in bytes, whatever limit they ask for, and lose nothing by it."""
    async with subject.engine() as engine:
        name = await _log(engine, subject.name("large"))
        largest = Record(1.0, "k", b"x" * DATA_BYTES_MAX, by="b" * 1000)
        for _ in range(3):
            await engine.append(name, [largest] * 8)
        await engine.append(name, _records("small"))
        first = await engine.read_after(name, 0, limit=1000)
        _expect(1 <= len(first) <= REQUEST_BYTES_MAX // DATA_BYTES_MAX, f"{len(first)} records of 1 MiB in one read")
        _equal([found.seq for found in await _read_all(engine, name)], list(range(1, 26)))
        await engine.delete_log(name)


@_check("log.limits")
async def _limits(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        name = await _log(engine, subject.name("limits"))
        over = Record(1.0, "k", b"x" * (DATA_BYTES_MAX + 1))
        wide = Record(1.0, "k", b"1", by="x" * (FIELDS_BYTES_MAX + 1))
        many = [Record(1.0, "k", b"x" * DATA_BYTES_MAX)] * (REQUEST_BYTES_MAX // DATA_BYTES_MAX + 1)
        for records in ([over], [wide], [*_records("a"), over], many):
            await _raises(TooLargeError, engine.append(name, records))
        for records in ([], _records("a") * (APPEND_RECORDS_MAX + 1), [Record(1.0, "k", b"1", by="\ud800")]):
            await _raises(InvalidInputError, engine.append(name, records))
        _equal(await engine.append(name, _records("a")), [1])


@_check("names.refused")
async def _names_refused(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        for name in ("", "a/b", "..", "a b", "x" * 129, "\ud800", "a\0"):
            await _raises(InvalidInputError, engine.open_log(name, epoch="e", settings=b""))
            await _raises(InvalidInputError, engine.append(name, _records("a")))
            await _raises(InvalidInputError, engine.read_after(name, 0, limit=1))
            await _raises(InvalidInputError, engine.delete_log(name))
        for epoch in ("", "x" * 17, "a.b", "é"):
            await _raises(InvalidInputError, engine.open_log(subject.name("epoch"), epoch=epoch, settings=b""))
        for key in ("", "x" * (KEY_BYTES_MAX + 1), "é" * (KEY_BYTES_MAX // 2 + 1), "\ud800", "a\0"):
            await _raises(InvalidInputError, engine.get(key))
            await _raises(InvalidInputError, engine.put(key, b""))
            await _raises(InvalidInputError, engine.delete(key))
            await _raises(InvalidInputError, engine.acquire(key, "ada", ttl_s=1.0))
            await _raises(InvalidInputError, engine.acquire("k", key, ttl_s=1.0))
            await _raises(InvalidInputError, engine.journal_start(key, b"", "i", keep_s=1.0))
        for seconds in (0.0, -1.0, float("nan"), float("inf")):
            await _raises(InvalidInputError, engine.acquire("k", "ada", ttl_s=seconds))
            await _raises(InvalidInputError, engine.journal_start("k", b"", "i", keep_s=seconds))


# ---- leases


@_check("lease.one-owner")
async def _one_owner(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        key = subject.name("owner")
        first = await engine.acquire(key, "ada", ttl_s=60.0)
        assert first is not None
        _equal((first.key, first.owner, first.ttl_s), (key, "ada", 60.0))
        _equal(await engine.acquire(key, "bob", ttl_s=60.0), None)
        again = await engine.acquire(key, "ada", ttl_s=60.0)
        assert again is not None
        _expect(again.token > first.token, "a new lease of the same owner needs a new token")
        _expect(not await engine.renew(first), "a void lease was renewed")
        await engine.release(first)
        _equal(await engine.acquire(key, "bob", ttl_s=60.0), None)
        _expect(await engine.renew(again), "a lease that is held was not renewed")
        await engine.release(again)
        _expect(not await engine.renew(again), "a void lease was renewed")
        other = await engine.acquire(key, "bob", ttl_s=60.0)
        assert other is not None
        _expect(other.token > again.token, "tokens must grow also after a release")


@_check("lease.race")
async def _race(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        key = subject.name("race")
        answers = await asyncio.gather(*(engine.acquire(key, f"owner{n}", ttl_s=60.0) for n in range(50)))
        _equal(len([lease for lease in answers if lease is not None]), 1)


@_check("lease.expires")
async def _expires(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        key = subject.name("expires")
        first = await engine.acquire(key, "ada", ttl_s=2.0)
        assert first is not None
        await subject.pass_time(1.5)
        _expect(await engine.renew(first), "a lease that is held was not renewed")
        await subject.pass_time(1.5)
        _equal(await engine.acquire(key, "bob", ttl_s=2.0), None)
        await subject.pass_time(1.0)
        _expect(not await engine.renew(first), "a void lease was renewed")
        second = await engine.acquire(key, "bob", ttl_s=2.0)
        assert second is not None
        _expect(second.token > first.token, "tokens must grow also after an expiry")
        await engine.release(first)
        _expect(await engine.renew(second), "a lease that is held was not renewed")


@_check("lease.over-a-restart", needs_durability=True)
async def _lease_over_a_restart(subject: EngineSubject) -> None:
    key, gone = subject.name("restart"), subject.name("restart-gone")
    async with subject.engine() as engine:
        first = await engine.acquire(key, "ada", ttl_s=2.0)
        released = await engine.acquire(gone, "ada", ttl_s=2.0)
        assert first is not None
        assert released is not None
        await engine.release(released)
    async with subject.engine() as engine:
        _equal(await engine.acquire(key, "bob", ttl_s=2.0), None)
        _expect(await engine.renew(first), "a lease that is held was not renewed")
        after = await engine.acquire(gone, "bob", ttl_s=2.0)
        assert after is not None
        _expect(after.token > released.token, "tokens must grow also over a restart")
        await subject.pass_time(2.5)
        second = await engine.acquire(key, "bob", ttl_s=2.0)
        assert second is not None
        _expect(second.token > first.token, "tokens must grow also over a restart")


# ---- registry


@_check("registry.values")
async def _values(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        key = subject.name("ü value")
        _equal(await engine.get(key), None)
        first = await engine.put(key, b"one\x00\xff")
        found = await engine.get(key)
        assert found is not None
        _equal((found.key, found.data, found.revision), (key, b"one\x00\xff", first))
        second = await engine.put(key, b"")
        found = await engine.get(key)
        assert found is not None
        _equal((found.data, found.revision), (b"", second))
        await engine.delete(key)
        await engine.delete(key)
        _equal(await engine.get(key), None)
        await _raises(TooLargeError, engine.put(key, b"x" * (DATA_BYTES_MAX + 1)))


@_check("registry.compare-and-set")
async def _compare_and_set(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        key = subject.name("cas")
        _equal(await engine.put(key, b"a", expect_revision=7), None)
        first = await engine.put(key, b"a", expect_revision=0)
        assert first is not None
        _equal(await engine.put(key, b"b", expect_revision=0), None)
        answers = await asyncio.gather(*(engine.put(key, b"%d" % n, expect_revision=first) for n in range(20)))
        won = [revision for revision in answers if revision is not None]
        _equal(len(won), 1)
        _expect(won[0] > first, "revisions must grow")
        await engine.delete(key)
        _equal(await engine.put(key, b"c", expect_revision=won[0]), None)
        third = await engine.put(key, b"c", expect_revision=0)
        assert third is not None
        _expect(third > won[0], "a revision must not come again after a deletion")


@_check("registry.scan")
async def _scan(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        prefix = subject.name("scan") + "%_"
        keys = sorted(
            prefix + rest for rest in ("", "a", "b/c", "b", "Z", "ü", "\U0001f600", "\U0010ffff", "\U0010ffffa")
        )
        for key in reversed(keys):
            await engine.put(key, key.encode())
        for outside in (prefix[:-1], prefix[:-1] + "`", prefix[:-1] + "^"):
            await engine.put(outside, b"no")
        _equal([value.key for value in await engine.scan(prefix)], keys)
        _equal([value.key for value in await engine.scan(prefix, after=keys[2], limit=3)], keys[3:6])
        _equal([value.key for value in await engine.scan(prefix, limit=0)], [])
        _expect(len(await engine.scan("")) >= len(keys), "the empty prefix begins every key")


@_check("registry.over-a-restart", needs_durability=True)
async def _registry_over_a_restart(subject: EngineSubject) -> None:
    key, gone = subject.name("kept"), subject.name("kept-gone")
    async with subject.engine() as engine:
        revision = await engine.put(key, b"1")
        deleted = await engine.put(gone, b"1")
        await engine.delete(gone)
    async with subject.engine() as engine:
        found = await engine.get(key)
        assert found is not None
        assert deleted is not None
        _equal((found.data, found.revision), (b"1", revision))
        after = await engine.put(gone, b"2", expect_revision=0)
        assert after is not None
        _expect(after > deleted, "a revision must not come again after a restart")


# ---- journal


@_check("journal.replays")
async def _journal(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        key = subject.name("call")
        _equal(await engine.journal_start(key, b"digest\xff", "run1", keep_s=60.0), None)
        running = await engine.journal_start(key, b"other", "run2", keep_s=60.0)
        assert running is not None
        _equal((running.key, running.digest, running.incarnation, running.outcome), (key, b"digest\xff", "run1", None))
        await engine.journal_done(key, b"")
        await engine.journal_done(key, b"late")
        done = await engine.journal_start(key, b"digest\xff", "run2", keep_s=60.0)
        assert done is not None
        _equal((done.incarnation, done.outcome), ("run1", b""))
        await engine.journal_done(subject.name("unknown"), b"x")
        _equal(await engine.journal_start(subject.name("unknown"), b"", "run1", keep_s=60.0), None)
        await _raises(TooLargeError, engine.journal_done(key, b"x" * (REQUEST_BYTES_MAX + 1)))


@_check("journal.forgets")
async def _journal_forgets(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        key = subject.name("journal-forgets")
        await engine.journal_start(key, b"d", "run1", keep_s=60.0)
        await engine.journal_forget(key, "run2")
        found = await engine.journal_start(key, b"d", "run1", keep_s=60.0)
        _expect(found is not None, "only the run that began a call may forget it")
        await engine.journal_forget(key, "run1")
        _equal(await engine.journal_start(key, b"d", "run2", keep_s=60.0), None)
        await engine.journal_done(key, b"x")
        await engine.journal_forget(key, "run2")
        found = await engine.journal_start(key, b"d", "run3", keep_s=60.0)
        _expect(found is not None, "an outcome is not forgotten")
        await engine.journal_forget(subject.name("unknown"), "run1")


@_check("journal.race")
async def _journal_race(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        key = subject.name("journal-race")
        answers = await asyncio.gather(
            *(engine.journal_start(key, b"d", f"run{number}", keep_s=60.0) for number in range(50))
        )
        _equal(answers.count(None), 1)


@_check("journal.expires")
async def _journal_expires(subject: EngineSubject) -> None:
    async with subject.engine() as engine:
        key = subject.name("journal-expires")
        await engine.journal_start(key, b"d", "run1", keep_s=2.0)
        await subject.pass_time(1.5)
        await engine.journal_done(key, b"done")
        await subject.pass_time(1.5)
        _expect(await engine.journal_start(key, b"d", "run2", keep_s=2.0) is not None, "kept from when it was done")
        await subject.pass_time(1.0)
        await engine.journal_done(key, b"too late")
        _equal(await engine.journal_start(key, b"d", "run3", keep_s=2.0), None)


@_check("journal.over-a-restart", needs_durability=True)
async def _journal_over_a_restart(subject: EngineSubject) -> None:
    begun, done = subject.name("begun"), subject.name("done")
    async with subject.engine() as engine:
        await engine.journal_start(begun, b"b", "run1", keep_s=60.0)
        await engine.journal_start(done, b"d", "run1", keep_s=60.0)
        await engine.journal_done(done, b"outcome")
    async with subject.engine() as engine:
        found = [await engine.journal_start(key, b"", "run2", keep_s=60.0) for key in (begun, done)]
        _equal([entry and entry.outcome for entry in found], [None, b"outcome"])
        _equal([entry and entry.incarnation for entry in found], ["run1", "run1"])


# ---- life


@_check("log.over-a-restart", needs_durability=True)
async def _log_over_a_restart(subject: EngineSubject) -> None:
    name = subject.name("log-restart")
    async with subject.engine() as engine:
        first = await engine.open_log(name, epoch="one", settings=b"s")
        await engine.append(name, _records(*"abc"))
        await engine.trim(name, 2)
    async with subject.engine() as engine:
        state = await engine.open_log(name, epoch="two", settings=b"other")
        _equal((state.epoch, state.oldest, state.head, state.settings), (first.epoch, 2, 3, b"s"))
        _equal([found.record for found in await _read_all(engine, name)], _records(*"abc")[1:])
        _equal(await engine.append(name, _records("d")), [4])


@_check("life.close-finishes-what-was-accepted", needs_durability=True)
async def _close_finishes(subject: EngineSubject) -> None:
    name = subject.name("drained")
    engine = subject.make_engine()
    await engine.open()
    await _log(engine, name)
    requests = [asyncio.ensure_future(engine.append(name, _records(str(number)))) for number in range(500)]
    await asyncio.sleep(0)  # every request begins
    await engine.close()
    _equal(await asyncio.gather(*requests), [[number] for number in range(1, 501)])
    async with subject.engine() as engine:
        _equal(len(await _read_all(engine, name)), 500)


@_check("life.used-only-while-open")
async def _used_while_open(subject: EngineSubject) -> None:
    engine = subject.make_engine()
    await _raises(EngineError, engine.get("k"))
    await engine.close()
    engine = subject.make_engine()
    await engine.open()
    await _raises(EngineError, engine.open())
    await engine.close()
    await engine.close()
    for request in (
        engine.get("k"), engine.put("k", b""), engine.logs(), engine.append("k", _records("a")),
        engine.open_log("k", epoch="e", settings=b""), engine.acquire("k", "o", ttl_s=1.0),
        engine.journal_start("k", b"", "i", keep_s=1.0), engine.scan(""), engine.open(),
    ):  # fmt: skip
        await _raises(EngineError, request)


@_check("life.cancelled-callers")
async def _cancelled(subject: EngineSubject) -> None:
    """A cancelled append happened whole or not at all, and those around it are not touched."""
    async with subject.engine() as engine:
        name = await _log(engine, subject.name("cancelled"))
        requests = [
            asyncio.ensure_future(engine.append(name, _records(f"{number}a", f"{number}b"))) for number in range(100)
        ]
        for _ in range(3):
            await asyncio.sleep(0)
        for request in requests[::3]:
            request.cancel()
        answers = await asyncio.gather(*requests, return_exceptions=True)
        acknowledged = [answer for answer in answers if isinstance(answer, list)]
        _expect(len(acknowledged) >= 66, f"{len(acknowledged)} of 66 appends were acknowledged")
        found = await _read_all(engine, name)
        _equal([entry.seq for entry in found], list(range(1, len(found) + 1)))
        texts = [entry.record.data.decode().strip('"') for entry in found]
        _equal([text[:-1] for text in texts[::2]], [text[:-1] for text in texts[1::2]])
        for number, answer in enumerate(answers):
            if isinstance(answer, list):
                _equal([texts[seq - 1] for seq in answer], [f"{number}a", f"{number}b"])
