"""Calls over HTTP. Source: protocol 3.

So far a call is answered as JSON; streaming answers come with the call's own stream. A call with a key is journalled:
its repeat joins it while it runs, and is answered from the journal afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from covey.calls.journal import Failed, Journal, Outcome
from covey.calls.schema import Method, find_method
from covey.context import acting_for
from covey.errors import CoveyError, ExpiredError, InvalidInputError, RefusedError, TeammateLostError
from covey.hub.http import Answer, Request, encode_json, json_response
from covey.hub.problems import Problem, problem_of, problem_response, refusal
from covey.hub.representation import EVENT_STREAM
from covey.team.members import Team

CALL_TIMEOUT_S: Final = 60.0
CALL_TIMEOUT_MAX_S: Final = 3600.0
KEY_CHARACTERS_MAX: Final = 128
CALLS_MAX: Final = 1000
# The call's own deadline comes first, so that the one who began it learns its outcome and not only that time is over.
JOIN_MARGIN_S: Final = 0.25

_log: Final = logging.getLogger("covey.hub")


class CallRoutes:
    """Handlers of ``/v1/call``."""

    def __init__(self, team: Team, journal: Journal, *, calls_max: int = CALLS_MAX) -> None:
        self._team = team
        self._journal = journal
        self._calls_max = calls_max
        self.running = 0

    async def call(self, request: Request, teammate: str, method_name: str) -> Answer:
        """``POST /v1/call/{teammate}/{method}``."""
        member = self._team.get(teammate)
        method = find_method(member.methods, teammate, method_name)
        key = _key(request)
        timeout_s = _timeout_s(request)
        if request.accepts(EVENT_STREAM) and not request.accepts("application/json"):
            return problem_response(
                refusal(
                    406,
                    "not-acceptable",
                    "Only JSON is answered",
                    f"{method.name}() gives one result, not a stream",
                    hint="send 'Accept: application/json'; a session's output is on its stream <name>.out",
                )
            )
        identifier = call_id(request.principal or "", teammate, method_name, key or secrets.token_hex(16))
        headers = [("covey-call", identifier)]
        body = await request.body()
        arguments = method.bind(body)
        if self.running >= self._calls_max:
            refused = RefusedError(f"{self.running} calls are running already", retry_after_s=1.0)
            return problem_response(problem_of(refused), headers=headers)

        async def work() -> bytes:
            with acting_for(request.principal):
                return await self._work(method, arguments, timeout_s)

        self.running += 1
        try:
            if key is None:
                outcome = await _unkeyed(work)
            else:
                digest = hashlib.sha256(body).digest()
                keyed = self._journal.run(identifier, digest, work, is_idempotent=method.is_idempotent)
                outcome = await _within(keyed, timeout_s, method.name)
        finally:
            self.running -= 1
        return _answer(outcome, headers)

    async def cancel(self, request: Request, identifier: str) -> Answer:  # noqa: ARG002 -- a handler
        """``DELETE /v1/calls/{id}``: cancel a call, and tell truthfully which it was."""
        state = self._journal.cancel(identifier)
        if state is None:
            error = TeammateLostError(
                f"nothing is known of the call {identifier[:64]!r} in this run of the hub", maybe_executed=True
            )
            return problem_response(problem_of(error, status=404, slug="call-not-found"))
        return json_response({"call": identifier, "state": state})

    async def _work(self, method: Method, arguments: dict[str, object], timeout_s: float) -> bytes:
        """Return the result as JSON. Whatever else happens once user code runs is an outcome too, kept for repeats."""
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                return encode_json(await method.call(**arguments))
        except RefusedError:
            raise
        except TimeoutError as error:
            if not deadline.expired():  # the method's own, and none of ours
                raise _failed(_unforeseen(method)) from error
            raise _failed(ExpiredError(f"{method.name}() did not answer within {timeout_s:g} s")) from None
        except asyncio.CancelledError:
            raise _failed(TeammateLostError(f"{method.name}() was cancelled", maybe_executed=True)) from None
        except CoveyError as error:
            raise _failed(error) from error
        except Exception as error:
            raise _failed(_unforeseen(method)) from error


async def _within(call: Awaitable[Outcome], timeout_s: float, name: str) -> Outcome:
    """Wait for a call that another caller may have begun, with a deadline of its own."""
    try:
        async with asyncio.timeout(timeout_s + JOIN_MARGIN_S):
            return await call
    except TimeoutError:
        raise ExpiredError(f"{name}() did not answer within {timeout_s:g} s", hint="repeat it to ask again") from None


async def _unkeyed(work: Callable[[], Awaitable[bytes]]) -> Outcome:
    try:
        return Outcome(is_result=True, body=await work())
    except Failed as failed:
        return Outcome(is_result=False, body=failed.outcome)


def _unforeseen(method: Method) -> CoveyError:
    """Log the exception that a method raised, and return what its caller may know of it."""
    _log.exception("%s() failed", method.name)
    return CoveyError(f"{method.name}() failed; the hub's log says why")


def _failed(error: CoveyError) -> Failed:
    return Failed(msgspec.json.encode(problem_of(error)))


def _answer(outcome: Outcome, headers: list[tuple[str, str]]) -> Answer:
    if not outcome.is_result:
        return problem_response(msgspec.json.decode(outcome.body, type=Problem), headers=headers)
    return json_response({"result": msgspec.Raw(outcome.body)}, headers=headers)


def call_id(principal: str, teammate: str, method: str, key: str) -> str:
    """Return the id of a call: the same for every repeat, another for every other caller."""
    return hashlib.sha256(f"{principal}\0{teammate}\0{method}\0{key}".encode()).hexdigest()[:32]


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not (1 <= len(key) <= KEY_CHARACTERS_MAX and key.isascii() and key.isprintable()):
        raise InvalidInputError(f"an idempotency key is 1 to {KEY_CHARACTERS_MAX} printable ASCII characters")
    return key


def _timeout_s(request: Request) -> float:
    """Return the time that remains, in seconds; the wire carries it in whole milliseconds."""
    text = request.headers.get("covey-timeout-ms")
    if text is None:
        return CALL_TIMEOUT_S
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise InvalidInputError(f"Covey-Timeout-Ms must be a whole number of milliseconds, not {text[:40]!r}")
    timeout_s = int(text) / 1000
    if math.isclose(timeout_s, 0.0):
        raise ExpiredError("no time remained when the call arrived")
    return min(timeout_s, CALL_TIMEOUT_MAX_S)
