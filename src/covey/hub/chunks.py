"""What readers of one stream share: the step from one number to the next, taken and rendered once for all of them.

Readers mostly stand at the same number, whichever transport they are on. So the newest steps are remembered until the
stream moves on, and a thousand readers cost one look into the ring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from covey.streams.event import Item
from covey.streams.stream import Reader, Stream
from covey.wire.cursor import Cursor

T = TypeVar("T", bytes, str)

CHUNK_BYTES: Final = 32 << 10
# Readers that lag stand at many numbers; what is remembered for them must stay small.
_KNOWN_MAX: Final = 8


class Chunk(NamedTuple, Generic[T]):
    """One step: ``data`` leads a reader to number ``seq``; with ``is_last`` the stream ends there."""

    seq: int
    data: T
    is_last: bool


class Chunks(Generic[T]):
    """Steps through a stream, for readers with one filter and one representation.

    Args:
        stream: what they read.
        kinds: leave out events of other kinds.
        render: gives the items of a step their representation, empty when there is nothing to show.
    """

    def __init__(
        self, stream: Stream[Any], kinds: frozenset[str] | None, render: Callable[[Sequence[Item]], T]
    ) -> None:
        self.stream = stream
        self._ring = stream.ring
        self._kinds = kinds
        self._render: Callable[[Sequence[Item]], T] = render
        self._known: dict[int, Chunk[T]] = {}
        self._head = -1
        self._is_closed = False

    def first(self, reader: Reader) -> Chunk[T]:
        """Return a reader's first step: only the reader itself knows of a cursor that the stream does not know."""
        items = reader.take(size_bytes=CHUNK_BYTES)
        return Chunk(reader.seq, self._render(items), reader.is_done)

    def after(self, seq: int) -> Chunk[T] | None:
        """Return the step of a reader at number ``seq``, None when there is nothing to take."""
        head, is_closed = self._ring.head, self.stream.is_closed
        if seq == head and not is_closed:
            return None
        if self._head != head or self._is_closed != is_closed or len(self._known) > _KNOWN_MAX:
            self._head, self._is_closed = head, is_closed
            self._known.clear()
        chunk = self._known.get(seq)
        if chunk is None:
            chunk = self._known[seq] = self.first(Reader(self.stream, Cursor(self._ring.epoch, seq), self._kinds))
        return chunk
