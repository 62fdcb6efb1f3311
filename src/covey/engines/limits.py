"""What every engine refuses, in one place, so that a program that works on one engine works on all.

The bounds themselves are part of ``ports.engine``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from covey.errors import InvalidInputError, TooLargeError
from covey.ports.engine import (
    APPEND_RECORDS_MAX,
    DATA_BYTES_MAX,
    FIELDS_BYTES_MAX,
    KEY_BYTES_MAX,
    READ_MAX,
    REQUEST_BYTES_MAX,
    Record,
)

# Numbers are signed 64-bit integers wherever they are kept.
SEQ_MAX: Final = (1 << 63) - 1
_EPOCH: Final = re.compile(r"[A-Za-z0-9]{1,16}", re.ASCII)
_encode: Final = msgspec.msgpack.Encoder().encode


def encode_records(records: Sequence[Record]) -> tuple[list[bytes], int]:
    """Return the records as MessagePack and their bytes in all, each and all within the limits of an append.

    Raises:
        InvalidInputError: there is none, there are too many, or a text is not Unicode.
        TooLargeError: one of them, or all together, are over their limit.
    """
    if not 1 <= len(records) <= APPEND_RECORDS_MAX:
        raise InvalidInputError(f"an append has 1 to {APPEND_RECORDS_MAX} records, not {len(records)}")
    try:
        bodies = [_encode(record) for record in records]
    except UnicodeEncodeError as error:
        raise InvalidInputError("a record's kind, by or key has half of a surrogate pair") from error
    size_bytes = sum(map(len, bodies))
    if size_bytes > FIELDS_BYTES_MAX:
        for record, body in zip(records, bodies, strict=True):
            check_size(len(record.data), DATA_BYTES_MAX, what="a record's data")
            check_size(len(body) - len(record.data), FIELDS_BYTES_MAX, what="a record's fields")
        check_size(size_bytes, REQUEST_BYTES_MAX, what="an append")
    return bodies, size_bytes


def check_size(size_bytes: int, limit_bytes: int, *, what: str) -> None:
    """Raise ``TooLargeError`` when it is over the limit."""
    if size_bytes > limit_bytes:
        raise TooLargeError(f"{what} may have {limit_bytes} bytes, not {size_bytes}", limit_bytes=limit_bytes)


def check_key(key: str, *, what: str = "a key") -> str:
    """Return ``key`` when it is 1 to ``KEY_BYTES_MAX`` bytes of UTF-8.

    Raises:
        InvalidInputError: it is not.
    """
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError:
        size_bytes = 0
    if not 1 <= size_bytes <= KEY_BYTES_MAX or "\0" in key:
        raise InvalidInputError(f"{key[:80]!r} is not {what}", hint=f"use 1 to {KEY_BYTES_MAX} bytes of text, no NUL")
    return key


def check_prefix(prefix: str, after: str) -> None:
    """Raise ``InvalidInputError`` unless both are empty or could begin a key."""
    if prefix:
        check_key(prefix, what="a key's beginning")
    if after:
        check_key(after)


def check_epoch(epoch: str) -> str:
    """Return ``epoch`` when it can stand in a cursor.

    Raises:
        InvalidInputError: it can't.
    """
    if _EPOCH.fullmatch(epoch) is None:
        raise InvalidInputError(f"{epoch[:80]!r} is not an epoch", hint="use 1 to 16 letters and digits")
    return epoch


def check_seconds(seconds: float, *, what: str) -> float:
    """Return ``seconds`` when they are a span of time.

    Raises:
        InvalidInputError: they are not positive and finite.
    """
    if not (seconds > 0 and math.isfinite(seconds)):
        raise InvalidInputError(f"{what} must be a positive number of seconds, not {seconds!r}")
    return seconds


def clamp_seq(seq: int) -> int:
    """Return the number nearest to ``seq`` that a record could have, or 0."""
    return max(0, min(seq, SEQ_MAX))


def clamp_limit(limit: int) -> int:
    """Return how many records a read that asks for ``limit`` gives at most."""
    return max(0, min(limit, READ_MAX))
