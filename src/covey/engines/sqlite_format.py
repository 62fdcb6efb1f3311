"""The file's format: how to tell that a file is covey's, its tables, and the steps from each version to the next."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from covey.errors import EngineError

APPLICATION_ID: Final = 0x636F7679  # "covy"
_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
# Offsets into the header. Source: https://sqlite.org/fileformat.html, "The Database Header".
_USER_VERSION: Final = slice(60, 64)
_APPLICATION_ID: Final = slice(68, 72)

_BUSY_TIMEOUT_S: Final = 5.0

Step = Sequence[str]

# Each step leads from the version that is its index to the next; a step that was released never changes.
STEPS: Final[Sequence[Step]] = (
    (
        # One row. `generation` counts the starts at which records may have been lost; `sequence` is the last token or
        # revision given; `time_s` is the engine's own time, which runs only while the file is open.
        """CREATE TABLE state (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            generation INTEGER NOT NULL,
            is_clean INTEGER NOT NULL,
            durability TEXT NOT NULL,
            sequence INTEGER NOT NULL,
            time_s REAL NOT NULL
        )""",
        "INSERT INTO state VALUES (1, 0, 1, 'fsync', 0, 0.0)",
        # `head` counts only where no record is left to say it. An id is never used again: a reader may still have it.
        """CREATE TABLE logs (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            epoch TEXT NOT NULL,
            generation INTEGER NOT NULL,
            head INTEGER NOT NULL,
            is_ended INTEGER NOT NULL,
            settings BLOB NOT NULL
        )""",
        # `body` is a `Committed` in MessagePack: the number again, and the record.
        # In the order of arrival, with an index to read by: half the cost of a table that is itself in order of logs.
        "CREATE TABLE records (log INTEGER NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL)",
        "CREATE UNIQUE INDEX records_by_number ON records (log, seq)",
        """CREATE TABLE leases (
            key TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            token INTEGER NOT NULL,
            expires_s REAL NOT NULL
        ) WITHOUT ROWID""",
        "CREATE TABLE registry (key TEXT PRIMARY KEY, data BLOB NOT NULL, revision INTEGER NOT NULL)",
    ),
    (
        """CREATE TABLE journal (
            key TEXT PRIMARY KEY,
            digest BLOB NOT NULL,
            incarnation TEXT NOT NULL,
            outcome BLOB,
            keep_s REAL NOT NULL,
            expires_s REAL NOT NULL
        )""",
        "CREATE INDEX journal_by_expiry ON journal (expires_s)",
        "CREATE INDEX leases_by_expiry ON leases (expires_s)",
    ),
    # `boot` names the run of the machine in which the last start was: what a killed process wrote is still there in it.
    ("ALTER TABLE state ADD COLUMN boot TEXT NOT NULL DEFAULT ''",),
)


def check_header(path: Path) -> None:
    """Look at a file without changing it.

    Raises:
        EngineError: it is not an SQLite database, not covey's, or of a newer format.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if not header:
        return
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise EngineError(
            f"{path} is not a database", hint="name another file; where this one was covey's, restore it from a backup"
        )
    application_id = int.from_bytes(header[_APPLICATION_ID], "big")
    if application_id not in {0, APPLICATION_ID}:  # 0: made by us a moment before a crash, or anybody's
        raise _foreign(path)
    if application_id == APPLICATION_ID:
        _check_version(path, int.from_bytes(header[_USER_VERSION], "big"), len(STEPS))


def migrate(connection: sqlite3.Connection, path: Path, steps: Sequence[Step] = STEPS) -> None:
    """Bring the file to the newest version, in one transaction: it is there whole, or the file is as it was.

    Raises:
        EngineError: the file is not covey's, or of a newer format.
    """
    version = _pragma(connection, "user_version")
    if _pragma(connection, "application_id") != APPLICATION_ID:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if version or tables:
            raise _foreign(path)
    _check_version(path, version, len(steps))
    if version == len(steps):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in steps[version:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(steps)}")
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def connect(path: Path, *, is_read_only: bool = False) -> sqlite3.Connection:
    """Return a connection that begins no transactions by itself and may be passed between threads."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={'ro' if is_read_only else 'rw'}",
        uri=True,
        isolation_level=None,
        timeout=_BUSY_TIMEOUT_S,
        check_same_thread=False,
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def _check_version(path: Path, version: int, newest: int) -> None:
    if version > newest:
        raise EngineError(
            f"{path} has format {version}, this covey knows formats up to {newest}",
            hint="a newer covey wrote it: install that one again, or name another file",
        )


def _foreign(path: Path) -> EngineError:
    return EngineError(f"{path} is a database of another program", hint="name another file")
