"""`client/connect.py` and `client/problems.py`: what is repeated, what is not, and errors that survive the wire."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx2
import pytest

from covey import errors
from covey.client.address import Address
from covey.client.connect import Hub, TeammateRow
from covey.client.problems import error_of, read_problem
from covey.hub.problems import KINDS, problem_of

TOKEN = "tok-123"
Answer = Callable[[httpx2.Request], httpx2.Response]


class Fast:
    """Time that passes only in sleeps, and those take none."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return time.time()

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.now_s += delay_s

    def limit(self, limit_s: float | None) -> AbstractAsyncContextManager[object]:
        return self._limit()

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        yield


class Fake:
    """A hub that answers from a script."""

    def __init__(self, *answers: Answer, token: str | None = TOKEN) -> None:
        self.requests: list[httpx2.Request] = []
        self.time = Fast()
        self._answers = list(answers)
        self.hub = Hub(
            Address("http://127.0.0.1:7077", token),
            clock=self.time,
            waiting=self.time,
            transport=httpx2.MockTransport(self._answer),
        )

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._answers.pop(0)(request)


def ok(body: object, code: int = 200) -> Answer:
    return lambda _: httpx2.Response(code, content=json.dumps(body).encode())


def problem(code: int, slug: str = "x", **fields: object) -> Answer:
    body = {"type": f"urn:covey:problem:{slug}", "title": "T", "status": code, "detail": "because", **fields}
    kind = {"content-type": "application/problem+json"}
    return lambda _: httpx2.Response(code, headers=kind, content=json.dumps(body).encode())


def fail(error: Exception) -> Answer:
    def raise_it(_: httpx2.Request) -> httpx2.Response:
        raise error

    return raise_it


refused = fail(httpx2.ConnectError("refused"))
cut = fail(httpx2.ReadError("cut"))


@pytest.mark.requirement("client.call.sent")
async def test_a_call_carries_arguments_token_key_and_time() -> None:
    fake = Fake(ok({"result": {"n": 3}}))
    assert await fake.hub.call("ada", "count", {"text": "x"}, timeout_s=2.5, key="brief-7") == {"n": 3}
    [request] = fake.requests
    assert str(request.url) == "http://127.0.0.1:7077/v1/call/ada/count"
    assert json.loads(request.content) == {"text": "x"}
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["idempotency-key"] == "brief-7"
    assert request.headers["covey-timeout-ms"] == "2500"


@pytest.mark.requirement("client.call.repeats-safely")
async def test_while_nobody_answers_the_same_call_is_tried_again_under_its_key() -> None:
    fake = Fake(refused, refused, ok({"result": 1}))
    assert await fake.hub.call("ada", "count", attempts_max=3) == 1
    assert len({request.headers["idempotency-key"] for request in fake.requests}) == 1
    remaining = [int(request.headers["covey-timeout-ms"]) for request in fake.requests]
    assert remaining == sorted(remaining, reverse=True)


@pytest.mark.requirement("client.call.repeats-safely")
async def test_attempts_are_bounded_and_the_last_error_is_raised() -> None:
    fake = Fake(refused, refused, refused)
    with pytest.raises(errors.HubUnreachableError) as caught:
        await fake.hub.call("ada", "count", attempts_max=3)
    assert "covey serve" in str(caught.value.hint)
    assert len(fake.requests) == 3


@pytest.mark.requirement("client.call.repeats-safely")
async def test_a_lost_answer_is_told_and_not_repeated_unless_that_is_harmless() -> None:
    fake = Fake(cut, ok({"result": 1}))
    with pytest.raises(errors.TeammateLostError) as caught:
        await fake.hub.call("ada", "count", attempts_max=5)
    assert caught.value.maybe_executed
    assert len(fake.requests) == 1
    fake = Fake(cut, ok({"result": 1}))
    assert await fake.hub.call("ada", "count", attempts_max=5, is_repeatable=True) == 1


@pytest.mark.requirement("client.call.repeats-safely")
async def test_what_was_refused_for_now_never_ran_and_is_repeated_when_the_hub_says() -> None:
    fake = Fake(problem(503, "refused", transient=True, retry_after_s=3.0), ok({"result": 1}))
    assert await fake.hub.call("ada", "count", attempts_max=2) == 1
    assert fake.time.slept[0] >= 3.0


@pytest.mark.requirement("client.call.repeats-safely")
@pytest.mark.parametrize(("code", "slug"), [(500, "failed"), (502, "teammate-lost"), (504, "expired")])
async def test_what_may_have_run_is_not_repeated(code: int, slug: str) -> None:
    fake = Fake(problem(code, slug, transient=True), ok({"result": 1}))
    with pytest.raises(errors.CoveyError, match="because"):
        await fake.hub.call("ada", "count", attempts_max=5)
    assert len(fake.requests) == 1


@pytest.mark.requirement("client.call.repeats-safely")
async def test_when_no_time_remains_nothing_is_sent() -> None:
    fake = Fake(*[refused] * 100)
    with pytest.raises(errors.ExpiredError):
        await fake.hub.call("ada", "count", timeout_s=1.0, attempts_max=100)
    assert len(fake.requests) < 50


@pytest.mark.requirement("client.errors.survive-the-wire")
# The hub's own errors, which it tells apart for itself alone, come back as their status says.
@pytest.mark.parametrize("type_", [type_ for type_, _ in KINDS if type_.__module__ == errors.__name__])
def test_each_error_comes_back_as_itself(type_: type[errors.CoveyError]) -> None:
    given: dict[type[errors.CoveyError], errors.CoveyError] = {
        errors.TooLargeError: errors.TooLargeError("m", limit_bytes=5, hint="h"),
        errors.HeadMovedError: errors.HeadMovedError("m", head="e.5", hint="h"),
        errors.TeammateLostError: errors.TeammateLostError("m", maybe_executed=False, hint="h"),
        errors.StreamNotFoundError: errors.StreamNotFoundError("news", hint="h"),
        errors.TransientError: errors.TransientError("m", retry_after_s=4.0, hint="h"),
        errors.RefusedError: errors.RefusedError("m", retry_after_s=4.0, hint="h"),
    }
    sent = given[type_] if type_ in given else type_("m", hint="h")
    document = problem_of(sent)
    headers = {"content-type": "application/problem+json"}
    fields = {name: value for name in document.__struct_fields__ if (value := getattr(document, name)) is not None}
    got = error_of(read_problem(document.status, headers, json.dumps(fields).encode()))
    assert type(got) is type_
    assert (got.message, got.hint) == (sent.message, "h")
    for fact in ("retry_after_s", "head", "maybe_executed"):
        assert getattr(got, fact, None) == getattr(sent, fact, None)


@pytest.mark.requirement("client.errors.survive-the-wire")
@pytest.mark.parametrize(("token", "word"), [(TOKEN, "COVEY_TOKEN"), (None, "no token")])
async def test_a_refused_token_says_what_to_do_and_not_what_it_was(token: str | None, word: str) -> None:
    fake = Fake(problem(401, "unauthenticated"), token=token)
    with pytest.raises(errors.AuthenticationError) as caught:
        await fake.hub.roster()
    assert word in str(caught.value.hint)
    assert TOKEN not in f"{caught.value} {caught.value.hint}"


@pytest.mark.requirement("client.call.sent")
async def test_roster_spawn_and_stop_speak_the_protocol() -> None:
    row = {"name": "ada", "kind": "repl", "state": "idle", "place": "process", "stream": "ada.out", "new": 1}
    spawned = {"name": "repl-1", "stream": "repl-1.out", "cursor": "e.0"}
    fake = Fake(ok({"teammates": [row]}), ok(row), ok(spawned, 201), ok({"name": "ada", "steps": ["asked"]}))
    assert await fake.hub.roster() == [TeammateRow("ada", "repl", "idle", "process", "ada.out")]
    assert (await fake.hub.teammate("ada")).kind == "repl"
    assert (await fake.hub.spawn("repl")).cursor == "e.0"
    assert (await fake.hub.stop("ada", timeout_s=2.5)).steps == ("asked",)
    assert [f"{request.method} {request.url.raw_path.decode()}" for request in fake.requests] == [
        "GET /v1/teammates",
        "GET /v1/teammates/ada",
        "POST /v1/teammates",
        "DELETE /v1/teammates/ada?timeout_s=2.5",
    ]
    assert json.loads(fake.requests[2].content) == {"kind": "repl"}


@pytest.mark.requirement("client.errors.bad-answers")
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"teammates": 5}', b"\xff"])
async def test_an_answer_that_is_not_a_hubs_is_an_error_with_a_hint(body: bytes) -> None:
    fake = Fake(lambda _: httpx2.Response(200, content=body))
    with pytest.raises(errors.RemoteProtocolError) as caught:
        await fake.hub.roster()
    assert "COVEY_URL" in str(caught.value.hint)


@pytest.mark.requirement("client.errors.bad-answers")
@pytest.mark.parametrize("name", ["..", "", "a/b", "a b", "x" * 200, "\x1b[2J"])
async def test_a_name_that_no_teammate_can_have_is_not_sent(name: str) -> None:
    fake = Fake()
    for attempt in (fake.hub.call(name, "m"), fake.hub.teammate(name), fake.hub.stop(name)):
        with pytest.raises(errors.InvalidInputError):
            await attempt
    assert fake.requests == []


@pytest.mark.requirement("client.errors.bad-answers")
async def test_arguments_that_are_no_json_are_refused_here() -> None:
    with pytest.raises(errors.InvalidInputError, match="JSON"):
        await Fake().hub.call("ada", "m", {"x": object()})
