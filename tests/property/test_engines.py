"""Any sequence of requests gets the same answers from both engines, over restarts of the one that has them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from covey.engines.memory import MemoryEngine
from covey.engines.sqlite import SqliteEngine
from covey.errors import CoveyError
from covey.ports.engine import ONCE_KEPT_S, Engine, JournalEntry, Lease, Once, Record, Value
from covey.testing.clock import ManualClock

R = TypeVar("R")

NAMES = st.sampled_from(["a", "a.b", "ada.out", "Z"])
KEYS = st.sampled_from(["k", "k/1", "k/2", "é", "call:1"])
OWNERS = st.sampled_from(["ada", "bob"])
SECONDS = st.sampled_from([0.5, 2.0, 5.0, ONCE_KEPT_S])
NUMBERS = st.integers(-2, 12) | st.sampled_from([1 << 63, -(1 << 70), 10**30])
ONCES = st.builds(Once, KEYS, st.sampled_from([b"", b"d"]))
RECORDS = st.builds(
    Record,
    st.floats(allow_nan=False),
    st.sampled_from(["message", "stdout"]),
    st.binary(max_size=40),
    st.none() | st.text(max_size=5),
    st.none() | st.text(max_size=5),
)


class Engines(RuleBasedStateMachine):
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.memory = MemoryEngine(clock=self.clock)
        self.sqlite = self.make_sqlite()
        self.runner.run(self.memory.open())
        self.runner.run(self.sqlite.open())

    def make_sqlite(self) -> SqliteEngine:
        return SqliteEngine(Path(self.folder.name) / "covey.db", clock=self.clock)

    def teardown(self) -> None:
        self.runner.run(self.memory.close())
        self.runner.run(self.sqlite.close())
        self.runner.close()
        self.folder.cleanup()

    def both(self, ask: Callable[[Engine], Awaitable[R]]) -> R:
        """Ask both engines and return their one answer; the type of the error where it is one."""
        expected, found = (self.runner.run(answer_of(ask, engine)) for engine in (self.memory, self.sqlite))
        assert found == expected
        return cast("R", found)

    @rule(name=NAMES, epoch=st.sampled_from(["one", "two"]))
    def open_log(self, name: str, epoch: str) -> None:
        self.both(lambda engine: engine.open_log(name, epoch=epoch, settings=epoch.encode()))

    @rule(name=NAMES, records=st.lists(RECORDS, max_size=4), expect_head=st.none() | NUMBERS, once=st.none() | ONCES)
    def append(self, name: str, records: list[Record], expect_head: int | None, once: Once | None) -> None:
        self.both(lambda engine: engine.append(name, records, expect_head=expect_head, once=once))

    @rule(appends=st.lists(st.tuples(NAMES, st.lists(RECORDS, min_size=1, max_size=2)), max_size=6))
    def append_at_once(self, appends: list[tuple[str, list[Record]]]) -> None:
        async def together(engine: Engine) -> list[object]:
            asked = [partial(append, name=name, records=records) for name, records in appends]
            return await asyncio.gather(*(answer_of(ask, engine) for ask in asked))

        self.both(together)

    @rule(name=NAMES, seq=NUMBERS, limit=NUMBERS)
    def read_after(self, name: str, seq: int, limit: int) -> None:
        self.both(lambda engine: engine.read_after(name, seq, limit=limit))

    @rule(name=NAMES, oldest=NUMBERS)
    def trim(self, name: str, oldest: int) -> None:
        self.both(lambda engine: engine.trim(name, oldest))

    @rule(name=NAMES)
    def end_log(self, name: str) -> None:
        self.both(lambda engine: engine.end_log(name))

    @rule(name=NAMES)
    def delete_log(self, name: str) -> None:
        self.both(lambda engine: engine.delete_log(name))

    @rule(target=leases, key=KEYS, owner=OWNERS, ttl_s=SECONDS)
    def acquire(self, key: str, owner: str, ttl_s: float) -> Lease | MultipleResults[Lease]:
        lease = self.both(lambda engine: engine.acquire(key, owner, ttl_s=ttl_s))
        return multiple() if lease is None else lease

    @rule(lease=leases)
    def renew(self, lease: Lease) -> None:
        self.both(lambda engine: engine.renew(lease))

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        self.both(lambda engine: engine.release(lease))

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        self.both(lambda engine: engine.get(key))

    @rule(key=KEYS, data=st.binary(max_size=8), expect=st.none() | NUMBERS)
    def put(self, key: str, data: bytes, expect: int | None) -> None:
        self.both(lambda engine: engine.put(key, data, expect_revision=expect))

    @rule(key=KEYS, data=st.binary(max_size=8))
    def put_over_the_newest(self, key: str, data: bytes) -> None:
        value: Value | None = self.both(lambda engine: engine.get(key))
        assert self.both(lambda engine: engine.put(key, data, expect_revision=value.revision if value else 0))

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.both(lambda engine: engine.delete(key))

    @rule(prefix=st.just("") | KEYS, after=st.just("") | KEYS, limit=NUMBERS)
    def scan(self, prefix: str, after: str, limit: int) -> None:
        self.both(lambda engine: engine.scan(prefix, after=after, limit=limit))

    @rule(key=KEYS, digest=st.binary(max_size=2), incarnation=OWNERS, keep_s=SECONDS)
    def journal_start(self, key: str, digest: bytes, incarnation: str, keep_s: float) -> None:
        entry: JournalEntry | None = self.both(
            lambda engine: engine.journal_start(key, digest, incarnation, keep_s=keep_s)
        )
        assert entry is None or entry.key == key

    @rule(key=KEYS, outcome=st.binary(max_size=2))
    def journal_done(self, key: str, outcome: bytes) -> None:
        self.both(lambda engine: engine.journal_done(key, outcome))

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        self.runner.run(self.sqlite.close())
        self.sqlite = self.make_sqlite()
        self.runner.run(self.sqlite.open())

    @invariant()
    def same_logs(self) -> None:
        for state in self.both(lambda engine: engine.logs()):
            assert 1 <= state.oldest <= state.head + 1


async def append(engine: Engine, name: str, records: list[Record]) -> list[int]:
    return await engine.append(name, records)


async def answer_of(ask: Callable[[Engine], Awaitable[object]], engine: Engine) -> object:
    """Return what the engine answers, or the type of its error."""
    try:
        return await ask(engine)
    except CoveyError as error:
        return type(error)


@pytest.mark.requirement("engine.memory-and-sqlite-agree")
def test_any_requests_get_the_same_answers_from_both_engines() -> None:
    run_state_machine_as_test(Engines, settings=settings(max_examples=40, stateful_step_count=40))
