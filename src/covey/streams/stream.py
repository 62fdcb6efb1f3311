"""A stream: one writer's log of events, many readers with cursors.

The ring decides what a reader gets; this module adds time, waiting and the stream's end. Nothing here runs while
nothing happens: a waiting reader is one callback in a dictionary.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar, cast

import msgspec

from covey.errors import HeadMovedError, InvalidInputError, KeyReusedError, StreamClosedError, TooLargeError
from covey.streams.event import EVENT_BYTES_MAX, Control, Entry, Event, Item, Skipped, check_kind, encode_data
from covey.streams.retention import Overflow
from covey.streams.ring import Ring
from covey.wire.cursor import Cursor, parse_cursor

if TYPE_CHECKING:
    from covey.ports.clock import Clock

D = TypeVar("D")

# One turn of a reader: enough for coalesced writes to pay, little enough that no reader holds up the others.
BATCH_BYTES: Final = 64 << 10
BATCH_EVENTS: Final = 1024
# How many idempotency keys of appends a stream remembers.
KEYS_MAX: Final = 1024
_KEY_CHARACTERS_MAX: Final = 128


class Draft(NamedTuple):
    """An event before it has a number; ``data`` is JSON already."""

    kind: str
    data: bytes
    by: str | None = None
    key: str | None = None


class View(NamedTuple, Generic[D]):
    """A bounded look at a stream: its first and last events, and how many between them were left out."""

    head: list[Event[D]]
    omitted: int
    tail: list[Event[D]]


class Stream(Generic[D]):
    """An append-only, numbered log of events, made by ``Streams``.

    Append and read from the event loop's thread.
    """

    def __init__(
        self,
        name: str,
        ring: Ring,
        data: Callable[..., D],
        *,
        clock: Clock,
        overflow: Overflow = "drop",
        is_owned: bool = False,
    ) -> None:
        self.name = name
        self.ring = ring
        self.data = data
        self.overflow = overflow
        self.is_owned = is_owned  # written by its owner in this process alone, never by clients of a hub
        self.is_closed = False
        self._clock = clock
        self._wakers: dict[Callable[[], None], None] = {}
        self._appended: OrderedDict[str, tuple[bytes, str]] = OrderedDict()

    @property
    def head(self) -> str:
        """The id of the newest event; reading after it gives only what comes next."""
        return self.ring.head_id

    @property
    def oldest(self) -> str:
        """The id of the oldest event that can still be read."""
        return self.ring.oldest_id

    @property
    def start(self) -> str:
        """The cursor just before the oldest event."""
        return f"{self.ring.epoch}.{self.ring.floor}"

    async def append(
        self,
        data: D,
        /,
        *,
        kind: str = "message",
        by: str | None = None,
        key: str | None = None,
        if_head: str | None = None,
    ) -> str:
        """Append one event and return its id, once readers may see it.

        Args:
            data: anything msgspec writes as JSON.
            kind: what sort of event it is; readers can filter by it.
            by: who caused it.
            key: for streams that keep the latest of each key.
            if_head: append only while this is still the newest id.

        Raises:
            StreamClosedError: the stream ended.
            HeadMovedError: ``if_head`` is no longer the head.
            TooLargeError: the data is over 1 MiB as JSON.
            InvalidInputError: the kind is reserved, or the data cannot be written as JSON.
        """
        check_kind(kind)
        if if_head is not None:
            self.check_head(if_head)
        return self.append_now(encode_data(data), kind=kind, by=by, key=key)

    async def append_all(self, drafts: Sequence[Draft], *, if_head: str | None = None, once: str | None = None) -> str:
        """Append several events, all or none, and return the id of the last.

        Args:
            drafts: at least one.
            if_head: append only while this is still the newest id.
            once: an idempotency key; the same drafts under it again are not appended again.

        Raises:
            KeyReusedError: ``once`` came before with other drafts.
            StreamClosedError, HeadMovedError, TooLargeError: see ``append``.
        """
        digest = b""
        if once is not None:
            digest = digest_of(drafts)
            done = self._done_before(once, digest)
            if done is not None:
                return done
        if if_head is not None:
            self.check_head(if_head)
        for draft in drafts:
            self.check_size(draft.data)
        last = self.head
        for draft in drafts:
            last = self.append_now(draft.data, kind=draft.kind, by=draft.by, key=draft.key)
        if once is not None:
            self._appended[once] = (digest, last)
            if len(self._appended) > KEYS_MAX:
                self._appended.popitem(last=False)
        return last

    def append_now(self, data: bytes, *, kind: str, by: str | None = None, key: str | None = None) -> str:
        """Append one event whose data is JSON already; for writers that are not coroutines. See ``append``."""
        if self.is_closed:
            message = f"the stream {self.name!r} has ended"
            raise StreamClosedError(message)
        self.check_size(data)
        seq = self.ring.head + 1
        now_s = self._clock.wall_s()
        entry = Entry(seq, f"{self.ring.epoch}.{seq}", now_s, kind, data, by, key)
        self.ring.append(entry, now_s=now_s)
        self._wake()
        return entry.id

    def check_head(self, expected: str) -> None:
        """Raise ``HeadMovedError`` unless ``expected`` is the newest id."""
        if str(parse_cursor(expected)) != self.head:
            message = f"the head of {self.name!r} is {self.head}, not {expected}"
            raise HeadMovedError(
                message, head=self.head, hint="read what came after your id, decide again, append again"
            )

    def reader(self, after: str | None = None, *, kinds: Collection[str] | None = None) -> Reader:
        """Return a reader that goes on after this id, or starts with the oldest event.

        Raises:
            InvalidInputError: ``after`` is not a cursor.
        """
        self.ring.evict(now_s=self._clock.wall_s())
        cursor = Cursor(self.ring.epoch, self.ring.floor) if after is None else parse_cursor(after)
        return Reader(self, cursor, kinds)

    async def read(
        self, *, after: str | None = None, kinds: Collection[str] | None = None
    ) -> AsyncGenerator[Event[D], None]:
        """Yield events after ``after`` (from the oldest unless told), then go on live until the stream ends.

        A hole is never silent: an event of kind ``covey.gap`` or ``covey.reset`` stands where one is. Its data, as that
        of every control event, is a plain dict.
        """
        reader = self.reader(after, kinds=kinds)
        while True:
            for item in reader.take():
                if isinstance(item, Control):
                    if item.kind == "covey.end":
                        return
                    yield Event(item.id or "", item.time_s, item.kind, msgspec.json.decode(item.data))
                elif isinstance(item, Entry):
                    yield self.decode(item)
            await reader.wait()

    def view(self, *, head: int = 0, tail: int = 0) -> View[D]:
        """Return the first ``head`` and the last ``tail`` events that are kept, none of them twice."""
        ring = self.ring
        first = ring.after(ring.floor, count=head, size_bytes=ring.retention.bytes) if head > 0 else []
        last = ring.newest(min(tail, len(ring) - len(first))) if tail > 0 else []
        return View([self.decode(e) for e in first], len(ring) - len(first) - len(last), [self.decode(e) for e in last])

    def decode(self, entry: Entry) -> Event[D]:
        """Return an entry as a program sees it."""
        data = msgspec.json.decode(entry.data, type=cast("type[D]", self.data))
        return Event(entry.id, entry.time_s, entry.kind, data, by=entry.by, key=entry.key)

    async def end(self) -> None:
        """End the stream for good, once that is kept where the stream is kept. See ``close``."""
        self.close()

    def close(self) -> None:
        """End the stream here: readers get what is left, then the end. Closing twice is harmless."""
        if not self.is_closed:
            self.is_closed = True
            self._wake()

    def now_s(self) -> float:
        """Return the time as the stream's events tell it, in seconds since 1970."""
        return self._clock.wall_s()

    def on_change(self, waker: Callable[[], None]) -> None:
        """Call ``waker`` once, at the next append or the end, however often it was given; ``forget`` takes it back."""
        self._wakers[waker] = None

    def forget(self, waker: Callable[[], None]) -> None:
        """Do not call ``waker`` any more; harmless when it would not be."""
        self._wakers.pop(waker, None)

    def check_size(self, data: bytes) -> None:
        """Raise ``TooLargeError`` when the data is over the limit of an event."""
        if len(data) > EVENT_BYTES_MAX:
            message = f"an event may have {EVENT_BYTES_MAX} bytes of data, this one has {len(data)}"
            raise TooLargeError(message, limit_bytes=EVENT_BYTES_MAX)

    def _done_before(self, once: str, digest: bytes) -> str | None:
        before = self._appended.get(check_once(once))
        if before is None:
            return None
        if before[0] != digest:
            message = f"the key {once!r} was used for other events on {self.name!r}"
            raise KeyReusedError(message, hint="make a new key for every append that is not a repeat")
        return before[1]

    def _wake(self) -> None:
        if self._wakers:
            wakers, self._wakers = self._wakers, {}
            for waker in wakers:
                waker()


class Reader:
    """A cursor in a stream. Costs the stream nothing while it lags, and nothing but one callback while it waits.

    Args:
        stream: what it reads.
        cursor: the last event it has, whether or not the stream still knows it.
        kinds: leave out events of other kinds.
    """

    __slots__ = ("_epoch", "_kinds", "_seq", "is_done", "stream")

    def __init__(self, stream: Stream[object] | Stream[D], cursor: Cursor, kinds: Collection[str] | None) -> None:
        self.stream = stream
        self._epoch, self._seq = cursor
        self._kinds = frozenset(kinds) if kinds is not None else None
        self.is_done = False  # the end itself was taken, too

    @property
    def seq(self) -> int:
        """The number of the last event taken, or skipped."""
        return self._seq

    @property
    def cursor(self) -> str:
        """The id to go on after: that of the last event taken, or the one it was given."""
        return f"{self._epoch}.{self._seq}"

    @property
    def is_at_end(self) -> bool:
        """The stream has ended and everything was taken."""
        return self.stream.is_closed and self._is_at_head

    @property
    def has_more(self) -> bool:
        """Whether ``take`` would give something now."""
        return not self._is_at_head or (self.stream.is_closed and not self.is_done)

    def take(self, *, count: int = BATCH_EVENTS, size_bytes: int = BATCH_BYTES) -> list[Item]:
        """Return what comes next, in order, as far as it is there; the end of the stream comes once, last."""
        taken: list[Item] = []
        ring = self.stream.ring
        # Looked at with every batch: what the reader stood before may have gone since the last one.
        if self._epoch != ring.epoch or not ring.floor <= self._seq <= ring.head:
            self._seq, notice = ring.locate(Cursor(self._epoch, self._seq))
            self._epoch = ring.epoch
            if notice is not None:
                notice.time_s = self.stream.now_s()
                taken.append(notice)
        entries = ring.after(self._seq, count=count, size_bytes=size_bytes)
        if entries:
            self._seq = entries[-1].seq
            taken.extend(entries if self._kinds is None else self._filtered(entries, self._kinds))
        else:
            self._seq = ring.head
        if self.is_at_end and not self.is_done:
            self.is_done = True
            taken.append(Control("covey.end", {"head": ring.head_id}, id=ring.head_id, time_s=self.stream.now_s()))
        return taken

    async def wait(self) -> None:
        """Return when there may be something to take; at once when there is."""
        if self.has_more:
            return
        changed = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not changed.done():
                changed.set_result(None)

        self.stream.on_change(wake)
        try:
            await changed
        finally:
            self.stream.forget(wake)

    @property
    def _is_at_head(self) -> bool:
        ring = self.stream.ring
        return self._seq == ring.head and self._epoch == ring.epoch

    def _filtered(self, entries: list[Entry], kinds: frozenset[str]) -> list[Item]:
        shown: list[Item] = [entry for entry in entries if entry.kind in kinds]
        if entries[-1].kind not in kinds:
            shown.append(Skipped(entries[-1].id))
        return shown


def digest_of(drafts: Sequence[Draft]) -> bytes:
    """Return what tells these drafts from any others."""
    digest = hashlib.blake2b(digest_size=16)
    for draft in drafts:
        for part in (draft.kind.encode(), draft.data, (draft.key or "").encode("utf-8", "surrogatepass")):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def check_once(key: str) -> str:
    """Return an idempotency key when it is one.

    Raises:
        InvalidInputError: it is not.
    """
    if 1 <= len(key) <= _KEY_CHARACTERS_MAX and key.isascii() and key.isprintable():
        return key
    message = f"an idempotency key is 1 to {_KEY_CHARACTERS_MAX} printable ASCII characters"
    raise InvalidInputError(message)
