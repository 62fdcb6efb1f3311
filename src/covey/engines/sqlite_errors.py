"""What SQLite's and the system's errors mean for the one who reads them, and what to do about each."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from covey.errors import EngineError


class _Meaning(NamedTuple):
    message: str
    hint: str


_KEPT: Final = "Nothing that was acknowledged is lost."
_DAMAGED: Final = _Meaning(
    "is damaged", "keep a copy, then restore a backup, or save what can be read: sqlite3 FILE .recover | sqlite3 NEW"
)
_NO_ROOM: Final = _Meaning(
    "can't grow", f"free space on its disk or let streams keep less; the engine goes on by itself then. {_KEPT}"
)
_READ_ONLY: Final = _Meaning(
    "can't be written", "give this user the right to write the file and its folder, or name another file"
)
_DISK: Final = _Meaning("could not be read or written", f"look at the disk and its free space. {_KEPT}")

# By primary result code. Source: https://sqlite.org/rescode.html
_MEANINGS: Final[Mapping[int, _Meaning]] = {
    sqlite3.SQLITE_FULL: _NO_ROOM,
    sqlite3.SQLITE_IOERR: _DISK,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: _READ_ONLY,
    sqlite3.SQLITE_BUSY: _Meaning(
        "is locked by another program", "close the program that writes to it, such as an sqlite3 shell"
    ),
}


def explain(error: Exception, path: Path) -> EngineError:
    """Return ``error``, with which SQLite or the system answered, as one that says what to do."""
    explained = _explained(error, path)
    explained.__cause__ = error
    return explained


def _explained(error: Exception, path: Path) -> EngineError:
    if isinstance(error, EngineError):
        return error
    if isinstance(error, OSError):
        return EngineError(f"{path} can't be opened: {error.strerror}", hint=_READ_ONLY.hint)
    code = getattr(error, "sqlite_errorcode", None)
    meaning = _MEANINGS.get(code & 0xFF) if code is not None else None
    if meaning is not None:
        return EngineError(f"{path} {meaning.message}: {error}", hint=meaning.hint)
    return EngineError(f"{path}: {error}", hint="this should not happen; please report it")
