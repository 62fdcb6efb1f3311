"""What the other end says about when to come back, and whether to come back at all: headers and gRPC metadata.

Source: RFC 9110 10.2.3 (`Retry-After`); the `retry-after-ms`, `x-should-retry` and `*-ratelimit-*-reset` headers as
OpenAI, Anthropic and Azure send them and their SDKs read them; draft-ietf-httpapi-ratelimit-headers; gRFC A6
(`grpc-retry-pushback-ms`, negative: don't).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

_GO_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# A reset this large is an instant (seconds since 1970), not a duration.
_EPOCH_S_MIN: Final = 1e9


class Hints(msgspec.Struct, frozen=True):
    """What was said.

    Args:
        retry_after_s: how long to wait, None when nothing was said about it.
        is_final: it asked not to be asked again.
        is_welcome: it asked to be asked again, whatever the status.
    """

    retry_after_s: float | None = None
    is_final: bool = False
    is_welcome: bool = False


NOTHING_SAID: Final = Hints()


def read_hints(headers: Mapping[str, str], *, wall_s: float) -> Hints:
    """Return what the headers say.

    Args:
        headers: names in any case.
        wall_s: seconds since 1970, to read dates by. A server's clock may be wrong: a date in the past is "now".
    """
    lowered = {name.lower(): value.strip() for name, value in headers.items()}
    pushback_ms = _number(lowered.get("grpc-retry-pushback-ms", ""))
    should_retry = lowered.get("x-should-retry", "").lower()
    is_final = should_retry == "false" or ("grpc-retry-pushback-ms" in lowered and not _is_wait(pushback_ms))
    for name, read in _READERS:
        value = lowered.get(name)
        after_s = read(value, wall_s) if value is not None else None
        if after_s is not None:
            return Hints(after_s, is_final=is_final, is_welcome=should_retry == "true")
    return Hints(_longest_reset_s(lowered, wall_s), is_final=is_final, is_welcome=should_retry == "true")


def _longest_reset_s(lowered: Mapping[str, str], wall_s: float) -> float | None:
    """Return when the last of the exhausted limits opens again.

    Limits that have something left say nothing about a refusal: services name them in every answer, also in one that
    failed for another reason. Where none is exhausted, those count that don't say how much is left.
    """
    resets = {name: value for name, value in lowered.items() if name.endswith("-reset") or "ratelimit-reset" in name}
    exhausted = [value for name, value in resets.items() if _remaining(lowered, name) == "0"]
    unclear = [value for name, value in resets.items() if _remaining(lowered, name) is None]
    waits = [_reset_s(value, wall_s) for value in exhausted or unclear]
    return max((wait for wait in waits if wait is not None), default=None)


def _remaining(lowered: Mapping[str, str], name: str) -> str | None:
    return lowered.get(name.replace("reset", "remaining"))


def _is_wait(value: float | None) -> bool:
    return value is not None and value >= 0


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _milliseconds(text: str, wall_s: float) -> float | None:  # noqa: ARG001 -- readers share one form
    value = _number(text)
    return value / 1000 if value is not None and value >= 0 else None


def _seconds_or_date(text: str, wall_s: float) -> float | None:
    value = _number(text)
    if value is not None:
        return value if value >= 0 else None
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return _until(moment, wall_s)


def _reset_s(text: str, wall_s: float) -> float | None:
    """Read a reset in any of its forms: seconds, an instant since 1970, ``6m0.5s``, or an RFC 3339 date."""
    value = _number(text)
    if value is not None:
        return max(0.0, value - wall_s) if value >= _EPOCH_S_MIN else value if value >= 0 else None
    parts = _GO_DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNIT_S[unit] for number, unit in parts)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return _until(moment, wall_s)


def _until(moment: datetime, wall_s: float) -> float:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(0.0, aware.timestamp() - wall_s)


# The first that is there counts: the finer one before the coarser one.
_READERS: Final[tuple[tuple[str, Callable[[str, float], float | None]], ...]] = (
    ("grpc-retry-pushback-ms", _milliseconds),
    ("retry-after-ms", _milliseconds),
    ("x-ms-retry-after-ms", _milliseconds),
    ("retry-after", _seconds_or_date),
)
