"""Events: as a program sees them, and as a stream keeps them, encoded once for all readers.

Source: protocol 1, "Events and cursors".
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar

import msgspec

from covey.errors import InvalidInputError, MisfitError
from covey.wire.event_stream import encode_event, encode_id_only

D = TypeVar("D")

EVENT_BYTES_MAX: Final = 1 << 20
# What an event costs beside its data: the object, its id, its place in the ring.
ENTRY_OVERHEAD_BYTES: Final = 256
# A comma would end the kind in `?kinds=a,b`, a line end would end it in an SSE block.
_KIND: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,64}", re.ASCII)
# A browser dispatches `open` and `error` itself: an event of that name could not be told apart.
_BROWSER_KINDS: Final = frozenset({"open", "error"})
CONTROL_PREFIX: Final = "covey."


class Event(msgspec.Struct, Generic[D], frozen=True):
    """One event of a stream.

    Args:
        id: ``<epoch>.<seq>``; what a reader passes to go on after it.
        time: seconds since 1970.
        kind: what it is; ``covey.*`` for control events.
        data: what it says.
        by: who caused it.
        key: the idempotency or conflation key it was appended under.
    """

    id: str
    time: float
    kind: str
    data: D
    by: str | None = None
    key: str | None = None


class Entry:
    """An event as a stream keeps it. Each representation is encoded when first asked for and then shared."""

    __slots__ = (
        "_block",
        "_envelope",
        "_envelope_block",
        "by",
        "data",
        "id",
        "is_replaced",
        "key",
        "kind",
        "seq",
        "time_s",
    )

    def __init__(  # noqa: PLR0917 -- made for every event; keywords cost a third more
        self,
        seq: int,
        id: str,
        time_s: float,
        kind: str,
        data: bytes,
        by: str | None,
        key: str | None,
    ) -> None:
        self.seq = seq
        self.id = id
        self.time_s = time_s
        self.kind = kind
        self.data = data
        self.by = by
        self.key = key
        self.is_replaced = False
        self._block: bytes | None = None
        self._envelope: bytes | None = None
        self._envelope_block: bytes | None = None

    @property
    def size_bytes(self) -> int:
        """What it counts against ``Retention.bytes``."""
        return len(self.data) + ENTRY_OVERHEAD_BYTES

    @property
    def block(self) -> bytes:
        """The Server-Sent Events block whose data is the event's data."""
        if self._block is None:
            self._block = encode_event(self.data, event=None if self.kind == "message" else self.kind, id=self.id)
        return self._block

    @property
    def envelope(self) -> bytes:
        """The whole event as JSON."""
        if self._envelope is None:
            self._envelope = _encode(
                Event(self.id, self.time_s, self.kind, msgspec.Raw(self.data), by=self.by, key=self.key)
            )
        return self._envelope

    @property
    def envelope_block(self) -> bytes:
        """The block whose data is the whole event; unnamed, so that a page gets every kind by ``onmessage``."""
        if self._envelope_block is None:
            self._envelope_block = encode_event(self.envelope, id=self.id)
        return self._envelope_block


class Control:
    """What the stream itself tells one reader: ``covey.open``, ``gap``, ``reset``, ``end``, ``bye``, ``heartbeat``.

    ``id`` is the cursor that gets past it, None for those that do not move the reader.
    """

    __slots__ = ("data", "id", "kind", "time_s")

    def __init__(self, kind: str, data: object, *, id: str | None = None, time_s: float = 0.0) -> None:
        self.kind = kind
        self.data = _encode(data)
        self.id = id
        self.time_s = time_s

    @property
    def block(self) -> bytes:
        """See ``Entry``."""
        return encode_event(self.data, event=self.kind, id=self.id)

    @property
    def envelope(self) -> bytes:
        """See ``Entry``."""
        return _encode(Event(self.id or "", self.time_s, self.kind, msgspec.Raw(self.data)))

    @property
    def envelope_block(self) -> bytes:
        """Control events keep their name in every form: a page must be able to listen for them."""
        return self.block


class Skipped:
    """Events that a filter left out: nothing to show, but the reader is past them."""

    __slots__ = ("id",)

    def __init__(self, id: str) -> None:
        self.id = id

    @property
    def block(self) -> bytes:
        """See ``Entry``."""
        return encode_id_only(self.id)

    @property
    def envelope_block(self) -> bytes:
        """See ``Entry``."""
        return encode_id_only(self.id)


Item = Entry | Control | Skipped

_encoder: Final = msgspec.json.Encoder()
_encode = _encoder.encode


def encode_data(data: object) -> bytes:
    """Return ``data`` as JSON.

    Raises:
        InvalidInputError: it cannot be written as JSON.
    """
    try:
        return _encode(data)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"the event's data cannot be written as JSON: {error}"
        raise InvalidInputError(message) from error


def check_kind(kind: str) -> str:
    """Return ``kind`` when a writer may use it.

    Raises:
        InvalidInputError: it is malformed.
        MisfitError: it is covey's or the browser's own.
    """
    if _KIND.fullmatch(kind) is None:
        message = f"{kind[:80]!r} is not an event kind"
        raise InvalidInputError(message, hint="use 1-64 characters of A-Z a-z 0-9 _ . : / -")
    if kind in _BROWSER_KINDS or kind.startswith(CONTROL_PREFIX):
        message = f"the kind {kind!r} is reserved"
        raise MisfitError(
            message, hint="'open' and 'error' are the browser's own event names, 'covey.*' are control events"
        )
    return kind
