"""``text/event-stream``: a parser and a writer, useful without the rest of covey.

The parser follows the standard to the letter, takes bytes as they come and gives each event as soon as the first byte
of its blank line is in. What the standard leaves open is how much to hold: here one event is bounded.

Source: WHATWG HTML 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event stream".
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Final

import msgspec

from covey.errors import InvalidInputError, TooLargeError

# Sixteen times what a hub accepts by default: the other end may be anyone's, and an image in base64 is common.
RECEIVED_EVENT_BYTES_MAX: Final = 16 << 20
# The standard sets no bound on `retry`. This one is the largest integer that JavaScript holds exactly.
RETRY_MS_MAX: Final = 2**53 - 1

_RETRY_DIGITS_MAX: Final = len(str(RETRY_MS_MAX))
_BOM: Final = b"\xef\xbb\xbf"
_CR: Final = 0x0D
_LF: Final = 0x0A
# A chunk of any size is decoded in parts of this size, so that its text never stands in memory whole beside it.
_PART_BYTES_MAX: Final = 1 << 16


# Without the garbage collector's bookkeeping: it holds text and a number, which can't form a cycle.
class ServerSentEvent(msgspec.Struct, frozen=True, gc=False):
    """One event as it is dispatched.

    Args:
        event: its type.
        data: its data lines, joined by LF.
        id: the last event id in force at its dispatch, which an earlier block may have set.
        retry: milliseconds, the last valid ``retry`` since the event before it, else None.
    """

    event: str = "message"
    data: str = ""
    id: str = ""
    retry: int | None = None


class EventStreamParser:
    """Bytes in, events out; the way the bytes are cut into chunks makes no difference.

    Args:
        event_bytes_max: how large one event may be. What counts is what must be held until its blank line: its
            ``data`` lines, without line ends, together with the line that is being read, whatever that one is.
        last_event_id: the id in force at the start, for a stream that is resumed.
        on_comment: gets each comment, without its colon, when its line ends. It must not raise.

    Raises:
        InvalidInputError: ``event_bytes_max`` is not positive.
    """

    __slots__ = (
        "_data", "_event", "_event_bytes_max", "_held_bytes", "_id", "_is_over_limit", "_last_event_id", "_line",
        "_on_comment", "_part_bytes_max", "_retry", "_retry_ms", "_start", "_swallows_lf",
    )  # fmt: skip

    def __init__(
        self,
        *,
        event_bytes_max: int = RECEIVED_EVENT_BYTES_MAX,
        last_event_id: str = "",
        on_comment: Callable[[str], None] | None = None,
    ) -> None:
        if event_bytes_max < 1:
            message = f"event_bytes_max is {event_bytes_max}, and must be positive"
            raise InvalidInputError(message)
        self._event_bytes_max = event_bytes_max
        # An event that begins and ends in one part is then within the limit without being measured.
        self._part_bytes_max = min(event_bytes_max, _PART_BYTES_MAX)
        self._on_comment = on_comment
        # What the bytes of the stream's beginning are until they are a byte order mark or not; None from then on.
        self._start: bytes | None = b""
        self._swallows_lf = False
        # The line that has not ended yet.
        self._line = bytearray()
        # Of the block that has not ended yet. The id is kept from block to block, as the standard's buffer is.
        self._data: list[str] = []
        self._held_bytes = 0
        self._event = ""
        self._id = last_event_id
        self._last_event_id = last_event_id
        self._retry: int | None = None
        self._retry_ms: int | None = None
        self._is_over_limit = False

    @property
    def last_event_id(self) -> str:
        """What a reconnect sends as ``Last-Event-ID``; blocks without data move it too."""
        return self._last_event_id

    @property
    def retry_ms(self) -> int | None:
        """The last valid ``retry`` in milliseconds, at most ``RETRY_MS_MAX``; it counts from the end of its line."""
        return self._retry_ms

    def receive_data(self, data: bytes) -> list[ServerSentEvent]:
        """Return the events that ``data`` completes.

        Raises:
            TooLargeError: an event is over the limit; the parser is of no more use. Events completed before it in the
                same ``data`` are returned first, and the next call raises: none is lost, and ``last_event_id`` is
                from before the large one.
        """
        events: list[ServerSentEvent] = []
        if data and not self._is_over_limit:
            if self._swallows_lf or b"\r" in data:
                data = self._with_lf_only(data)
            if self._start is not None:
                data = self._without_bom(self._start + data)
            if len(data) <= self._part_bytes_max:
                self._is_over_limit = not self._take_part(data, events)
            else:
                self._is_over_limit = not self._take_parts(data, events)
        if self._is_over_limit and not events:
            message = f"an event of the stream is larger than {self._event_bytes_max} bytes"
            raise TooLargeError(
                message,
                limit_bytes=self._event_bytes_max,
                hint="raise event_bytes_max if such events are expected; else the other end may not be sending events",
            )
        return events

    def _with_lf_only(self, data: bytes) -> bytes:
        """Return ``data`` with LF for each line end; a CR ends its line at once, and swallows an LF that follows."""
        if self._swallows_lf:
            self._swallows_lf = False
            if data[0] == _LF:
                data = data[1:]
        if b"\r" in data:
            self._swallows_lf = data[-1] == _CR
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _without_bom(self, start: bytes) -> bytes:
        if len(start) < len(_BOM) and _BOM.startswith(start):
            self._start = start
            return b""
        self._start = None
        return start.removeprefix(_BOM)

    def _take_parts(self, data: bytes, events: list[ServerSentEvent]) -> bool:
        """Return whether all of ``data`` is within the limit; so do the methods below."""
        size = self._part_bytes_max
        return all(self._take_part(data[begin : begin + size], events) for begin in range(0, len(data), size))

    def _take_part(self, part: bytes, events: list[ServerSentEvent]) -> bool:
        end = part.rfind(b"\n")
        if end >= 0:
            lines = part[:end]
            if self._line:
                lines = b"".join((self._line, lines))
                self._line.clear()
            if not self._take_whole_lines(lines, events):
                return False
            part = part[end + 1 :]
            if not part:
                return True
        self._line += part
        return self._held_bytes + len(self._line) <= self._event_bytes_max

    def _take_whole_lines(self, lines: bytes, events: list[ServerSentEvent]) -> bool:
        """Take lines, the last one without its line end. Only near the limit is each one measured before.

        Whole lines decode by themselves as they do in the whole stream, for no UTF-8 sequence goes on after a line
        end: it is replaced up to there.
        """
        if self._held_bytes + len(lines) > self._event_bytes_max:
            split = lines.split(b"\n")
            fitting = self._measure(split)
            if fitting:
                self._take_text(b"\n".join(split[:fitting]).decode("utf-8", "replace"), events)
            return fitting == len(split)
        self._take_text(lines.decode("utf-8", "replace"), events)
        if self._data:
            # Begins with the LF of the last blank line, if there is one, so that counting starts anew there.
            self._measure(lines[lines.rfind(b"\n\n") + 1 :].split(b"\n"))
        else:
            self._held_bytes = 0
        return True

    def _measure(self, lines: list[bytes]) -> int:
        """Count what is held after these lines, and return how many of them are within the limit."""
        held = self._held_bytes
        fitting = 0
        for line in lines:
            if held + len(line) > self._event_bytes_max:
                break
            fitting += 1
            if not line:
                held = 0
            elif line.startswith(b"data:") or line == b"data":
                held += len(line)
        self._held_bytes = held
        return fitting

    def _take_text(self, text: str, events: list[ServerSentEvent]) -> None:
        data = self._data
        for line in text.split("\n"):
            # Nearly all lines of a stream have one of these four forms; whatever has another is told apart below.
            if line[:6] == "data: ":
                data.append(line[6:])
            elif not line:
                self._last_event_id = self._id
                if data:
                    events.append(ServerSentEvent(self._event or "message", "\n".join(data), self._id, self._retry))
                    data.clear()
                    self._retry = None
                self._event = ""
            elif line[:4] == "id: " and "\0" not in line:
                self._id = line[4:]
            elif line[:7] == "event: ":
                self._event = line[7:]
            else:
                self._take_line(line)

    def _take_line(self, line: str) -> None:
        name, _, value = line.partition(":")
        if not name:
            if self._on_comment is not None:
                self._on_comment(value)
            return
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id":
            if "\0" not in value:
                self._id = value
        elif name == "retry":
            self._take_retry(value)

    def _take_retry(self, value: str) -> None:
        # Both checks: `isdigit` alone takes the digits of every script.
        if not (value.isascii() and value.isdigit()):
            return
        # Converting digits takes time that grows with their square, and Python refuses to from some length on.
        digits = value.lstrip("0") or "0"
        self._retry_ms = min(int(digits), RETRY_MS_MAX) if len(digits) <= _RETRY_DIGITS_MAX else RETRY_MS_MAX
        self._retry = self._retry_ms


def parse_event_stream(
    chunks: Iterable[bytes], *, event_bytes_max: int = RECEIVED_EVENT_BYTES_MAX
) -> Iterator[ServerSentEvent]:
    """Give the events of a stream; what has no blank line after it at the end of the stream is dropped.

    Raises:
        TooLargeError: see ``EventStreamParser``; all events before the large one have been given.
    """
    parser = EventStreamParser(event_bytes_max=event_bytes_max)
    for chunk in chunks:
        yield from parser.receive_data(chunk)
    parser.receive_data(b"")


async def aparse_event_stream(
    chunks: AsyncIterable[bytes], *, event_bytes_max: int = RECEIVED_EVENT_BYTES_MAX
) -> AsyncIterator[ServerSentEvent]:
    """Do as ``parse_event_stream`` does."""
    parser = EventStreamParser(event_bytes_max=event_bytes_max)
    async for chunk in chunks:
        for event in parser.receive_data(chunk):
            yield event
    parser.receive_data(b"")


def encode_event(
    data: bytes,
    *,
    event: str | None = None,
    id: str | None = None,
    retry_ms: int | None = None,
) -> bytes:
    """Return the block of one event.

    Args:
        data: UTF-8. Each line of it becomes a ``data`` line; CR and CRLF reach the reader as LF.
        event: its type; None and "" are both "message" to a reader.
        id: moves the reader's last event id; "" clears it, None leaves it.
        retry_ms: how long the reader waits before it reconnects.

    Raises:
        InvalidInputError: ``event`` or ``id`` has a CR, LF or NUL, or ``retry_ms`` is out of range. A line end would
            begin a field of the writer's choice, and readers ignore an id with a NUL.
    """
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))
    # The data comes last, so that an event cut off in its data has lost nothing but data.
    head = b""
    if id is not None:
        head = b"id: %b\n" % _encode_value(id, "id")
    if event:
        head += b"event: %b\n" % _encode_value(event, "event")
    if retry_ms is not None:
        head += encode_retry(retry_ms)
    return b"%bdata: %b\n\n" % (head, data)


def encode_id_only(id: str) -> bytes:
    """Return a block that moves the reader's last event id and dispatches nothing.

    Raises:
        InvalidInputError: ``id`` has a CR, LF or NUL.
    """
    return b"id: %b\n\n" % _encode_value(id, "id")


def encode_comment(text: str) -> bytes:
    """Return ``text`` as comment lines.

    There is no blank line after them, since widespread readers take one for the end of an empty event. So a comment
    goes between blocks or into one, and belongs to the block that follows.

    Raises:
        InvalidInputError: ``text`` cannot be written as UTF-8.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\n:")
    return b":%b\n" % _encode_text(lines, "a comment")


def encode_retry(retry_ms: int) -> bytes:
    """Return a ``retry`` line, which needs no blank line to take effect (see ``encode_comment``).

    Raises:
        InvalidInputError: it is negative, or over ``RETRY_MS_MAX``.
    """
    if not 0 <= retry_ms <= RETRY_MS_MAX:
        message = f"retry_ms is {retry_ms}, and must be from 0 to {RETRY_MS_MAX}"
        raise InvalidInputError(message)
    return b"retry: %d\n" % retry_ms


def _encode_value(value: str, name: str) -> bytes:
    if "\n" in value or "\r" in value or "\0" in value:
        message = f"the {name} of an event may not contain CR, LF or NUL: {value[:80]!r}"
        raise InvalidInputError(message)
    return _encode_text(value, f"the {name} of an event")


def _encode_text(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        message = f"{what} cannot be written as UTF-8: {text[:80]!r}"
        raise InvalidInputError(message) from error
