"""The SDKs of OpenAI and Anthropic, as they are, against a server that fails in the ways in which such services do."""

# ruff: noqa: ANN401 -- the two SDKs have no common type; and what came before an error is what counts

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple

import anthropic
import httpx
import httpx2
import openai
import pytest
from tests.scripted_http import Answer, ScriptedServer, answer, events, hang, hang_up, scripted_server
from tests.serving import until

import covey.interop.httpx
from covey.errors import StreamCutError, TimedOutError, UnavailableError
from covey.interop.httpx2 import LLM_STREAMS, PolicyTransport
from covey.resilience.backoff import Backoff
from covey.resilience.breaker import Breaker
from covey.resilience.budget import Budget
from covey.resilience.policy import Policy
from covey.resilience.target import Target

QUICK = Backoff(first_s=0.005, cap_s=0.005)
POLICY = Policy(backoff=QUICK, attempt_timeout_s=None)


# ---- the two services, as far as they matter here


def _chunk(word: str) -> bytes:
    choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
    return b"data: %b\n\n" % json.dumps(chunk).encode()


class OpenAI(NamedTuple):
    sdk: Any = openai
    good: Answer = answer(
        200,
        {
            "id": "c1",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello there"}}
            ],
        },
    )
    # What comes before there is anything to show, two pieces of text, and the end.
    prelude: bytes = b""
    words: tuple[bytes, bytes] = (_chunk("hello "), _chunk("there"))
    end: bytes = (
        b'data: {"id":"c1","object":"chat.completion.chunk","created":0,"model":"m","choices":'
        b'[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    failure: bytes = b'data: {"error": {"type": "overloaded_error", "message": "busy"}}\n\n'

    def client(self, url: str, http_client: Any, *, max_retries: int = 0) -> Any:
        return openai.AsyncOpenAI(api_key="k", base_url=url, http_client=http_client, max_retries=max_retries)

    async def ask(self, client: Any, **options: Any) -> str:
        messages = [{"role": "user", "content": "hi"}]
        made = await client.chat.completions.create(model="m", messages=messages, **options)
        return str(made.choices[0].message.content)

    async def stream(self, client: Any) -> AsyncIterator[str | None]:
        """Give pieces of text, and None for the end."""
        messages = [{"role": "user", "content": "hi"}]
        async with await client.chat.completions.create(model="m", messages=messages, stream=True) as chunks:
            async for chunk in chunks:
                choice = chunk.choices[0]
                yield choice.delta.content if choice.finish_reason is None else None


def _delta(word: str) -> bytes:
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
    return b"event: content_block_delta\ndata: %b\n\n" % json.dumps(delta).encode()


class Anthropic(NamedTuple):
    sdk: Any = anthropic
    good: Answer = answer(
        200,
        {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": "hello there"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 2},
        },
    )
    prelude: bytes = (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"m1","type":"message","role":"assistant",'
        b'"model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}'
        b"\n\n"
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":'
        b'{"type":"text","text":""}}\n\nevent: ping\ndata: {"type":"ping"}\n\n'
    )
    words: tuple[bytes, bytes] = (_delta("hello "), _delta("there"))
    end: bytes = (
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )
    failure: bytes = (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    )

    def client(self, url: str, http_client: Any, *, max_retries: int = 0) -> Any:
        return anthropic.AsyncAnthropic(api_key="k", base_url=url, http_client=http_client, max_retries=max_retries)

    async def ask(self, client: Any, **options: Any) -> str:
        messages = [{"role": "user", "content": "hi"}]
        made = await client.messages.create(model="m", max_tokens=9, messages=messages, **options)
        return str(made.content[0].text)

    async def stream(self, client: Any) -> AsyncIterator[str | None]:
        """Give pieces of text, and None for the end."""
        messages = [{"role": "user", "content": "hi"}]
        async with await client.messages.create(model="m", max_tokens=9, messages=messages, stream=True) as chunks:
            async for chunk in chunks:
                if chunk.type == "content_block_delta":
                    yield chunk.delta.text
                elif chunk.type == "message_stop":
                    yield None


Service = OpenAI | Anthropic
services = pytest.mark.parametrize("service", [OpenAI(), Anthropic()], ids=["openai", "anthropic"])


class Asked:
    """A client of a service, with a policy under it, and the server that it asks."""

    def __init__(self, service: Service, server: ScriptedServer, client: Any) -> None:
        self.service = service
        self.server = server
        self.client = client

    async def ask(self, **options: Any) -> str:
        return await self.service.ask(self.client, **options)

    async def words(self) -> list[str]:
        return [word async for word in self.service.stream(self.client) if word is not None]


@asynccontextmanager
async def asking(
    service: Service, *answers: Answer, targets: Target | Policy = POLICY, max_retries: int = 0
) -> AsyncIterator[Asked]:
    """Serve the answers, and make a client whose requests go through the transport."""
    async with scripted_server(*answers) as server:
        transport = PolicyTransport(targets, streams=LLM_STREAMS)
        http_client = httpx2.AsyncClient(transport=transport)
        async with service.client(server.url, http_client, max_retries=max_retries) as client:
            yield Asked(service, server, client)


class Reader:
    """Reads a stream of text, and keeps what came."""

    def __init__(self) -> None:
        self.words: list[str | None] = []

    async def read(self, stream: AsyncIterator[str | None]) -> None:
        async for word in stream:
            self.words.append(word)


# ---- plain requests


@pytest.mark.requirement("llm.refusals")
@pytest.mark.parametrize(
    "refusal",
    [answer(429, retry_after="0.2"), answer(429, retry_after_ms="200"), answer(529, retry_after="0.2")],
    ids=["429", "429-ms", "529"],
)
@services
async def test_a_refusal_holds_back_all_requests_for_as_long_as_it_says(service: Service, refusal: Answer) -> None:
    target = Target("model", POLICY)
    async with asking(service, refusal, service.good, targets=target) as asked:
        first = asyncio.create_task(asked.ask())
        await until(lambda: target.health().retry_after_s > 0)
        second = asyncio.create_task(asked.ask())
        assert [await first, await second] == ["hello there", "hello there"]
        began_s, *later_s = [request.at_s for request in asked.server.received]
        assert len(later_s) == 2
        assert all(at_s - began_s >= 0.2 for at_s in later_s)


@pytest.mark.requirement("llm.refusals")
@services
async def test_a_wait_longer_than_the_policys_is_told_at_once(service: Service) -> None:
    async with asking(service, answer(429, retry_after="3600")) as asked:
        with pytest.raises(service.sdk.RateLimitError) as raised:
            await asked.ask()
        assert raised.value.response.headers["retry-after"] == "3600"
        assert len(asked.server.received) == 1


@pytest.mark.requirement("llm.refusals")
@services
async def test_a_quota_that_is_used_up_for_good_is_not_asked_for_again(service: Service) -> None:
    body = {"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "pay"}}
    async with asking(service, answer(429, body)) as asked:
        with pytest.raises(service.sdk.RateLimitError, match="pay"):
            await asked.ask()
        assert len(asked.server.received) == 1


@pytest.mark.requirement("llm.may-have-run")
@services
async def test_what_may_have_run_is_repeated_only_under_a_key_or_when_declared_harmless(service: Service) -> None:
    failures = [answer(500), hang_up]
    for failure in failures:
        async with asking(service, failure, service.good) as asked:
            with pytest.raises((service.sdk.InternalServerError, service.sdk.APIConnectionError)):
                await asked.ask()
            assert len(asked.server.received) == 1
            asked.server.will(failure, service.good)
            assert await asked.ask(extra_headers={"Idempotency-Key": "k1"}) == "hello there"
            assert len(asked.server.received) == 2
        harmless = Target("model", POLICY).options(idempotent=True)
        async with asking(service, failure, service.good, targets=harmless) as asked:
            assert await asked.ask() == "hello there"


@pytest.mark.requirement("llm.one-layer")
@services
async def test_with_the_sdks_own_retries_off_there_are_as_many_requests_as_the_policy_says(service: Service) -> None:
    async with asking(service, answer(529)) as asked:
        with pytest.raises(service.sdk.InternalServerError):
            await asked.ask()
        assert len(asked.server.received) == 3


@pytest.mark.requirement("llm.one-layer")
@services
async def test_where_they_were_left_on_they_add_and_do_not_multiply(service: Service) -> None:
    # The SDK waits for half a second at least, so one of its retries must do.
    async with asking(service, answer(529), max_retries=1) as asked:
        with pytest.raises(service.sdk.InternalServerError):
            await asked.ask()
        assert len(asked.server.received) == 3 + 1


@pytest.mark.requirement("llm.budget")
@services
async def test_repeats_keep_to_the_budget(service: Service) -> None:
    policy = Policy(backoff=QUICK, attempt_timeout_s=None, budget=Budget(burst=4), breaker=None)
    async with asking(service, answer(529), targets=policy) as asked:
        for _ in range(20):
            with pytest.raises(service.sdk.InternalServerError):
                await asked.ask()
        assert 20 < len(asked.server.received) <= 20 * 1.1 + 4


@pytest.mark.requirement("llm.errors")
@services
async def test_the_policys_errors_arrive_as_the_sdks(service: Service) -> None:
    policy = Policy(attempts_max=1, attempt_timeout_s=0.1, breaker=Breaker(calls_min=1, open_s=30, open_s_max=30))
    async with asking(service, hang, targets=policy) as asked:
        with pytest.raises(service.sdk.APITimeoutError) as late:
            await asked.ask()
        assert isinstance(late.value.__cause__, TimedOutError)
        assert late.value.__cause__.maybe_executed
        with pytest.raises(service.sdk.APIConnectionError) as shed:
            await asked.ask()
        assert isinstance(shed.value.__cause__, UnavailableError)
        assert shed.value.__cause__.reason == "circuit_open"
        assert len(asked.server.received) == 1


# ---- streams, watched by the transport


@pytest.mark.requirement("llm.stream.failure-inside")
@services
async def test_a_failure_inside_a_stream_is_repeated_while_there_is_nothing_to_show(service: Service) -> None:
    whole = (
        events(service.prelude, *service.words, service.end) if service.prelude else events(*service.words, service.end)
    )
    failing = events(*filter(None, [service.prelude, service.failure]))
    async with asking(service, failing, whole) as asked:
        assert await asked.words() == ["hello ", "there"]
        assert len(asked.server.received) == 2
        asked.server.will(failing)
        with pytest.raises(service.sdk.APIError, match=r"busy|Overloaded"):
            await asked.words()
        assert len(asked.server.received) == 3


@pytest.mark.requirement("llm.stream.failure-inside")
@services
async def test_after_the_first_word_it_is_a_typed_failure_and_nothing_is_repeated(service: Service) -> None:
    async with asking(service, events(service.prelude + service.words[0], service.failure)) as asked:
        reader = Reader()
        with pytest.raises(service.sdk.APIError, match=r"busy|Overloaded"):
            await reader.read(service.stream(asked.client))
        assert reader.words == ["hello "]
        assert len(asked.server.received) == 1


@pytest.mark.requirement("llm.stream.cut")
@pytest.mark.parametrize("ends", ["cut", "well", "stalls"])
@services
async def test_a_stream_that_is_cut_or_ends_early_or_falls_silent_is_an_error(service: Service, ends: str) -> None:
    policy = Policy(backoff=QUICK, attempt_timeout_s=None, idle_s=0.1)
    part = events(service.prelude + service.words[0], ends=ends)
    async with asking(service, part, targets=policy) as asked:
        reader = Reader()
        with pytest.raises((service.sdk.APIConnectionError, httpx2.TransportError)) as raised:
            await reader.read(service.stream(asked.client))
        assert reader.words == ["hello "]
        assert len(asked.server.received) == 1
    error = raised.value if isinstance(raised.value, httpx2.TransportError) else raised.value.__cause__
    kinds: dict[str, type[Exception]] = {
        "cut": httpx2.RemoteProtocolError,
        "well": StreamCutError,
        "stalls": httpx2.ReadTimeout,
    }
    assert isinstance(error, kinds[ends])


# ---- streams, as those of a target


def streamed(service: Service, target: Target, client: Any) -> Any:
    return aclosing(target.stream(lambda _: service.stream(client), is_end=lambda word: word is None))


@pytest.mark.requirement("llm.stream.target")
@services
async def test_a_target_bounds_silence_before_and_after_the_first_word(service: Service) -> None:
    target = Target("model", Policy(backoff=QUICK, attempts_max=1, first_item_s=0.1, idle_s=0.1))
    async with scripted_server(events(ends="stalls")) as server:
        client = service.client(server.url, httpx2.AsyncClient())
        reader = Reader()
        for script in (hang, events(ends="stalls"), events(service.prelude + service.words[0], ends="stalls")):
            server.will(script)
            async with streamed(service, target, client) as stream:
                with pytest.raises(TimedOutError, match=r"nothing came from model within 0\.1 s"):
                    await reader.read(stream)
            assert len(server.received) == 1
        assert reader.words == ["hello "]
        await client.close()


@pytest.mark.requirement("llm.stream.target")
@services
async def test_a_target_wants_the_last_item_and_begins_anew_only_before_the_first(service: Service) -> None:
    target = Target("model", Policy(backoff=QUICK))
    async with scripted_server(hang) as server:
        client = service.client(server.url, httpx2.AsyncClient())

        async def words() -> list[str | None]:
            async with streamed(service, target, client) as stream:
                return [word async for word in stream]

        server.will(events(service.failure), events(*filter(None, [service.prelude, *service.words, service.end])))
        assert await words() == ["hello ", "there", None]
        assert len(server.received) == 2
        server.will(events(service.prelude + service.words[0]))
        with pytest.raises(StreamCutError):
            await words()
        assert len(server.received) == 1
        server.will(events(service.prelude + service.words[0], service.failure))
        with pytest.raises(service.sdk.APIError, match=r"busy|Overloaded"):
            await words()
        assert len(server.received) == 1
        await client.close()


# ---- other clients


@pytest.mark.requirement("llm.clients")
async def test_the_clients_without_async_are_served_too() -> None:
    def ask(url: str) -> list[str]:
        messages: Any = [{"role": "user", "content": "hi"}]
        with (
            openai.OpenAI(
                api_key="k",
                base_url=url,
                max_retries=0,
                http_client=httpx2.Client(transport=PolicyTransport(POLICY, streams=LLM_STREAMS)),
            ) as client,
            client.chat.completions.create(model="m", messages=messages, stream=True) as chunks,
        ):
            return [chunk.choices[0].delta.content or "" for chunk in chunks]

    service = OpenAI()
    async with scripted_server(answer(429), events(service.failure), events(*service.words, service.end)) as server:
        assert await asyncio.to_thread(ask, server.url) == ["hello ", "there", ""]
        assert len(server.received) == 3


@pytest.mark.requirement("llm.clients")
async def test_the_sdk_that_still_takes_clients_of_httpx_is_served_too() -> None:
    service = OpenAI()
    async with scripted_server(answer(529), service.good) as server:
        http_client = httpx.AsyncClient(transport=covey.interop.httpx.PolicyTransport(POLICY))
        async with service.client(server.url, http_client) as client:
            assert await service.ask(client) == "hello there"
        assert len(server.received) == 2
