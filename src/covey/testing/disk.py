"""Storage that outlives processes: an engine on it takes time, may fail, and may lose what it did not acknowledge."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from covey.engines.memory import MemoryEngine
from covey.errors import EngineError
from covey.ports.engine import READ_MAX, Committed, JournalEntry, Lease, LogState, Once, Record, Value
from covey.testing.process import Process, current_process

if TYPE_CHECKING:
    from covey.ports.clock import Clock

T = TypeVar("T")
Request = Callable[[], Coroutine[Any, Any, T]]

_COMMIT_MIN_S: Final = 0.0005


class _Storage:
    """What one engine after the other holds."""

    def __init__(self, clock: Clock) -> None:
        self.engine = MemoryEngine(clock=clock)
        self.holder: Process | None = None
        result_of(self.engine.open)

    def is_held_by_another(self, process: Process) -> bool:
        holder = self.holder
        return holder is not None and holder.is_alive and holder is not process


class Disk:
    """The disks of all hosts.

    ``commit_s`` is how long a request takes at the most until it is acknowledged. At some moment before, it is
    committed: a process that crashes in between finds its request done or not. ``error_p`` is the chance that a write
    fails, and was not done.
    """

    def __init__(self, clock: Clock, chance: random.Random, record: Callable[[str], None]) -> None:
        self.commit_s = 0.01
        self.error_p = 0.0
        self.random = chance
        self.record = record
        self._clock = clock
        self._storages: dict[str, _Storage] = {}

    def engine(self, name: str | None = None) -> SimEngine:
        """Return an engine on the storage of that name, by default the running process's host's.

        One that is made after a crash, or after the one before was closed, finds what was committed.
        """
        process = current_process()
        name = name or process.host
        storage = self._storages.setdefault(name, _Storage(self._clock))
        return SimEngine(self, storage, name, process)


class SimEngine:
    """See ``ports.engine.Engine``, and ``Disk``."""

    def __init__(self, disk: Disk, storage: _Storage, name: str, process: Process) -> None:
        self._disk = disk
        self._storage = storage
        self._memory = storage.engine
        self._name = name
        self._process = process
        self._is_open = False
        self._was_opened = False
        self._committed_at_s = 0.0
        self._waiting: set[asyncio.Future[Any]] = set()

    async def open(self) -> None:
        """See ``Engine``."""
        if self._was_opened:
            raise EngineError("the engine was opened before", hint="make a new one")
        if self._storage.is_held_by_another(self._process) or self._storage.holder is self._process:
            raise EngineError(f"the storage {self._name!r} is held by {self._storage.holder}")
        self._storage.holder = self._process
        self._is_open = self._was_opened = True

    async def close(self) -> None:
        """See ``Engine``."""
        if self._is_open:
            self._is_open = False
            await asyncio.gather(*self._waiting, return_exceptions=True)
            self._storage.holder = None

    async def open_log(self, name: str, *, epoch: str, settings: bytes) -> LogState:
        """See ``Engine``."""
        return await self._write("open_log", partial(self._memory.open_log, name, epoch=epoch, settings=settings))

    async def logs(self) -> list[LogState]:
        """See ``Engine``."""
        return await self._read(self._memory.logs)

    async def append(
        self, name: str, records: Sequence[Record], *, expect_head: int | None = None, once: Once | None = None
    ) -> list[int]:
        """See ``Engine``."""
        request = partial(self._memory.append, name, tuple(records), expect_head=expect_head, once=once)
        return await self._write(f"append {name} {len(records)}", request)

    async def read_after(self, name: str, seq: int, *, limit: int) -> list[Committed]:
        """See ``Engine``."""
        return await self._read(partial(self._memory.read_after, name, seq, limit=limit))

    async def trim(self, name: str, oldest: int) -> None:
        """See ``Engine``."""
        await self._write(f"trim {name} {oldest}", partial(self._memory.trim, name, oldest))

    async def end_log(self, name: str) -> None:
        """See ``Engine``."""
        await self._write(f"end_log {name}", partial(self._memory.end_log, name))

    async def delete_log(self, name: str) -> None:
        """See ``Engine``."""
        await self._write(f"delete_log {name}", partial(self._memory.delete_log, name))

    async def acquire(self, key: str, owner: str, *, ttl_s: float) -> Lease | None:
        """See ``Engine``."""
        return await self._write(f"acquire {key}", partial(self._memory.acquire, key, owner, ttl_s=ttl_s))

    async def renew(self, lease: Lease) -> bool:
        """See ``Engine``."""
        return await self._write(f"renew {lease.key}", partial(self._memory.renew, lease))

    async def release(self, lease: Lease) -> None:
        """See ``Engine``."""
        await self._write(f"release {lease.key}", partial(self._memory.release, lease))

    async def get(self, key: str) -> Value | None:
        """See ``Engine``."""
        return await self._read(partial(self._memory.get, key))

    async def put(self, key: str, data: bytes, *, expect_revision: int | None = None) -> int | None:
        """See ``Engine``."""
        return await self._write(f"put {key}", partial(self._memory.put, key, data, expect_revision=expect_revision))

    async def delete(self, key: str) -> None:
        """See ``Engine``."""
        await self._write(f"delete {key}", partial(self._memory.delete, key))

    async def scan(self, prefix: str, *, after: str = "", limit: int = READ_MAX) -> list[Value]:
        """See ``Engine``."""
        return await self._read(partial(self._memory.scan, prefix, after=after, limit=limit))

    async def journal_start(self, key: str, digest: bytes, incarnation: str, *, keep_s: float) -> JournalEntry | None:
        """See ``Engine``."""
        request = partial(self._memory.journal_start, key, digest, incarnation, keep_s=keep_s)
        return await self._write(f"journal_start {key}", request)

    async def journal_done(self, key: str, outcome: bytes) -> None:
        """See ``Engine``."""
        await self._write(f"journal_done {key}", partial(self._memory.journal_done, key, outcome))

    async def journal_forget(self, key: str, incarnation: str) -> None:
        """See ``Engine``."""
        await self._write(f"journal_forget {key}", partial(self._memory.journal_forget, key, incarnation))

    async def _read(self, request: Request[T]) -> T:
        self._check()
        await asyncio.sleep(self._duration_s() / 2)
        return await request()

    async def _write(self, what: str, request: Request[T]) -> T:
        """Commit in the order of the calls, and acknowledge later. A caller who is cancelled changes nothing of it."""
        self._check()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.add(done)
        done.add_done_callback(self._waiting.discard)
        duration_s = self._duration_s()
        self._committed_at_s = max(self._committed_at_s, loop.time() + duration_s * self._disk.random.random())
        loop.call_at(self._committed_at_s, self._commit, what, request, done, duration_s)
        return await asyncio.shield(done)

    def _commit(self, what: str, request: Request[T], done: asyncio.Future[T], duration_s: float) -> None:
        """Do it, and let its caller know a little later. Timers of a process that crashed do not go off."""
        fails = self._disk.error_p > 0 and self._disk.random.random() < self._disk.error_p
        self._disk.record(f"disk {self._name} {what}{' fails' if fails else ''}")
        later_s = duration_s * self._disk.random.random()
        loop = asyncio.get_running_loop()
        if fails:
            loop.call_later(later_s, _fail, done, EngineError(f"the storage {self._name!r} failed at {what}"))
            return
        try:
            result = result_of(request)
        except Exception as error:  # noqa: BLE001 -- belongs to the caller
            loop.call_later(later_s, _fail, done, error)
        else:
            loop.call_later(later_s, done.set_result, result)

    def _duration_s(self) -> float:
        return _COMMIT_MIN_S + self._disk.random.random() * self._disk.commit_s

    def _check(self) -> None:
        if not self._is_open:
            raise EngineError("the engine is not open", hint="await its open() first, and use it before close()")
        if not self._process.is_alive:
            raise EngineError(f"the process {self._process} crashed")


def _fail(done: asyncio.Future[T], error: Exception) -> None:
    done.set_exception(error)
    done.exception()  # a caller who was cancelled does not ask, and that is no news for the loop's log


def result_of(request: Request[T]) -> T:
    """Return what a coroutine returns that never waits, as those of the engine in memory."""
    try:
        request().send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waited")
