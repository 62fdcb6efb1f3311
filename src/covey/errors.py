"""One tree of errors, so that a caller can catch everything covey raises by one name.

A type exists where a caller would act on it differently; what happened is in fields, never only in the text.
The hub turns each of these into a problem document, the client turns the document back (``hub/problems.py``,
``client/connect.py``).
"""

from __future__ import annotations

from collections.abc import Sequence


class CoveyError(Exception):
    """Base of every error that covey raises on purpose.

    Args:
        message: what went wrong and why, one sentence.
        hint: what to do about it, or None where nothing sensible can be said.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInputError(CoveyError, ValueError):
    """A name, cursor, argument or setting does not have the form it must have."""


class MisfitError(InvalidInputError):
    """Well formed, but it does not fit what it is for: an argument of another type, a reserved kind."""


class TooLargeError(InvalidInputError):
    """Something is over its limit: a body, an event, a header, a frame."""

    def __init__(self, message: str, *, limit_bytes: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.limit_bytes = limit_bytes


class ProtocolError(CoveyError):
    """The two ends of a connection no longer agree on what may be said."""


class LocalProtocolError(ProtocolError):
    """Our end tried to do what the protocol forbids: a bug in the calling code."""


class RemoteProtocolError(ProtocolError):
    """The other end sent what the protocol forbids."""

    def __init__(self, message: str, *, close_code: int = 1002, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.close_code = close_code


class TransientError(CoveyError):
    """It may work when tried again."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class HubUnreachableError(TransientError):
    """No hub answers at the address."""


class UnavailableError(TransientError):
    """A policy did not let the call out, so it never ran: asking now would be of no use, or would do harm.

    ``target`` names whom it was for and ``reason`` is one of ``circuit_open`` (too much failed lately),
    ``asked_to_wait`` (it named a time that is too far off), ``queue_full`` (too many wait already), ``too_late`` (not
    enough time remains) and ``event_loop`` (a plain function would have to wait where that blocks a loop).
    """

    def __init__(
        self, message: str, *, target: str, reason: str, retry_after_s: float | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s, hint=hint)
        self.target = target
        self.reason = reason


class TimedOutError(CoveyError, TimeoutError):
    """No result came within the time that a policy or ``covey.timeout`` gave.

    ``maybe_executed`` says whether the call may have had an effect.
    """

    def __init__(self, message: str, *, maybe_executed: bool, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.maybe_executed = maybe_executed


class StreamCutError(CoveyError):
    """A stream of items ended without the item that says it is complete."""


class AuthenticationError(CoveyError):
    """The hub does not know this token, or it may not do this."""


class StreamClosedError(CoveyError):
    """The stream ended; nothing can be appended any more."""


class StreamNotFoundError(CoveyError):
    """There is no stream of that name."""

    def __init__(self, name: str, *, near: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(f"there is no stream {name!r}", hint=hint or near_hint(near))
        self.name = name
        self.near = tuple(near)


class HeadMovedError(CoveyError):
    """A conditional append found another head than it was given; nothing was appended."""

    def __init__(self, message: str, *, head: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.head = head


class NameTakenError(CoveyError):
    """The name is in use; names are unique in a team."""


class KeyReusedError(CoveyError):
    """A key serves one piece of work; it came again with other content."""


class EngineError(CoveyError):
    """The engine could not keep what it was given: disk full, a corrupt file, a newer format."""


class TeammateError(CoveyError):
    """A call did not bring a result for a reason that lies with the teammate."""


class TeammateNotFoundError(TeammateError):
    """No teammate, or no method of it, has that name."""

    def __init__(self, message: str, *, near: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint or near_hint(near))
        self.near = tuple(near)


class RefusedError(TeammateError, TransientError):
    """The teammate did not take the call: full, draining, not in a state to take it. It never ran."""


class ExpiredError(TeammateError):
    """The deadline passed first."""


class TeammateLostError(TeammateError):
    """The teammate went away before it answered.

    ``maybe_executed`` says whether the call may have had an effect.
    """

    def __init__(self, message: str, *, maybe_executed: bool, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.maybe_executed = maybe_executed


class EvaluationError(CoveyError):
    """Code in a session raised; the traceback as text is in ``traceback``."""

    def __init__(self, message: str, *, traceback: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.traceback = traceback


def near_hint(near: Sequence[str]) -> str | None:
    """Return the sentence that offers near matches, or None when there are none."""
    if not near:
        return None
    return "did you mean " + " or ".join(repr(name) for name in near) + "?"
