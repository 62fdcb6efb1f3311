"""Server-Sent Events from any server, read through failures: the connection breaks, the events go on.

What has arrived is known by its id alone. A reconnect sends the last one, so nothing is lost and nothing comes twice,
and no event needs to be remembered. A hub of covey also says how often it gives a sign of life, so that a connection
that is dead without telling is found out.

Source: protocol 1, 2 and 4.1 ("Reconnect"); WHATWG HTML 9.2.3 for what ends a subscription and what does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Literal, TypedDict, Unpack

import msgspec

from covey.client.address import origin_of
from covey.client.http import connect_error, cut, describe, new_http_client, problem_of
from covey.client.problems import RETRY_AFTER_S_MAX, error_of
from covey.client.waiting import AsyncioWaiting, Waiting
from covey.errors import CoveyError, InvalidInputError, LocalProtocolError, RemoteProtocolError, TransientError
from covey.ports.randomness import Randomness
from covey.ports.system import SystemRandomness
from covey.resilience.backoff import Backoff
from covey.wire.event_stream import RECEIVED_EVENT_BYTES_MAX, EventStreamParser, ServerSentEvent

if TYPE_CHECKING:
    import httpx2

EVENT_STREAM: Final = "text/event-stream"
REDIRECTS_MAX: Final = 10
# A hub sends its heartbeat after 15 s ± 20 % of silence unless asked otherwise; two in a row may be late.
HEARTBEATS_MISSED: Final = 2.5
HUB_SILENCE_S: Final = 15.0 * HEARTBEATS_MISSED
# Until the headers are there. A server may work on its answer for a while, but not without end.
ANSWER_S: Final = 30.0
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# What the connection is made of; the rest, `covey.gap` and `covey.reset` among it, is the reader's to know.
_HIDDEN: Final = frozenset({"covey.open", "covey.heartbeat", "covey.bye", "covey.end"})
_NO_PROGRESS: Final = frozenset({"covey.open", "covey.bye"})


class Opened(msgspec.Struct, frozen=True):
    """A connection stands, and the hub has said where reading starts.

    Args:
        cursor: what was read up to before.
        head: the newest id at that moment.
    """

    cursor: str
    head: str
    oldest: str
    stream: str


class Interrupted(msgspec.Struct, frozen=True):
    """A connection broke, or could not be made.

    Args:
        error: why.
        delay_s: how long until the next attempt.
        failures: how many attempts in a row brought nothing, this one included.
    """

    error: TransientError
    delay_s: float
    failures: int


Change = Opened | Interrupted


class SubscribeOptions(TypedDict, total=False):
    """What ``subscribe`` takes beside the URL; it says what each one means."""

    token: str | None
    after: str | None
    start: Literal["now", "start"]
    kinds: Collection[str]
    headers: Mapping[str, str] | None
    silence_s: float | None
    attempts_max: int | None
    event_bytes_max: int
    on_change: Callable[[Change], None] | None
    backoff: Backoff | None
    randomness: Randomness | None
    waiting: Waiting | None
    transport: httpx2.AsyncBaseTransport | None


class _Opening(msgspec.Struct):
    """The data of ``covey.open``; a server that is no hub may send anything under the name."""

    head: str = ""
    oldest: str = ""
    stream: str = ""
    heartbeat_s: float | None = None


def subscribe(
    url: str,
    *,
    token: str | None = None,
    after: str | None = None,
    start: Literal["now", "start"] = "now",
    kinds: Collection[str] = (),
    headers: Mapping[str, str] | None = None,
    silence_s: float | None = None,
    attempts_max: int | None = None,
    event_bytes_max: int = RECEIVED_EVENT_BYTES_MAX,
    on_change: Callable[[Change], None] | None = None,
    backoff: Backoff | None = None,
    randomness: Randomness | None = None,
    waiting: Waiting | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> AsyncGenerator[ServerSentEvent, None]:
    """Yield the events of a stream until it ends, through as many connections as it takes.

    Ends when the server says so: ``covey.end``, or status 204. Events named ``covey.gap`` and ``covey.reset`` stand
    where events could not be had any more. Close the iterator when leaving early (``contextlib.aclosing``).

    Args:
        url: http or https; a hub's is ``…/v1/streams/{name}``.
        token: sent as bearer to the origin of ``url``, and to no other.
        after: the id of the last event that is known; reading goes on after it.
        start: where a hub starts without ``after``.
        kinds: which events a hub sends; all when empty.
        headers: further ones for each request, to the origin of ``url`` alone.
        silence_s: reconnect when no byte came for so long. None trusts the connection, until a hub says in
            ``covey.open`` how often it gives a sign of life: then 2.5 times that.
        attempts_max: give up when so many attempts in a row brought nothing; None never does.
        event_bytes_max: how large one event may be.
        on_change: is told of connections made and broken. It must not raise.
        backoff: how long to wait before a reconnect, on top of the ``retry:`` or ``Retry-After`` the server sent.
        randomness: what the jitter comes from.
        waiting: what passes the time.
        transport: what carries the requests in place of a connection.

    Raises:
        InvalidInputError: the URL, a header or a number is not what it must be. Some of it is known at once.
        AuthenticationError, StreamNotFoundError, CoveyError: the server refused for good.
        RemoteProtocolError: the answer is no event stream.
        TooLargeError: an event is larger than ``event_bytes_max``.
        TransientError: ``attempts_max`` was reached; ``HubUnreachableError`` where nobody answered.
    """
    subscription = _Subscription(
        url,
        token=token,
        after=after,
        start=start,
        kinds=kinds,
        headers=headers,
        silence_s=silence_s,
        attempts_max=attempts_max,
        event_bytes_max=event_bytes_max,
        on_change=on_change,
        backoff=backoff or Backoff(),
        randomness=randomness or SystemRandomness(),
        waiting=waiting or AsyncioWaiting(),
        transport=transport,
    )
    return _flat(subscription)


def subscribe_sync(url: str, **options: Unpack[SubscribeOptions]) -> Generator[ServerSentEvent, None, None]:
    """Do as ``subscribe`` does, for scripts: in the thread that iterates, and with nothing going on between two events.

    Raises:
        LocalProtocolError: an event loop runs in this thread, which this would hold up.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _in_turns(subscribe(url, **options))
    message = "subscribe_sync was called where an event loop runs, which it would hold up"
    raise LocalProtocolError(message, hint="use `async for event in covey.subscribe(...)` there")


async def _flat(subscription: _Subscription) -> AsyncGenerator[ServerSentEvent, None]:
    async with aclosing(subscription.batches()) as batches:
        async for batch in batches:
            for event in batch:
                yield event


def _in_turns(events: AsyncGenerator[ServerSentEvent, None]) -> Generator[ServerSentEvent, None, None]:
    async def take() -> ServerSentEvent | None:
        return await anext(events, None)

    with asyncio.Runner() as runner:
        try:
            while (event := runner.run(take())) is not None:
                yield event
        finally:
            runner.run(events.aclose())


class _Ended(Exception):  # noqa: N818 -- it is not an error
    """The server ended the stream for good."""


class _Subscription:
    """What outlives the connections: the cursor, the time to wait that the server asked for, the failures in a row."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        after: str | None,
        start: Literal["now", "start"],
        kinds: Collection[str],
        headers: Mapping[str, str] | None,
        silence_s: float | None,
        attempts_max: int | None,
        event_bytes_max: int,
        on_change: Callable[[Change], None] | None,
        backoff: Backoff,
        randomness: Randomness,
        waiting: Waiting,
        transport: httpx2.AsyncBaseTransport | None,
    ) -> None:
        self._url = url
        self._origin = origin_of(url)
        self._secrets = _checked_headers({**(headers or {}), **_bearer(token)})
        self._query = _query(start, kinds)
        self._silence_s = silence_s
        self._heard_s: float | None = None
        self._attempts_max = attempts_max
        self._event_bytes_max = event_bytes_max
        self._on_change = on_change
        self._backoff = backoff
        self._randomness = randomness
        self._waiting = waiting
        self._transport = transport
        self._cursor = _checked_headers({"Last-Event-ID": after or ""})["Last-Event-ID"]
        self._retry_s = 0.0
        self._failures = 0
        if attempts_max is not None and attempts_max < 1:
            message = f"attempts_max is {attempts_max}, and must be positive or None"
            raise InvalidInputError(message)
        if silence_s is not None and not silence_s > 0:
            message = f"silence_s is {silence_s}, and must be positive or None"
            raise InvalidInputError(message)
        EventStreamParser(event_bytes_max=event_bytes_max)  # refuses a wrong limit now and not at the first event

    async def batches(self) -> AsyncGenerator[list[ServerSentEvent], None]:
        """Yield the events that came together, through all connections."""
        async with new_http_client(self._url, transport=self._transport) as client:
            while True:
                try:
                    async with aclosing(self._connection(client)) as batches:
                        async for batch in batches:
                            yield batch
                except _Ended:
                    return
                except TransientError as error:
                    await self._waiting.sleep(self._next_delay_s(error))

    def _next_delay_s(self, error: TransientError) -> float:
        """Count the failure and return how long to wait; raise the error when there were enough."""
        self._failures += 1
        if self._attempts_max is not None and self._failures >= self._attempts_max:
            raise error
        floor_s = max(self._retry_s, error.retry_after_s or 0.0)
        delay_s = self._backoff.delay_s(self._failures, jitter=self._randomness.uniform(0.0, 1.0), floor_s=floor_s)
        self._tell(Interrupted(error, delay_s, self._failures))
        return delay_s

    async def _connection(self, client: httpx2.AsyncClient) -> AsyncGenerator[list[ServerSentEvent], None]:
        """Yield what one connection brings; it ends in an error that says how to go on, always."""
        response = await self._answer(client)
        parser = EventStreamParser(event_bytes_max=self._event_bytes_max, last_event_id=self._cursor)
        # What an earlier connection was told holds until this one is: it may go mute before it has said anything.
        silence = _Silence(self._heard_s if self._silence_s is None else self._silence_s)
        try:
            async with aclosing(response.aiter_bytes()) as chunks:
                while True:
                    events = parser.receive_data(await self._next_chunk(chunks, silence))
                    # Only now, and not with each event: whoever takes the batch takes all of it or leaves for good.
                    self._cursor = parser.last_event_id
                    if parser.retry_ms is not None:
                        self._retry_s = min(parser.retry_ms / 1000, RETRY_AFTER_S_MAX)
                    farewell = self._heed(events, silence)
                    shown = [event for event in events if event.event not in _HIDDEN]
                    if shown:
                        yield shown
                    if farewell is not None:
                        raise farewell
        finally:
            await response.aclose()

    def _heed(self, events: list[ServerSentEvent], silence: _Silence) -> Exception | None:
        """Act on what the server says about the connection itself; return what ends it, if these events do."""
        for event in events:
            if event.event not in _NO_PROGRESS:
                # A server that takes us in only to throw us out again has not come back yet.
                self._failures = 0
            if event.event == "covey.open":
                opening = _decode_opening(event.data)
                if opening.heartbeat_s is not None and opening.heartbeat_s > 0:
                    silence.limit_s = self._heard_s = opening.heartbeat_s * HEARTBEATS_MISSED
                self._tell(Opened(event.id, opening.head, opening.oldest, opening.stream))
            elif event.event == "covey.end":
                return _Ended()
            elif event.event == "covey.bye":
                return TransientError("the hub sent its readers away for now")
        return None

    async def _next_chunk(self, chunks: AsyncGenerator[bytes, None], silence: _Silence) -> bytes:
        import httpx2

        try:
            async with self._waiting.limit(silence.limit_s):
                chunk = await anext(chunks, None)
        except TimeoutError as error:
            message = f"nothing came for {silence.limit_s:g} s, not even a heartbeat"
            raise TransientError(message) from error
        except httpx2.RequestError as error:
            raise cut(error) from error
        if chunk is None:
            message = "the server closed the connection"
            raise TransientError(message)
        return chunk

    async def _answer(self, client: httpx2.AsyncClient) -> httpx2.Response:
        """Return an answer that is an event stream, redirects followed."""
        import httpx2

        url = httpx2.URL(self._url)
        url = url.copy_merge_params(self._query) if self._query else url
        for _ in range(REDIRECTS_MAX + 1):
            response = await self._send(client, url)
            if response.status_code not in _REDIRECTS or "location" not in response.headers:
                return await self._checked(response)
            await response.aclose()
            url = self._redirected(url, response.headers["location"])
        message = f"the server redirected more than {REDIRECTS_MAX} times"
        raise RemoteProtocolError(message)

    async def _send(self, client: httpx2.AsyncClient, url: httpx2.URL) -> httpx2.Response:
        import httpx2

        headers = {"Accept": EVENT_STREAM, "Cache-Control": "no-store", "Accept-Encoding": "identity"}
        if self._cursor:
            headers["Last-Event-ID"] = self._cursor
        if origin_of(str(url)) == self._origin:
            headers |= self._secrets
        try:
            request = client.build_request("GET", url, headers=headers)
            async with self._waiting.limit(ANSWER_S):
                return await client.send(request, stream=True)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise connect_error(str(url), error) from error
        except TimeoutError as error:
            message = f"the server took the request and did not answer within {ANSWER_S:g} s"
            raise TransientError(message) from error
        except (httpx2.LocalProtocolError, httpx2.InvalidURL) as error:
            message = f"the request can't be sent: {describe(error)}"
            raise InvalidInputError(message) from error
        except httpx2.RequestError as error:
            raise cut(error) from error

    def _redirected(self, url: httpx2.URL, location: str) -> httpx2.URL:
        import httpx2

        try:
            target = url.join(location)
            origin = origin_of(str(target))
        except (httpx2.InvalidURL, InvalidInputError) as error:
            message = "the server redirected to what is no URL of an event stream"
            raise RemoteProtocolError(message) from error
        if self._secrets and origin != self._origin:
            # Without the token it would be refused there, with it anyone who can redirect us would have it.
            message = f"the server redirected to {origin.host}, which is not where the token is for"
            raise RemoteProtocolError(message, hint="subscribe to the other server itself, with its own token")
        return target

    async def _checked(self, response: httpx2.Response) -> httpx2.Response:
        """Return the response when events will follow; raise what else it means."""
        import httpx2

        content_type: str = response.headers.get("content-type", "")
        if response.status_code == 200 and content_type.partition(";")[0].strip().lower() == EVENT_STREAM:
            return response
        if response.status_code == 204:
            await response.aclose()
            raise _Ended
        if response.is_success:
            await response.aclose()
            message = f"the server answered with {content_type[:80] or 'no type'!r}, which is no event stream"
            raise RemoteProtocolError(message, hint="check the URL; a hub's streams are at /v1/streams/{name}")
        try:
            async with self._waiting.limit(ANSWER_S):
                problem = await problem_of(response)
        except (TimeoutError, httpx2.RequestError) as error:
            message = f"the server answered with status {response.status_code} and no more"
            raise TransientError(message) from error
        error_: CoveyError = error_of(problem)
        if problem.is_transient and not isinstance(error_, TransientError):
            raise TransientError(problem.message, retry_after_s=problem.retry_after_s, hint=problem.hint)
        raise error_

    def _tell(self, change: Change) -> None:
        if self._on_change is not None:
            self._on_change(change)


class _Silence:
    """How long one connection may be silent; the hub says so once it is open."""

    __slots__ = ("limit_s",)

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s = limit_s


def _bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers when they can be sent. Values are not in the message: one may be a token."""
    for name, value in headers.items():
        if not (name.isascii() and name.isprintable() and name) or any(c in value for c in "\r\n\0"):
            message = f"the value of {name[:80]!r} can't be sent as a header"
            raise InvalidInputError(message)
    return dict(headers)


def _query(start: str, kinds: Collection[str]) -> dict[str, str]:
    """Return what goes into the URL; nothing where the hub's default is meant, as other servers know none of it."""
    query: dict[str, str] = {}
    if start == "start":
        query["from"] = "start"
    elif start != "now":
        message = f"start is {start!r}, and must be 'now' or 'start'"
        raise InvalidInputError(message)
    if kinds:
        query["kinds"] = ",".join(kinds)
    return query


def _decode_opening(data: str) -> _Opening:
    try:
        return msgspec.json.decode(data, type=_Opening)
    except (msgspec.MsgspecError, RecursionError):
        return _Opening()
