"""A session from afar: cells go up by call, the transcript comes down its stream.

Source: protocol 3.1, "Sessions".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, Literal, TypeVar

import msgspec

from covey.client.connect import Hub
from covey.client.sse import Change
from covey.errors import InvalidInputError, RemoteProtocolError
from covey.ports.randomness import Randomness
from covey.wire.cursor import parse_cursor
from covey.wire.event_stream import ServerSentEvent

T = TypeVar("T")

# With the backoff of 0.1 to 5 s this outlasts a hub that is started again.
ATTEMPTS_MAX: Final = 12
_CELL_LENGTH: Final = 20


class Event(msgspec.Struct, frozen=True):
    """What one event of a transcript says; a field that its kind does not have keeps its default."""

    cell: str | None = None
    code: str = ""
    by: str | None = None
    text: str = ""
    base64: str | None = None
    mime: dict[str, object] = {}
    name: str = ""
    message: str = ""
    input_id: str = msgspec.field(default="", name="id")
    prompt: str = ""
    password: bool = False
    status: str = ""
    state: str = ""
    exit: int | None = None
    signal: str | int | None = None
    incarnation: int | None = None
    banner: str | None = None
    which: str = ""
    reason: str = ""
    lost: int | None = None

    @property
    def output(self) -> bytes:
        """What was written, byte for byte; lone surrogates, which stand for bytes that are no text, as they were."""
        if self.base64 is not None:
            try:
                return base64.b64decode(self.base64)
            except (binascii.Error, ValueError):
                return b""
        return self.text.encode("utf-8", "surrogatepass")


class Entry(msgspec.Struct, frozen=True):
    """One event of a transcript, or of the stream itself: ``covey.gap``, ``covey.reset``."""

    kind: str
    cursor: str
    event: Event


class Accepted(msgspec.Struct, frozen=True):
    """A cell is queued; its events come after ``after``."""

    cell: str
    after: str


class _Interrupted(msgspec.Struct):
    state: str = ""


class Session:
    """One session of a hub."""

    def __init__(self, hub: Hub, name: str, *, randomness: Randomness) -> None:
        self.name = name
        self._hub = hub
        self._randomness = randomness

    def new_cell(self) -> str:
        """Return an id for a cell; known before it is sent, so that sending it again is harmless."""
        return self._randomness.token(_CELL_LENGTH)

    async def execute(self, code: str, cell: str) -> Accepted:
        """Queue a cell; repeated until the hub takes it or says why not."""
        arguments = {"code": code, "cell": cell}
        result = await self._hub.call(
            self.name, "execute", arguments, key=cell, attempts_max=ATTEMPTS_MAX, is_repeatable=True
        )
        return _convert(result, Accepted)

    async def interrupt(self) -> str:
        """Interrupt the running cell; return ``kept``, ``lost`` or ``idle``."""
        return _convert(await self._hub.call(self.name, "interrupt", attempts_max=3), _Interrupted).state

    async def cancel(self, cell: str) -> None:
        """Take a queued cell out of the queue; one that runs or is over is left alone."""
        await self._hub.call(self.name, "cancel", {"cell": cell}, attempts_max=3, is_repeatable=True)

    async def answer(self, input_id: str, text: str | None) -> None:
        """Answer an ``input`` event; None ends the input.

        Raises:
            RefusedError: someone else was first.
        """
        await self._hub.call(self.name, "input", {"id": input_id, "text": text}, attempts_max=3)

    async def transcript(
        self,
        *,
        after: str | None = None,
        start: Literal["now", "start"] = "now",
        on_change: Callable[[Change], None] | None = None,
    ) -> AsyncGenerator[Entry, None]:
        """Yield the transcript until the session is stopped, through as many connections as it takes."""
        events = self._hub.subscribe(f"{self.name}.out", after=after, start=start, on_change=on_change)
        async with aclosing(events):
            async for event in events:
                yield decode_entry(event)


def decode_entry(event: ServerSentEvent) -> Entry:
    """Return what the event says; one of a newer hub that can't be read keeps its kind and says nothing."""
    try:
        said = msgspec.json.decode(event.data, type=Event)
    except (msgspec.MsgspecError, RecursionError):
        said = Event()
    return Entry(event.event, event.id, said)


def _convert(result: object, type_: type[T]) -> T:
    try:
        return msgspec.convert(result, type_)
    except msgspec.ValidationError as error:
        message = f"the session's answer has another form than expected: {error}"
        raise RemoteProtocolError(message, hint="are the hub and this program of the same version?") from error


def is_at(cursor: str, head: str) -> bool:
    """Tell whether a reader at ``cursor`` has all up to ``head``; numbers of different epochs can't be compared."""
    try:
        read, newest = parse_cursor(cursor), parse_cursor(head)
    except InvalidInputError:
        return True
    return read.epoch != newest.epoch or read.seq >= newest.seq
