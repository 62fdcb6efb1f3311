"""Streams over HTTP: three representations at one URL, append, create, close, list. Source: protocol 2."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

import msgspec

from covey.errors import (
    AuthenticationError,
    InvalidInputError,
    MisfitError,
    NameTakenError,
    RefusedError,
    StreamNotFoundError,
)
from covey.hub.chunks import Chunk, Chunks
from covey.hub.fanout import Fanout
from covey.hub.http import (
    Answer,
    Request,
    Response,
    Send,
    Wake,
    client_gone,
    decode_json,
    json_response,
    response_head,
)
from covey.hub.problems import problem_of, problem_response
from covey.hub.readers import Readers
from covey.hub.representation import (
    EVENT_STREAM,
    HEARTBEAT_SPREAD,
    STREAM_HEADERS,
    ReadOptions,
    bye_block,
    heartbeat,
    heartbeat_block,
    opening,
    opening_block,
    read_options,
    render_frame,
    seconds,
    starting_cursor,
)
from covey.ports.clock import Clock
from covey.ports.randomness import Randomness
from covey.streams.durable import DurableStream
from covey.streams.event import Control, Item, Skipped, check_kind, encode_data
from covey.streams.retention import OVERFLOWS, Overflow, Retention
from covey.streams.stream import Draft, Reader, Stream
from covey.streams.streams import Streams
from covey.team.members import RESERVED_NAMES
from covey.wire.names import check_name, check_own_name

WAIT_MAX_S: Final = 60.0
POLL_BYTES_MAX: Final = 1 << 20
APPEND_EVENTS_MAX: Final = 1000

T = TypeVar("T", bytes, str)


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
        self._chunks: WeakValueDictionary[tuple[Stream[Any], frozenset[str] | None, object], Chunks[Any]] = (
            WeakValueDictionary()
        )
        self.fanout = Fanout(readers, randomness)

    async def index(self, request: Request) -> Answer:
        """``GET /v1/streams``."""
        found = self._streams.matching(request.query.get("match", "*"))
        return json_response({"streams": [_described(stream) for stream in found]})

    async def read(self, request: Request, name: str) -> Answer:
        """``GET /v1/streams/{name}``, by whichever representation the request asks for."""
        stream = self._streams.get(check_name(name, what="a stream name"))
        if isinstance(stream, DurableStream):
            await stream.open()  # a reader must not be told an epoch that a crash could take back
        options = read_options(request)
        reader = _reader(request, stream, options)
        if request.is_websocket:
            return self._refused_for_now(request) or WebSocketAnswer(self, reader, options)
        if request.accepts(EVENT_STREAM):
            if reader.is_at_end and _came_back(request):
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
        if name in RESERVED_NAMES:
            raise MisfitError(f"the stream {name!r} is the team's own", hint="choose another name")
        body = await request.json(CreateBody) if await _has_body(request) else CreateBody()
        if body.overflow not in OVERFLOWS or body.overflow == "wait":
            raise InvalidInputError(
                "overflow 'wait' is for streams with one consumer, such as a call's", hint="use 'drop' or 'latest'"
            )
        existing = self._existing(name)
        if existing is None:
            stream = self._streams.create(
                name, object, retain=body.retain, overflow=body.overflow, durable=body.durable
            )
            if isinstance(stream, DurableStream):
                await stream.open()
            return json_response(_described(stream), status=201)
        is_durable = isinstance(existing, DurableStream)
        if (existing.ring.retention, existing.overflow, is_durable) != (body.retain, body.overflow, body.durable):
            message = f"there is a stream {name!r} already, with other settings"
            raise NameTakenError(message, hint="close it first with DELETE, or choose another name")
        if isinstance(existing, DurableStream):
            await existing.open()  # the one who made it may have been told that it could not be kept
        return json_response(_described(existing))

    async def close(self, request: Request, name: str) -> Answer:  # noqa: ARG002 -- a handler
        """``DELETE /v1/streams/{name}``: end it; what it holds can still be read for a while."""
        stream = self._writable(name)
        await self._streams.end(stream.name)
        return json_response(_described(stream))

    # ---- live readers

    async def follow(
        self,
        request: Request,
        reader: Reader,
        chunks: Chunks[T],
        *,
        heartbeat_s: float,
        deliver: Callable[[T], Awaitable[None]],
        beat: Callable[[], Awaitable[None]],
    ) -> bool:
        """Deliver what the reader takes until the stream ends (True), or the client or the hub leaves (False)."""
        beat_s = heartbeat_s * self._randomness.uniform(1 - HEARTBEAT_SPREAD, 1 + HEARTBEAT_SPREAD)
        async with self._live(request, reader.stream) as live:
            chunk: Chunk[T] | None = chunks.first(reader)
            seq = reader.seq
            while not live.is_over:
                if chunk is not None:
                    seq = chunk.seq
                    if chunk.data:
                        await deliver(chunk.data)
                    if chunk.is_last:
                        return True
                elif await live.silence(beat_s) and not live.is_over:
                    await beat()
                chunk = chunks.after(seq)
        return False

    def chunks(self, reader: Reader, kinds: frozenset[str] | None, render: Callable[[Sequence[Item]], T]) -> Chunks[T]:
        """Return what a reader shares with others that read its stream in the same way."""
        chunks: Chunks[T] | None = self._chunks.get((reader.stream, kinds, render))
        if chunks is None:
            chunks = self._chunks[reader.stream, kinds, render] = Chunks(reader.stream, kinds, render)
        return chunks

    def opening(self, reader: Reader, options: ReadOptions) -> Control:
        """Return the first event of a reader."""
        return opening(reader, options, now_s=self._clock.wall_s())

    def bye(self, reason: str) -> bytes:
        """Return the last block of a reader that is sent away for now."""
        return bye_block(reason, return_ms=self._readers.return_ms())

    @asynccontextmanager
    async def _live(self, request: Request, stream: Stream[Any]) -> AsyncGenerator[_Live]:
        """Count a live reader, and let it be woken by a client that leaves and a hub that drains."""
        live = _Live(request, stream, self._readers)
        self._readers.count += 1
        forget = self._readers.on_drain(live.end)
        try:
            yield live
        finally:
            forget()
            self._readers.count -= 1
            live.close()

    def _refused_for_now(self, request: Request) -> Answer | None:
        """Return how a live reader is sent away for now: a browser would take a 503 for final, so it gets a 200."""
        if not (self._readers.is_draining or self._readers.is_full):
            return None
        reason = "draining" if self._readers.is_draining else "too many readers"
        if request.is_websocket or request.method == "HEAD":
            return problem_response(problem_of(RefusedError(f"the hub is {reason}", retry_after_s=5.0)))
        return Response(200, self.bye(reason), headers=[*STREAM_HEADERS])

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
        loop = asyncio.get_running_loop()
        end_s = loop.time() + wait_s
        async with self._live(request, reader.stream) as live:
            while True:
                items = reader.take(size_bytes=POLL_BYTES_MAX)
                remaining_s = end_s - loop.time()
                if live.is_over or remaining_s <= 0 or _tells_anything(items):
                    return items
                await live.silence(remaining_s)

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
        self.headers = [*STREAM_HEADERS]
        self._routes = routes
        self._reader = reader
        self._options = options

    async def send_to(self, request: Request, send: Send) -> None:
        """Send it; returns when the stream, the client or the hub ends it, or when the fast path has taken over."""
        opened = opening_block(self._routes.opening(self._reader, self._options))
        take_over = request.scope.get("extensions", {}).get("covey.takeover")
        is_head = request.method == "HEAD"
        if take_over is not None and not is_head:
            head = response_head(200, [*self.headers, ("connection", "close")])
            if self._routes.fanout.adopt(take_over, self._reader, self._options, head + opened):
                return
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if is_head:
            await send({"type": "http.response.body", "body": b""})
            return

        def deliver(blocks: bytes) -> Awaitable[None]:
            return send({"type": "http.response.body", "body": blocks, "more_body": True})

        def beat() -> Awaitable[None]:
            return deliver(heartbeat_block(self._reader.stream.head, options))

        options = self._options
        await deliver(opened)
        chunks = self._routes.chunks(self._reader, options.kinds, options.render)
        is_ended = await self._routes.follow(
            request, self._reader, chunks, heartbeat_s=options.heartbeat_s, deliver=deliver, beat=beat
        )
        last = b"" if is_ended else self._routes.bye("draining")
        await send({"type": "http.response.body", "body": last, "more_body": False})


class WebSocketAnswer:
    """A stream as WebSocket text frames, each a JSON array of events."""

    def __init__(self, routes: StreamRoutes, reader: Reader, options: ReadOptions) -> None:
        self.headers: list[tuple[str, str]] = []
        self._routes = routes
        self._reader = reader
        self._options = options

    async def send_to(self, request: Request, send: Send) -> None:
        """Accept the connection and send until the stream, the client or the hub ends it."""
        handshake = await request.receive()
        if handshake["type"] != "websocket.connect":
            return
        await send({"type": "websocket.accept"})
        stream = self._reader.stream

        def deliver(events: str) -> Awaitable[None]:
            return send({"type": "websocket.send", "text": events})

        def beat() -> Awaitable[None]:
            return deliver(render_frame([heartbeat(stream.head, now_s=stream.now_s())]))

        options = self._options
        await deliver(render_frame([self._routes.opening(self._reader, options)]))
        chunks = self._routes.chunks(self._reader, options.kinds, render_frame)
        if await self._routes.follow(
            request, self._reader, chunks, heartbeat_s=options.heartbeat_s, deliver=deliver, beat=beat
        ):
            await send({"type": "websocket.close", "code": 1000, "reason": "the stream ended"})
        else:
            await deliver(render_frame([Control("covey.bye", {"reason": "draining"}, time_s=stream.now_s())]))
            await send({"type": "websocket.close", "code": 1012, "reason": "the hub is going away"})


class _Live:
    """What ends or wakes one live reader under ASGI."""

    def __init__(self, request: Request, stream: Stream[Any], readers: Readers) -> None:
        self.is_over = readers.is_draining  # or the client has left
        self._stream = stream
        self._wake = Wake()
        self._gone = asyncio.get_running_loop().create_task(client_gone(request.receive))
        self._gone.add_done_callback(lambda _: self.end())

    def end(self) -> None:
        """Let the reader leave."""
        self.is_over = True
        self._wake()

    def silence(self, timeout_s: float) -> Awaitable[bool]:
        """Wait for a change, and return whether none came within ``timeout_s``."""
        # Where nothing changed since the last wait the waker is there already, and stays there once.
        self._stream.on_change(self._wake)
        return self._wake.silence(timeout_s)

    def close(self) -> None:
        """Let go of everything."""
        self._stream.forget(self._wake)
        self._gone.cancel()
        self._wake.close()


def _came_back(request: Request) -> bool:
    return bool(request.headers.get("last-event-id") or request.query.get("after"))


def _tells_anything(items: Sequence[Item]) -> bool:
    return any(not isinstance(item, Skipped) for item in items)


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
    cursor = starting_cursor(stream, after=after, start=request.query.get("from", "now"))
    return stream.reader(cursor, kinds=options.kinds)


def _preferred_wait_s(request: Request) -> float | None:
    """Return the seconds of ``Prefer: wait=…``, at most a minute. Source: RFC 7240."""
    for preference in request.headers.get("prefer", "").split(","):
        name, _, value = preference.partition("=")
        if name.strip().lower() == "wait":
            return min(WAIT_MAX_S, seconds("wait", value.strip().strip('"'), 0.0, 1e9))
    return None


def _described(stream: Stream[Any]) -> dict[str, object]:
    return {
        "name": stream.name,
        "head": stream.head,
        "oldest": stream.oldest,
        "events": len(stream.ring),
        "bytes": stream.ring.size_bytes,
        "durable": isinstance(stream, DurableStream),
        "ended": stream.is_closed,
    }
