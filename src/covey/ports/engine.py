"""What covey asks of storage: ordered logs, leases, values and a journal, all committed before they are acknowledged.

One conformance suite (``covey.testing.check_engine``) says what every engine must do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Record(msgspec.Struct, frozen=True):
    """One event as an engine keeps it."""

    time_s: float
    kind: str
    data: bytes  # JSON
    by: str | None = None
    key: str | None = None


class Committed(msgspec.Struct, frozen=True):
    """A record and the number under which it was committed."""

    seq: int
    record: Record


class LogState(msgspec.Struct, frozen=True):
    """Where a log stands.

    ``head`` is the last number given out (0 before the first), ``oldest`` the first still there (``head + 1`` when
    nothing is). ``epoch`` names the run of numbers: a new one begins whenever numbers might be used again.
    """

    name: str
    epoch: str
    oldest: int
    head: int
    is_ended: bool
    settings: bytes  # the owner's, JSON; the engine only keeps them


class Lease(msgspec.Struct, frozen=True):
    """The right to act for ``key`` until it expires; ``token`` grows with every new owner, so that a late one shows."""

    key: str
    owner: str
    token: int
    ttl_s: float


class Value(msgspec.Struct, frozen=True):
    """A value in the registry; ``revision`` grows with every write of the key."""

    key: str
    data: bytes
    revision: int


class JournalEntry(msgspec.Struct, frozen=True):
    """What is known of a keyed call: begun by ``incarnation``; ``outcome`` is None until it is done."""

    key: str
    digest: bytes
    incarnation: str
    outcome: bytes | None


class Engine(Protocol):
    """Every method returns only when what it did is committed, and raises ``EngineError`` when it is not."""

    async def open(self) -> None:
        """Take hold of the storage; must be called before anything else."""
        ...

    async def close(self) -> None:
        """Finish what was accepted and let go. Closing twice is harmless."""
        ...

    # ---- logs
    async def open_log(self, name: str, *, epoch: str, settings: bytes) -> LogState:
        """Return the log, created with ``epoch`` and ``settings`` where there is none.

        An engine that may have lost acknowledged records since the last clean close gives an existing log the new
        ``epoch``, keeping its records.
        """
        ...

    async def logs(self) -> list[LogState]:
        """Return every log, by name."""
        ...

    async def append(self, name: str, records: Sequence[Record], *, expect_head: int | None = None) -> list[int]:
        """Commit the records, all or none, and return their numbers, strictly increasing.

        Appends to one log are committed in the order in which they were called.

        Raises:
            HeadMovedError: ``expect_head`` is given and is not the head.
            StreamClosedError: the log was ended.
            StreamNotFoundError: there is no such log.
        """
        ...

    async def read_after(self, name: str, seq: int, *, limit: int) -> list[Committed]:
        """Return up to ``limit`` committed records with numbers above ``seq``, in order.

        Raises:
            StreamNotFoundError: there is no such log.
        """
        ...

    async def trim(self, name: str, oldest: int) -> None:
        """Forget the records below ``oldest``."""
        ...

    async def end_log(self, name: str) -> None:
        """Mark the log as ended: no append succeeds any more. Its records stay."""
        ...

    async def delete_log(self, name: str) -> None:
        """Forget the log and its records; a later log of that name begins a new epoch."""
        ...

    # ---- leases
    async def acquire(self, key: str, owner: str, *, ttl_s: float) -> Lease | None:
        """Return a lease with a token higher than any before it for ``key``, or None while someone else holds it."""
        ...

    async def renew(self, lease: Lease) -> bool:
        """Extend the lease by its ``ttl_s`` from now; False when it is no longer held under this token."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give it back; harmless when it is no longer held."""
        ...

    # ---- registry
    async def get(self, key: str) -> Value | None:
        """Return the value of ``key``."""
        ...

    async def put(self, key: str, data: bytes, *, expect_revision: int | None = None) -> int | None:
        """Write, and return the new revision.

        With ``expect_revision`` only over that revision (0: only where there is no value); None when it was another.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove ``key``; harmless when there is none."""
        ...

    async def scan(self, prefix: str) -> list[Value]:
        """Return the values whose keys start with ``prefix``, by key."""
        ...

    # ---- idempotency journal
    async def journal_start(self, key: str, digest: bytes, incarnation: str, *, keep_s: float) -> JournalEntry | None:
        """Record that a call begins and return None, or return what is already known of ``key``."""
        ...

    async def journal_done(self, key: str, outcome: bytes) -> None:
        """Record how the call ended; ``journal_start`` gives it to whoever repeats the call within ``keep_s``."""
        ...
