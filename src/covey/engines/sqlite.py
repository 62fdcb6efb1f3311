"""The engine in one SQLite file: durable, with no server and no dependency. The default of ``covey serve``.

One thread writes (``group_commit`` and ``sqlite_store``), a few read (``sqlite_readers``); this module joins them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from covey.engines.group_commit import GroupCommit
from covey.engines.limits import check_epoch, check_key, check_prefix, check_seconds, check_size, encode_records
from covey.engines.sqlite_readers import SqliteReaders, read_after, read_logs, read_value, read_values
from covey.engines.sqlite_store import Durability, SqliteStore
from covey.errors import EngineError
from covey.ports.engine import (
    DATA_BYTES_MAX,
    FIELDS_BYTES_MAX,
    READ_MAX,
    REQUEST_BYTES_MAX,
    Committed,
    JournalEntry,
    Lease,
    LogState,
    Once,
    Record,
    Value,
)
from covey.ports.system import SystemClock
from covey.wire.names import check_name

if TYPE_CHECKING:
    from covey.ports.clock import Clock


class _BothSides(SqliteStore):
    """The writer's side, which takes the readers' up and down with it, on its thread: all of that may block."""

    def __init__(self, path: Path, durability: Durability, clock: Clock, readers: SqliteReaders) -> None:
        super().__init__(path, durability, clock)
        self._readers = readers

    def open(self) -> None:
        super().open()
        try:
            self._readers.open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        # The writer's connection goes last: only that one can empty the log file into the database.
        self._readers.close()
        super().close()


class SqliteEngine:
    """See ``ports.engine.Engine``.

    Args:
        path: the file; made when there is none. One process holds it at a time.
        durability: what an acknowledgement outlives: ``commit`` the process, however it dies; ``fsync`` also the
            machine. When the machine went down under ``commit``, logs begin new epochs: their last numbers may be gone.
        clock: measures leases and how long journal entries are kept, while the file is open.
        readers: how many reads run at once.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        durability: Durability = "commit",
        clock: Clock | None = None,
        readers: int = 2,
    ) -> None:
        self.path = Path(path).resolve()
        self.durability: Durability = durability
        self._readers = SqliteReaders(self.path, count=readers)
        self._store = _BothSides(self.path, durability, clock or SystemClock(), self._readers)
        self._writer = GroupCommit(self._store)
        self._was_opened = False

    async def open(self) -> None:
        """See ``Engine``."""
        if self._was_opened:
            raise EngineError("the engine was opened before", hint="make a new one")
        self._was_opened = True
        await self._writer.open()

    async def close(self) -> None:
        """See ``Engine``."""
        await self._writer.close()

    async def open_log(self, name: str, *, epoch: str, settings: bytes) -> LogState:
        """See ``Engine``."""
        check_name(name, what="a log's name")
        check_epoch(epoch)
        check_size(len(settings), DATA_BYTES_MAX, what="a log's settings")
        return await self._writer.submit(partial(self._store.open_log, name, epoch, settings))

    async def logs(self) -> list[LogState]:
        """See ``Engine``."""
        self._writer.check_open()
        return await self._readers.run(read_logs)

    async def append(
        self, name: str, records: Sequence[Record], *, expect_head: int | None = None, once: Once | None = None
    ) -> list[int]:
        """See ``Engine``."""
        bodies, size_bytes = encode_records(records)
        if once is not None:
            check_key(once.key)
            check_size(len(once.digest), FIELDS_BYTES_MAX, what="a digest")
        return await self._writer.submit(partial(self._store.append, name, bodies, expect_head, once), size_bytes)

    async def read_after(self, name: str, seq: int, *, limit: int) -> list[Committed]:
        """See ``Engine``."""
        check_name(name, what="a log's name")
        self._writer.check_open()
        return await self._readers.run(read_after, name, seq, limit)

    async def trim(self, name: str, oldest: int) -> None:
        """See ``Engine``."""
        await self._writer.submit(partial(self._store.trim, name, oldest))

    async def end_log(self, name: str) -> None:
        """See ``Engine``."""
        await self._writer.submit(partial(self._store.end_log, name))

    async def delete_log(self, name: str) -> None:
        """See ``Engine``."""
        check_name(name, what="a log's name")
        await self._writer.submit(partial(self._store.delete_log, name))

    async def acquire(self, key: str, owner: str, *, ttl_s: float) -> Lease | None:
        """See ``Engine``."""
        check_key(key)
        check_key(owner, what="an owner")
        check_seconds(ttl_s, what="ttl_s")
        return await self._writer.submit(partial(self._store.acquire, key, owner, ttl_s))

    async def renew(self, lease: Lease) -> bool:
        """See ``Engine``."""
        check_key(lease.key)
        check_seconds(lease.ttl_s, what="ttl_s")
        return await self._writer.submit(partial(self._store.renew, lease))

    async def release(self, lease: Lease) -> None:
        """See ``Engine``."""
        check_key(lease.key)
        await self._writer.submit(partial(self._store.release, lease))

    async def get(self, key: str) -> Value | None:
        """See ``Engine``."""
        check_key(key)
        self._writer.check_open()
        return await self._readers.run(read_value, key)

    async def put(self, key: str, data: bytes, *, expect_revision: int | None = None) -> int | None:
        """See ``Engine``."""
        check_key(key)
        check_size(len(data), DATA_BYTES_MAX, what="a value")
        return await self._writer.submit(partial(self._store.put, key, data, expect_revision), len(data))

    async def delete(self, key: str) -> None:
        """See ``Engine``."""
        check_key(key)
        await self._writer.submit(partial(self._store.delete, key))

    async def scan(self, prefix: str, *, after: str = "", limit: int = READ_MAX) -> list[Value]:
        """See ``Engine``."""
        check_prefix(prefix, after)
        self._writer.check_open()
        return await self._readers.run(read_values, prefix, after, limit)

    async def journal_start(self, key: str, digest: bytes, incarnation: str, *, keep_s: float) -> JournalEntry | None:
        """See ``Engine``."""
        check_key(key)
        check_key(incarnation, what="an incarnation")
        check_size(len(digest), DATA_BYTES_MAX, what="a digest")
        check_seconds(keep_s, what="keep_s")
        return await self._writer.submit(partial(self._store.journal_start, key, digest, incarnation, keep_s))

    async def journal_forget(self, key: str, incarnation: str) -> None:
        """See ``Engine``."""
        check_key(key)
        check_key(incarnation, what="an incarnation")
        await self._writer.submit(partial(self._store.journal_forget, key, incarnation))

    async def journal_done(self, key: str, outcome: bytes) -> None:
        """See ``Engine``."""
        check_key(key)
        check_size(len(outcome), REQUEST_BYTES_MAX, what="an outcome")
        await self._writer.submit(partial(self._store.journal_done, key, outcome), len(outcome))
