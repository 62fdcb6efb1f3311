"""Streams over HTTP: three representations at one URL, append, create, close, list. Source: protocol 2."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from covey.errors import AuthenticationError, InvalidInputError, NameTakenError, RefusedError, StreamNotFoundError
from covey.hub.http import Answer, Request, Response, Send, Wake, client_gone, decode_json, json_response
from covey.hub.problems import problem_of, problem_response
from covey.hub.readers import Readers
from covey.ports.clock import Clock
from covey.ports.randomness import Randomness
from covey.streams.event import Control, Item, Skipped, check_kind, encode_data
from covey.streams.retention import OVERFLOWS, Overflow, Retention
from covey.streams.stream import Draft, Reader, Stream
from covey.streams.streams import Streams
from covey.wire.event_stream import encode_comment, encode_event
from covey.wire.names import check_name, check_own_name

HEARTBEAT_S: Final = 15.0
HEARTBEAT_RANGE_S: Final = (1.0, 300.0)
# Spread, so that the heartbeats of many readers do not come at once, nor ever equal a proxy's time-out.
HEARTBEAT_SPREAD: Final = 0.2
WAIT_MAX_S: Final = 60.0
POLL_BYTES_MAX: Final = 1 << 20
RETRY_MS: Final = 1000
APPEND_EVENTS_MAX: Final = 1000

EVENT_STREAM: Final = "text/event-stream"
_STREAM_HEADERS: Final = (
    ("content-type", EVENT_STREAM),
    ("cache-control", "no-cache, no-transform"),
    ("x-accel-buffering", "no"),
    ("x-content-type-options", "nosniff"),
)

T = TypeVar("T")


class ReadOptions(msgspec.Struct, frozen=True):
    """How one reader wants a stream, as its URL says."""

    kinds: frozenset[str] | None
    as_event: bool
    heartbeat_s: float
    is_comment_heartbeat: bool


class AppendBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event that a client appends."""

    data: msgspec.Raw
    kind: str = "message"
    key: str | None = None


class CreateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client says of a stream it makes."""

    durable: bool = False
    retain: Retention = Retention()
    overflow: Overflow = "drop"


class StreamRoutes:
    """Handlers of ``/v1/streams``."""

    def __init__(self, streams: Streams, readers: Readers, clock: Clock, randomness: Randomness) -> None:
        self._streams = streams
        self._readers = readers
        self._clock = clock
        self._randomness = randomness

    async def index(self, request: Request) -> Answer:
        """``GET /v1/streams``."""
        found = self._streams.matching(request.query.get("match", "*"))
        return json_response({"streams": [_described(stream) for stream in found]})

    async def read(self, request: Request, name: str) -> Answer:
        """``GET /v1/streams/{name}``, by whichever representation the request asks for."""
        stream = self._streams.get(check_name(name, what="a stream name"))
        options = _read_options(request)
        reader = _reader(request, stream, options)
        if request.is_websocket:
            return self._refused_for_now(request) or WebSocketAnswer(self, reader, options)
        if request.accepts(EVENT_STREAM):
            if reader.is_at_end and "last-event-id" in request.headers:
                return Response(204)  # a browser stops reconnecting at this, and at nothing else
            return self._refused_for_now(request) or EventStreamAnswer(self, reader, options)
        return await self._poll(request, reader)

    async def append(self, request: Request, name: str) -> Answer:
        """``POST /v1/streams/{name}``: one event or several, all or none."""
        stream = self._writable(name)
        bodies = await _append_bodies(request)
        drafts = [
            Draft(check_kind(body.kind), encode_data(body.data), by=request.principal, key=body.key) for body in bodies
        ]
        last = await stream.append_all(
            drafts, if_head=request.headers.get("if-match"), once=request.headers.get("idempotency-key")
        )
        return json_response({"id": last})

    async def create(self, request: Request, name: str) -> Answer:
        """``PUT /v1/streams/{name}``: make a stream; again with the same settings is harmless."""
        check_own_name(name, what="a stream name")
        body = await request.json(CreateBody) if await _has_body(request) else CreateBody()
        if body.durable:
            raise InvalidInputError(
                "this hub keeps streams in memory only", hint='create it with "durable": false, or leave that out'
            )
        if body.overflow not in OVERFLOWS or body.overflow == "wait":
            raise InvalidInputError(
                "overflow 'wait' is for streams with one consumer, such as a call's", hint="use 'drop' or 'latest'"
            )
        existing = self._existing(name)
        if existing is None:
            stream = self._streams.create(name, object, retain=body.retain, overflow=body.overflow)
            return json_response(_described(stream), status=201)
        if existing.ring.retention != body.retain or existing.overflow != body.overflow:
            message = f"there is a stream {name!r} already, with other settings"
            raise NameTakenError(message, hint="close it first with DELETE, or choose another name")
        return json_response(_described(existing))

    async def close(self, request: Request, name: str) -> Answer:  # noqa: ARG002 -- a handler
        """``DELETE /v1/streams/{name}``: end it; what it holds can still be read for a while."""
        stream = self._writable(name)
        self._streams.end(stream.name)
        return json_response(_described(stream))

    # ---- live readers

    def notice_of_leaving(self, reason: str) -> bytes:
        """Return the last block of a reader that is sent away for now, with the time to come back after."""
        return_ms = self._readers.return_ms()
        data = msgspec.json.encode({"reason": reason, "retry_ms": return_ms})
        return encode_event(data, event="covey.bye", retry_ms=return_ms)

    def opening(self, reader: Reader, options: ReadOptions) -> Control:
        """Return the first event of a reader: where it stands and what to expect."""
        stream = reader.stream
        data = {
            "stream": stream.name,
            "head": stream.head,
            "oldest": stream.oldest,
            "heartbeat_s": options.heartbeat_s,
        }
        return Control("covey.open", data, id=reader.cursor, time_s=self._clock.wall_s())

    async def follow(
        self, request: Request, reader: Reader, options: ReadOptions, deliver: Callable[[list[Item]], Awaitable[None]]
    ) -> bool:
        """Deliver what the reader takes until the stream ends (True), or the client or the hub leaves (False)."""
        wake = Wake()
        loop = asyncio.get_running_loop()
        gone = loop.create_task(client_gone(request))
        gone.add_done_callback(lambda _: wake())
        leave = self._readers.enter(wake)
        try:
            while not gone.done() and not self._readers.is_draining:
                items = reader.take()
                if items:
                    await deliver(items)
                    if reader.is_done:
                        return True
                    continue
                is_silent = False

                def beat() -> None:
                    nonlocal is_silent
                    is_silent = True
                    wake()

                forget = reader.stream.on_change(wake)
                timer = loop.call_later(self._beat_s(options), beat)
                try:
                    await wake.wait()
                finally:
                    forget()
                    timer.cancel()
                if is_silent and not gone.done():
                    await deliver([self._heartbeat(reader)])
            return False
        finally:
            leave()
            gone.cancel()

    def _beat_s(self, options: ReadOptions) -> float:
        return options.heartbeat_s * self._randomness.uniform(1 - HEARTBEAT_SPREAD, 1 + HEARTBEAT_SPREAD)

    def _heartbeat(self, reader: Reader) -> Control:
        return Control("covey.heartbeat", {"head": reader.stream.head}, time_s=self._clock.wall_s())

    def _refused_for_now(self, request: Request) -> Answer | None:
        """Return how a live reader is sent away for now: a browser would take a 503 for final, so it gets a 200."""
        if not (self._readers.is_draining or self._readers.is_full):
            return None
        reason = "draining" if self._readers.is_draining else "too many readers"
        if request.is_websocket or request.method == "HEAD":
            return problem_response(problem_of(RefusedError(f"the hub is {reason}", retry_after_s=5.0)))
        return Response(200, self.notice_of_leaving(reason), headers=[*_STREAM_HEADERS])

    # ---- long poll

    async def _poll(self, request: Request, reader: Reader) -> Answer:
        wait_s = _preferred_wait_s(request)
        items = reader.take(size_bytes=POLL_BYTES_MAX)
        if wait_s is not None and not _tells_anything(items):
            items = await self._poll_until(request, reader, wait_s)
        events = [msgspec.Raw(item.envelope) for item in items if not isinstance(item, Skipped)]
        body = {"events": events, "cursor": reader.cursor, "head": reader.stream.head, "ended": reader.is_at_end}
        applied = [] if wait_s is None else [("preference-applied", f"wait={wait_s:g}")]
        return json_response(body, headers=applied)

    async def _poll_until(self, request: Request, reader: Reader, wait_s: float) -> list[Item]:
        """Wait up to ``wait_s`` for something to tell; filtered events move the cursor and the wait goes on."""
        wake = Wake()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + wait_s
        gone = loop.create_task(client_gone(request))
        gone.add_done_callback(lambda _: wake())
        leave = self._readers.enter(wake)
        try:
            while True:
                items = reader.take(size_bytes=POLL_BYTES_MAX)
                is_over = gone.done() or self._readers.is_draining or loop.time() >= end_s
                if is_over or _tells_anything(items):
                    return items
                forget = reader.stream.on_change(wake)
                timer = loop.call_at(end_s, wake)
                try:
                    await wake.wait()
                finally:
                    forget()
                    timer.cancel()
        finally:
            leave()
            gone.cancel()

    # ---- writing

    def _writable(self, name: str) -> Stream[Any]:
        stream = self._streams.get(check_name(name, what="a stream name"))
        if stream.is_owned:
            message = f"the stream {name!r} is written by the hub alone"
            raise ForbiddenError(message, hint="append to a stream of your own; PUT creates one")
        return stream

    def _existing(self, name: str) -> Stream[Any] | None:
        try:
            stream = self._streams.get(name)
        except StreamNotFoundError:
            return None
        return None if stream.is_closed else stream


class ForbiddenError(AuthenticationError):
    """The principal is known, and may not do this."""


class EventStreamAnswer:
    """A stream as ``text/event-stream``, live until it ends."""

    def __init__(self, routes: StreamRoutes, reader: Reader, options: ReadOptions) -> None:
        self._routes = routes
        self._reader = reader
        self._options = options

    async def send_to(self, request: Request, send: Send) -> None:
        """Send it; returns when the stream, the client or the hub ends it."""
        headers = [(name.encode(), value.encode()) for name, value in _STREAM_HEADERS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if request.method == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        render = _render_envelope if self._options.as_event else _render_data
        opening = self._routes.opening(self._reader, self._options)
        await _send_part(send, encode_event(opening.data, event=opening.kind, id=opening.id, retry_ms=RETRY_MS))

        async def deliver(items: list[Item]) -> None:
            if (
                self._options.is_comment_heartbeat
                and isinstance(items[0], Control)
                and items[0].kind == "covey.heartbeat"
            ):
                await _send_part(send, encode_comment("heartbeat"))
            else:
                await _send_part(send, render(items))

        is_ended = await self._routes.follow(request, self._reader, self._options, deliver)
        last = b"" if is_ended else self._routes.notice_of_leaving("draining")
        await send({"type": "http.response.body", "body": last, "more_body": False})


class WebSocketAnswer:
    """A stream as WebSocket text frames, each a JSON array of events."""

    def __init__(self, routes: StreamRoutes, reader: Reader, options: ReadOptions) -> None:
        self._routes = routes
        self._reader = reader
        self._options = options

    async def send_to(self, request: Request, send: Send) -> None:
        """Accept the connection and send until the stream, the client or the hub ends it."""
        handshake = await request.receive()
        if handshake["type"] != "websocket.connect":
            return
        await send({"type": "websocket.accept"})

        async def deliver(items: list[Item]) -> None:
            # A position that a filter moved stands in the next event's id; there is no frame for the cursor alone.
            shown = [item.envelope for item in items if not isinstance(item, Skipped)]
            if shown:
                await send({"type": "websocket.send", "text": (b"[" + b",".join(shown) + b"]").decode()})

        await deliver([self._routes.opening(self._reader, self._options)])
        if await self._routes.follow(request, self._reader, self._options, deliver):
            await send({"type": "websocket.close", "code": 1000, "reason": "the stream ended"})
        else:
            await deliver([Control("covey.bye", {"reason": "draining"})])
            await send({"type": "websocket.close", "code": 1012, "reason": "the hub is going away"})


def _render_data(items: Sequence[Item]) -> bytes:
    return items[0].block if len(items) == 1 else b"".join([item.block for item in items])


def _render_envelope(items: Sequence[Item]) -> bytes:
    return b"".join([item.envelope_block for item in items])


def _tells_anything(items: Sequence[Item]) -> bool:
    return any(not isinstance(item, Skipped) for item in items)


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


async def _append_bodies(request: Request) -> list[AppendBody]:
    body = await request.body()
    is_array = body.lstrip()[:1] == b"["
    bodies = decode_json(body, list[AppendBody]) if is_array else [decode_json(body, AppendBody)]
    if not 1 <= len(bodies) <= APPEND_EVENTS_MAX:
        message = f"one request appends 1 to {APPEND_EVENTS_MAX} events, this one {len(bodies)}"
        raise InvalidInputError(message)
    return bodies


def _reader(request: Request, stream: Stream[Any], options: ReadOptions) -> Reader:
    """Return a reader that starts where the request says: header, else ``after``, else ``from``, else now."""
    after = request.headers.get("last-event-id") or request.query.get("after")
    start = request.query.get("from", "now")
    if start not in {"start", "now"}:
        message = f"from={start[:80]!r} is neither 'start' nor 'now'"
        raise InvalidInputError(message)
    if not after:
        after = stream.start if start == "start" else stream.head
    return stream.reader(after, kinds=options.kinds)


def _read_options(request: Request) -> ReadOptions:
    query = request.query
    kinds = query.get("kinds")
    representation = query.get("as", "data")
    if representation not in {"data", "event"}:
        message = f"as={representation[:80]!r} is neither 'data' nor 'event'"
        raise InvalidInputError(message)
    heartbeat = query.get("heartbeat", "")
    is_comment = heartbeat == "comment"
    return ReadOptions(
        kinds=frozenset(kind for kind in kinds.split(",") if kind) if kinds else None,
        as_event=representation == "event",
        heartbeat_s=_seconds("heartbeat", heartbeat, *HEARTBEAT_RANGE_S)
        if heartbeat and not is_comment
        else HEARTBEAT_S,
        is_comment_heartbeat=is_comment,
    )


def _preferred_wait_s(request: Request) -> float | None:
    """Return the seconds of ``Prefer: wait=…``, at most a minute. Source: RFC 7240."""
    for preference in request.headers.get("prefer", "").split(","):
        name, _, value = preference.partition("=")
        if name.strip().lower() == "wait":
            return min(WAIT_MAX_S, _seconds("wait", value.strip().strip('"'), 0.0, 1e9))
    return None


def _seconds(name: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text[:32])
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        message = f"{name}={text[:80]!r} is not a number of seconds from {low:g} to {high:g}"
        raise InvalidInputError(message)
    return value


def _described(stream: Stream[Any]) -> dict[str, object]:
    return {
        "name": stream.name,
        "head": stream.head,
        "oldest": stream.oldest,
        "events": len(stream.ring),
        "bytes": stream.ring.size_bytes,
        "ended": stream.is_closed,
    }
