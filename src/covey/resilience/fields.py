"""Checks of the numbers that make up a policy: what makes no sense is refused where it is written, by its name."""

from __future__ import annotations

import math
from typing import TypeGuard

from covey.errors import InvalidInputError


def check_seconds(name: str, value: object, *, is_optional: bool = False) -> None:
    """Refuse what is not a finite time above 0; None passes where it means "off".

    Raises:
        InvalidInputError: it names the field.
    """
    if is_optional and value is None:
        return
    if not _is_number(value) or not value > 0:
        off = " or None" if is_optional else ""
        raise _misfit(name, value, f"a finite number of seconds above 0{off}")


def check_count(name: str, value: object, *, least: int) -> None:
    """Refuse what is not a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _misfit(name, value, f"a whole number of at least {least}")


def check_between(name: str, value: object, low: float, high: float, *, is_low_in: bool = True) -> None:
    """Refuse what is not a number from ``low`` to ``high``."""
    if not _is_number(value) or not low <= value <= high or (value == low and not is_low_in):
        raise _misfit(
            name,
            value,
            f"a number {'from' if is_low_in else 'above'} {low:g} {'to' if is_low_in else 'and up to'} {high:g}",
        )


def check_order(low_name: str, low: float, high_name: str, high: float) -> None:
    """Refuse two fields of which the first is above the second."""
    if low > high:
        message = f"{low_name} is {low:g}, and must not be above {high_name}, which is {high:g}"
        raise InvalidInputError(message)


def check_instance(name: str, value: object, kind: type, *, is_optional: bool = True) -> None:
    """Refuse a layer that is not described by its own type."""
    if not (isinstance(value, kind) or (is_optional and value is None)):
        raise _misfit(name, value, f"a {kind.__name__}{' or None' if is_optional else ''}")


def check_callable(name: str, value: object) -> None:
    """Refuse what is neither None nor can be called."""
    if value is not None and not callable(value):
        raise _misfit(name, value, "a function or None")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _misfit(name: str, value: object, expected: str) -> InvalidInputError:
    return InvalidInputError(f"{name} is {value!r:.80}, and must be {expected}")
