"""Durable streams: readers see only what the engine has committed.

A reader that saw an event before its commit would, after a crash, stand at a number that is used again for another one.
So an event gets its number from the engine, and enters the ring when it is committed, in the order of the commits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from covey.errors import LocalProtocolError, StreamClosedError
from covey.ports.engine import Engine, LogState, Once, Record
from covey.streams.event import Entry, check_kind, encode_data
from covey.streams.retention import Retention
from covey.streams.ring import Ring
from covey.streams.stream import Draft, Stream, check_once, digest_of
from covey.wire.cursor import parse_cursor

if TYPE_CHECKING:
    from covey.ports.clock import Clock

D = TypeVar("D")

# Records that left the ring stay in the log until this many can be trimmed at once.
TRIM_EVENTS: Final = 1000
PAGE_EVENTS: Final = 1000


class Settings(msgspec.Struct, frozen=True):
    """What a log says of its stream, kept with it."""

    retain: Retention = Retention()


class _Commit:
    """Events on their way to the engine, and the promise that they are published."""

    def __init__(self, records: Sequence[Record], numbers: asyncio.Task[list[int]]) -> None:
        self.records = records
        self.numbers = numbers
        self.published: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class DurableStream(Stream[D]):
    """A stream whose events an engine keeps, made by ``Streams``."""

    def __init__(
        self,
        name: str,
        ring: Ring,
        data: Callable[..., D],
        *,
        engine: Engine,
        clock: Clock,
        is_owned: bool = False,
        is_opened: bool = False,
        is_replacing: bool = False,
        deletion: asyncio.Future[None] | None = None,
    ) -> None:
        super().__init__(name, ring, data, clock=clock, is_owned=is_owned)
        self._engine = engine
        self._is_opened = is_opened
        self._is_replacing = is_replacing
        self._deletion = deletion  # of an older log of this name, on its way: it must not take the new one
        self._opening = asyncio.Lock()
        self._commits: deque[_Commit] = deque()
        self._trimmed = ring.floor
        self._trimming: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make the log, unless it is there; an append does it by itself.

        Raises:
            EngineError: it cannot be made.
        """
        if self._is_opened:
            return
        async with self._opening:
            if not self._is_opened:
                if self._deletion is not None:
                    await asyncio.wait([self._deletion])
                if self._is_replacing or self._deletion is not None:
                    await self._engine.delete_log(self.name)
                settings = msgspec.json.encode(Settings(self.ring.retention))
                await self._engine.open_log(self.name, epoch=self.ring.epoch, settings=settings)
                self._is_opened = True

    async def append(
        self,
        data: D,
        /,
        *,
        kind: str = "message",
        by: str | None = None,
        key: str | None = None,
        if_head: str | None = None,
    ) -> str:
        """See ``Stream.append``; returns once the engine has committed it.

        Raises:
            EngineError: it could not be kept; readers never see it.
        """
        return await self.append_all([Draft(check_kind(kind), encode_data(data), by=by, key=key)], if_head=if_head)

    async def append_all(self, drafts: Sequence[Draft], *, if_head: str | None = None, once: str | None = None) -> str:
        """See ``Stream.append_all``; returns once the engine has committed them."""
        if self.is_closed:
            message = f"the stream {self.name!r} has ended"
            raise StreamClosedError(message)
        for draft in drafts:
            self.check_size(draft.data)
        key = None if once is None else Once(check_once(once), digest_of(drafts))
        await self.open()
        expected = None if if_head is None else self._expected_head(if_head)
        now_s = self._clock.wall_s()
        records = [Record(now_s, draft.kind, draft.data, by=draft.by, key=draft.key) for draft in drafts]
        work = self._engine.append(self.name, records, expect_head=expected, once=key)
        # A task of its own: a caller who is cancelled must not keep a committed event from its readers.
        commit = _Commit(records, asyncio.ensure_future(work))
        self._commits.append(commit)
        commit.numbers.add_done_callback(self._on_committed)
        return f"{self.ring.epoch}.{await asyncio.shield(commit.published)}"

    def append_now(  # the arguments are those of every stream
        self,
        data: bytes,  # noqa: ARG002
        *,
        kind: str,  # noqa: ARG002
        by: str | None = None,  # noqa: ARG002
        key: str | None = None,  # noqa: ARG002
    ) -> str:
        """Refuse: nobody can be told of a commit before it is one."""
        message = f"{self.name!r} is durable: append to it with await"
        raise LocalProtocolError(message)

    async def end(self) -> None:
        """End the stream for good, in the engine too."""
        if not self.is_closed:
            await self.open()
            await self._engine.end_log(self.name)
            await self.settle()
            self.close()

    async def settle(self) -> None:
        """Return when nothing is on its way to the engine any more."""
        await asyncio.gather(*(commit.published for commit in self._commits), return_exceptions=True)
        if self._trimming is not None:
            await asyncio.gather(self._trimming, return_exceptions=True)

    def _expected_head(self, if_head: str) -> int:
        cursor = parse_cursor(if_head)
        if cursor.epoch != self.ring.epoch:
            self.check_head(if_head)
        return cursor.seq

    def _on_committed(self, _: asyncio.Task[list[int]]) -> None:
        """Publish what is committed, first come first: the engine commits in the order of the calls."""
        while self._commits and self._commits[0].numbers.done():
            commit = self._commits.popleft()
            error = asyncio.CancelledError() if commit.numbers.cancelled() else commit.numbers.exception()
            if error is not None:
                commit.published.set_exception(error)
                commit.published.exception()  # its caller may be gone; that is no news for the loop's log
                continue
            numbers = commit.numbers.result()
            for seq, record in zip(numbers, commit.records, strict=True):
                if seq > self.ring.head:  # a repeat under a key gives the numbers of the first time
                    self._publish(seq, record)
            commit.published.set_result(numbers[-1])
        self._wake()
        self._trim()

    def _publish(self, seq: int, record: Record) -> None:
        self.ring.append(entry_of(self.ring.epoch, seq, record), now_s=self._clock.wall_s())

    def _trim(self) -> None:
        if self.ring.floor - self._trimmed >= TRIM_EVENTS and (self._trimming is None or self._trimming.done()):
            self._trimmed = self.ring.floor
            self._trimming = asyncio.ensure_future(self._engine.trim(self.name, self._trimmed + 1))


def entry_of(epoch: str, seq: int, record: Record) -> Entry:
    """Return a committed record as a stream keeps it."""
    return Entry(seq, f"{epoch}.{seq}", record.time_s, record.kind, record.data, record.by, record.key)


async def restore(engine: Engine, name: str, *, epoch: str, clock: Clock) -> DurableStream[Any]:
    """Return the stream of a log that is there, with what its retention allows.

    Args:
        engine: has the log.
        name: of the log and the stream.
        epoch: never used before; the stream begins it where the engine may have lost what it had acknowledged.
        clock: where time comes from.
    """
    state = await engine.open_log(name, epoch=epoch, settings=b"{}")
    retain = msgspec.json.decode(state.settings, type=Settings).retain
    ring = await _filled_ring(engine, state, retain, clock)
    stream: DurableStream[Any] = DurableStream(name, ring, object, engine=engine, clock=clock, is_opened=True)
    if state.is_ended:
        stream.close()
    return stream


async def _filled_ring(engine: Engine, state: LogState, retain: Retention, clock: Clock) -> Ring:
    floor = max(state.oldest - 1, state.head - retain.events)
    ring = Ring(state.epoch, retain, head=floor)
    while page := await engine.read_after(state.name, ring.head, limit=PAGE_EVENTS):
        now_s = clock.wall_s()
        for committed in page:
            ring.append(entry_of(state.epoch, committed.seq, committed.record), now_s=now_s)
    ring.head = max(ring.head, state.head)
    return ring
