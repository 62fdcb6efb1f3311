"""`client/sse.py`: one subscription through connections that break in every way, on a given clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import httpx2
import pytest

import covey
from covey.client.sse import Change, Interrupted, Opened, subscribe, subscribe_sync
from covey.errors import (
    AuthenticationError,
    CoveyError,
    HubUnreachableError,
    InvalidInputError,
    LocalProtocolError,
    RemoteProtocolError,
    StreamNotFoundError,
    TooLargeError,
    TransientError,
)
from covey.wire.event_stream import ServerSentEvent, encode_event

URL = "http://hub.test:7077/v1/streams/news"
EVENT_STREAM = {"content-type": "text/event-stream"}

Answer = Callable[[httpx2.Request], httpx2.Response]


class GivenTime:
    """A clock that moves when it is told to, and by every sleep."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []
        self._limits: list[tuple[float, asyncio.Timeout]] = []

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.now_s += delay_s
        await asyncio.sleep(0)

    def limit(self, limit_s: float | None) -> AbstractAsyncContextManager[object]:
        return self._limit(limit_s)

    @asynccontextmanager
    async def _limit(self, limit_s: float | None) -> AsyncIterator[None]:
        async with asyncio.timeout(None) as scope:
            entry = (self.now_s + (float("inf") if limit_s is None else limit_s), scope)
            self._limits.append(entry)
            try:
                yield
            finally:
                self._limits.remove(entry)

    def advance(self, by_s: float) -> None:
        self.now_s += by_s
        for until_s, scope in self._limits:
            if until_s <= self.now_s:
                scope.reschedule(asyncio.get_running_loop().time())


class Half:
    """Randomness that always gives the middle."""

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2

    def token(self, length: int) -> str:
        return "k" * length


class Server:
    """Answers requests from a script, one answer a request, and keeps the requests."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[httpx2.Request] = []
        self.time = GivenTime()
        self.changes: list[Change] = []
        self._answers = list(answers)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._answers.pop(0)(request)

    @property
    def cursors(self) -> list[str | None]:
        return [request.headers.get("last-event-id") for request in self.requests]

    async def read(self, **options: object) -> list[ServerSentEvent]:
        """Read to the end of the stream."""
        settings = {
            "transport": httpx2.MockTransport(self),
            "waiting": self.time,
            "randomness": Half(),
            "on_change": self.changes.append,
            **options,
        }
        async with aclosing(subscribe(URL, **settings)) as events:  # type: ignore[arg-type]
            return [event async for event in events]


def event(number: int, data: str | None = None) -> bytes:
    return encode_event((data or f"{number}").encode(), event="tick", id=f"e.{number}")


def control(kind: str, *, id: str | None = None, retry_ms: int | None = None, **data: object) -> bytes:
    return encode_event(json.dumps(data).encode(), event=f"covey.{kind}", id=id, retry_ms=retry_ms)


OPEN = control("open", id="e.0", stream="news", head="e.9", oldest="e.1", heartbeat_s=15.0)
END = control("end", id="e.9")


def stream(*chunks: bytes | Exception | Callable[[], None]) -> Answer:
    """Answer with these chunks; an exception breaks the connection there, a function is called there."""

    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            if isinstance(chunk, Exception):
                raise chunk
            if callable(chunk):
                chunk()
                await asyncio.sleep(0)
            else:
                yield chunk

    return lambda _: httpx2.Response(200, headers=EVENT_STREAM, content=body())


def silent(*chunks: bytes, then: Callable[[], None]) -> Answer:
    """Answer with these chunks, call the function, and never send anything again."""

    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
        then()
        await asyncio.Event().wait()

    return lambda _: httpx2.Response(200, headers=EVENT_STREAM, content=body())


def status(code: int, body: object = None, **headers: str) -> Answer:
    content = b"" if body is None else json.dumps(body).encode()
    kind = {"content-type": "application/problem+json"} if body is not None else {}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx2.Response(code, headers={**kind, **named}, content=content)


def fail(error: Exception) -> Answer:
    def raise_it(_: httpx2.Request) -> httpx2.Response:
        raise error

    return raise_it


def data_of(events: list[ServerSentEvent]) -> list[str]:
    return [each.data for each in events]


def redirect(location: str, code: int = 307) -> Answer:
    return status(code, location=location)


@pytest.mark.requirement("client.sse.reads-to-the-end")
async def test_events_come_in_order_until_the_stream_ends_and_the_connections_own_are_kept_back() -> None:
    server = Server(stream(OPEN, event(1), control("heartbeat"), event(2), END))
    events = await server.read()
    assert events == [ServerSentEvent("tick", "1", "e.1"), ServerSentEvent("tick", "2", "e.2")]
    assert len(server.requests) == 1
    assert server.requests[0].headers["accept"] == "text/event-stream"
    assert server.changes == [Opened("e.0", "e.9", "e.1", "news")]


@pytest.mark.requirement("client.sse.resumes")
async def test_a_cut_in_the_middle_of_an_event_loses_and_repeats_nothing() -> None:
    whole = event(2)
    cuts = [stream(OPEN, event(1), whole[:cut], httpx2.ReadError("cut")) for cut in range(len(whole))]
    for cut in cuts:
        server = Server(cut, stream(control("open", id="e.1", heartbeat_s=15), event(2), event(3), END))
        assert data_of(await server.read()) == ["1", "2", "3"]
        assert server.cursors == [None, "e.1"]


@pytest.mark.requirement("client.sse.resumes")
async def test_a_connection_that_ends_without_a_word_is_resumed() -> None:
    server = Server(stream(OPEN, event(1)), stream(event(2)), stream(END))
    assert data_of(await server.read()) == ["1", "2"]
    assert server.cursors == [None, "e.1", "e.2"]


@pytest.mark.requirement("client.sse.resumes")
async def test_an_id_without_an_event_moves_the_cursor() -> None:
    server = Server(stream(OPEN, b"id: e.7\n\n"), stream(END))
    await server.read()
    assert server.cursors == [None, "e.7"]


@pytest.mark.requirement("client.sse.resumes")
async def test_the_given_cursor_is_sent_first_and_again_when_nothing_came() -> None:
    server = Server(fail(httpx2.ConnectError("refused")), stream(END))
    await server.read(after="e.4", start="start", kinds=["tick", "tock"])
    assert server.cursors == ["e.4", "e.4"]
    assert dict(server.requests[1].url.params) == {"from": "start", "kinds": "tick,tock"}


@pytest.mark.requirement("client.sse.resumes")
async def test_a_gap_and_a_reset_are_the_readers_to_know() -> None:
    server = Server(stream(OPEN, control("gap", id="e.5", lost=4), control("reset", id="f.0"), event(6), END))
    assert [each.event for each in await server.read()] == ["covey.gap", "covey.reset", "tick"]


@pytest.mark.requirement("client.sse.ends")
async def test_status_204_ends_it() -> None:
    server = Server(stream(event(1)), status(204))
    assert data_of(await server.read()) == ["1"]


@pytest.mark.requirement("client.sse.ends")
async def test_events_before_the_end_in_the_same_chunk_are_not_lost() -> None:
    server = Server(stream(OPEN + event(1) + event(2) + END + event(3)))
    assert data_of(await server.read())[:2] == ["1", "2"]
    assert len(server.requests) == 1


@pytest.mark.requirement("client.sse.waits")
async def test_goodbye_brings_it_back_after_the_time_the_server_named() -> None:
    server = Server(stream(OPEN, event(1), control("bye", retry_ms=4000, reason="drain")), stream(END))
    assert data_of(await server.read()) == ["1"]
    assert server.time.slept == pytest.approx([4.05])


@pytest.mark.requirement("client.sse.waits")
async def test_retry_holds_until_the_server_names_another() -> None:
    server = Server(
        stream(b"retry: 2000\n\n"),
        stream(event(1)),
        stream(b"retry: 0\n", event(2)),
        stream(b"retry: 9x\n\n"),
        stream(END),
    )
    await server.read()
    assert server.time.slept == pytest.approx([2.05, 2.05, 0.05, 0.1])


@pytest.mark.requirement("client.sse.waits")
async def test_waits_grow_while_nothing_comes_and_begin_anew_when_something_did() -> None:
    refused = fail(httpx2.ConnectError("refused"))
    server = Server(*[refused] * 8, stream(OPEN, event(1)), stream(END))
    await server.read()
    assert server.time.slept == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5, 0.05])


@pytest.mark.requirement("client.sse.waits")
async def test_a_server_that_lets_in_only_to_send_away_is_left_longer_alone_each_time() -> None:
    server = Server(*[stream(OPEN + control("bye"))] * 4, stream(END))
    await server.read()
    assert server.time.slept == pytest.approx([0.05, 0.1, 0.2, 0.4])


@pytest.mark.requirement("client.sse.waits")
async def test_retry_after_is_honoured_and_an_absurd_one_is_bounded() -> None:
    server = Server(status(503, retry_after="7"), status(429, retry_after="99999999"), status(500), stream(END))
    await server.read()
    assert server.time.slept == pytest.approx([7.05, 3600.1, 0.2])


@pytest.mark.requirement("client.sse.tells")
async def test_each_break_is_told_with_its_reason_and_its_wait() -> None:
    server = Server(fail(httpx2.ConnectError("refused")), stream(OPEN, event(1)), stream(END))
    await server.read()
    first, opened, second = server.changes
    assert isinstance(first, Interrupted)
    assert isinstance(first.error, HubUnreachableError)
    assert first.failures == 1
    assert first.delay_s == pytest.approx(0.05)
    assert isinstance(opened, Opened)
    assert isinstance(second, Interrupted)
    assert "closed" in second.error.message


@pytest.mark.requirement("client.sse.watchdog")
async def test_silence_of_two_and_a_half_heartbeats_is_a_dead_connection() -> None:
    time = GivenTime()
    opening = control("open", id="e.0", heartbeat_s=4)
    server = Server(silent(opening, event(1), then=lambda: time.advance(10.01)), stream(END))
    assert data_of(await server.read(waiting=time)) == ["1"]
    assert isinstance(server.changes[1], Interrupted)
    assert "heartbeat" in server.changes[1].error.message
    assert server.cursors == [None, "e.1"]


@pytest.mark.requirement("client.sse.watchdog")
async def test_a_reconnection_that_goes_mute_before_its_first_event_is_found_out_too() -> None:
    time = GivenTime()
    opening = control("open", id="e.0", heartbeat_s=4)
    mute = silent(then=lambda: time.advance(10.01))
    server = Server(stream(opening + event(1)), mute, stream(END))
    assert data_of(await server.read(waiting=time)) == ["1"]
    assert len(server.requests) == 3


@pytest.mark.requirement("client.sse.watchdog")
async def test_any_byte_is_a_sign_of_life() -> None:
    time = GivenTime()
    opening = control("open", id="e.0", heartbeat_s=4)

    def wait() -> None:
        time.advance(9.9)

    server = Server(stream(opening, wait, b":\n", wait, b"da", wait, b"ta: x\n\n", wait, END))
    assert data_of(await server.read(waiting=time)) == ["x"]
    assert len(server.requests) == 1


@pytest.mark.requirement("client.sse.watchdog")
async def test_a_server_that_names_no_heartbeat_may_be_silent_unless_told_otherwise() -> None:
    time = GivenTime()
    server = Server(stream(event(1), lambda: time.advance(1e6), event(2), END))
    assert data_of(await server.read(waiting=time)) == ["1", "2"]
    server = Server(silent(event(1), then=lambda: time.advance(21)), stream(END))
    assert data_of(await server.read(waiting=time, silence_s=20.0)) == ["1"]


@pytest.mark.requirement("client.sse.errors")
@pytest.mark.parametrize(
    ("code", "type_"),
    [(400, InvalidInputError), (401, AuthenticationError), (403, AuthenticationError), (404, CoveyError)],
)
async def test_a_refusal_for_good_is_raised_at_once_with_what_the_hub_said(code: int, type_: type[CoveyError]) -> None:
    server = Server(
        status(code, {"type": "urn:covey:problem:new", "title": "T", "detail": "it is so", "hint": "do this"})
    )
    with pytest.raises(type_) as caught:
        await server.read(token="tok-123")
    assert (caught.value.message, caught.value.hint) == ("it is so", "do this")
    assert len(server.requests) == 1


@pytest.mark.requirement("client.sse.errors")
async def test_a_stream_that_is_not_there_has_its_own_error() -> None:
    detail = "there is no stream 'newz'"
    server = Server(
        status(404, {"type": "urn:covey:problem:stream-not-found", "detail": detail, "hint": "did you mean?"})
    )
    with pytest.raises(StreamNotFoundError, match="newz"):
        await server.read()


@pytest.mark.requirement("client.sse.errors")
async def test_an_answer_that_is_no_event_stream_is_raised() -> None:
    page = Server(lambda _: httpx2.Response(200, headers={"content-type": "text/html"}, content=b"<html>"))
    with pytest.raises(RemoteProtocolError, match="text/html"):
        await page.read()


@pytest.mark.requirement("client.sse.errors")
@pytest.mark.parametrize("body", [b"\xff\xfe not json", b"[1]", b"{" * 5000, b"x" * 200_000])
async def test_a_broken_problem_document_is_told_by_its_status(body: bytes) -> None:
    kind = {"content-type": "application/problem+json"}
    server = Server(lambda _: httpx2.Response(418, headers=kind, content=body))
    with pytest.raises(CoveyError, match="418"):
        await server.read()


@pytest.mark.requirement("client.sse.errors")
async def test_attempts_are_counted_in_a_row_and_then_given_up() -> None:
    refused = fail(httpx2.ConnectError("refused"))
    server = Server(refused, refused, stream(event(1)), refused, refused)
    with pytest.raises(HubUnreachableError):
        await server.read(attempts_max=3)
    assert len(server.requests) == 5


@pytest.mark.requirement("client.sse.errors")
async def test_an_event_over_the_limit_is_raised_after_those_before_it() -> None:
    server = Server(stream(event(1), event(2, "x" * 200)))
    seen: list[str] = []

    async def read() -> None:
        async with aclosing(subscribe(URL, transport=httpx2.MockTransport(server), event_bytes_max=100)) as events:
            async for each in events:
                seen.append(each.data)  # noqa: PERF401 -- the error comes in the middle

    with pytest.raises(TooLargeError):
        await read()
    assert seen == ["1"]


@pytest.mark.requirement("client.sse.errors")
@pytest.mark.parametrize(
    "options",
    [{"after": "e.1\r\nX: y"}, {"headers": {"X": "a\nb"}}, {"token": "a\r\nb"}, {"attempts_max": 0}, {"silence_s": 0.0},
     {"event_bytes_max": 0}, {"start": "middle"}],
)  # fmt: skip
def test_what_can_not_be_asked_for_is_refused_before_anything_is_sent(options: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        subscribe(URL, **options)  # type: ignore[arg-type]


@pytest.mark.requirement("client.sse.errors")
@pytest.mark.parametrize("url", ["", "ftp://hub", "hub:7077", "http://hub:x", "http://user:pass@hub/"])
def test_what_is_no_url_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(InvalidInputError):
        subscribe(url)


@pytest.mark.requirement("client.sse.redirects")
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_within_the_origin_is_followed_with_the_token(code: int) -> None:
    server = Server(redirect("/elsewhere?x=1", code), stream(event(1), END))
    assert data_of(await server.read(token="tok-123")) == ["1"]
    assert str(server.requests[1].url) == "http://hub.test:7077/elsewhere?x=1"
    assert server.requests[1].headers["authorization"] == "Bearer tok-123"


@pytest.mark.requirement("client.sse.redirects")
@pytest.mark.parametrize(
    "location", ["http://evil.test/x", "https://hub.test:7077/x", "http://hub.test:7078/x", "//evil.test/"]
)
async def test_a_token_is_never_taken_to_another_origin(location: str) -> None:
    server = Server(redirect(location), stream(END))
    with pytest.raises(RemoteProtocolError) as caught:
        await server.read(token="tok-123")
    assert len(server.requests) == 1
    assert "tok-123" not in str(caught.value)


@pytest.mark.requirement("client.sse.redirects")
async def test_without_a_token_another_origin_is_as_good() -> None:
    server = Server(redirect("http://other.test/x"), stream(event(1), END))
    assert data_of(await server.read()) == ["1"]
    assert "authorization" not in server.requests[1].headers


@pytest.mark.requirement("client.sse.redirects")
@pytest.mark.parametrize("location", ["/a", "file:///etc/passwd", "http://[", "gopher://x"])
async def test_redirects_without_end_or_to_nowhere_are_refused(location: str) -> None:
    server = Server(*[redirect(location)] * 20)
    with pytest.raises(RemoteProtocolError):
        await server.read()
    assert len(server.requests) <= 11


@pytest.mark.requirement("client.sse.errors")
async def test_a_hub_that_takes_the_request_and_says_nothing_is_tried_again() -> None:
    time = GivenTime()

    class Mute(httpx2.AsyncBaseTransport):
        requests = 0

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            self.requests += 1
            time.advance(31.0)
            await asyncio.Event().wait()
            raise AssertionError

    mute = Mute()
    with pytest.raises(TransientError, match="did not answer"):
        await anext(subscribe(URL, transport=mute, waiting=time, attempts_max=2))
    assert mute.requests == 2


@pytest.mark.requirement("client.sse.sync")
def test_a_script_reads_without_an_event_loop() -> None:
    server = Server(stream(OPEN, event(1)), stream(event(2), END))
    events = subscribe_sync(URL, transport=httpx2.MockTransport(server), waiting=server.time)
    assert [each.data for each in events] == ["1", "2"]
    assert server.cursors == [None, "e.1"]


@pytest.mark.requirement("client.sse.sync")
def test_a_script_may_stop_reading_in_the_middle() -> None:
    server = Server(stream(OPEN, event(1), event(2), END))
    events = subscribe_sync(URL, transport=httpx2.MockTransport(server), waiting=server.time)
    assert next(events).data == "1"
    events.close()
    assert list(events) == []


@pytest.mark.requirement("client.sse.sync")
async def test_where_an_event_loop_runs_the_blocking_form_is_refused() -> None:
    with pytest.raises(LocalProtocolError) as caught:
        subscribe_sync(URL)
    assert "covey.subscribe" in str(caught.value.hint)


@pytest.mark.requirement("client.sse.sync")
def test_both_are_public_names() -> None:
    assert covey.subscribe is subscribe
    assert covey.subscribe_sync is subscribe_sync


@pytest.mark.requirement("client.sse.resumes")
async def test_over_real_sockets_a_connection_cut_at_any_byte_is_resumed() -> None:
    """A server that knows only how to count: it goes on after Last-Event-ID and cuts each connection somewhere."""
    total = 40
    sizes = iter(range(200, 2000, 97))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        after = int(head.partition("last-event-id: e.")[2].partition("\r")[0] or 0)
        blocks = b"retry: 0\n" + b"".join(event(n) for n in range(after + 1, total + 1))
        blocks += control("end", id=f"e.{total}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + blocks[: next(sizes, None)])
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with aclosing(subscribe(f"http://127.0.0.1:{port}/", waiting=GivenTime())) as events:
            seen = [each.data async for each in events]
    assert seen == [str(number) for number in range(1, total + 1)]
