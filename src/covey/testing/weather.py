"""What the ways between hosts do to what passes, from a seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Final

import msgspec

from covey.errors import InvalidInputError

Record = Callable[[str], None]

_REORDER_FACTOR: Final = 10.0


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What the way between two hosts does. Chances (``…_p``) are from 0 to 1.

    Args:
        delay_s: how long anything is on its way, at the least.
        jitter_s: and up to so much longer.
        refuse_p: a connection is refused.
        split_p: what was written arrives in two pieces.
        cut_p: a write is its connection's last: a part of it arrives, then both ends are reset.
        cut_after_bytes: the same once so many bytes were written in one direction.
        mute_p: from this write on nothing of that direction arrives, and nothing says so.
        lose_p: a message does not arrive. This and the two below are for messages, not for connections.
        duplicate_p: it arrives twice.
        reorder_p: it takes up to ten times as long, so that later ones overtake it.
    """

    delay_s: float = 0.001
    jitter_s: float = 0.001
    refuse_p: float = 0.0
    split_p: float = 0.0
    cut_p: float = 0.0
    cut_after_bytes: int | None = None
    mute_p: float = 0.0
    lose_p: float = 0.0
    duplicate_p: float = 0.0
    reorder_p: float = 0.0

    def __post_init__(self) -> None:
        for field in ("delay_s", "jitter_s"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise InvalidInputError(f"Conditions.{field} must be seconds, 0 or more")
        for field in self.__struct_fields__:
            if field.endswith("_p") and not 0 <= getattr(self, field) <= 1:
                raise InvalidInputError(f"Conditions.{field} must be from 0 to 1")
        if self.cut_after_bytes is not None and self.cut_after_bytes < 0:
            raise InvalidInputError("Conditions.cut_after_bytes must be 0 or more")


_LOOPBACK: Final = Conditions(delay_s=0.00002, jitter_s=0.00002)


class Weather:
    """The state of all ways.

    ``conditions`` are those of every way that ``between`` does not name; connections keep those under which they began.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, chance: random.Random, record: Record) -> None:
        self.conditions = Conditions()
        self.record = record
        self._loop = loop
        self._random = chance
        self._between: dict[tuple[str, str], Conditions] = {}
        self._muted: set[tuple[str, str]] = set()
        self._hosts: dict[str, bool] = {}  # by name: whether it has power

    def between(self, first: str, second: str, conditions: Conditions) -> None:
        """Give the way between two hosts conditions of its own, in both directions."""
        self._between[first, second] = self._between[second, first] = conditions

    def mute(self, sender: str, receiver: str) -> None:
        """Let nothing through from ``sender`` to ``receiver`` until ``heal``; the other direction stays as it is."""
        self.record(f"mute {sender}>{receiver}")
        self._muted.add((sender, receiver))

    def partition(self, *groups: Iterable[str]) -> None:
        """Let nothing through between hosts of different groups until ``heal``.

        What is on its way in a connection waits and arrives later, as a real system repeats it; messages are lost.
        """
        split = [sorted(group) for group in groups]
        for here in split:
            for there in split:
                if here is not there:
                    for pair in ((one, other) for one in here for other in there):
                        self.mute(*pair)

    def heal(self) -> None:
        """End every mute and partition."""
        self.record("heal")
        self._muted.clear()

    def conditions_between(self, sender: str, receiver: str) -> Conditions:
        """Return those of ``between``, or the general ones; nothing happens to what stays on its host."""
        if sender == receiver:
            return _LOOPBACK
        return self._between.get((sender, receiver), self.conditions)

    def is_open(self, sender: str, receiver: str) -> bool:
        """Whether anything gets through now."""
        return (sender, receiver) not in self._muted and self._hosts.get(receiver, False)

    def happens(self, p: float) -> bool:
        """Draw whether something of this chance happens; what never happens costs no number."""
        return p > 0 and self._random.random() < p

    def pick(self, below: int) -> int:
        """Draw a number from 0 to below this one."""
        return self._random.randrange(below) if below > 0 else 0

    def travel_s(self, conditions: Conditions) -> float:
        """Draw how long something is on its way."""
        return conditions.delay_s + self._random.random() * conditions.jitter_s

    def stretch(self) -> float:
        """Draw how many times as long as others a message takes that others shall overtake."""
        return self._random.uniform(1.0, _REORDER_FACTOR)

    def time(self) -> float:
        """Return the loop's time."""
        return self._loop.time()

    def after(self, delay_s: float, call: Callable[..., object], *arguments: object) -> asyncio.TimerHandle:
        """Do something later, for the network itself: no crash of a process keeps it from happening."""
        return self._loop.call_later(delay_s, call, *arguments, context=Context())
