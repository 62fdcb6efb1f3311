"""The engine that keeps everything in this process: for tests, and for teams that need not outlive it.

Nothing here waits, so every request is whole before the next begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Final, NamedTuple

from covey.engines.limits import (
    check_epoch,
    check_key,
    check_prefix,
    check_seconds,
    check_size,
    clamp_limit,
    clamp_seq,
    encode_records,
)
from covey.errors import EngineError, HeadMovedError, KeyReusedError, StreamClosedError, StreamNotFoundError
from covey.ports.engine import (
    DATA_BYTES_MAX,
    FIELDS_BYTES_MAX,
    ONCE_KEPT_S,
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

# What an object costs beside the bytes in it.
_OVERHEAD_BYTES: Final = 256
_SWEEP_MIN: Final = 1024


class _Appended(NamedTuple):
    """What an append under a key gave."""

    digest: bytes
    first: int
    last: int
    expires_s: float


class _Log:
    __slots__ = ("appended", "epoch", "head", "is_ended", "records", "settings", "sizes")

    def __init__(self, epoch: str, settings: bytes) -> None:
        self.epoch = epoch
        self.settings = settings
        self.records: list[Committed] = []
        self.sizes: list[int] = []  # of the records, in the same places
        self.head = 0
        self.is_ended = False
        self.appended: dict[str, _Appended] = {}  # by key, in order of time

    @property
    def oldest(self) -> int:
        return self.head + 1 - len(self.records)

    def forget_keys(self, now_s: float) -> int:
        """Forget the keys of appends that are too old, and return how many bytes that frees."""
        freed_bytes = 0
        while self.appended and next(iter(self.appended.values())).expires_s <= now_s:
            key = next(iter(self.appended))
            freed_bytes += _key_bytes(key, self.appended.pop(key).digest)
        return freed_bytes

    def appended_before(self, once: Once) -> list[int] | None:
        """Return the numbers that the key gave before."""
        before = self.appended.get(once.key)
        if before is None:
            return None
        if before.digest != once.digest:
            raise KeyReusedError(
                f"the key {once.key!r} was used for other records", hint="a new append needs a key of its own"
            )
        return list(range(before.first, before.last + 1))

    def state(self, name: str) -> LogState:
        return LogState(name, self.epoch, self.oldest, self.head, self.is_ended, self.settings)


class _Kept:
    """A journal entry, how long each of its writes keeps it, and until when it is kept."""

    __slots__ = ("entry", "expires_s", "keep_s")

    def __init__(self, entry: JournalEntry, keep_s: float, now_s: float) -> None:
        self.entry = entry
        self.keep_s = keep_s
        self.expires_s = now_s + keep_s


class MemoryEngine:
    """See ``ports.engine.Engine``.

    Args:
        clock: measures leases and how long journal entries are kept.
        bytes_max: what it holds at most; more raises ``EngineError``, as a full disk does.
        is_open: needs no ``open()``: there is nothing to take hold of.
    """

    def __init__(self, *, clock: Clock | None = None, bytes_max: int = 1 << 30, is_open: bool = False) -> None:
        self.bytes_max = bytes_max
        self._clock: Clock = clock or SystemClock()
        self._is_open = self._was_opened = is_open
        self._logs: dict[str, _Log] = {}
        self._leases: dict[str, tuple[Lease, float]] = {}  # with the time of expiry
        self._registry: dict[str, Value] = {}
        self._journal: dict[str, _Kept] = {}
        self._sequence = 0  # tokens and revisions come from one counter, so that none is ever used again
        self._bytes = 0
        self._sweep_at = _SWEEP_MIN

    async def open(self) -> None:
        """See ``Engine``."""
        if self._was_opened:
            raise EngineError("the engine was opened before", hint="make a new one")
        self._is_open = self._was_opened = True

    async def close(self) -> None:
        """See ``Engine``. What it held is gone."""
        self._is_open = False
        self._logs.clear()
        self._leases.clear()
        self._registry.clear()
        self._journal.clear()

    async def open_log(self, name: str, *, epoch: str, settings: bytes) -> LogState:
        """See ``Engine``."""
        check_name(name, what="a log's name")
        check_epoch(epoch)
        check_size(len(settings), DATA_BYTES_MAX, what="a log's settings")
        self._check_open()
        log = self._logs.get(name)
        if log is None:
            self._take(len(settings) + _OVERHEAD_BYTES)
            log = self._logs[name] = _Log(epoch, settings)
        return log.state(name)

    async def logs(self) -> list[LogState]:
        """See ``Engine``."""
        self._check_open()
        return [self._logs[name].state(name) for name in sorted(self._logs)]

    async def append(
        self, name: str, records: Sequence[Record], *, expect_head: int | None = None, once: Once | None = None
    ) -> list[int]:
        """See ``Engine``."""
        sizes = [len(body) + _OVERHEAD_BYTES for body in encode_records(records)[0]]
        log = self._log(name)
        if once is not None:
            check_key(once.key)
            check_size(len(once.digest), FIELDS_BYTES_MAX, what="a digest")
            self._bytes -= log.forget_keys(self._clock.monotonic_s())
            before = log.appended_before(once)
            if before is not None:
                return before
        if log.is_ended:
            raise StreamClosedError(f"the log {name!r} was ended")
        if expect_head is not None and expect_head != log.head:
            raise HeadMovedError(
                f"the head of {name!r} is {log.head}, not {expect_head}", head=f"{log.epoch}.{log.head}"
            )
        self._take(sum(sizes) + (_key_bytes(once.key, once.digest) if once is not None else 0))
        first = log.head + 1
        log.records += [Committed(seq, record) for seq, record in enumerate(records, first)]
        log.sizes += sizes
        log.head += len(records)
        if once is not None:
            log.appended[once.key] = _Appended(once.digest, first, log.head, self._clock.monotonic_s() + ONCE_KEPT_S)
        return list(range(first, log.head + 1))

    async def read_after(self, name: str, seq: int, *, limit: int) -> list[Committed]:
        """See ``Engine``."""
        log = self._log(name)
        first = max(0, clamp_seq(seq) + 1 - log.oldest)
        end = first + _within_bytes(log.sizes[first : first + clamp_limit(limit)])
        return log.records[first:end]

    async def trim(self, name: str, oldest: int) -> None:
        """See ``Engine``."""
        log = self._log(name)
        gone = max(0, min(oldest - log.oldest, len(log.records)))
        self._bytes -= sum(log.sizes[:gone])
        del log.records[:gone]
        del log.sizes[:gone]

    async def end_log(self, name: str) -> None:
        """See ``Engine``."""
        self._log(name).is_ended = True

    async def delete_log(self, name: str) -> None:
        """See ``Engine``."""
        check_name(name, what="a log's name")
        self._check_open()
        log = self._logs.pop(name, None)
        if log is not None:
            keys_bytes = sum(_key_bytes(key, appended.digest) for key, appended in log.appended.items())
            self._bytes -= sum(log.sizes) + keys_bytes + len(log.settings) + _OVERHEAD_BYTES

    async def acquire(self, key: str, owner: str, *, ttl_s: float) -> Lease | None:
        """See ``Engine``."""
        check_key(key)
        check_key(owner, what="an owner")
        check_seconds(ttl_s, what="ttl_s")
        self._check_open()
        self._sweep()
        held = self._held(key)
        if held is not None and held.owner != owner:
            return None
        lease = Lease(key, owner, self._next(), ttl_s)
        self._leases[key] = (lease, self._clock.monotonic_s() + ttl_s)
        return lease

    async def renew(self, lease: Lease) -> bool:
        """See ``Engine``."""
        check_key(lease.key)
        check_seconds(lease.ttl_s, what="ttl_s")
        self._check_open()
        held = self._held(lease.key)
        if held is None or held.token != lease.token:
            return False
        self._leases[lease.key] = (held, self._clock.monotonic_s() + lease.ttl_s)
        return True

    async def release(self, lease: Lease) -> None:
        """See ``Engine``."""
        check_key(lease.key)
        self._check_open()
        held = self._held(lease.key)
        if held is not None and held.token == lease.token:
            del self._leases[lease.key]

    async def get(self, key: str) -> Value | None:
        """See ``Engine``."""
        check_key(key)
        self._check_open()
        return self._registry.get(key)

    async def put(self, key: str, data: bytes, *, expect_revision: int | None = None) -> int | None:
        """See ``Engine``."""
        check_key(key)
        check_size(len(data), DATA_BYTES_MAX, what="a value")
        self._check_open()
        before = self._registry.get(key)
        if expect_revision is not None and expect_revision != (before.revision if before else 0):
            return None
        self._take(len(data) - len(before.data) if before else len(data) + _OVERHEAD_BYTES)
        self._registry[key] = Value(key, data, self._next())
        return self._registry[key].revision

    async def delete(self, key: str) -> None:
        """See ``Engine``."""
        check_key(key)
        self._check_open()
        before = self._registry.pop(key, None)
        if before is not None:
            self._bytes -= len(before.data) + _OVERHEAD_BYTES

    async def scan(self, prefix: str, *, after: str = "", limit: int = READ_MAX) -> list[Value]:
        """See ``Engine``."""
        check_prefix(prefix, after)
        self._check_open()
        keys = sorted(key for key in self._registry if key.startswith(prefix) and key > after)
        found = [self._registry[key] for key in keys[: clamp_limit(limit)]]
        return found[: _within_bytes([len(value.data) for value in found])]

    async def journal_start(self, key: str, digest: bytes, incarnation: str, *, keep_s: float) -> JournalEntry | None:
        """See ``Engine``."""
        check_key(key)
        check_key(incarnation, what="an incarnation")
        check_size(len(digest), DATA_BYTES_MAX, what="a digest")
        check_seconds(keep_s, what="keep_s")
        self._check_open()
        self._sweep()
        kept = self._kept(key)
        if kept is not None:
            return kept.entry
        self._forget(key)
        entry = JournalEntry(key, digest, incarnation, None)
        self._take(_entry_bytes(entry))
        self._journal[key] = _Kept(entry, keep_s, self._clock.monotonic_s())
        return None

    async def journal_done(self, key: str, outcome: bytes) -> None:
        """See ``Engine``."""
        check_key(key)
        check_size(len(outcome), REQUEST_BYTES_MAX, what="an outcome")
        self._check_open()
        kept = self._kept(key)
        if kept is not None and kept.entry.outcome is None:
            self._take(len(outcome))
            kept.entry = JournalEntry(key, kept.entry.digest, kept.entry.incarnation, outcome)
            kept.expires_s = self._clock.monotonic_s() + kept.keep_s

    async def journal_forget(self, key: str, incarnation: str) -> None:
        """See ``Engine``."""
        check_key(key)
        check_key(incarnation, what="an incarnation")
        self._check_open()
        kept = self._kept(key)
        if kept is not None and kept.entry.outcome is None and kept.entry.incarnation == incarnation:
            self._forget(key)

    def _check_open(self) -> None:
        if not self._is_open:
            raise EngineError("the engine is not open", hint="await its open() first, and use it before close()")

    def _log(self, name: str) -> _Log:
        check_name(name, what="a log's name")
        self._check_open()
        log = self._logs.get(name)
        if log is None:
            raise StreamNotFoundError(name)
        return log

    def _take(self, size_bytes: int) -> None:
        if size_bytes > 0 and self._bytes + size_bytes > self.bytes_max:
            raise EngineError(
                f"the engine is full: it holds {self._bytes} of {self.bytes_max} bytes",
                hint="let streams keep less, delete some, or use an SQLite file",
            )
        self._bytes += size_bytes

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _held(self, key: str) -> Lease | None:
        held = self._leases.get(key)
        return held[0] if held is not None and held[1] > self._clock.monotonic_s() else None

    def _kept(self, key: str) -> _Kept | None:
        kept = self._journal.get(key)
        return kept if kept is not None and kept.expires_s > self._clock.monotonic_s() else None

    def _forget(self, key: str) -> None:
        kept = self._journal.pop(key, None)
        if kept is not None:
            self._bytes -= _entry_bytes(kept.entry)

    def _sweep(self) -> None:
        """Forget what has expired, whenever there is twice as much as after the last time."""
        if len(self._leases) + len(self._journal) < self._sweep_at:
            return
        for key in [key for key in self._leases if self._held(key) is None]:
            del self._leases[key]
        for key in [key for key in self._journal if self._kept(key) is None]:
            self._forget(key)
        self._sweep_at = max(_SWEEP_MIN, 2 * (len(self._leases) + len(self._journal)))


def _key_bytes(key: str, digest: bytes) -> int:
    return len(key) + len(digest) + _OVERHEAD_BYTES


def _entry_bytes(entry: JournalEntry) -> int:
    return len(entry.digest) + len(entry.outcome or b"") + _OVERHEAD_BYTES


def _within_bytes(sizes: Sequence[int]) -> int:
    """Return how many of the first sizes one read gives: one if there is any, about ``REQUEST_BYTES_MAX`` in all."""
    total = 0

    def fits(size: int) -> bool:
        nonlocal total
        total += size
        return total <= REQUEST_BYTES_MAX

    return max(sum(1 for _ in takewhile(fits, sizes)), min(1, len(sizes)))
