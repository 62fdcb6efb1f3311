"""Failures on purpose, repeatable from a seed: errors, delays, losses, repeats, disorder, cuts and stalls.

A description (``Faults``) is a value that can be part of a policy; what carries it out keeps a ``FaultPlan``, which
draws from the seed. A target knows two points: ``send``, before the call, which then never ran, and ``receive``, after
it, when it did run and its result is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from covey.errors import InvalidInputError
from covey.resilience.fields import check_between, check_count, check_seconds

T = TypeVar("T")

_MASK: Final = (1 << 64) - 1
_GAMMA: Final = 0x9E3779B97F4A7C15


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What happens with probability ``p`` to whatever passes ``point``.

    Args:
        point: where: ``send``, ``receive``, or any name that the code under test asks for.
        p: how often, 0 to 1.
        error: raise it: an exception, or a function that makes one.
        delay_s: hold it back for this long.
        drop: it never arrives.
        duplicate: it arrives twice.
        reorder: it arrives after what comes next.
        cut_after_bytes: only so many bytes of it arrive, then the connection is gone.
        stall: nothing arrives any more, and nothing says so.
        times: after so many times it is over; None: never.
    """

    point: str
    p: float = 1.0
    error: BaseException | Callable[[], BaseException] | None = None
    delay_s: float | None = None
    drop: bool = False
    duplicate: bool = False
    reorder: bool = False
    cut_after_bytes: int | None = None
    stall: bool = False
    times: int | None = None

    def __post_init__(self) -> None:
        check_between("Fault.p", self.p, 0.0, 1.0)
        check_seconds("Fault.delay_s", self.delay_s, is_optional=True)
        if self.cut_after_bytes is not None:
            check_count("Fault.cut_after_bytes", self.cut_after_bytes, least=0)
        if self.times is not None:
            check_count("Fault.times", self.times, least=1)
        effects = (self.error, self.delay_s, self.cut_after_bytes)
        if all(effect is None for effect in effects) and not (
            self.drop or self.duplicate or self.reorder or self.stall
        ):
            message = f"the fault at {self.point!r} does nothing: give it an error, delay_s, drop, ..."
            raise InvalidInputError(message)

    def exception(self) -> BaseException | None:
        """Return what to raise."""
        return self.error() if callable(self.error) else self.error


class Faults(msgspec.Struct, frozen=True):
    """A seed and what may happen, in the order in which it is drawn."""

    seed: int
    rules: tuple[Fault, ...] = ()

    def at(
        self,
        point: str,
        *,
        p: float = 1.0,
        error: BaseException | Callable[[], BaseException] | None = None,
        delay_s: float | None = None,
        drop: bool = False,
        duplicate: bool = False,
        reorder: bool = False,
        cut_after_bytes: int | None = None,
        stall: bool = False,
        times: int | None = None,
    ) -> Faults:
        """Return these faults and one more; see ``Fault``."""
        rule = Fault(
            point=point,
            p=p,
            error=error,
            delay_s=delay_s,
            drop=drop,
            duplicate=duplicate,
            reorder=reorder,
            cut_after_bytes=cut_after_bytes,
            stall=stall,
            times=times,
        )
        return Faults(self.seed, (*self.rules, rule))


class FaultPlan:
    """Draws what happens. The same seed and the same questions give the same answers, on every Python."""

    __slots__ = ("_left", "_rules", "_state")

    def __init__(self, faults: Faults) -> None:
        self._state = faults.seed & _MASK
        self._rules = faults.rules
        self._left = [rule.times for rule in faults.rules]

    def draw(self, point: str) -> Fault | None:
        """Return what happens to the next thing at this point; None: nothing does. The first that hits counts."""
        for index, rule in enumerate(self._rules):
            if rule.point != point or self._left[index] == 0:
                continue
            if self._uniform() >= rule.p:
                continue
            left = self._left[index]
            self._left[index] = left - 1 if left is not None else None
            return rule
        return None

    def _uniform(self) -> float:
        """Return a number in [0, 1), by splitmix64: short, and the same everywhere."""
        self._state = (self._state + _GAMMA) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)


class Delivery(msgspec.Struct, Generic[T], frozen=True):
    """A frame that does arrive, and after how long."""

    frame: T
    delay_s: float = 0.0


class FaultyLine(Generic[T]):
    """Applies a plan to frames that pass one point in order."""

    __slots__ = ("_held", "_plan", "_point", "is_stalled")

    def __init__(self, plan: FaultPlan, point: str) -> None:
        self._plan = plan
        self._point = point
        self._held: T | None = None
        self.is_stalled = False

    def pass_on(self, frame: T) -> list[Delivery[T]]:
        """Return what arrives now that this frame was sent.

        Raises:
            BaseException: the error that the plan has for it.
        """
        if self.is_stalled:
            return []
        fault = self._plan.draw(self._point)
        error = fault.exception() if fault is not None else None
        if error is not None:
            raise error
        if fault is not None and fault.stall:
            self.is_stalled = True
            return []
        if fault is not None and fault.reorder and self._held is None:
            self._held = frame
            return []
        delivered = self._copies(frame, fault)
        if self._held is not None:
            delivered.append(Delivery(self._held))
            self._held = None
        return delivered

    @staticmethod
    def _copies(frame: T, fault: Fault | None) -> list[Delivery[T]]:
        if fault is None:
            return [Delivery(frame)]
        if fault.drop:
            return []
        return [Delivery(frame, fault.delay_s or 0.0)] * (2 if fault.duplicate else 1)


class FaultyBytes:
    """Applies cuts to a connection's bytes: after so many, it is gone."""

    __slots__ = ("_left",)

    def __init__(self, plan: FaultPlan, point: str) -> None:
        fault = plan.draw(point)
        self._left = fault.cut_after_bytes if fault is not None else None

    def pass_on(self, data: bytes) -> tuple[bytes, bool]:
        """Return what arrives of the data, and whether the connection is gone after it."""
        if self._left is None:
            return data, False
        arrived = data[: self._left]
        self._left -= len(arrived)
        return arrived, self._left == 0
