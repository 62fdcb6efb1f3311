"""HTTP as the hub's handlers see it: a request, a response, and bodies within limits. No framework, no routing here."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import parse_qsl

import msgspec

from covey.errors import CoveyError, ExpiredError, InvalidInputError, TooLargeError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_BYTES_MAX: Final = 8 << 20
# 8 MiB in this time is a slow modem; a client that needs longer keeps a place that others want.
BODY_S: Final = 60.0
QUERY_FIELDS_MAX: Final = 64
HEADER_BYTES_MAX: Final = 64 << 10

T = TypeVar("T")


class SlowBodyError(ExpiredError):
    """The body dribbled in; nobody waits for it for ever."""


class ClientGoneError(Exception):
    """The client closed the connection before its request was whole; nobody is left to answer."""


class Answer(Protocol):
    """What a handler returns: something that knows how to send itself, with headers that may be added to."""

    headers: list[tuple[str, str]]

    async def send_to(self, request: Request, send: Send) -> None:
        """Send the whole response."""
        ...


class Request:
    """One HTTP request or WebSocket handshake."""

    __slots__ = ("_headers", "_query", "is_websocket", "method", "path", "principal", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.is_websocket = scope["type"] == "websocket"
        self.method: str = "GET" if self.is_websocket else scope["method"]
        self.path = _path_below(scope["path"], scope.get("root_path", ""))
        self.principal: str | None = None
        self._headers: dict[str, str] | None = None
        self._query: dict[str, str] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Header values by lower-case name; several of one name are joined by commas, as HTTP allows."""
        if self._headers is None:
            raw: list[tuple[bytes, bytes]] = self.scope["headers"]
            if sum(len(name) + len(value) for name, value in raw) > HEADER_BYTES_MAX:
                message = f"the request's headers are over {HEADER_BYTES_MAX} bytes"
                raise TooLargeError(message, limit_bytes=HEADER_BYTES_MAX)
            headers: dict[str, str] = {}
            for name, value in raw:
                key, text = name.decode("latin-1").lower(), value.decode("latin-1")
                # Cookies are the one header whose parts are not joined by commas. Source: RFC 6265 5.4, RFC 9113 8.2.3.
                separator = "; " if key == "cookie" else ", "
                headers[key] = headers[key] + separator + text if key in headers else text
            self._headers = headers
        return self._headers

    @property
    def query(self) -> dict[str, str]:
        """Query fields; the last of a name counts."""
        if self._query is None:
            text: str = self.scope.get("query_string", b"").decode("latin-1")
            try:
                pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
            except ValueError as error:
                message = f"the query has more than {QUERY_FIELDS_MAX} fields"
                raise InvalidInputError(message) from error
            self._query = dict(pairs)
        return self._query

    def accepts(self, media_type: str) -> bool:
        """Return whether the client names this media type; wildcards do not count."""
        offered = self.headers.get("accept", "").lower().split(",")
        return any(part.partition(";")[0].strip() == media_type for part in offered)

    async def body(self, *, size_max: int = BODY_BYTES_MAX) -> bytes:
        """Return the whole body.

        Raises:
            TooLargeError: it is over ``size_max`` bytes; found before it is read where its length is announced.
            SlowBodyError: it did not come within ``BODY_S``.
            ClientGoneError: the client left in the middle.
        """
        try:
            async with asyncio.timeout(BODY_S):
                return await self._whole_body(size_max)
        except TimeoutError as error:
            raise SlowBodyError(f"the request's body did not arrive within {BODY_S:g} s") from error

    async def _whole_body(self, size_max: int) -> bytes:
        announced = self.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced[:20]) > size_max:
            raise _body_too_large(size_max)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > size_max:
                raise _body_too_large(size_max)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def json(self, type: type[T], *, size_max: int = BODY_BYTES_MAX) -> T:  # noqa: A002 -- msgspec's own word
        """Return the body as ``type``.

        Raises:
            InvalidInputError: it is not JSON, or JSON of another shape; the message names the place.
        """
        return decode_json(await self.body(size_max=size_max), type)


class Response:
    """A finished answer."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", *, headers: list[tuple[str, str]] | None = None) -> None:
        self.status = status
        self.body = body
        self.headers = headers or []

    async def send_to(self, request: Request, send: Send) -> None:
        """Send it; a HEAD request gets the headers alone."""
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]
        if self.status not in (204, 304):
            headers.append((b"content-length", str(len(self.body)).encode()))
        if request.is_websocket:
            await self._deny(request, send, headers)
            return
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else self.body})

    async def _deny(self, request: Request, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        """Answer a WebSocket handshake with an HTTP response where the server can, or else by closing (403)."""
        if "websocket.http.response" in request.scope.get("extensions", {}):
            await send({"type": "websocket.http.response.start", "status": self.status, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": self.body})
        else:
            await send({"type": "websocket.close", "code": 1008})


def decode_json(body: bytes, type: type[T]) -> T:  # noqa: A002 -- msgspec's own word
    """Return a body as ``type``.

    Raises:
        InvalidInputError: it is not JSON, or JSON of another shape; the message names the place.
    """
    try:
        return msgspec.json.decode(body, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"the body does not fit: {error}" if body else "the body is empty, JSON is needed"
        raise InvalidInputError(message) from error


def response_head(status: int, headers: list[tuple[str, str]]) -> bytes:
    """Return the first bytes of an HTTP/1.1 response, for a connection that is written to directly."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_json_encoder: Final = msgspec.json.Encoder(decimal_format="number")


def encode_json(value: object) -> bytes:
    """Return ``value`` as JSON.

    Raises:
        CoveyError: it cannot be written as JSON.
    """
    try:
        return _json_encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise CoveyError(f"the result cannot be written as JSON: {error}") from error


def json_response(value: object, *, status: int = 200, headers: list[tuple[str, str]] | None = None) -> Response:
    """Return ``value`` as JSON; never cached, for it is about now."""
    fixed = [("content-type", "application/json"), ("cache-control", "no-store"), ("x-content-type-options", "nosniff")]
    return Response(status, _json_encoder.encode(value), headers=[*fixed, *(headers or [])])


async def client_gone(receive: Receive) -> None:
    """Return when the client has closed its connection; the request was read to its end before."""
    while True:
        message = await receive()
        if message["type"] in {"http.disconnect", "websocket.disconnect"}:
            return


class Wake:
    """One future that several things may complete: a change, a timer, a client that left. Cheaper than tasks.

    A timer costs more than all the rest, so there is one for many waits: when it finds that the present wait began
    later than it was set for, it sets itself again.
    """

    __slots__ = ("_due_s", "_future", "_loop", "_timer", "_timer_s")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[bool] | None = None
        self._due_s = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf

    def __call__(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(False)

    async def silence(self, timeout_s: float | None) -> bool:
        """Wait for the next call, and return whether none came within ``timeout_s``; None waits without end.

        Whoever waits looks first whether there is a need to.
        """
        self._future = self._loop.create_future()
        if timeout_s is None:
            self._due_s = math.inf
        else:
            self._due_s = self._loop.time() + timeout_s
            if self._due_s < self._timer_s:
                self._set_timer()
        return await self._future

    def close(self) -> None:
        """Let go of the timer; to be called after the last wait."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_s = None, math.inf

    def _set_timer(self) -> None:
        self.close()
        self._timer_s = self._due_s
        self._timer = self._loop.call_at(self._due_s, self._on_time)

    def _on_time(self) -> None:
        self._timer, self._timer_s = None, math.inf
        if self._future is None or self._future.done() or self._due_s == math.inf:
            return  # nobody waits; the next wait sets it again
        if self._due_s > self._loop.time():
            self._set_timer()
        else:
            self._future.set_result(True)


def _path_below(path: str, root: str) -> str:
    """Return the part of ``path`` below the place where the app is mounted, without a slash at its end.

    ``root_path`` says where that is. Whether ``path`` still begins with it depends on who mounted: Starlette and
    FastAPI leave it (as ASGI says), Litestar and proxies take it off, and Litestar puts a slash at the end.
    """
    root = root.rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return path[:-1] if len(path) > 1 and path.endswith("/") else path or "/"


def _body_too_large(size_max: int) -> TooLargeError:
    return TooLargeError(f"the body is over {size_max} bytes", limit_bytes=size_max)
