"""What the writer's thread does to the SQLite file, request by request, inside the transactions of ``group_commit``.

Every request decides first and writes last, so that one that is refused leaves no trace in a shared transaction.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from covey.engines.file_lock import FileLock
from covey.engines.limits import clamp_seq
from covey.engines.sqlite_errors import explain
from covey.engines.sqlite_format import check_header, connect, migrate
from covey.errors import EngineError, HeadMovedError, KeyReusedError, StreamClosedError, StreamNotFoundError
from covey.ports.engine import ONCE_KEPT_S, JournalEntry, Lease, LogState, Once
from covey.wire.names import check_name

if TYPE_CHECKING:
    from covey.ports.clock import Clock

Durability = Literal["commit", "fsync"]

# What the log file beside the database shrinks to once a burst is over.
_JOURNAL_BYTES_MAX: Final = 64 << 20
# 16 MiB, four times SQLite's default: a page that changes often is copied into the database less often.
_CHECKPOINT_PAGES: Final = 4000
_LOGS_CACHED_MAX: Final = 10_000
_FORGET_MAX: Final = 10_000
# At a start after which numbers might be used again, tokens and revisions jump by this much: far beyond what can have
# been given out since the last sync.
_GENERATION_STEP: Final = 1 << 32
# INSERTs of up to so many rows; places left over are filled with NULL. Python lets go of its lock around every step of
# SQLite and, while the loop is busy, waits to get it back: a step for each row made appends under load eleven times
# slower.
_INSERT: Final = "INSERT INTO records SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL"
_INSERTS: Final = tuple((rows, _INSERT.format(", ".join(["(?, ?, ?)"] * rows))) for rows in (1, 4, 16, 64, 256))
_COLUMNS: Final = 3
_SPAN: Final = struct.Struct("<QQ")  # the first and the last number of an append
_PAIR: Final = b"\x92\xcf"  # begins a MessagePack array of two of which the first is a 64-bit number: a ``Committed``

LOG_STATES: Final = """
    SELECT name, epoch,
        coalesce((SELECT min(seq) FROM records WHERE log = id), head + 1),
        coalesce((SELECT max(seq) FROM records WHERE log = id), head),
        is_ended, settings
    FROM logs"""


class _Log:
    __slots__ = ("epoch", "head", "id", "is_ended", "rows")

    def __init__(self, id: int, epoch: str, head: int, *, is_ended: bool) -> None:
        self.id = id
        self.epoch = epoch
        self.head = head
        self.is_ended = is_ended
        self.rows: list[int | bytes | None] = []  # not written yet: log, number and body, one after the other


class SqliteStore:
    """The writer's side of the file: a connection, and what it remembers of logs and counters.

    Args:
        path: the file; its folder must exist.
        durability: ``commit`` survives the death of the process, ``fsync`` that of the machine.
        clock: measures leases and how long journal entries are kept.
        boot: names this run of the machine; empty where it has no name.
    """

    def __init__(self, path: Path, durability: Durability, clock: Clock, *, boot: str | None = None) -> None:
        self.path = path
        self.durability = durability
        self._boot = boot_id() if boot is None else boot
        self._clock = clock
        self._lock: FileLock | None = None
        self._logs: dict[str, _Log] = {}
        self._unwritten: list[_Log] = []  # those with rows
        self._is_state_dirty = False
        self._must_forget = False
        self._generation = 0
        self._sequence = 0
        self._started_s = 0.0  # the clock's reading at the engine's time 0

    # ---- transactions
    def open(self) -> None:
        """See ``Transactions``.

        Raises:
            EngineError, sqlite3.Error, OSError: it can't; the file is as it was.
        """
        self._lock = FileLock(self.path)
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            check_header(self.path)
            self.connection = connect(self.path)
            try:
                self._set_up()
            except BaseException:
                self.connection.close()
                raise
        except BaseException:
            self._lock.release()
            raise

    def begin(self) -> None:
        """See ``Transactions``."""
        if len(self._logs) > _LOGS_CACHED_MAX:
            self._logs.clear()
        self.connection.execute("BEGIN IMMEDIATE")

    def write_out(self) -> None:
        """See ``Transactions``."""
        self._write_rows()
        if self._must_forget:
            self._forget_expired()
        if self._is_state_dirty:
            self.connection.execute("UPDATE state SET sequence = ?, time_s = ?", (self._sequence, self._now_s()))
            self._is_state_dirty = False

    def commit(self) -> None:
        """See ``Transactions``."""
        self.connection.execute("COMMIT")

    def rollback(self) -> None:
        """See ``Transactions``. What is remembered may be of the future that was not to be: it is read again."""
        self._logs.clear()
        self._unwritten.clear()
        self._is_state_dirty = self._must_forget = False
        with suppress(sqlite3.Error):  # many errors have rolled back already
            self.connection.execute("ROLLBACK")
        # Tokens and revisions are not taken back: that they were never used does no harm.

    def close(self) -> None:
        """See ``Transactions``."""
        # Where the marker can't be written the next start takes this one for a crash, which is safe.
        with suppress(sqlite3.Error):
            self.connection.execute("PRAGMA synchronous = FULL")
            self.connection.execute("UPDATE state SET is_clean = 1, time_s = ?", (self._now_s(),))
        with suppress(sqlite3.Error):
            self.connection.close()
        if self._lock is not None:
            self._lock.release()

    def explain(self, error: Exception) -> EngineError:
        """See ``Transactions``."""
        return explain(error, self.path)

    # ---- logs
    def open_log(self, name: str, epoch: str, settings: bytes) -> LogState:
        """See ``Engine``."""
        self._write_rows()
        found = self.connection.execute("SELECT generation FROM logs WHERE name = ?", (name,)).fetchone()
        if found is None:
            self.connection.execute(
                "INSERT INTO logs (name, epoch, generation, head, is_ended, settings) VALUES (?, ?, ?, 0, 0, ?)",
                (name, epoch, self._generation, settings),
            )
        elif found[0] != self._generation:
            self.connection.execute(
                "UPDATE logs SET epoch = ?, generation = ? WHERE name = ?", (epoch, self._generation, name)
            )
            self._logs.pop(name, None)
        return log_state(self.connection.execute(LOG_STATES + " WHERE name = ?", (name,)).fetchone())

    def append(
        self, name: str, bodies: Sequence[bytes], expect_head: int | None, once: Once | None = None
    ) -> list[int]:
        """See ``Engine``. The rows are written with those of other appends, by ``_write_rows``."""
        log = self._logs.get(name) or self._load(name)
        if once is not None:
            before = self._appended_before(log, once)
            if before is not None:
                return before
        if log.is_ended:
            raise StreamClosedError(f"the log {name!r} was ended")
        head = log.head
        if expect_head is not None and expect_head != head:
            raise HeadMovedError(f"the head of {name!r} is {head}, not {expect_head}", head=f"{log.epoch}.{head}")
        if not log.rows:
            self._unwritten.append(log)
        first = head + 1
        for head, body in enumerate(bodies, first):
            log.rows += (log.id, head, _PAIR + head.to_bytes(8, "big") + body)
        log.head = head
        if once is not None:
            self._note_append(log, once, first, head)
        return list(range(first, head + 1))

    def trim(self, name: str, oldest: int) -> None:
        """See ``Engine``."""
        log = self._logs.get(name) or self._load(name)
        self._write_rows()
        self.connection.execute("UPDATE logs SET head = ? WHERE id = ?", (log.head, log.id))
        self.connection.execute("DELETE FROM records WHERE log = ? AND seq < ?", (log.id, clamp_seq(oldest)))

    def end_log(self, name: str) -> None:
        """See ``Engine``."""
        log = self._logs.get(name) or self._load(name)
        self.connection.execute("UPDATE logs SET is_ended = 1 WHERE id = ?", (log.id,))
        log.is_ended = True

    def delete_log(self, name: str) -> None:
        """See ``Engine``."""
        self._write_rows()
        self._logs.pop(name, None)
        self.connection.execute("DELETE FROM records WHERE log = (SELECT id FROM logs WHERE name = ?)", (name,))
        self.connection.execute("DELETE FROM logs WHERE name = ?", (name,))

    # ---- leases
    def acquire(self, key: str, owner: str, ttl_s: float) -> Lease | None:
        """See ``Engine``."""
        now_s = self._now_s()
        held = self.connection.execute(
            "SELECT owner FROM leases WHERE key = ? AND expires_s > ?", (key, now_s)
        ).fetchone()
        if held is not None and held[0] != owner:
            return None
        lease = Lease(key, owner, self._next(), ttl_s)
        self.connection.execute(
            "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", (key, owner, lease.token, now_s + ttl_s)
        )
        self._must_forget = True
        return lease

    def renew(self, lease: Lease) -> bool:
        """See ``Engine``."""
        now_s = self._now_s()
        self._is_state_dirty = True  # the time: a restart must not go back behind what the lease is measured by
        return bool(
            self.connection.execute(
                "UPDATE leases SET expires_s = ? WHERE key = ? AND token = ? AND expires_s > ?",
                (now_s + lease.ttl_s, lease.key, lease.token, now_s),
            ).rowcount
        )

    def release(self, lease: Lease) -> None:
        """See ``Engine``."""
        self.connection.execute("DELETE FROM leases WHERE key = ? AND token = ?", (lease.key, lease.token))

    # ---- registry
    def put(self, key: str, data: bytes, expect_revision: int | None) -> int | None:
        """See ``Engine``."""
        if expect_revision is not None:
            found = self.connection.execute("SELECT revision FROM registry WHERE key = ?", (key,)).fetchone()
            if expect_revision != (found[0] if found else 0):
                return None
        revision = self._next()
        self.connection.execute("INSERT OR REPLACE INTO registry VALUES (?, ?, ?)", (key, data, revision))
        return revision

    def delete(self, key: str) -> None:
        """See ``Engine``."""
        self.connection.execute("DELETE FROM registry WHERE key = ?", (key,))

    # ---- journal
    def journal_start(self, key: str, digest: bytes, incarnation: str, keep_s: float) -> JournalEntry | None:
        """See ``Engine``."""
        now_s = self._now_s()
        found = self.connection.execute(
            "SELECT key, digest, incarnation, outcome FROM journal WHERE key = ? AND expires_s > ?", (key, now_s)
        ).fetchone()
        if found is not None:
            return JournalEntry(*found)
        self.connection.execute(
            "INSERT OR REPLACE INTO journal VALUES (?, ?, ?, NULL, ?, ?)",
            (key, digest, incarnation, keep_s, now_s + keep_s),
        )
        self._is_state_dirty = self._must_forget = True
        return None

    def journal_done(self, key: str, outcome: bytes) -> None:
        """See ``Engine``."""
        now_s = self._now_s()
        self._is_state_dirty = True
        self.connection.execute(
            "UPDATE journal SET outcome = ?, expires_s = ? + keep_s"
            " WHERE key = ? AND outcome IS NULL AND expires_s > ?",
            (outcome, now_s, key, now_s),
        )

    def journal_forget(self, key: str, incarnation: str) -> None:
        """See ``Engine``."""
        self.connection.execute(
            "DELETE FROM journal WHERE key = ? AND incarnation = ? AND outcome IS NULL", (key, incarnation)
        )

    # ---- within
    def _appended_before(self, log: _Log, once: Once) -> list[int] | None:
        found = self.connection.execute(
            "SELECT digest, outcome FROM journal WHERE key = ? AND expires_s > ?", (_once_key(log, once), self._now_s())
        ).fetchone()
        if found is None:
            return None
        if found[0] != once.digest:
            raise KeyReusedError(
                f"the key {once.key!r} was used for other records", hint="a new append needs a key of its own"
            )
        first, last = _SPAN.unpack(found[1])
        return list(range(first, last + 1))

    def _note_append(self, log: _Log, once: Once, first: int, last: int) -> None:
        """Keep the numbers under the key, in the transaction of the records themselves."""
        self.connection.execute(
            "INSERT OR REPLACE INTO journal VALUES (?, ?, 'append', ?, ?, ?)",
            (_once_key(log, once), once.digest, _SPAN.pack(first, last), ONCE_KEPT_S, self._now_s() + ONCE_KEPT_S),
        )
        self._is_state_dirty = self._must_forget = True

    def _set_up(self) -> None:
        connection = self.connection
        # Before WAL, so that the main file itself says whose it is and of which format.
        migrate(connection, self.path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES_MAX}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        # On macOS a plain fsync stops at the drive's cache; elsewhere this changes nothing.
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA synchronous = FULL")
        self._start()
        connection.execute(f"PRAGMA synchronous = {'FULL' if self.durability == 'fsync' else 'NORMAL'}")

    def _start(self) -> None:
        """Take over from the last run, and note, synced, that this one has begun: until it ends it may be lost."""
        generation, is_clean, durability, sequence, time_s, boot = self.connection.execute(
            "SELECT generation, is_clean, durability, sequence, time_s, boot FROM state"
        ).fetchone()
        # A killed process leaves what it committed with the system; only a machine that went down can have lost it.
        is_same_boot = bool(boot) and boot == self._boot
        if not is_clean and durability != "fsync" and not is_same_boot:
            generation += 1
            sequence = max(sequence, generation * _GENERATION_STEP)
        self._generation = generation
        self._sequence = sequence
        self._started_s = self._clock.monotonic_s() - time_s
        self.connection.execute(
            "UPDATE state SET generation = ?, is_clean = 0, durability = ?, sequence = ?, boot = ?",
            (generation, self.durability, sequence, self._boot),
        )

    def _load(self, name: str) -> _Log:
        check_name(name, what="a log's name")
        found = self.connection.execute(
            "SELECT id, epoch, coalesce((SELECT max(seq) FROM records WHERE log = id), head), is_ended"
            " FROM logs WHERE name = ?",
            (name,),
        ).fetchone()
        if found is None:
            raise StreamNotFoundError(name)
        log = self._logs[name] = _Log(*found[:3], is_ended=bool(found[3]))
        return log

    def _write_rows(self) -> None:
        if not self._unwritten:
            return
        # Log by log, not in the order of arrival: neighbours in the table are written together.
        rows: list[int | bytes | None] = []
        for log in self._unwritten:
            rows += log.rows
            log.rows = []
        self._unwritten.clear()
        largest, _ = _INSERTS[-1]
        for start in range(0, len(rows), largest * _COLUMNS):
            part = rows[start : start + largest * _COLUMNS]
            count, statement = next(insert for insert in _INSERTS if insert[0] * _COLUMNS >= len(part))
            part += [None] * (count * _COLUMNS - len(part))
            self.connection.execute(statement, part)

    def _forget_expired(self) -> None:
        self._must_forget = False
        now_s = self._now_s()
        self.connection.execute("DELETE FROM leases WHERE expires_s <= ?", (now_s,))
        self.connection.execute(
            "DELETE FROM journal WHERE rowid IN (SELECT rowid FROM journal WHERE expires_s <= ? LIMIT ?)",
            (now_s, _FORGET_MAX),
        )

    def _now_s(self) -> float:
        """Return the engine's time: seconds during which the file was open. It never goes back nor jumps ahead."""
        return self._clock.monotonic_s() - self._started_s

    def _next(self) -> int:
        self._sequence += 1
        self._is_state_dirty = True
        return self._sequence


def _once_key(log: _Log, once: Once) -> str:
    # By the log's number and not its name: a log made anew under a name knows nothing of the old one's keys.
    # No caller's key has a NUL in it, so none can be taken for one of these.
    return f"\0append:{log.id}:{once.key}"


def boot_id() -> str:
    """Return what names this run of the machine, or nothing where the system does not say (elsewhere than on Linux)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def log_state(row: tuple[str, str, int, int, int, bytes]) -> LogState:
    """Return a row of ``LOG_STATES`` as what it says."""
    name, epoch, oldest, head, is_ended, settings = row
    return LogState(name, epoch, oldest, head, bool(is_ended), settings)
