"""Calls over HTTP. Source: protocol 3.

So far a call is answered as JSON. Streaming answers, and the journal that makes a repeated key attach to its call, come
with the call's own stream; until then a method that must not run twice has its own key, as a cell has.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
from typing import Final

from covey.calls.schema import Method, find_method
from covey.context import acting_for
from covey.errors import ExpiredError, InvalidInputError
from covey.hub.http import Answer, Request, json_response
from covey.hub.problems import problem_response, refusal
from covey.hub.representation import EVENT_STREAM
from covey.team.members import Team

CALL_TIMEOUT_S: Final = 60.0
CALL_TIMEOUT_MAX_S: Final = 3600.0
KEY_CHARACTERS_MAX: Final = 128
CALLS_MAX: Final = 1000


class CallRoutes:
    """Handlers of ``/v1/call``."""

    def __init__(self, team: Team, *, calls_max: int = CALLS_MAX) -> None:
        self._team = team
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
        headers = [("covey-call", call_id(request.principal or "", teammate, method_name, key))]
        arguments = method.bind(await request.body())
        if self.running >= self._calls_max:
            problem = refusal(503, "refused", "Refused for now", f"{self.running} calls are running already")
            return problem_response(problem, headers=[*headers, ("retry-after", "1")])
        return json_response({"result": await self._run(request, method, arguments, timeout_s)}, headers=headers)

    async def _run(self, request: Request, method: Method, arguments: dict[str, object], timeout_s: float) -> object:
        self.running += 1
        try:
            with acting_for(request.principal):
                async with asyncio.timeout(timeout_s):
                    return await method.call(**arguments)
        except TimeoutError as error:
            raise ExpiredError(f"{method.name}() did not answer within {timeout_s:g} s") from error
        finally:
            self.running -= 1


def call_id(principal: str, teammate: str, method: str, key: str) -> str:
    """Return the id of a call: the same for every repeat, another for every other caller."""
    return hashlib.sha256(f"{principal}\0{teammate}\0{method}\0{key}".encode()).hexdigest()[:32]


def _key(request: Request) -> str:
    key = request.headers.get("idempotency-key")
    if key is None:
        return secrets.token_hex(16)
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
