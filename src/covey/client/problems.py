"""Problem documents back into errors, so that a caller catches the same types near and far.

Source: RFC 9457; protocol, opening section. The hub writes these documents from the same errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from covey.errors import (
    AuthenticationError,
    CoveyError,
    EngineError,
    ExpiredError,
    HeadMovedError,
    InvalidInputError,
    KeyReusedError,
    MisfitError,
    NameTakenError,
    RefusedError,
    RemoteProtocolError,
    StreamClosedError,
    StreamNotFoundError,
    TeammateLostError,
    TeammateNotFoundError,
    TooLargeError,
    TransientError,
)

PROBLEM_TYPE: Final = "application/problem+json"
# Longer than any problem that a hub writes: what is longer comes from something else, and is not read to its end.
PROBLEM_BYTES_MAX: Final = 64 << 10
# A longer wish is a mistake of the other end more often than its will, and nobody could tell waiting from hanging.
RETRY_AFTER_S_MAX: Final = 3600.0


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What a document says, with what the status alone says where it is silent."""

    status: int
    type: str = "about:blank"
    title: str = ""
    detail: str = ""
    hint: str | None = None
    transient: bool | None = None
    retry_after_s: float | None = None
    maybe_executed: bool | None = None
    head: str | None = None
    limit_bytes: int | None = None

    @property
    def slug(self) -> str:
        """The last part of the type: the word that names the problem."""
        return self.type.replace("/", ":").rpartition(":")[2]

    @property
    def message(self) -> str:
        """One sentence; every problem has one, also an answer without a document."""
        return self.detail or self.title or f"the hub answered with status {self.status}"

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later."""
        if self.transient is not None:
            return self.transient
        return self.status in _TRANSIENT_STATUSES or self.status >= 500


_TRANSIENT_STATUSES: Final = frozenset({408, 425, 429})


class _Document(msgspec.Struct):
    """A document as it comes; anything else in it is left alone. ``status`` there is advisory (RFC 9457, 3.1.2)."""

    type: str = "about:blank"
    title: str = ""
    detail: str = ""
    hint: str | None = None
    transient: bool | None = None
    retry_after_s: float | None = None
    maybe_executed: bool | None = None
    head: str | None = None
    limit_bytes: int | None = None


def read_problem(status: int, headers: Mapping[str, str], body: bytes) -> Problem:
    """Return what an answer that is no success says; never raises, whatever the body is."""
    document = _Document()
    if headers.get("content-type", "").partition(";")[0].strip().lower() == PROBLEM_TYPE:
        try:
            document = msgspec.json.decode(body, type=_Document)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            document = _Document()
    wait_s = document.retry_after_s
    return Problem(
        status=status,
        type=document.type,
        title=document.title,
        detail=document.detail,
        hint=document.hint,
        transient=document.transient,
        retry_after_s=_bounded(wait_s) if wait_s is not None else _retry_after_s(headers.get("retry-after", "")),
        maybe_executed=document.maybe_executed,
        head=document.head,
        limit_bytes=document.limit_bytes,
    )


def error_of(problem: Problem) -> CoveyError:
    """Return the error that the problem is about; an unknown problem is told by its status."""
    make = _BY_SLUG.get(problem.slug) or _BY_STATUS.get(problem.status)
    if make is not None:
        return make(problem)
    if problem.is_transient:
        return _transient(problem)
    return CoveyError(problem.message, hint=problem.hint)


def _too_large(problem: Problem) -> CoveyError:
    return TooLargeError(problem.message, limit_bytes=problem.limit_bytes or 0, hint=problem.hint)


def _transient(problem: Problem) -> CoveyError:
    return TransientError(problem.message, retry_after_s=problem.retry_after_s, hint=problem.hint)


def _refused(problem: Problem) -> CoveyError:
    return RefusedError(problem.message, retry_after_s=problem.retry_after_s, hint=problem.hint)


def _head_moved(problem: Problem) -> CoveyError:
    return HeadMovedError(problem.message, head=problem.head or "", hint=problem.hint)


def _lost(problem: Problem) -> CoveyError:
    # Silence about it means that nobody knows, and that is what `maybe_executed` says.
    return TeammateLostError(problem.message, maybe_executed=problem.maybe_executed is not False, hint=problem.hint)


def _stream_not_found(problem: Problem) -> CoveyError:
    error = StreamNotFoundError("", hint=problem.hint)
    error.message = problem.message
    error.args = (problem.message,)
    return error


def _plain(type_: type[CoveyError]) -> Callable[[Problem], CoveyError]:
    def make(problem: Problem) -> CoveyError:
        return type_(problem.message, hint=problem.hint)

    return make


_BY_SLUG: Final[Mapping[str, Callable[[Problem], CoveyError]]] = {
    "too-large": _too_large,
    "invalid-input": _plain(InvalidInputError),
    "misfit": _plain(MisfitError),
    "unauthenticated": _plain(AuthenticationError),
    "stream-not-found": _stream_not_found,
    "teammate-not-found": _plain(TeammateNotFoundError),
    "name-taken": _plain(NameTakenError),
    "stream-closed": _plain(StreamClosedError),
    "head-moved": _head_moved,
    "key-reused": _plain(KeyReusedError),
    "expired": _plain(ExpiredError),
    "teammate-lost": _lost,
    "engine": _plain(EngineError),
    "refused": _refused,
    "unavailable": _transient,
}
# For answers of something between us and the hub, and for problems of a newer hub.
_BY_STATUS: Final[Mapping[int, Callable[[Problem], CoveyError]]] = {
    400: _plain(InvalidInputError),
    401: _plain(AuthenticationError),
    403: _plain(AuthenticationError),
    406: _plain(RemoteProtocolError),
    413: _too_large,
    422: _plain(InvalidInputError),
    431: _too_large,
}


def _retry_after_s(value: str) -> float | None:
    """Return ``Retry-After`` in seconds; its other form, a date, is left alone since it needs both clocks to agree."""
    digits = value.strip()
    return _bounded(float(digits[:9])) if digits.isascii() and digits.isdigit() else None


def _bounded(wait_s: float) -> float | None:
    return min(wait_s, RETRY_AFTER_S_MAX) if wait_s >= 0 and math.isfinite(wait_s) else None
