"""The numbered ring that all fan-out reads: newest events within the retention, found by number.

Pure: no clock, no task, no wake-up. A reader is an integer, the number of the last event it has; what it costs the
ring is nothing, however far behind it is.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import Final, NamedTuple

from covey.streams.event import Control, Entry
from covey.streams.retention import Retention
from covey.wire.cursor import Cursor

_seq: Final = attrgetter("seq")
# Empty places in the list before it is packed: keeps eviction and replacement O(1) on average.
_SLACK_MIN: Final = 64
# Stands where an entry was, so that its bytes are free at once and not only when the list is packed.
_GONE: Final = Entry(0, "", 0.0, "", b"", None, None)


class Position(NamedTuple):
    """Where a reader goes on: after number ``seq``, once it was told ``notice``."""

    seq: int
    notice: Control | None = None


class Ring:
    """Entries in order of their numbers.

    Args:
        epoch: names the run of numbers.
        retention: what stays.
        head: the last number already used, when the stream continues an older one.
        floor: the highest number that is no longer here.
        latest: keep only the newest event of each key.
    """

    def __init__(
        self, epoch: str, retention: Retention, *, head: int = 0, floor: int | None = None, latest: bool = False
    ) -> None:
        self.epoch = epoch
        self.retention = retention
        self.head = head
        self.floor = head if floor is None else floor
        self._entries: list[Entry] = []
        self._first = 0  # index of the oldest entry that is still kept
        self._bytes = 0
        self._replaced = 0
        self._newest_by_key: dict[str, Entry] | None = {} if latest else None
        self._is_dense = True  # numbers follow each other, so that a difference of numbers counts events

    def __len__(self) -> int:
        return len(self._entries) - self._first - self._replaced

    @property
    def size_bytes(self) -> int:
        """What the kept entries count against ``Retention.bytes``."""
        return self._bytes

    @property
    def head_id(self) -> str:
        """The id of the newest event, or of the place before the first."""
        return f"{self.epoch}.{self.head}"

    @property
    def oldest_id(self) -> str:
        """The id of the oldest event that can still be read, or of the next one when there is none."""
        return f"{self.epoch}.{self.floor + 1}"

    def append(self, entry: Entry, *, now_s: float) -> None:
        """Add the entry; its number is above the head. Lets go of what is over the retention."""
        if entry.seq != self.head + 1:
            self._is_dense = False
        self.head = entry.seq
        self._entries.append(entry)
        self._bytes += entry.size_bytes
        if self._newest_by_key is not None and entry.key is not None:
            self._replace(self._newest_by_key, entry.key, entry)
        self.evict(now_s=now_s)

    def evict(self, *, now_s: float) -> None:
        """Let go of what is over the retention; the newest event always stays, unless it is too old."""
        entries, retention = self._entries, self.retention
        last = len(entries) - 1
        while self._first < last and (len(self) > retention.events or self._bytes > retention.bytes):
            self._drop_oldest()
        if retention.age_s is not None:
            while self._first <= last and entries[self._first].time_s < now_s - retention.age_s:
                self._drop_oldest()
        if self._first > max(_SLACK_MIN, len(entries) // 2):
            del entries[: self._first]
            self._first = 0

    def locate(self, cursor: Cursor) -> Position:
        """Return where a reader with this cursor goes on: a hole is always told of, and counted where it can be."""
        if cursor.epoch != self.epoch or cursor.seq > self.head:
            return self._after_floor("covey.reset", {"head": self.head_id, "oldest": self.oldest_id})
        if cursor.seq >= self.floor:
            return Position(cursor.seq)
        lost = self.floor - cursor.seq if self._is_dense else None
        return self._after_floor("covey.gap", {"after": str(cursor), "before": self.oldest_id, "lost": lost})

    def after(self, seq: int, *, count: int, size_bytes: int) -> list[Entry]:
        """Return the entries after number ``seq``: one if there is any, at most ``count``, about ``size_bytes``."""
        entries = self._entries
        index = self._index_after(seq)
        found: list[Entry] = []
        size = 0
        while index < len(entries) and len(found) < count and size < size_bytes:
            entry = entries[index]
            index += 1
            if not entry.is_replaced:
                found.append(entry)
                size += len(entry.data)
        return found

    def newest(self, count: int) -> list[Entry]:
        """Return up to ``count`` entries from the end, oldest first."""
        found: list[Entry] = []
        for index in range(len(self._entries) - 1, self._first - 1, -1):
            if len(found) == count:
                break
            if not self._entries[index].is_replaced:
                found.append(self._entries[index])
        found.reverse()
        return found

    def _after_floor(self, kind: str, data: object) -> Position:
        return Position(self.floor, Control(kind, data, id=f"{self.epoch}.{self.floor}"))

    def _index_after(self, seq: int) -> int:
        entries = self._entries
        if seq >= self.head:
            return len(entries)
        if self._first < len(entries):
            # Numbers nearly always follow each other: look where the entry would be before searching for it.
            guess = self._first + seq - entries[self._first].seq
            if self._first <= guess < len(entries) and entries[guess].seq == seq:
                return guess + 1
        return bisect_right(entries, seq, lo=self._first, key=_seq)

    def _drop_oldest(self) -> None:
        entry = self._entries[self._first]
        self._entries[self._first] = _GONE
        self._first += 1
        if entry.is_replaced:  # something newer under its key told its readers all there is: no gap
            self._replaced -= 1
            return
        self.floor = entry.seq
        self._bytes -= entry.size_bytes
        if self._newest_by_key is not None and entry.key is not None and self._newest_by_key.get(entry.key) is entry:
            del self._newest_by_key[entry.key]

    def _replace(self, newest: dict[str, Entry], key: str, entry: Entry) -> None:
        old = newest.get(key)
        newest[key] = entry
        if old is None:
            return
        self._is_dense = False
        self._bytes -= old.size_bytes
        # Readers may hold the old entry itself, so it stays as it is; only its place is cleared.
        self._entries[self._index_after(old.seq - 1)] = _place_of(old)
        self._replaced += 1
        if self._replaced > max(_SLACK_MIN, (len(self._entries) - self._first) // 2):
            self._entries = [kept for kept in self._entries[self._first :] if not kept.is_replaced]
            self._first = 0
            self._replaced = 0


def _place_of(entry: Entry) -> Entry:
    place = Entry(entry.seq, "", entry.time_s, "", b"", None, None)
    place.is_replaced = True
    return place
