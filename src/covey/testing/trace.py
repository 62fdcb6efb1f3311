"""What happened in a simulation, in order: the same for the same seed."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Final

LINES_MAX: Final = 100_000


class Trace:
    """Lines with their times.

    ``lines`` are the last of them; ``digest`` stands for all, also for those that are no longer kept.
    """

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=LINES_MAX)
        self.count = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def __str__(self) -> str:
        return "\n".join(self.lines)

    @property
    def digest(self) -> str:
        """Two runs with one digest had the same trace."""
        return self._hash.hexdigest()

    def add(self, time_s: float, text: str) -> None:
        """Add a line."""
        line = f"{time_s:.6f} {text}"
        self.count += 1
        self.lines.append(line)
        self._hash.update(line.encode("utf-8", "surrogatepass") + b"\n")
