"""The body of an event stream for any framework: blocks of bytes, from a stream or from anybody's async iterator.

A stream is read by cursor, as the hub reads it. An iterator runs in one task of its own from its first step to its
close, so that it may use cancel scopes and context managers around its ``yield``s, and so that silence can be filled
while it thinks. It is never further ahead of the client than one buffer.

Source: protocol 2.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterable, Collection
from contextlib import AsyncExitStack, aclosing, closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

import msgspec

from covey.errors import InvalidInputError
from covey.hub.http import Wake
from covey.hub.problems import problem_of, problem_response
from covey.hub.representation import (
    HEARTBEAT_S,
    HEARTBEAT_SPREAD,
    STREAM_HEADERS,
    ReadOptions,
    bye_block,
    heartbeat_block,
    opening,
    opening_block,
    starting_cursor,
)
from covey.ports.system import SystemClock, SystemRandomness
from covey.streams.event import Event
from covey.streams.stream import Reader, Stream
from covey.wire.cursor import parse_cursor
from covey.wire.event_stream import ServerSentEvent, encode_comment, encode_event

if TYPE_CHECKING:
    from collections.abc import Generator

    from covey.hub.readers import Readers
    from covey.ports.clock import Clock
    from covey.ports.randomness import Randomness

# What an iterator may have ready before it waits for the client; one item more can be on its way.
BUFFER_BYTES: Final = 64 << 10

Source = Stream[Any] | AsyncIterable[object]
Start = Literal["now", "start"]


class Asked(NamedTuple):
    """What a request says about where to start reading."""

    last_event_id: str | None = None
    after: str | None = None
    start: str | None = None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a program says about an answer; ``covey.interop.starlette.sse_response`` says what each means."""

    after: str | None = None
    start: Start = "now"
    kinds: Collection[str] | None = None
    envelope: bool = False
    heartbeat_s: float | None = HEARTBEAT_S


class Plan(NamedTuple):
    """An answer, ready for a framework's own response: either ``blocks`` to stream, or a finished ``body``."""

    status: int
    headers: list[tuple[str, str]]
    blocks: AsyncGenerator[bytes, None] | None = None
    body: bytes = b""


class World(NamedTuple):
    """Time and chance."""

    clock: Clock
    randomness: Randomness


def plan(
    source: Source,
    asked: Asked,
    options: Options,
    readers: Readers | None,
    *,
    world: World | None = None,
) -> Plan:
    """Return how to answer a request for ``source``.

    Args:
        source: a stream; or an async iterable of events, text, or anything that can be written as JSON.
        asked: where the request wants to start; only a stream can.
        options: what the program wants.
        readers: says when to go away; None never does.
        world: time and chance; the machine's unless told.

    Raises:
        InvalidInputError: the program's own options make no sense. What the request says never raises: it is answered.
    """
    heartbeat_s = options.heartbeat_s
    if heartbeat_s is not None and not (heartbeat_s > 0 and math.isfinite(heartbeat_s)):
        message = f"heartbeat_s is {heartbeat_s}, and must be positive or None"
        raise InvalidInputError(message)
    world = world or World(SystemClock(), SystemRandomness())
    if isinstance(source, Stream):
        return _plan_stream(source, asked, options, readers, world)
    if options.after is not None or options.start != "now" or options.kinds is not None or options.envelope:
        message = "after, start, kinds and envelope are for streams of covey, not for iterators"
        raise InvalidInputError(message, hint="look at the request's Last-Event-ID in the iterator itself")
    return Plan(200, [*STREAM_HEADERS], blocks=_iterator_blocks(source, heartbeat_s, readers, world))


def encode_item(item: object) -> bytes:
    """Return what an iterator gave as one block: events as they are, text as data, anything else as JSON.

    Raises:
        InvalidInputError: it has no form as an event.
    """
    if isinstance(item, ServerSentEvent):
        return encode_event(item.data.encode(), event=_name(item.event), id=item.id or None, retry_ms=item.retry)
    if isinstance(item, Event):
        event = cast("Event[object]", item)
        return encode_event(_encode_json(event.data), event=_name(event.kind), id=event.id or None)
    if isinstance(item, str):
        return encode_event(item.encode())
    if isinstance(item, bytes):
        return encode_event(item)
    return encode_event(_encode_json(item))


# ---- a stream


def _plan_stream(stream: Stream[Any], asked: Asked, options: Options, readers: Readers | None, world: World) -> Plan:
    own = starting_cursor(stream, after=options.after, start=options.start)
    parse_cursor(own)
    kinds = frozenset(options.kinds) if options.kinds is not None else None
    returning = asked.last_event_id or asked.after
    try:
        is_asked = returning or asked.start is not None
        cursor = starting_cursor(stream, after=returning, start=asked.start or "now") if is_asked else own
        reader = stream.reader(cursor, kinds=kinds)
    except InvalidInputError as error:
        refused = problem_response(problem_of(error))
        return Plan(refused.status, refused.headers, body=refused.body)
    if reader.is_at_end and returning:
        return Plan(204, [])  # a browser stops reconnecting at this, and at nothing else
    return Plan(200, [*STREAM_HEADERS], blocks=_stream_blocks(reader, options, kinds, readers, world))


async def _stream_blocks(
    reader: Reader, options: Options, kinds: frozenset[str] | None, readers: Readers | None, world: World
) -> AsyncGenerator[bytes, None]:
    # Infinity is null in the opening: a client then expects no sign of life.
    read = ReadOptions(kinds=kinds, is_envelope=options.envelope, heartbeat_s=options.heartbeat_s or math.inf)
    wake = Wake()
    yield opening_block(opening(reader, read, now_s=world.clock.wall_s()))
    with _counted(readers, wake):
        while True:
            if readers is not None and readers.is_draining:
                yield bye_block("draining", return_ms=readers.return_ms())
                return
            items = reader.take()
            if items:
                yield read.render(items)
                if reader.is_done:
                    return
                continue
            reader.stream.on_change(wake)
            try:
                is_silent = await wake.silence(_spread_s(options.heartbeat_s, world))
            finally:
                reader.stream.forget(wake)
            if is_silent:
                yield heartbeat_block(reader.stream.head, read)


# ---- an iterator


async def _iterator_blocks(
    source: AsyncIterable[object], heartbeat_s: float | None, readers: Readers | None, world: World
) -> AsyncGenerator[bytes, None]:
    wake = Wake()
    ahead = _Ahead(source, wake)
    task = asyncio.get_running_loop().create_task(ahead.run())
    task.add_done_callback(lambda _: wake())
    try:
        with _counted(readers, wake):
            while True:
                blocks = ahead.take()
                if readers is not None and readers.is_draining:
                    yield blocks + bye_block("draining", return_ms=readers.return_ms())
                    return
                if blocks:
                    yield blocks
                elif task.done():
                    task.result()  # raises what the iterator raised: the response breaks off, and its server says why
                    return
                elif await wake.silence(_spread_s(heartbeat_s, world)):
                    # A comment: the page that reads this knows nothing of covey's events.
                    yield encode_comment("heartbeat")
    finally:
        task.cancel()
        await asyncio.wait({task})


class _Ahead:
    """Runs an iterator, and holds what it gave until it is taken."""

    def __init__(self, source: AsyncIterable[object], wake: Wake) -> None:
        self._source = source
        self._wake = wake
        self._blocks: list[bytes] = []
        self._size_bytes = 0
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Run to the end; the iterator is closed here too, in the task that began it."""
        items = aiter(self._source)
        async with AsyncExitStack() as stack:
            if hasattr(items, "aclose"):
                await stack.enter_async_context(aclosing(cast("AsyncGenerator[object, None]", items)))
            async for item in items:
                block = encode_item(item)
                self._blocks.append(block)
                self._size_bytes += len(block)
                self._wake()
                while self._size_bytes >= BUFFER_BYTES:
                    self._room.clear()
                    await self._room.wait()

    def take(self) -> bytes:
        """Return everything that is there, joined; and let the iterator go on."""
        blocks, self._blocks, self._size_bytes = self._blocks, [], 0
        self._room.set()
        return b"".join(blocks)


@contextmanager
def _counted(readers: Readers | None, wake: Wake) -> Generator[None]:
    if readers is None:
        with closing(wake):
            yield
        return
    readers.count += 1
    forget = readers.on_drain(wake)
    try:
        yield
    finally:
        forget()
        readers.count -= 1
        wake.close()


def _spread_s(heartbeat_s: float | None, world: World) -> float | None:
    if heartbeat_s is None:
        return None
    return heartbeat_s * world.randomness.uniform(1 - HEARTBEAT_SPREAD, 1 + HEARTBEAT_SPREAD)


def _name(event: str) -> str | None:
    return None if event == "message" else event


def _encode_json(value: object) -> bytes:
    try:
        return _json_encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"an item of an event stream can't be written as JSON: {error}"
        raise InvalidInputError(message) from error


def _as_plain_data(value: Any) -> object:  # noqa: ANN401 -- anything that msgspec does not know
    """Return a Pydantic model as a dict: FastAPI's users yield them, and covey need not know the package for it."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    message = f"objects of type {type(value).__name__} have no form as JSON"
    raise TypeError(message)


_json_encoder: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=_as_plain_data)
