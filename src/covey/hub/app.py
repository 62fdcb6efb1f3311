"""The hub as a plain ASGI callable: routes, the order of checks, errors as problems.

Order: is the Host ours, is there such a route, who asks, may this page ask; then the handler. Source: protocol 6.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from covey.errors import AuthenticationError, CoveyError
from covey.hub import pages
from covey.hub.auth import Gate, Outside, check_host
from covey.hub.calls import CallRoutes
from covey.hub.http import Answer, ClientGoneError, Receive, Request, Response, Scope, Send
from covey.hub.problems import Problem, not_found, problem_of, problem_response, refusal
from covey.hub.readers import Readers
from covey.hub.streams import ForbiddenError, StreamRoutes
from covey.hub.teammates import TeammateRoutes

if TYPE_CHECKING:
    from covey.calls.journal import Journal
    from covey.ports.clock import Clock
    from covey.ports.randomness import Randomness
    from covey.streams.streams import Streams
    from covey.team.members import Team

Handler = Callable[..., Awaitable[Answer]]

_log: Final = logging.getLogger("covey.hub")


class Route(NamedTuple):
    """One path and who answers it; ``{}`` stands for any one part and is given to the handler."""

    method: str
    pattern: str
    handler: Handler
    is_open: bool = False  # answered without a token

    def match(self, parts: list[str]) -> list[str] | None:
        """Return what stands for the ``{}``s, or None when the path is another."""
        pattern = self.pattern.split("/")
        if len(pattern) != len(parts):
            return None
        if any(expected not in {"{}", part} for expected, part in zip(pattern, parts, strict=True)):
            return None
        return [part for expected, part in zip(pattern, parts, strict=True) if expected == "{}"]


class LoginBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page logs in with."""

    token: str


class Hub:
    """The ASGI application.

    Args:
        streams: what ``/v1/streams`` serves.
        team: what ``/v1/call`` and ``/v1/teammates`` serve.
        journal: what makes keyed calls run once.
        token: what opens it; None lets everybody in.
        outside: how it is addressed.
        clock: where time comes from.
        randomness: where jitter comes from.
    """

    def __init__(
        self,
        *,
        streams: Streams,
        team: Team,
        journal: Journal,
        token: str | None,
        outside: Outside,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self.streams = streams
        self.team = team
        self.journal = journal
        self.readers = Readers(randomness)
        self._gate = Gate(token)
        self._outside = outside
        stream_routes = StreamRoutes(streams, self.readers, clock, randomness)
        self.fanout = stream_routes.fanout
        call_routes = CallRoutes(team, journal)
        teammate_routes = TeammateRoutes(team)
        self._routes: Final = (
            Route("GET", "/", pages.index, is_open=True),
            Route("GET", "/console/{}", pages.asset, is_open=True),
            Route("GET", "/livez", self._livez, is_open=True),
            Route("GET", "/readyz", self._readyz, is_open=True),
            Route("POST", "/v1/login", self._login, is_open=True),
            Route("GET", "/v1/streams", stream_routes.index),
            Route("GET", "/v1/streams/{}", stream_routes.read),
            Route("POST", "/v1/streams/{}", stream_routes.append),
            Route("PUT", "/v1/streams/{}", stream_routes.create),
            Route("DELETE", "/v1/streams/{}", stream_routes.close),
            Route("POST", "/v1/call/{}/{}", call_routes.call),
            Route("DELETE", "/v1/calls/{}", call_routes.cancel),
            Route("GET", "/v1/teammates", teammate_routes.index),
            Route("POST", "/v1/teammates", teammate_routes.spawn),
            Route("GET", "/v1/teammates/{}", teammate_routes.show),
            Route("DELETE", "/v1/teammates/{}", teammate_routes.stop),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. A lifespan is not needed: whoever mounts the hub enters what it serves."""
        if scope["type"] not in {"http", "websocket"}:
            if scope["type"] == "lifespan":
                await _decline_lifespan(receive, send)
            return
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
        except ClientGoneError:
            return
        if self._outside.origins:
            answer.headers += self._cors_headers(request)
        await answer.send_to(request, send)

    async def _answer(self, request: Request) -> Answer:
        try:
            return await self._route(request)
        except ClientGoneError:
            raise
        except ForbiddenError as error:
            return problem_response(problem_of(error, status=403, slug="forbidden"))
        except AuthenticationError as error:
            return problem_response(problem_of(error), headers=[("www-authenticate", "Bearer")])
        except CoveyError as error:
            return problem_response(problem_of(error))
        except Exception:  # noqa: BLE001 -- the edge: what a handler did not foresee must not cost the connection
            _log.exception("a request for %s failed", request.path[:200])
            problem = refusal(500, "failed", "It failed", "the hub failed to answer; its log says why")
            return problem_response(problem)

    async def _route(self, request: Request) -> Answer:
        probe = request.path in {"/livez", "/readyz"}
        wrong_host = None if probe else check_host(request, self._outside)
        if wrong_host is not None:
            return problem_response(wrong_host)
        if request.method == "OPTIONS":
            return self._options(request)
        found = self._find(request)
        if isinstance(found, tuple):
            route, parts = found
            if not route.is_open:
                refused = self._admit(request)
                if refused is not None:
                    return refused
            return await route.handler(request, *parts)
        if request.path.startswith("/v1"):
            refused = self._admit(request)
            if refused is not None:
                return refused
        return found

    def _admit(self, request: Request) -> Answer | None:
        principal = self._gate.principal(request, self._outside)
        if isinstance(principal, Problem):
            return problem_response(principal)
        request.principal = principal
        return None

    def _find(self, request: Request) -> tuple[Route, list[str]] | Answer:
        parts = request.path.split("/")
        matches = [(route, found) for route in self._routes if (found := route.match(parts)) is not None]
        method = "GET" if request.method == "HEAD" else request.method
        for route, found in matches:
            if route.method == method:
                return route, found
        if matches:
            allowed = _allowed(route for route, _ in matches)
            problem = refusal(
                405,
                "method-not-allowed",
                "Not this method",
                f"{request.method} is not allowed here",
                hint=f"allowed: {', '.join(allowed)}",
            )
            return problem_response(problem, headers=[("allow", ", ".join(allowed))])
        near = difflib.get_close_matches(request.path[:200], [route.pattern for route in self._routes], n=1, cutoff=0.5)
        hint = f"did you mean {near[0].replace('{}', '<name>')}?" if near else "the API is under /v1"
        return problem_response(not_found(request.path, hint=hint))

    # ---- small handlers

    async def _livez(self, request: Request) -> Answer:  # noqa: ARG002 -- a handler
        return Response(200, b"ok\n", headers=[("content-type", "text/plain")])

    async def _readyz(self, request: Request) -> Answer:  # noqa: ARG002 -- a handler
        if self.readers.is_draining:
            return Response(503, b"draining\n", headers=[("content-type", "text/plain")])
        return Response(200, b"ok\n", headers=[("content-type", "text/plain")])

    async def _login(self, request: Request) -> Answer:
        body = await request.json(LoginBody, size_max=4096)
        if not self._gate.knows(body.token):
            raise AuthenticationError("the token is not this hub's", hint="copy the whole URL that the hub printed")
        return Response(204, headers=[("set-cookie", self._gate.cookie_header(request, self._outside))])

    def _options(self, request: Request) -> Answer:
        parts = request.path.split("/")
        allowed = _allowed(route for route in self._routes if route.match(parts) is not None)
        headers = [("allow", ", ".join(allowed))]
        if request.headers.get("origin") in self._outside.origins:
            headers += [
                ("access-control-allow-methods", ", ".join(allowed)),
                ("access-control-allow-headers", request.headers.get("access-control-request-headers", "")),
                ("access-control-max-age", "600"),
            ]
        return Response(204, headers=headers)

    def _cors_headers(self, request: Request) -> list[tuple[str, str]]:
        headers = [("vary", "origin")]
        origin = request.headers.get("origin")
        if origin is not None and origin in self._outside.origins:
            headers.append(("access-control-allow-origin", origin))
            headers.append(("access-control-expose-headers", "covey-call, retry-after"))
        return headers


def _allowed(routes: Iterable[Route]) -> list[str]:
    """Return the methods that may be used where these routes are; HEAD wherever GET may."""
    methods = {route.method for route in routes}
    return sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set()))


async def _decline_lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
