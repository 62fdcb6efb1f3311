"""What covey asks of storage: ordered logs, leases, values and a journal, all committed before they are acknowledged.

Limits, the same for every engine: a log's name is a stream's name; keys, owners and incarnations are 1 to
``KEY_BYTES_MAX`` bytes of UTF-8; what is over ``DATA_BYTES_MAX`` or ``REQUEST_BYTES_MAX`` raises ``TooLargeError``,
any other misfit ``InvalidInputError``. What every engine must do is in the checks of ``covey.testing.engines``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

KEY_BYTES_MAX: Final = 512
# The data of one record, or one value of the registry. As much as an event may have, and a NATS message.
DATA_BYTES_MAX: Final = 1 << 20
# A record's fields beside its data.
FIELDS_BYTES_MAX: Final = 4 << 10
# One whole append, one outcome in the journal, and about what one read gives.
REQUEST_BYTES_MAX: Final = 16 << 20
APPEND_RECORDS_MAX: Final = 10_000
# How many records or values one read gives, whatever limit it asks for.
READ_MAX: Final = 10_000
# For how long the key of an append is known.
ONCE_KEPT_S: Final = 86_400.0


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One event as an engine keeps it. Encoded as an array, so that a field added at the end reads older records."""

    time_s: float
    kind: str
    data: bytes  # JSON
    by: str | None = None
    key: str | None = None


class Once(msgspec.Struct, frozen=True):
    """What makes an append harmless to repeat: a key, and what tells its records from any others."""

    key: str
    digest: bytes


class Committed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record and the number under which it was committed."""

    seq: int
    record: Record


class LogState(msgspec.Struct, frozen=True):
    """Where a log stands. Its numbers are dense: the records ``oldest`` to ``head`` are there, all of them.

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
    """The right to act for ``key`` until it expires.

    ``token`` is above every earlier one of the key, also after a release, an expiry or a restart, so that a late owner
    shows.
    """

    key: str
    owner: str
    token: int
    ttl_s: float


class Value(msgspec.Struct, frozen=True):
    """A value in the registry; ``revision`` grows with every write of the key, also over a deletion."""

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
    """Every method returns only when what it did is committed, and raises ``EngineError`` when it is not.

    A caller that is cancelled does not know whether its request took effect; the engine stays sound either way. While
    more waits than the engine takes at once, callers wait, first come, first served.
    """

    async def open(self) -> None:
        """Take hold of the storage, once, before anything else.

        Raises:
            EngineError: it is damaged, not covey's, of a newer format, or held by another; nothing was changed.
        """
        ...

    async def close(self) -> None:
        """Finish what was accepted and let go. Closing twice is harmless."""
        ...

    # ---- logs
    async def open_log(self, name: str, *, epoch: str, settings: bytes) -> LogState:
        """Return the log, created with ``epoch`` and ``settings`` where there is none.

        An engine that may have lost acknowledged records since the last clean close gives an existing log the new
        ``epoch``, keeping its records; so every run opens a log before it trusts the log's epoch. ``epoch`` is one or
        more letters and digits, at most 16, never used before.
        """
        ...

    async def logs(self) -> list[LogState]:
        """Return every log, by name."""
        ...

    async def append(
        self, name: str, records: Sequence[Record], *, expect_head: int | None = None, once: Once | None = None
    ) -> list[int]:
        """Commit the records, at least one, all or none, and return their numbers, which follow the head.

        Appends to one log are committed in the order in which they were called. One that comes again under its
        ``once`` within ``ONCE_KEPT_S`` commits nothing and returns the numbers of the first time, whatever the head.

        Raises:
            HeadMovedError: ``expect_head`` is given and is not the head.
            KeyReusedError: the key of ``once`` came before with another digest.
            StreamClosedError: the log was ended.
            StreamNotFoundError: there is no such log.
        """
        ...

    async def read_after(self, name: str, seq: int, *, limit: int) -> list[Committed]:
        """Return committed records with numbers above ``seq``, in order: at most ``limit``, one if there is any.

        There may be fewer than ``limit`` while more are left: only an empty answer says that none is.

        Raises:
            StreamNotFoundError: there is no such log.
        """
        ...

    async def trim(self, name: str, oldest: int) -> None:
        """Forget the records below ``oldest``; the head stays.

        Raises:
            StreamNotFoundError: there is no such log; also from ``end_log``, but not from ``delete_log``.
        """
        ...

    async def end_log(self, name: str) -> None:
        """Mark the log as ended: no append succeeds any more. Its records stay."""
        ...

    async def delete_log(self, name: str) -> None:
        """Forget the log and its records, if there is one; a later log of that name begins a new epoch."""
        ...

    # ---- leases
    async def acquire(self, key: str, owner: str, *, ttl_s: float) -> Lease | None:
        """Return a lease with a token higher than any before it for ``key``, or None while someone else holds it.

        An owner that holds it already gets a new lease, and the old one is void. A restart never shortens a lease.
        """
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

    async def scan(self, prefix: str, *, after: str = "", limit: int = READ_MAX) -> list[Value]:
        """Return the values whose keys start with ``prefix`` and are above ``after``, by key: at most ``limit``.

        There may be fewer while more are left, as in ``read_after``.
        """
        ...

    # ---- idempotency journal
    async def journal_start(self, key: str, digest: bytes, incarnation: str, *, keep_s: float) -> JournalEntry | None:
        """Record that a call begins and return None, or return what is already known of ``key``.

        An entry is kept for ``keep_s`` after it began and again after it was done, at the least: a call must not be
        able to run for longer.
        """
        ...

    async def journal_done(self, key: str, outcome: bytes) -> None:
        """Record how the call ended; ``journal_start`` gives it to whoever repeats the call.

        The first outcome stands; harmless when the entry is no longer kept.
        """
        ...

    async def journal_forget(self, key: str, incarnation: str) -> None:
        """Forget a call that ``incarnation`` began and that has no outcome; harmless when there is none such.

        For calls that never ran after all, and for those that may run again after their incarnation died.
        """
        ...
