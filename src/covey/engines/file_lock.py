"""One process holds a file at a time, and lets go of it however it dies.

The lock is on a file of its own beside the database: SQLite's locks are of the same kind, and closing any descriptor
of a file gives up all locks that the process has on it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import Final

from covey.errors import EngineError

# The kernel keeps these locks by process: only a process-wide set can refuse a second holder in the same one.
_held: Final[set[tuple[int, int]]] = set()
_held_guard: Final = threading.Lock()


class FileLock:
    """Held from its making to ``release``.

    POSIX record locks rather than ``flock``: a forked child does not inherit them, so a child that outlives a killed
    hub does not keep the next one out.

    Raises:
        EngineError: another process, or another engine in this one, holds the file.
    """

    def __init__(self, path: Path) -> None:
        lock_path = path.with_name(path.name + ".lock")
        with _held_guard:
            if lock_path.exists() and _identity(lock_path.stat()) in _held:
                raise _in_use(path, "another engine of this process")
            self._descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
                os.close(self._descriptor)
                if error.errno not in {errno.EACCES, errno.EAGAIN}:
                    raise
                raise _in_use(path, f"process {holder}" if holder else "another process") from error
            self._identity = _identity(os.fstat(self._descriptor))
            _held.add(self._identity)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let go. The lock's file stays: removing it could take it from under the next holder."""
        with _held_guard:
            _held.discard(self._identity)
            os.close(self._descriptor)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _in_use(path: Path, holder: str) -> EngineError:
    return EngineError(f"{path} is in use by {holder}", hint="stop that one first, or give this one a file of its own")
