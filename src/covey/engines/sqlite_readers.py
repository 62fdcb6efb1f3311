"""Reading the SQLite file: a few threads, each read on a connection of its own that sees what is committed."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

import msgspec

from covey.engines.limits import clamp_limit, clamp_seq
from covey.engines.sqlite_errors import explain
from covey.engines.sqlite_format import connect
from covey.engines.sqlite_store import LOG_STATES, log_state
from covey.errors import EngineError, StreamNotFoundError
from covey.ports.engine import DATA_BYTES_MAX, FIELDS_BYTES_MAX, REQUEST_BYTES_MAX, Committed, LogState, Value

P = ParamSpec("P")
R = TypeVar("R")

_decode: Final = msgspec.msgpack.Decoder(list[Committed]).decode
_ARRAY_32: Final = b"\xdd"  # begins a MessagePack array; a 32-bit length and the elements follow
# So many records are within the bytes of one read, however large they are.
_FEW: Final = REQUEST_BYTES_MAX // (DATA_BYTES_MAX + 2 * FIELDS_BYTES_MAX)

# All records in one row. Python lets go of its lock around every step of SQLite and, while the loop is busy, waits to
# get it back: one step a record would make a replay under load wait a thousand times. group_concat takes bytes as they
# are, in the order of the index by which the range is read; each body has its number in it to show that.
_RECORDS: Final = """
    SELECT count(*), CAST(group_concat(body, '') AS BLOB) FROM records WHERE log = ? AND seq > ? AND seq <= ?"""
# No byte of UTF-8 is 0xFF, so what begins with the prefix sorts below the prefix with that behind it.
_VALUES: Final = """
    SELECT key, data, revision FROM registry
    WHERE key > ? AND key >= ? AND key < ? || CAST(x'FF' AS TEXT) ORDER BY key LIMIT ?"""


class SqliteReaders:
    """Threads and connections to read with."""

    def __init__(self, path: Path, *, count: int) -> None:
        self._path = path
        self._connections: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="covey-reader")

    async def run(self, read: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what ``read`` returns when called with a connection, on one of the threads.

        Raises:
            EngineError: the file could not be read.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, partial(self._read, read, *args, **kwargs)
        )

    def open(self) -> None:
        """Make the connections."""
        for _ in range(self._count):
            connection = connect(self._path, is_read_only=True)
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, REQUEST_BYTES_MAX)
            self._connections.put(connection)

    def close(self) -> None:
        """Finish the reads that began and close the connections; blocks until then."""
        self._threads.shutdown()
        with suppress(queue.Empty):
            while True:
                self._connections.get_nowait().close()

    def _read(self, read: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        connection = self._connections.get()  # there are as many as threads
        try:
            return read(connection, *args, **kwargs)
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise explain(error, self._path) from error
        finally:
            self._connections.put(connection)


def read_logs(connection: sqlite3.Connection) -> list[LogState]:
    """See ``Engine.logs``."""
    return [log_state(row) for row in connection.execute(LOG_STATES + " ORDER BY name").fetchall()]


def read_after(connection: sqlite3.Connection, name: str, seq: int, limit: int) -> list[Committed]:
    """See ``Engine``."""
    found = connection.execute("SELECT id FROM logs WHERE name = ?", (name,)).fetchone()
    if found is None:
        raise StreamNotFoundError(name)
    log, seq, limit = found[0], clamp_seq(seq), clamp_limit(limit)
    records = _read_range(connection, log, seq, limit)
    if not records and limit:
        (oldest,) = connection.execute("SELECT min(seq) FROM records WHERE log = ? AND seq > ?", (log, seq)).fetchone()
        records = _read_range(connection, log, oldest - 1, limit) if oldest is not None else []
    if records and records[-1].seq - records[0].seq + 1 != len(records):
        raise EngineError(f"records of {name!r} after {seq} are missing", hint="the file is damaged: restore a backup")
    return records


def _read_range(connection: sqlite3.Connection, log: int, seq: int, limit: int) -> list[Committed]:
    """Return the records with the ``limit`` numbers after ``seq``, or the first of them where all are too large."""
    while True:
        try:
            count, bodies = connection.execute(_RECORDS, (log, seq, clamp_seq(seq + limit))).fetchone()
        except sqlite3.DataError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_TOOBIG or limit <= _FEW:
                raise
            limit = max(_FEW, limit // 4)
        else:
            return _decode(_ARRAY_32 + count.to_bytes(4, "big") + bodies) if count else []


def read_value(connection: sqlite3.Connection, key: str) -> Value | None:
    """See ``Engine.get``."""
    found = connection.execute("SELECT key, data, revision FROM registry WHERE key = ?", (key,)).fetchone()
    return Value(*found) if found else None


def read_values(connection: sqlite3.Connection, prefix: str, after: str, limit: int) -> list[Value]:
    """See ``Engine.scan``."""
    rows = connection.execute(_VALUES, (after, prefix, prefix, clamp_limit(limit)))
    found: list[Value] = []
    size_bytes = 0
    for row in rows:
        size_bytes += len(row[1])
        if found and size_bytes > REQUEST_BYTES_MAX:
            break
        found.append(Value(*row))
    rows.close()
    return found
