"""One HTTP request through the attempts that a policy makes of it, for any client that is shaped like httpx.

httpx and httpx2 have the same parts under the same names, so this is written once, and typed as httpx2; which of them
it works on is told by a ``Library``, and neither is imported here.

What may be repeated: a request with a method that may run twice, or with an ``Idempotency-Key``, as long as its body
can be sent again; any other one only when it surely never ran. Once an answer is handed out, nothing is repeated.

Source: RFC 9110 9.2.2; draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeVar, cast

import msgspec

from covey.context import current_scope, scope_variable
from covey.errors import InvalidInputError, LocalProtocolError, TimedOutError, UnavailableError
from covey.interop.stream_rules import StreamRules, StreamWatch
from covey.resilience.deadline import passed_on_ms
from covey.resilience.policy import Policy
from covey.resilience.target import Target
from covey.resilience.watch import now_here_s

if TYPE_CHECKING:
    import httpx2

R = TypeVar("R")

METHODS_REPEATED: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
# How much of a refusal is read to see what it says; all of it is there when it is handed out.
REFUSAL_BYTES_MAX: Final = 64 << 10
# How much of a stream is held back while nothing but its prelude came.
PRELUDE_BYTES_MAX: Final = 256 << 10
# A client that talks to more hosts than this forgets what it learned of those it asked longest ago.
ORIGINS_MAX: Final = 1024
# The library's timers go off a little before the policy's, as they know how far the request got.
_EARLIER: Final = 0.95


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """What of httpx, or of httpx2, is needed. Its types are Any, for they may be of either."""

    response: Callable[..., Any]
    headers: Callable[..., Any]
    can_be_resent: Callable[[object], bool]
    bytes_stream: Callable[[bytes], object]
    stream: Callable[[Iterator[bytes], Callable[[], None]], object]
    async_stream: Callable[[AsyncIterator[bytes], Callable[[], Awaitable[None]]], object]
    timed_out: Callable[[TimedOutError], Exception]
    refused: Callable[[UnavailableError], Exception]
    cut: Callable[[str], Exception]


class AnswerError(Exception):
    """An answer that says that the request failed, on its way through the policy; a hook or a fallback may see it.

    Args:
        answer: the response, a whole one as far as it is small.
        body: what it says in JSON, or else nothing.
        is_final: it can't be repeated, whatever it says.
    """

    def __init__(self, answer: httpx2.Response, body: Mapping[str, object], *, is_final: bool) -> None:
        super().__init__(f"HTTP {answer.status_code}")
        self.answer = answer
        self.status_code = answer.status_code
        self.body = body
        # What the policy heeds, in the words of HTTP.
        self.headers = {**answer.headers, **(_FINAL if is_final else {})}


class UsedUpError(Exception):
    """Around the error that a request failed with whose body can't be sent again."""

    def __init__(self, error: Exception) -> None:
        super().__init__("the body of the request can't be sent again")
        self.error = error
        self.headers = _FINAL


_FINAL: Final = {"x-should-retry": "false"}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a transport was told."""

    tells_deadline: bool
    streams: StreamRules | None


class Targets:
    """Which target a request is for."""

    def __init__(self, given: object) -> None:
        if not (isinstance(given, Policy) or callable(given)):
            message = "a transport needs a Target, a Policy, or a function that returns the Target of a request"
            raise InvalidInputError(message)
        self._given = cast("Target | Policy | Callable[[object], Target]", given)
        self._by_origin: OrderedDict[str, Target] = OrderedDict()

    def of(self, given_request: object) -> Target:
        """Return it, ready for this request."""
        request = cast("httpx2.Request", given_request)
        target = self._plain(request)
        may_repeat = request.method.upper() in METHODS_REPEATED or "idempotency-key" in request.headers
        return target.options(idempotent=True) if may_repeat else target

    def _plain(self, request: httpx2.Request) -> Target:
        given = self._given
        if isinstance(given, Target):
            return given
        if not isinstance(given, Policy):
            return given(request)
        url = request.url
        origin = f"{url.scheme}://{url.netloc.decode()}"
        target = self._by_origin.get(origin)
        if target is None:
            # Two threads may both come here: one of the two targets then learns of one request only.
            target = self._by_origin.setdefault(origin, Target(origin, given))
            while len(self._by_origin) > ORIGINS_MAX:
                self._by_origin.popitem(last=False)
        else:
            self._by_origin.move_to_end(origin)
        return target


class Exchange:
    """One request and the answers it got; what is the same whether it is awaited or not."""

    def __init__(self, library: Library, request: object, target: Target, options: Options) -> None:
        self.library = library
        self.target = target
        self._request = cast("httpx2.Request", request)
        given: Any = self._request.extensions.get("timeout") or {}
        self._given_timeouts = cast("dict[str, float | None]", given)
        self._options = options
        self._is_replayable = library.can_be_resent(self._request.stream)
        self._is_body_begun = False
        # Answers to let go of: those that were refusals at the next attempt, all others when the last one is over.
        self.failed: list[httpx2.Response] = []
        self.opened: list[httpx2.Response] = []

    @property
    def is_used_up(self) -> bool:
        """Whether the body was sent, in part at least, and can't be sent again."""
        return self._is_body_begun and not self._is_replayable

    def next_request(self, bounded: Iterable[str]) -> httpx2.Request:
        """Return the request for the attempt that begins; it shares nothing that changes with the one before.

        ``bounded`` are the library's own timers that are to go off before the policy's time is over.
        """
        request = copy.copy(self._request)
        request.headers = self.library.headers(self._request.headers)
        request.stream = self._request.stream
        remaining_s = current_scope().deadline_s - now_here_s()
        request.extensions = {**self._request.extensions, "timeout": dict(self._given_timeouts)}
        key = current_scope().key
        if key is not None and "idempotency-key" not in request.headers:
            request.headers["Idempotency-Key"] = key
        self._heed(request, remaining_s, bounded)
        return request

    def _heed(self, request: httpx2.Request, remaining_s: float, bounded: Iterable[str]) -> None:
        if remaining_s == float("inf"):
            return
        for phase in bounded:
            _lower(_timeouts_of(request), phase, max(remaining_s * _EARLIER, 0.001))
        remaining_ms = passed_on_ms(remaining_s) if self._options.tells_deadline else None
        if remaining_ms is not None:
            request.headers["Covey-Timeout-Ms"] = str(remaining_ms)

    def answered(self, request: httpx2.Request) -> None:
        """Take note that the head of an answer is there: from here on, silence is limited as a stream's is.

        httpcore looks at the limit when it begins to read the body, which is later.
        """
        timeouts, idle_s = _timeouts_of(request), self.target.policy.idle_s
        timeouts["read"] = self._given_timeouts.get("read")
        if idle_s is not None:
            _lower(timeouts, "read", idle_s)

    @property
    def on_body(self) -> Callable[[], None] | None:
        """What is to be called when the body begins to be sent, if it is worth knowing."""
        return None if self._is_replayable else self._begin_body

    def _begin_body(self) -> None:
        self._is_body_begun = True

    def watch_of(self, response: httpx2.Response) -> StreamWatch | None:
        """Return what watches the answer if it is an event stream that can be watched."""
        rules, headers = self._options.streams, response.headers
        is_stream = headers.get("content-type", "").lower().startswith("text/event-stream")
        is_plain = headers.get("content-encoding", "identity").lower() == "identity"
        return StreamWatch(rules) if rules is not None and is_stream and is_plain else None

    def refusal(self, response: httpx2.Response, content: bytes) -> AnswerError:
        """Return the error that an answer amounts to whose body begins with ``content``."""
        body: object = None
        if "json" in response.headers.get("content-type", ""):
            try:
                # Through a response of its own, as it may be compressed.
                copied = self.library.response(response.status_code, headers=response.headers, content=content)
                body = copied.json()
            except Exception:  # noqa: BLE001 -- what can't be read says nothing; its status still does
                body = None
        return self._failed(response, cast("Mapping[str, object]", body) if isinstance(body, dict) else {})

    def failure(self, response: httpx2.Response, said: Mapping[str, object]) -> AnswerError:
        """Return the error that a stream amounts to that failed before it had begun."""
        return self._failed(response, said)

    def _failed(self, response: httpx2.Response, body: Mapping[str, object]) -> AnswerError:
        self.failed.append(response)
        return AnswerError(response, body, is_final=self.is_used_up)

    def cut(self) -> NoReturn:
        """Say that a stream ended without its last event."""
        message = f"the stream from {self.target.name} ended without its last event"
        raise self.library.cut(message)

    @contextmanager
    def library_errors(self) -> Generator[None]:
        """Raise what users of the library expect: the error of its own, or the policy's as one of the library's too."""
        try:
            yield
        except UsedUpError as error:
            raise error.error from error.error.__cause__
        except UnavailableError as error:
            raise _noted(self.library.refused(error), error) from error
        except TimedOutError as error:
            raise _noted(self.library.timed_out(error), error) from error

    @contextmanager
    def scope(self) -> Generator[None]:
        """Make a single attempt where the caller repeats the request by itself, as the SDKs of LLM APIs say they do."""
        count = self._request.headers.get("x-stainless-retry-count", "0")
        if count == "0":
            yield
            return
        token = scope_variable.set(msgspec.structs.replace(scope_variable.get(), is_repeated=True))
        try:
            yield
        finally:
            scope_variable.reset(token)


def _timeouts_of(request: httpx2.Request) -> dict[str, float | None]:
    return cast("dict[str, float | None]", request.extensions["timeout"])


def _lower(timeouts: dict[str, float | None], phase: str, limit_s: float) -> None:
    given_s = timeouts.get(phase)
    timeouts[phase] = limit_s if given_s is None else min(given_s, limit_s)


def _noted(error: Exception, about: Exception) -> Exception:
    for note in getattr(about, "__notes__", ()):
        error.add_note(note)
    return error


# ---- carried out: once, awaited or not


class Side(Protocol):
    """What differs between an event loop and a thread. In a thread these coroutines never wait: see ``_at_once``."""

    bounded: tuple[str, ...]

    async def handle(self, request: httpx2.Request, begun: Callable[[], None] | None) -> httpx2.Response:
        """Send the request; ``begun`` is called when its body begins to be sent, where that is asked for."""
        ...

    async def close(self, response: httpx2.Response) -> None:
        """Let go of an answer."""
        ...

    def read(self, response: httpx2.Response) -> Callable[[], Awaitable[bytes | None]]:
        """Return what gives the next piece of a body, and None after the last."""
        ...

    def rest(self, reading: Reading, response: httpx2.Response) -> httpx2.SyncByteStream | httpx2.AsyncByteStream:
        """Return a body that is what was read of it, and then the rest."""
        ...


async def send_async(wrapped: object, exchange: Exchange) -> object:
    """Return the answer to the request, or the last one when none of the attempts brought a good one."""
    side = _AsyncSide(cast("httpx2.AsyncBaseTransport", wrapped), exchange)
    kept: httpx2.Response | None = None
    try:
        with exchange.scope(), exchange.library_errors():
            kept = await exchange.target.call(_attempt, side, exchange)
    except AnswerError as error:
        kept = error.answer
    finally:
        await _let_go(side, exchange.opened, kept)
    return kept


def send(wrapped: object, exchange: Exchange) -> object:
    """See ``send_async``."""
    side = _BlockingSide(cast("httpx2.BaseTransport", wrapped), exchange)
    kept: httpx2.Response | None = None
    try:
        with exchange.scope(), exchange.library_errors():
            kept = exchange.target.call_blocking(lambda: _at_once(_attempt(side, exchange)))
    except AnswerError as error:
        kept = error.answer
    finally:
        _at_once(_let_go(side, exchange.opened, kept))
    return kept


def _at_once(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast("R", stop.value)
    coroutine.close()
    message = "a coroutine of a thread waited"
    raise AssertionError(message)


async def _attempt(side: Side, exchange: Exchange) -> httpx2.Response:
    await _let_go(side, exchange.failed, None)
    if exchange.is_used_up:
        # A second try beside the first one, which has the body.
        raise UsedUpError(LocalProtocolError("the body of the request is being sent already"))
    try:
        request = exchange.next_request(side.bounded)
        response = await side.handle(request, exchange.on_body)
        exchange.opened.append(response)
        exchange.answered(request)
        return await _judged(side, response, exchange)
    except AnswerError:
        raise
    except Exception as error:
        if exchange.is_used_up:
            raise UsedUpError(error) from error
        raise


async def _judged(side: Side, response: httpx2.Response, exchange: Exchange) -> httpx2.Response:
    """Return the answer if it is a good one, as far as its head and the beginning of its body tell."""
    watch = exchange.watch_of(response) if response.status_code < 400 else None
    if response.status_code < 400 and watch is None:
        return response
    reading = Reading(side, response, watch, exchange)
    await reading.begin(PRELUDE_BYTES_MAX if watch is not None else REFUSAL_BYTES_MAX)
    response.stream = reading.stream()
    if watch is None:
        raise exchange.refusal(response, reading.content)
    if watch.failure is not None:
        raise exchange.failure(response, watch.failure)
    if reading.error is not None:
        raise reading.error
    return response


class Reading:
    """A body whose beginning is read before it is handed out."""

    def __init__(self, side: Side, response: httpx2.Response, watch: StreamWatch | None, exchange: Exchange) -> None:
        self._side = side
        self._response = response
        self._next = side.read(response)
        self._watch = watch
        self._exchange = exchange
        self._is_whole = False
        self.content = b""
        # What reading ended with, to be raised where the body breaks off.
        self.error: Exception | None = None

    async def begin(self, bytes_max: int) -> None:
        """Read until it is whole, or clear what it is, or long enough."""
        pieces: list[bytes] = []
        size = 0
        try:
            while size < bytes_max and not (self._watch is not None and self._watch.is_decided):
                piece = await self.next_piece()
                if piece is None:
                    self._is_whole = True
                    break
                pieces.append(piece)
                size += len(piece)
        except Exception as error:  # noqa: BLE001 -- see `error`
            self.error = error
        self.content = b"".join(pieces)
        if self._is_whole or (self._watch is not None and self._watch.failure is not None):
            # What follows a failure is of no use, and this frees the connection.
            self._is_whole = True
            await self._side.close(self._response)

    async def next_piece(self) -> bytes | None:
        """Return the next piece as it comes, None after the last.

        Raises:
            StreamCutError: it ended without its last event.
        """
        piece = await self._next()
        if self._watch is not None:
            if piece is not None:
                self._watch.receive_data(piece)
            elif not self._watch.is_complete:
                self._exchange.cut()
        return piece

    def stream(self) -> httpx2.SyncByteStream | httpx2.AsyncByteStream:
        """Return the body as if nothing of it had been read."""
        if self._is_whole:
            return cast("httpx2.ByteStream", self._exchange.library.bytes_stream(self.content))
        return self._side.rest(self, self._response)


class _AsyncSide:
    # A connection that is not there in time was cut before anything was sent, which the policy's own cut can't tell.
    bounded: tuple[str, ...] = ("connect", "pool")

    def __init__(self, wrapped: httpx2.AsyncBaseTransport, exchange: Exchange) -> None:
        self._wrapped = wrapped
        self._library = exchange.library

    async def handle(self, request: httpx2.Request, begun: Callable[[], None] | None) -> httpx2.Response:
        if begun is not None:
            body = cast("httpx2.AsyncByteStream", request.stream)
            noticed = self._library.async_stream(self._noticed(body, begun), body.aclose)
            request.stream = cast("httpx2.AsyncByteStream", noticed)
        return await self._wrapped.handle_async_request(request)

    async def close(self, response: httpx2.Response) -> None:
        await cast("httpx2.AsyncByteStream", response.stream).aclose()

    def read(self, response: httpx2.Response) -> Callable[[], Awaitable[bytes | None]]:
        pieces = aiter(cast("httpx2.AsyncByteStream", response.stream))

        async def next_piece() -> bytes | None:
            return await anext(pieces, None)

        return next_piece

    def rest(self, reading: Reading, response: httpx2.Response) -> httpx2.AsyncByteStream:
        source = cast("httpx2.AsyncByteStream", response.stream)
        return cast("httpx2.AsyncByteStream", self._library.async_stream(_all_of(reading), source.aclose))

    @staticmethod
    async def _noticed(body: AsyncIterable[bytes], begun: Callable[[], None]) -> AsyncGenerator[bytes]:
        begun()
        async for piece in body:
            yield piece


async def _all_of(reading: Reading) -> AsyncGenerator[bytes]:
    yield reading.content
    if reading.error is not None:
        raise reading.error
    while (piece := await reading.next_piece()) is not None:
        yield piece


class _BlockingSide:
    # Nothing else cuts what waits in a thread.
    bounded: tuple[str, ...] = ("connect", "pool", "read", "write")

    def __init__(self, wrapped: httpx2.BaseTransport, exchange: Exchange) -> None:
        self._wrapped = wrapped
        self._library = exchange.library

    async def handle(self, request: httpx2.Request, begun: Callable[[], None] | None) -> httpx2.Response:
        if begun is not None:
            body = cast("httpx2.SyncByteStream", request.stream)
            noticed = self._library.stream(self._noticed(body, begun), body.close)
            request.stream = cast("httpx2.SyncByteStream", noticed)
        return self._wrapped.handle_request(request)

    async def close(self, response: httpx2.Response) -> None:
        cast("httpx2.SyncByteStream", response.stream).close()

    def read(self, response: httpx2.Response) -> Callable[[], Awaitable[bytes | None]]:
        pieces = iter(cast("httpx2.SyncByteStream", response.stream))

        async def next_piece() -> bytes | None:
            return next(pieces, None)

        return next_piece

    def rest(self, reading: Reading, response: httpx2.Response) -> httpx2.SyncByteStream:
        source = cast("httpx2.SyncByteStream", response.stream)
        return cast("httpx2.SyncByteStream", self._library.stream(_all_of_blocking(reading), source.close))

    @staticmethod
    def _noticed(body: Iterable[bytes], begun: Callable[[], None]) -> Generator[bytes]:
        begun()
        yield from body


def _all_of_blocking(reading: Reading) -> Generator[bytes]:
    yield reading.content
    if reading.error is not None:
        raise reading.error
    while (piece := _at_once(reading.next_piece())) is not None:
        yield piece


async def _let_go(side: Side, answers: list[httpx2.Response], kept: httpx2.Response | None) -> None:
    """Close the answers that nobody gets."""
    while answers:
        answer = answers.pop()
        if answer is not kept:
            await side.close(answer)
