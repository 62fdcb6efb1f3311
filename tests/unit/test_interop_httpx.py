"""`interop/httpx.py` and `interop/httpx2.py`: what a policy does to the requests of a client."""

# ruff: noqa: ANN401 -- the tests are the same for two libraries, and what is of one of them has no common type

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import httpx2
import pytest
from tests.scripted_http import answer, events, scripted_server
from tests.virtual_time import now_s, settled, virtual

import covey.interop.httpx
import covey.interop.httpx2
from covey.errors import InvalidInputError, LocalProtocolError, StreamCutError, TimedOutError, UnavailableError
from covey.interop.http_exchange import ORIGINS_MAX, REFUSAL_BYTES_MAX, Targets
from covey.interop.stream_rules import LLM_STREAMS, StreamWatch
from covey.resilience.backoff import Backoff
from covey.resilience.breaker import Breaker
from covey.resilience.budget import Budget
from covey.resilience.events import PolicyEvent
from covey.resilience.hedge import Hedge
from covey.resilience.policy import Policy
from covey.resilience.target import Target
from covey.resilience.timeout import timeout
from covey.testing.clock import ManualClock
from covey.testing.randomness import SeededRandomness

URL = "http://service.test/things"
QUICK = Policy(backoff=Backoff(first_s=0.1, cap_s=0.1))


# Any, as one library's types stand for the other's.
class Library(SimpleNamespace):
    http: Any
    ours: Any


LIBRARIES = [Library(http=httpx2, ours=covey.interop.httpx2), Library(http=httpx, ours=covey.interop.httpx)]
both = pytest.mark.parametrize("library", LIBRARIES, ids=["httpx2", "httpx"])


class Body:
    """A body in pieces that says whether it was closed; async and not."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = pieces
        self.closed = 0

    def of(self, library: Library) -> Any:
        body = self

        class Stream(library.http.AsyncByteStream, library.http.SyncByteStream):  # type: ignore[misc, name-defined]
            def __iter__(self) -> Iterator[bytes]:
                for piece in body.pieces:
                    if isinstance(piece, Exception):
                        raise piece
                    yield piece

            async def __aiter__(self) -> AsyncIterator[bytes]:
                for piece in body.pieces:
                    if isinstance(piece, Exception):
                        raise piece
                    yield piece

            def close(self) -> None:
                body.closed += 1

            async def aclose(self) -> None:
                body.closed += 1

        return Stream()


class Service:
    """Answers as told, one after another, the last one for ever; keeps what it was asked."""

    def __init__(self, library: Library, *answers: object) -> None:
        self.library = library
        self.answers = list(answers)
        self.requests: list[Any] = []
        self.at_s: list[float] = []

    def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            return answer(request)
        status, headers, body = answer if isinstance(answer, tuple) else (answer, {}, b"")
        content = {"stream": body.of(self.library)} if isinstance(body, Body) else {"content": body}
        return self.library.http.Response(status, headers=headers, **content)

    def transport(self, targets: object = QUICK, **options: Any) -> Any:
        async def handle(request: Any) -> Any:
            self.at_s.append(now_s())
            answer = self(request)
            return await answer if asyncio.iscoroutine(answer) else answer

        wrapped = self.library.http.MockTransport(handle)
        return self.library.ours.PolicyTransport(targets, wrapped=wrapped, **options)

    async def ask(
        self, method: str = "GET", targets: object = QUICK, *, url: str = URL, transport: Any = None, **options: Any
    ) -> Any:
        async with self.library.http.AsyncClient(transport=transport or self.transport(targets)) as client:
            return await client.request(method, url, **options)


def refused(library: Library) -> Exception:
    error: Exception = library.http.ConnectError("nobody listens")
    return error


def broken(library: Library) -> Exception:
    error: Exception = library.http.ReadError("gone")
    return error


# ---- what is repeated


@pytest.mark.requirement("interop.httpx.repeats")
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "POST", "PATCH"])
@pytest.mark.parametrize(("status", "is_sent"), [(503, False), (429, False), (500, True), (502, True)])
@both
@virtual
async def test_a_refusal_is_repeated_and_what_may_have_run_only_if_it_may_run_twice(
    library: Library,
    method: str,
    status: int,
    is_sent: bool,  # noqa: FBT001 -- a column of the table above
) -> None:
    service = Service(library, status, status, 200)
    response = await service.ask(method)
    is_repeated = not is_sent or method not in {"POST", "PATCH"}
    assert (response.status_code, len(service.requests)) == ((200, 3) if is_repeated else (status, 1))


@pytest.mark.requirement("interop.httpx.repeats")
@both
@virtual
async def test_a_post_is_repeated_when_it_never_left_or_has_a_key_or_was_declared_idempotent(library: Library) -> None:
    never_left = Service(library, refused(library), 200)
    assert (await never_left.ask("POST", content=b"x")).status_code == 200
    sent = Service(library, broken(library), 200)
    with pytest.raises(library.http.ReadError) as raised:
        await sent.ask("POST", content=b"x")
    assert raised.value.maybe_executed
    assert len(sent.requests) == 1
    keyed = Service(library, broken(library), 200)
    assert (await keyed.ask("POST", content=b"x", headers={"Idempotency-Key": "k1"})).status_code == 200
    assert [request.headers["idempotency-key"] for request in keyed.requests] == ["k1", "k1"]
    declared = Service(library, broken(library), 200)
    target = Target("service", QUICK).options(idempotent=True)
    assert (await declared.ask("POST", target, content=b"x")).status_code == 200


@pytest.mark.requirement("interop.httpx.repeats")
@both
@virtual
async def test_the_key_of_a_target_goes_out_with_the_request(library: Library) -> None:
    service = Service(library, broken(library), 200)
    await service.ask("POST", Target("service", QUICK).options(key="invoice-17"), content=b"x")
    assert [request.headers["idempotency-key"] for request in service.requests] == ["invoice-17", "invoice-17"]


@pytest.mark.requirement("interop.httpx.body")
@both
@virtual
async def test_a_body_that_cannot_be_sent_again_is_not(library: Library) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    def read(status: int) -> Callable[[Any], Any]:
        async def answer(request: Any) -> Any:
            await request.aread()
            return library.http.Response(status)

        return answer

    service = Service(library, read(503), 200)
    response = await service.ask("PUT", content=pieces())
    assert (response.status_code, len(service.requests)) == (503, 1)

    def cut(request: Any) -> Any:
        async def answer() -> Any:
            await request.aread()
            raise broken(library)

        return answer()

    failing = Service(library, cut, 200)
    with pytest.raises(library.http.ReadError):
        await failing.ask("PUT", content=pieces())
    assert len(failing.requests) == 1


@pytest.mark.requirement("interop.httpx.body")
@both
@virtual
async def test_a_body_that_nobody_began_to_read_can_still_be_sent(library: Library) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"

    received: list[bytes] = []

    async def take(request: Any) -> Any:
        received.append(await request.aread())
        return library.http.Response(200)

    failures = [refused(library)]

    async def handle(request: Any) -> Any:
        if failures:
            raise failures.pop()
        return await take(request)

    class Lazy(library.http.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        async def handle_async_request(self, request: Any) -> Any:
            return await handle(request)

    transport = library.ours.PolicyTransport(QUICK, wrapped=Lazy())
    async with library.http.AsyncClient(transport=transport) as client:
        response = await client.post(URL, content=pieces())
    assert (response.status_code, received) == (200, [b"one"])


# ---- what comes back


@pytest.mark.requirement("interop.httpx.last-answer")
@both
@virtual
async def test_the_last_answer_is_returned_and_all_others_are_closed(library: Library) -> None:
    bodies = [Body(b"first"), Body(b"x" * REFUSAL_BYTES_MAX, b"more"), Body(b"the last ", b"word")]
    service = Service(library, *[(503, {}, body) for body in bodies])
    response = await service.ask()
    assert (response.status_code, response.text, len(service.requests)) == (503, "the last word", 3)
    assert all(body.closed for body in bodies)
    assert response.request.url == URL


@pytest.mark.requirement("interop.httpx.last-answer")
@both
@virtual
async def test_a_large_refusal_is_streamed_to_whoever_reads_it(library: Library) -> None:
    parts = [b"x" * REFUSAL_BYTES_MAX, b"y" * 10]
    body = Body(*parts)
    service = Service(library, (404, {}, body))
    async with (
        library.http.AsyncClient(transport=service.transport()) as client,
        client.stream("GET", URL) as response,
    ):
        closed_before = body.closed
        assert b"".join([piece async for piece in response.aiter_raw()]) == b"".join(parts)
    assert (closed_before, body.closed > 0) == (0, True)
    assert len(service.requests) == 1


@pytest.mark.requirement("interop.httpx.last-answer")
@both
@virtual
async def test_a_refusal_that_breaks_off_does_so_for_its_reader(library: Library) -> None:
    service = Service(library, (404, {}, Body(b"half", broken(library))))
    with pytest.raises(library.http.ReadError):
        await service.ask()
    async with (
        library.http.AsyncClient(transport=service.transport()) as client,
        client.stream("GET", URL) as response,
    ):
        assert response.status_code == 404


@pytest.mark.requirement("interop.httpx.handed-out")
@both
@virtual
async def test_an_answer_that_was_handed_out_is_not_asked_for_again(library: Library) -> None:
    service = Service(library, (200, {}, Body(b"half", broken(library))))
    with pytest.raises(library.http.ReadError):
        await service.ask()
    assert len(service.requests) == 1


@pytest.mark.requirement("interop.httpx.errors")
@both
@virtual
async def test_the_policys_errors_are_the_librarys_too(library: Library) -> None:
    async def hang(request: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    policy = Policy(
        attempts_max=1, attempt_timeout_s=2.0, breaker=Breaker(refusals_max=1, open_s=30.0, open_s_max=30.0)
    )
    service = Service(library, hang)
    with pytest.raises(library.ours.RequestTimedOutError, match="within 2 s") as late:
        await service.ask(targets=policy)
    assert isinstance(late.value, TimedOutError)
    assert isinstance(late.value, library.http.TimeoutException)
    assert late.value.maybe_executed
    assert late.value.request.url == URL

    target = Target("service", policy)
    failing = Service(library, refused(library))
    with pytest.raises(library.http.ConnectError):
        await failing.ask(targets=target)
    with pytest.raises(library.http.TransportError, match="failed too often") as shed:
        await failing.ask(targets=target)
    assert isinstance(shed.value, UnavailableError)
    assert (shed.value.reason, shed.value.target, len(failing.requests)) == ("circuit_open", "service", 1)


@pytest.mark.requirement("interop.httpx.errors")
@both
@virtual
async def test_cancelling_a_request_is_not_an_error_of_the_service(library: Library) -> None:
    entered = asyncio.Event()

    async def hang(request: Any) -> Any:
        entered.set()
        await asyncio.get_running_loop().create_future()

    target = Target("service", QUICK)
    service = Service(library, hang)
    asking = asyncio.create_task(service.ask(targets=target))
    await entered.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (target.health().in_flight, target.health().state) == (0, "closed")


# ---- what services say


@pytest.mark.requirement("interop.httpx.hints")
@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After-Ms": "1500", "Retry-After": "2"}, 1.5),
        ({"x-ratelimit-reset-requests": "6s", "x-ratelimit-remaining-requests": "0"}, 6.0),
    ],
    ids=str,
)
@both
@virtual
async def test_retry_after_holds_back_every_request_to_the_target(
    library: Library, headers: dict[str, str], wait_s: float
) -> None:
    service = Service(library, (429, headers, b""), 200)
    transport = service.transport()
    async with library.http.AsyncClient(transport=transport) as client:
        began_s = now_s()
        first = asyncio.create_task(client.post(URL))
        await settled()
        second = await client.post(URL)
        assert [(await first).status_code, second.status_code] == [200, 200]
        assert all(wait_s <= at_s - began_s <= wait_s * 1.3 for at_s in service.at_s[1:])
        await client.get("http://other.test/")
        assert len({request.url.host for request in service.requests}) == 2


@pytest.mark.requirement("interop.httpx.hints")
@both
@virtual
async def test_a_wait_that_is_too_long_is_told_at_once_with_the_answer(library: Library) -> None:
    service = Service(library, (429, {"Retry-After": "3600"}, b""))
    began_s = now_s()
    response = await service.ask()
    assert (response.status_code, response.headers["retry-after"], len(service.requests)) == (429, "3600", 1)
    assert now_s() == began_s


@pytest.mark.requirement("interop.httpx.hints")
@both
@virtual
async def test_a_service_that_wants_no_repeat_gets_none(library: Library) -> None:
    service = Service(library, (503, {"x-should-retry": "false"}, b""))
    assert (await service.ask()).status_code == 503
    assert len(service.requests) == 1


@pytest.mark.requirement("interop.httpx.says-why")
@pytest.mark.parametrize(
    ("status", "body", "count"),
    [
        (429, b'{"error": {"type": "insufficient_quota", "code": "insufficient_quota"}}', 1),
        (429, b'{"error": {"type": "rate_limit_error"}}', 3),
        (429, b"[]", 3),
        (429, b"not json", 3),
    ],
)
@both
@virtual
async def test_what_an_answer_says_in_json_counts_too(library: Library, status: int, body: bytes, count: int) -> None:
    service = Service(library, (status, {"content-type": "application/json"}, body))
    response = await service.ask("POST")
    assert (response.status_code, response.content, len(service.requests)) == (status, body, count)


# ---- time


@pytest.mark.requirement("interop.httpx.deadline")
@both
@virtual
async def test_the_time_that_remains_is_told_only_to_who_asked_for_it(library: Library) -> None:
    service = Service(library, 503, 200)
    async with library.http.AsyncClient(transport=service.transport(tells_deadline=True)) as client:
        with timeout(4.0):
            await client.get(URL)
    told = [int(request.headers["covey-timeout-ms"]) for request in service.requests]
    assert told[0] == 3800
    assert told[1] < told[0]
    plain = Service(library, 200)
    with timeout(4.0):
        await plain.ask()
    assert "covey-timeout-ms" not in plain.requests[0].headers


@pytest.mark.requirement("interop.httpx.deadline")
@both
@virtual
async def test_no_connection_in_time_is_told_by_the_library_which_knows_that_nothing_was_sent(library: Library) -> None:
    service = Service(library, 200)
    given = library.http.Timeout(600, connect=1.0)
    policy = Policy(timeout_s=20.0, attempt_timeout_s=10.0, idle_s=5.0)
    sent: dict[str, float] = {}

    def look(request: Any) -> Any:
        sent.update(request.extensions["timeout"])
        return library.http.Response(200)

    service.answers = [look]
    await service.ask(targets=policy, timeout=given)
    assert sent == {"connect": 1.0, "pool": 9.5, "read": 600, "write": 600}
    # From the head on, silence is limited as that of a stream.
    assert service.requests[0].extensions["timeout"]["read"] == 5.0
    unlimited = Policy(timeout_s=None, attempt_timeout_s=None, idle_s=None)
    await service.ask(targets=unlimited, timeout=given)
    assert service.requests[1].extensions["timeout"] == given.as_dict()


# ---- sharing


@pytest.mark.requirement("interop.httpx.targets")
@virtual
async def test_a_policy_has_a_target_for_each_origin_and_forgets_the_oldest() -> None:
    targets = Targets(QUICK)
    first = targets.of(httpx2.Request("POST", "http://a.test/1"))
    assert first.name == "http://a.test"
    assert targets.of(httpx2.Request("POST", "http://a.test/2")) is first
    assert targets.of(httpx2.Request("POST", "https://a.test/2")) is not first
    assert targets.of(httpx2.Request("POST", "http://a.test:81/2")).name == "http://a.test:81"
    for number in range(ORIGINS_MAX - 2):
        targets.of(httpx2.Request("POST", f"http://{number}.test/"))
    assert targets.of(httpx2.Request("POST", "http://a.test/1")) is not first


@pytest.mark.requirement("interop.httpx.targets")
@both
@virtual
async def test_a_function_tells_whose_target_a_request_has(library: Library) -> None:
    tenants = {name: Target(name, QUICK) for name in ("ada", "bob")}
    service = Service(library, (429, {"Retry-After": "30"}, b""), 200)
    transport = service.transport(lambda request: tenants[request.headers["tenant"]])
    async with library.http.AsyncClient(transport=transport) as client:
        asking = asyncio.create_task(client.get(URL, headers={"tenant": "ada"}))
        await settled()
        began_s = now_s()
        await client.get(URL, headers={"tenant": "bob"})
        assert now_s() == began_s
        await asking


@pytest.mark.requirement("interop.httpx.targets")
@both
def test_targets_of_another_kind_are_refused(library: Library) -> None:
    with pytest.raises(InvalidInputError, match="needs a Target"):
        library.ours.PolicyTransport("http://service.test")


@pytest.mark.requirement("interop.httpx.one-layer")
@both
@virtual
async def test_policies_and_clients_that_repeat_are_not_stacked(library: Library) -> None:
    service = Service(library, refused(library))
    outer = Target("job", QUICK)
    with pytest.raises(library.http.ConnectError):
        await outer.call(service.ask)
    assert len(service.requests) == 3
    again = Service(library, refused(library))
    with pytest.raises(library.http.ConnectError):
        await again.ask(headers={"x-stainless-retry-count": "1"})
    assert len(again.requests) == 1


@pytest.mark.requirement("interop.httpx.one-layer")
@both
@virtual
async def test_repeats_are_bounded_by_the_budget_of_the_target(library: Library) -> None:
    service = Service(library, 503)
    policy = Policy(backoff=Backoff(first_s=0.001, cap_s=0.001), budget=Budget(burst=5), breaker=None)
    async with library.http.AsyncClient(transport=service.transport(policy)) as client:
        for _ in range(50):
            assert (await client.get(URL)).status_code == 503
    assert len(service.requests) <= 50 * 1.1 + 5


@pytest.mark.requirement("interop.httpx.hedge")
@both
@virtual
async def test_a_second_try_beside_a_slow_first_one_leaves_nothing_open(library: Library) -> None:
    slow, quick = Body(b"slow"), Body(b"quick")
    answers = [slow, quick]

    async def answer(request: Any) -> Any:
        body = answers.pop(0)
        await asyncio.sleep(5.0 if body is slow else 0.1)
        return library.http.Response(200, stream=body.of(library))

    service = Service(library, 200)
    target = Target("service", Policy(hedge=Hedge(after_s=1.0), timeout_s=60))
    service.answers = [answer]
    response = await service.ask(targets=target)
    assert (response.text, len(service.requests), quick.closed) == ("quick", 2, 1)


@pytest.mark.requirement("interop.httpx.hedge")
@both
@virtual
async def test_a_body_that_is_being_sent_is_not_sent_a_second_time_beside_it(library: Library) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"

    async def slow(request: Any) -> Any:
        await request.aread()
        await asyncio.sleep(5.0)
        return library.http.Response(200)

    service = Service(library, slow)
    target = Target("service", Policy(hedge=Hedge(after_s=1.0), timeout_s=60))
    assert (await service.ask("PUT", target, content=pieces())).status_code == 200
    assert len(service.requests) == 1


@pytest.mark.requirement("interop.httpx.fallback")
@both
@virtual
async def test_a_fallback_sees_the_refusal_and_answers_in_its_place(library: Library) -> None:
    def instead(error: Exception) -> Any:
        assert getattr(error, "status_code", None) == 503
        return library.http.Response(200, content=b"from the cache")

    service = Service(library, (503, {}, Body(b"no")))
    response = await service.ask(targets=Policy(attempts_max=1, fallback=instead))
    assert response.text == "from the cache"


@pytest.mark.requirement("interop.httpx.events")
@both
@virtual
async def test_what_happens_is_told(library: Library) -> None:
    events: list[PolicyEvent] = []
    service = Service(library, 503, 200)
    await service.ask(targets=Policy(on_event=events.append))
    assert [(event.kind, event.target, event.verdict) for event in events if event.kind != "limit"] == [
        ("attempt", "http://service.test", "overloaded"),
        ("retry", "http://service.test", None),
        ("attempt", "http://service.test", None),
    ]


# ---- event streams

DELTA = b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\n'
OVERLOADED = b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}\n\n'
PRELUDE = b'event: message_start\ndata: {"type": "message_start"}\n\nevent: ping\ndata: {}\n\n'
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}


async def stream_of(service: Service) -> bytes:
    transport = service.transport(streams=LLM_STREAMS)
    async with (
        service.library.http.AsyncClient(transport=transport) as client,
        client.stream("POST", URL, content=b"{}") as response,
    ):
        return b"".join([piece async for piece in response.aiter_bytes()])


@pytest.mark.requirement("interop.httpx.streams")
@both
@virtual
async def test_a_failure_in_a_stream_before_there_is_anything_to_show_is_one_of_the_request(library: Library) -> None:
    failing = Body(PRELUDE, OVERLOADED, b"never read")
    good = PRELUDE + DELTA + b"data: [DONE]\n\n"
    service = Service(library, (200, EVENTS, failing), (200, EVENTS, Body(good[:40], good[40:])))
    assert await stream_of(service) == good
    assert (len(service.requests), failing.closed > 0) == (2, True)
    hopeless = Service(library, (200, EVENTS, Body(PRELUDE + OVERLOADED)))
    assert await stream_of(hopeless) == PRELUDE + OVERLOADED
    assert len(hopeless.requests) == 3


@pytest.mark.requirement("interop.httpx.streams")
@both
@virtual
async def test_a_failure_in_a_stream_after_that_is_the_readers_to_see(library: Library) -> None:
    service = Service(library, (200, EVENTS, Body(PRELUDE, DELTA, OVERLOADED)))
    assert await stream_of(service) == PRELUDE + DELTA + OVERLOADED
    assert len(service.requests) == 1


@pytest.mark.requirement("interop.httpx.streams")
@both
@virtual
async def test_a_stream_that_ends_without_its_last_event_was_cut(library: Library) -> None:
    service = Service(library, (200, EVENTS, Body(PRELUDE, DELTA)))
    with pytest.raises(library.http.RemoteProtocolError, match="without its last event") as raised:
        await stream_of(service)
    assert isinstance(raised.value, StreamCutError)
    early = Service(library, (200, EVENTS, Body(PRELUDE)))
    with pytest.raises(StreamCutError):
        await stream_of(early)
    assert len(service.requests) == len(early.requests) == 1


@pytest.mark.requirement("interop.httpx.streams")
@both
@virtual
async def test_other_answers_and_packed_streams_are_left_alone(library: Library) -> None:
    service = Service(library, (200, {"content-type": "application/json"}, Body(OVERLOADED)))
    assert await stream_of(service) == OVERLOADED
    packed = Service(library, (200, {**EVENTS, "content-encoding": "br"}, Body(b"\0")))
    transport = packed.transport(streams=LLM_STREAMS)
    async with (
        library.http.AsyncClient(transport=transport) as client,
        client.stream("POST", URL) as response,
    ):
        assert [piece async for piece in response.aiter_raw()] == [b"\0"]


@pytest.mark.requirement("interop.httpx.streams")
@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (OVERLOADED, {"type": "overloaded_error", "message": "busy"}),
        (b'data: {"error": {"code": "server_error", "message": "x"}}\n\n', {"code": "server_error", "message": "x"}),
        (
            b'event: response.failed\ndata: {"response": {"error": {"code": "rate_limit_exceeded"}}}\n\n',
            {"code": "rate_limit_exceeded"},
        ),
        (b"event: error\ndata: not json\n\n", None),
        (b'event: response.failed\ndata: {"response": null}\n\n', None),
    ],
)
def test_the_ways_in_which_streams_of_language_models_fail(data: bytes, failure: dict[str, str] | None) -> None:
    watch = StreamWatch(LLM_STREAMS)
    watch.receive_data(PRELUDE)
    assert not watch.is_decided
    watch.receive_data(data)
    assert watch.failure is not None
    assert watch.failure.get("error") == failure
    assert watch.is_complete


@pytest.mark.requirement("interop.httpx.streams")
@pytest.mark.parametrize(
    "data",
    [
        b'data: {"choices": [], "error": null}\n\n',
        b'data: {"text": "the word \\"error\\""}\n\n',
        b"data: [1]\n\n",
        b'event: message_stop\ndata: {"type": "message_stop"}\n\n',
        b"data: [DONE]\n\n",
    ],
)
def test_what_is_no_failure_is_something_to_show(data: bytes) -> None:
    watch = StreamWatch(LLM_STREAMS)
    watch.receive_data(data)
    assert (watch.failure, watch.has_begun) == (None, True)


@pytest.mark.requirement("interop.httpx.streams")
def test_an_event_too_large_to_be_watched_is_passed_on_unwatched() -> None:
    watch = StreamWatch(LLM_STREAMS)
    watch.receive_data(b"data: " + b"x" * (17 << 20))
    assert (watch.has_begun, watch.is_complete, watch.failure) == (True, True, None)
    watch.receive_data(OVERLOADED)
    assert watch.failure is None


# ---- in a thread


def blocking(library: Library, *answers: object, **options: Any) -> tuple[Service, Any, ManualClock]:
    service = Service(library, *answers)
    clock = ManualClock(monotonic_s=time.monotonic())
    target = Target("service", QUICK, randomness=SeededRandomness(1), clock=clock, sleep=clock.advance)
    wrapped = library.http.MockTransport(service)
    return service, library.ours.PolicyTransport(target, wrapped=wrapped, **options), clock


@pytest.mark.requirement("interop.httpx.blocking")
@both
def test_a_client_without_async_is_served_the_same_way(library: Library) -> None:
    body = Body(b"no")
    service, transport, clock = blocking(library, (429, {"Retry-After": "3"}, body), refused(library), 200)
    began_s = clock.monotonic_s()
    with library.http.Client(transport=transport) as client:
        assert client.post(URL, content=b"x").status_code == 200
    assert (len(service.requests), body.closed > 0) == (3, True)
    assert clock.monotonic_s() - began_s >= 3
    service, transport, _ = blocking(library, (503, {}, Body(b"y" * REFUSAL_BYTES_MAX, b"z")))
    with library.http.Client(transport=transport) as client:
        response = client.get(URL)
    assert (response.status_code, len(response.content)) == (503, REFUSAL_BYTES_MAX + 1)
    assert len(service.requests) == 3


@pytest.mark.requirement("interop.httpx.blocking")
@both
def test_without_async_a_used_up_body_is_not_sent_again(library: Library) -> None:
    def cut(request: Any) -> Any:
        request.read()
        raise broken(library)

    service, transport, _ = blocking(library, cut, 200)
    with library.http.Client(transport=transport) as client, pytest.raises(library.http.ReadError):
        client.put(URL, content=iter([b"one", b"two"]))
    assert len(service.requests) == 1


@pytest.mark.requirement("interop.httpx.blocking")
@both
def test_without_async_event_streams_are_watched_too(library: Library) -> None:
    good = PRELUDE + DELTA + b"data: [DONE]\n\n"
    service, transport, _ = blocking(
        library,
        (200, EVENTS, Body(OVERLOADED)),
        (200, EVENTS, Body(PRELUDE, DELTA, good[len(PRELUDE + DELTA) :])),
        (200, EVENTS, Body(PRELUDE, DELTA)),
        streams=LLM_STREAMS,
    )
    with library.http.Client(transport=transport) as client:
        assert client.post(URL).content == good
        with pytest.raises(StreamCutError):
            client.post(URL)
    assert len(service.requests) == 3


@pytest.mark.requirement("interop.httpx.blocking")
@both
def test_without_async_silence_is_cut_by_the_librarys_timer(library: Library) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        policy = Policy(attempts_max=1, attempt_timeout_s=0.2)
        transport = library.ours.PolicyTransport(policy)
        with library.http.Client(transport=transport, timeout=None) as client, pytest.raises(library.http.ReadTimeout):
            client.get(f"http://127.0.0.1:{mute.getsockname()[1]}/")


@pytest.mark.requirement("interop.httpx.misuse")
@both
@virtual
async def test_a_transport_that_cannot_send_for_a_client_says_so(library: Library) -> None:
    transport = library.ours.PolicyTransport(QUICK, wrapped=library.http.AsyncHTTPTransport())
    with library.http.Client(transport=transport) as client, pytest.raises(LocalProtocolError, match="can't send"):
        client.get(URL)
    await transport.aclose()
    blocked = library.ours.PolicyTransport(QUICK, wrapped=library.http.HTTPTransport())
    async with library.http.AsyncClient(transport=blocked) as client:
        with pytest.raises(LocalProtocolError, match="can't send"):
            await client.get(URL)
    blocked.close()


# ---- real sockets


@pytest.mark.requirement("interop.httpx.idle")
@both
async def test_a_body_that_falls_silent_is_cut_after_the_policys_idle_time(library: Library) -> None:
    async with scripted_server(events(b"half", ends="stalls")) as server:
        transport = library.ours.PolicyTransport(Policy(idle_s=0.1))
        async with library.http.AsyncClient(transport=transport, timeout=600) as client:
            with pytest.raises(library.http.ReadTimeout):
                async with asyncio.timeout(20):
                    await client.get(server.url)
        assert len(server.received) == 1


@pytest.mark.requirement("interop.httpx.last-answer")
@both
async def test_refusals_give_their_connection_back(library: Library) -> None:
    async with scripted_server(answer(503, b"no"), answer(503, b"no"), answer(200, b"body")) as server:
        policy = Policy(backoff=Backoff(first_s=0.001, cap_s=0.001))
        async with library.http.AsyncClient(transport=library.ours.PolicyTransport(policy)) as client:
            response = await client.get(server.url)
        assert (response.status_code, response.text) == (200, "body")
        assert (len(server.received), server.connections) == (3, 1)


# ---- the two modules


@pytest.mark.requirement("interop.httpx.same")
def test_the_two_modules_differ_by_the_name_of_their_library_only() -> None:
    first, second = (Path(str(module.__file__)).read_text(encoding="utf-8") for module in modules())
    assert re.sub(r"httpx2?", "httpx", first) == re.sub(r"httpx2?", "httpx", second)


def modules() -> tuple[ModuleType, ModuleType]:
    return covey.interop.httpx2, covey.interop.httpx
