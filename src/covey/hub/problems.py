"""Errors as problem documents. Source: RFC 9457; protocol, opening section.

One table says which error is which problem; the client reads the same table backwards.
"""

from __future__ import annotations

from typing import Final, NamedTuple

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
    StreamClosedError,
    StreamNotFoundError,
    TeammateLostError,
    TeammateNotFoundError,
    TooLargeError,
    TransientError,
)
from covey.hub.http import Response, SlowBodyError


class Kind(NamedTuple):
    """What a type of error is over HTTP."""

    status: int
    slug: str
    title: str
    is_transient: bool = False


# The row of an error is that of its nearest base.
KINDS: Final[tuple[tuple[type[CoveyError], Kind], ...]] = (
    (TooLargeError, Kind(413, "too-large", "Too large")),
    (MisfitError, Kind(422, "misfit", "It does not fit what it is for")),
    (InvalidInputError, Kind(400, "invalid-input", "The request does not have the form it must have")),
    (AuthenticationError, Kind(401, "unauthenticated", "A valid token is needed")),
    (StreamNotFoundError, Kind(404, "stream-not-found", "No such stream")),
    (TeammateNotFoundError, Kind(404, "teammate-not-found", "No such teammate or method")),
    (NameTakenError, Kind(409, "name-taken", "The name is taken")),
    (StreamClosedError, Kind(409, "stream-closed", "The stream has ended")),
    (HeadMovedError, Kind(412, "head-moved", "The head has moved")),
    (KeyReusedError, Kind(422, "key-reused", "The key was used for something else")),
    (SlowBodyError, Kind(408, "slow-body", "The request did not arrive in time", is_transient=True)),
    (ExpiredError, Kind(504, "expired", "The deadline passed", is_transient=True)),
    (TeammateLostError, Kind(502, "teammate-lost", "The teammate was lost", is_transient=True)),
    (EngineError, Kind(503, "engine", "The engine could not keep it", is_transient=True)),
    (RefusedError, Kind(503, "refused", "Refused for now", is_transient=True)),
    (TransientError, Kind(503, "unavailable", "Not available now", is_transient=True)),
    (CoveyError, Kind(500, "failed", "It failed")),
)


class Problem(msgspec.Struct, omit_defaults=True):
    """A problem document; absent fields do not apply."""

    type: str
    title: str
    status: int
    detail: str
    transient: bool | None = None
    hint: str | None = None
    retry_after_s: float | None = None
    maybe_executed: bool | None = None
    head: str | None = None
    limit_bytes: int | None = None


def kind_of(error: CoveyError) -> Kind:
    """Return the first row of the table that fits."""
    kinds: dict[type, Kind] = dict(KINDS)
    return next(kinds[base] for base in type(error).__mro__ if base in kinds)


def problem_of(error: CoveyError, *, status: int | None = None, slug: str | None = None) -> Problem:
    """Return the document that tells of ``error``."""
    kind = kind_of(error)
    return Problem(
        type=f"urn:covey:problem:{slug or kind.slug}",
        title=kind.title,
        status=status or kind.status,
        detail=error.message,
        transient=kind.is_transient,
        hint=error.hint,
        retry_after_s=error.retry_after_s if isinstance(error, TransientError) else None,
        maybe_executed=error.maybe_executed if isinstance(error, TeammateLostError) else None,
        head=error.head if isinstance(error, HeadMovedError) else None,
        limit_bytes=error.limit_bytes if isinstance(error, TooLargeError) else None,
    )


def problem_response(problem: Problem, *, headers: list[tuple[str, str]] | None = None) -> Response:
    """Return the document as a response, with ``Retry-After`` where it says when."""
    fixed = [
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ]
    if problem.retry_after_s is not None:
        fixed.append(("retry-after", str(max(1, round(problem.retry_after_s)))))
    return Response(problem.status, msgspec.json.encode(problem), headers=[*fixed, *(headers or [])])


def not_found(path: str, *, hint: str) -> Problem:
    """Return the answer to a path that nothing is at."""
    return Problem(
        type="urn:covey:problem:not-found",
        title="Nothing is here",
        status=404,
        detail=f"there is nothing at {path[:200]!r}",
        transient=False,
        hint=hint,
    )


def refusal(status: int, slug: str, title: str, detail: str, *, hint: str | None = None) -> Problem:
    """Return a problem that stands for no error of covey's: a wrong Host, a method that is not allowed."""
    return Problem(f"urn:covey:problem:{slug}", title, status, detail, transient=False, hint=hint)
