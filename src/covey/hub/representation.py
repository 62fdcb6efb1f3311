"""How one reader wants a stream, and what its items look like as Server-Sent Events."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from covey.errors import InvalidInputError
from covey.streams.event import Control, Item, Skipped
from covey.wire.event_stream import encode_comment, encode_event

if TYPE_CHECKING:
    from covey.hub.http import Request
    from covey.streams.stream import Reader, Stream

HEARTBEAT_S: Final = 15.0
HEARTBEAT_RANGE_S: Final = (1.0, 300.0)
# Spread, so that the heartbeats of many readers do not come at once, nor ever equal a proxy's time-out.
HEARTBEAT_SPREAD: Final = 0.2
RETRY_MS: Final = 1000

EVENT_STREAM: Final = "text/event-stream"
STREAM_HEADERS: Final = (
    ("content-type", EVENT_STREAM),
    ("cache-control", "no-cache, no-transform"),
    ("x-accel-buffering", "no"),
    ("x-content-type-options", "nosniff"),
)

Render = Callable[[Sequence[Item]], bytes]


class ReadOptions(msgspec.Struct, frozen=True):
    """How one reader wants a stream, as its URL says. Readers with equal options can share every byte."""

    kinds: frozenset[str] | None = None
    is_envelope: bool = False
    heartbeat_s: float = HEARTBEAT_S
    is_comment_heartbeat: bool = False

    @property
    def render(self) -> Render:
        """Items as blocks of an event stream, joined."""
        return _render_envelopes if self.is_envelope else _render_data


def read_options(request: Request) -> ReadOptions:
    """Return the options in the request's query.

    Raises:
        InvalidInputError: one of them makes no sense.
    """
    query = request.query
    kinds = query.get("kinds")
    representation = query.get("as", "data")
    if representation not in {"data", "event"}:
        message = f"as={representation[:80]!r} is neither 'data' nor 'event'"
        raise InvalidInputError(message)
    heartbeat = query.get("heartbeat", "")
    is_comment = heartbeat == "comment"
    is_asked = heartbeat and not is_comment
    return ReadOptions(
        kinds=frozenset(kind for kind in kinds.split(",") if kind) if kinds else None,
        is_envelope=representation == "event",
        heartbeat_s=seconds("heartbeat", heartbeat, *HEARTBEAT_RANGE_S) if is_asked else HEARTBEAT_S,
        is_comment_heartbeat=is_comment,
    )


def starting_cursor(stream: Stream[Any], *, after: str | None, start: str) -> str:
    """Return the id to read after: the one given, else the one before the oldest event, or the newest.

    Raises:
        InvalidInputError: ``start`` is neither 'start' nor 'now'. What ``after`` is shows when it is used.
    """
    if start not in {"start", "now"}:
        message = f"from={start[:80]!r} is neither 'start' nor 'now'"
        raise InvalidInputError(message)
    return after or (stream.start if start == "start" else stream.head)


def seconds(name: str, text: str, low: float, high: float) -> float:
    """Return a number of seconds between two bounds.

    Raises:
        InvalidInputError: it is none.
    """
    try:
        value = float(text[:32])
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        message = f"{name}={text[:80]!r} is not a number of seconds from {low:g} to {high:g}"
        raise InvalidInputError(message)
    return value


def opening(reader: Reader, options: ReadOptions, *, now_s: float) -> Control:
    """Return the first event of a reader: where it stands and what to expect."""
    stream = reader.stream
    data = {"stream": stream.name, "head": stream.head, "oldest": stream.oldest, "heartbeat_s": options.heartbeat_s}
    return Control("covey.open", data, id=reader.cursor, time_s=now_s)


def opening_block(opened: Control) -> bytes:
    """Return the opening as a block that also restores the time to reconnect, which a goodbye may have changed."""
    return encode_event(opened.data, event=opened.kind, id=opened.id, retry_ms=RETRY_MS)


def heartbeat(head: str, *, now_s: float) -> Control:
    """Return what fills silence; it does not move the cursor."""
    return Control("covey.heartbeat", {"head": head}, time_s=now_s)


def heartbeat_block(head: str, options: ReadOptions) -> bytes:
    """Return what fills silence, as an event or as a comment for plain pages."""
    return encode_comment("heartbeat") if options.is_comment_heartbeat else heartbeat(head, now_s=0.0).block


def bye_block(reason: str, *, return_ms: int) -> bytes:
    """Return the last block of a reader that is sent away for now, with the time to come back after."""
    data = msgspec.json.encode({"reason": reason, "retry_ms": return_ms})
    return encode_event(data, event="covey.bye", retry_ms=return_ms)


def render_frame(items: Sequence[Item]) -> str:
    """Return the items as the text of one WebSocket frame, a JSON array.

    A position that a filter moved stands in the next event's id: there is no frame for the cursor alone.
    """
    shown = [item.envelope for item in items if not isinstance(item, Skipped)]
    return (b"[" + b",".join(shown) + b"]").decode() if shown else ""


def _render_data(items: Sequence[Item]) -> bytes:
    return items[0].block if len(items) == 1 else b"".join([item.block for item in items])


def _render_envelopes(items: Sequence[Item]) -> bytes:
    return b"".join([item.envelope_block for item in items])
