"""Event streams as responses of FastAPI and Django, by real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response
from tests import django_app, interop_app
from tests.asgi_servers import SERVERS, in_loop, server_process
from tests.serving import Events, open_events, until

import covey
from covey.errors import LocalProtocolError
from covey.interop.django import sse_response as django_sse_response
from covey.interop.shutdown import Shutdown
from covey.interop.starlette import sse_response


class Framework:
    """An app with ``/news``, a client of it, and the stream it reads."""

    def __init__(self, http: httpx2.AsyncClient, stream: covey.Stream[object]) -> None:
        self.http = http
        self.stream = stream


@pytest.fixture(params=["fastapi", "django"])
async def framework(request: pytest.FixtureRequest) -> AsyncIterator[Framework]:
    if request.param == "fastapi":
        app: object = interop_app.app
        stream = interop_app.news
    else:
        app, stream = django_app.app, django_app.news
    async with in_loop(app) as client:
        yield Framework(client, stream)


async def events_of(client: httpx2.AsyncClient, path: str) -> list[covey.ServerSentEvent]:
    async with open_events(client, path) as events:
        return [event async for event in events]


@pytest.mark.requirement("interop.response.is-starlettes")
async def test_it_is_a_response_of_starlette_that_fastapi_takes() -> None:
    assert isinstance(sse_response(interop_app.ticks()), Response)
    async with in_loop(interop_app.app) as client:
        assert [event.data for event in (await events_of(client, "/items"))[:1]] == ["two\nlines"]
        schema = (await client.get("/openapi.json")).json()
    assert "/news" in schema["paths"]


@pytest.mark.requirement("interop.response.stream")
async def test_a_stream_is_resumed_by_header_query_or_from(framework: Framework) -> None:
    first = await framework.stream.append(1)
    second = await framework.stream.append({"n": 2}, kind="tick")
    for path, headers in (
        ("/news", {"last_event_id": first}),
        (f"/news?after={first}", {}),
        (f"/news?after={second}", {"last_event_id": first}),
    ):
        async with open_events(framework.http, path, **headers) as events:
            assert events.response.headers["content-type"] == "text/event-stream"
            assert events.response.headers["cache-control"] == "no-cache, no-transform"
            assert events.response.headers["x-accel-buffering"] == "no"
            assert "content-length" not in events.response.headers
            opened, event = [await anext(events) for _ in range(2)]
            assert (opened.event, opened.id) == ("covey.open", first)
            assert (event.event, event.id, json.loads(event.data)) == ("tick", second, {"n": 2})
            live = await framework.stream.append("live")
            async for event in events:
                if event.id == live:
                    break
    async with open_events(framework.http, "/news") as events:
        assert (await anext(events)).id == framework.stream.head
    async with open_events(framework.http, "/news?from=start") as events:
        assert (await anext(events)).id == framework.stream.start
    await until(lambda: not framework.stream._wakers)


@pytest.mark.requirement("interop.response.stream")
async def test_a_request_that_makes_no_sense_gets_a_problem(framework: Framework) -> None:
    for query in ({"after": "junk"}, {"from": "middle"}):
        answer = await framework.http.get("/news", params=query)
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


@pytest.mark.requirement("interop.response.compression")
async def test_a_compressing_middleware_holds_no_event_back(framework: Framework) -> None:
    async with open_events(framework.http, "/news?from=start", accept_encoding="gzip") as events:
        assert events.response.headers.get("content-encoding", "identity") == "identity"
        assert (await anext(events)).event == "covey.open"


@pytest.mark.requirement("interop.response.stream")
async def test_a_stream_can_be_filtered_and_sent_whole() -> None:
    async with in_loop(interop_app.app) as client:
        await interop_app.news.append("left out")
        identifier = await interop_app.news.append({"n": 1}, kind="tick")
        async with open_events(client, "/news/ticks-alone") as events:
            async for event in events:
                if event.id == identifier:
                    break
    assert event.event == "message"
    assert json.loads(event.data)["data"] == {"n": 1}


@pytest.mark.requirement("interop.response.end")
async def test_a_stream_that_ended_answers_204_to_who_comes_back() -> None:
    stream = covey.Streams().stream("short", object)
    last = await stream.append(1)
    stream.close()
    app = FastAPI()

    @app.get("/short")
    async def short(request: Request) -> Response:
        return sse_response(stream, request=request, start="start")

    async with in_loop(app) as client:
        seen = await events_of(client, "/short")
        assert [event.event for event in seen] == ["covey.open", "message", "covey.end"]
        assert (await client.get("/short", headers={"last-event-id": last})).status_code == 204


@pytest.mark.requirement("interop.response.head")
async def test_head_answers_the_headers_alone() -> None:
    async with in_loop(interop_app.app) as client:
        answer = await client.head("/news")
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "text/event-stream", b"")


@pytest.mark.requirement("interop.response.items")
async def test_an_iterator_gives_events_text_and_json() -> None:
    async with in_loop(interop_app.app) as client:
        seen = await events_of(client, "/items")
    assert [(event.event, event.id, event.data) for event in seen] == [
        ("message", "", "two\nlines"),
        ("message", "", "bytes"),
        ("message", "", '{"n":1,"reading":{"celsius":21.5}}'),
        ("message", "", '{"celsius":22.0}'),
        ("named", "7", "x"),
        ("tick", "k.1", "[1]"),
    ]
    assert seen[4].retry == 50


@pytest.mark.requirement("interop.response.heartbeat")
async def test_silence_of_an_iterator_is_filled_with_comments() -> None:
    async with (
        in_loop(interop_app.app) as client,
        client.stream("GET", "/ticks", params={"heartbeat_s": 0.05}) as response,
        asyncio.timeout(10),
    ):
        seen = b""
        async for chunk in response.aiter_raw():
            seen += chunk
            if seen.endswith(b":heartbeat\n"):
                break
    assert seen.startswith(b"data: first\n\n:heartbeat\n")


@pytest.mark.requirement("interop.response.disconnect")
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("server", SERVERS)
async def test_an_iterator_is_closed_when_its_reader_leaves(server: str, method: str) -> None:
    async with server_process(server, "tests.interop_app:app") as process:
        async with process.http.stream(method, "/ticks", timeout=10) as response:
            events = Events(response)
            assert (await anext(events)).data == "first"
            assert (await process.http.get("/running")).json() == 1
        async with asyncio.timeout(10):
            while (await process.http.get("/running")).json():  # noqa: ASYNC110 -- it is another process
                await asyncio.sleep(0.02)
        assert "Traceback" not in process.log


@pytest.mark.requirement("interop.response.error")
@pytest.mark.parametrize(
    ("server", "app"), [*((server, "tests.interop_app:app") for server in SERVERS), ("uvicorn", "tests.django_app:app")]
)
async def test_an_iterator_that_breaks_cuts_the_connection_and_is_logged(server: str, app: str) -> None:
    async with server_process(server, app) as process:
        async with open_events(process.http, "/breaks") as events:
            assert (await anext(events)).data == "before"
            with pytest.raises(httpx2.RemoteProtocolError):
                await anext(events)
        await until(lambda: "the source broke" in process.log)


@pytest.mark.requirement("interop.response.shutdown")
async def test_shutdown_ends_streams_and_iterators_with_a_time_to_come_back() -> None:
    shutdown = Shutdown()
    app = FastAPI()

    @app.get("/stream")
    async def stream() -> Response:
        return sse_response(interop_app.news, start="start", shutdown=shutdown)

    @app.get("/iterator")
    async def iterator() -> Response:
        return sse_response(interop_app.ticks(), shutdown=shutdown)

    await interop_app.news.append("kept")
    async with (
        in_loop(app) as client,
        open_events(client, "/stream") as on_stream,
        open_events(client, "/iterator") as on_iterator,
    ):
        assert (await anext(on_stream)).event == "covey.open"
        assert (await anext(on_iterator)).data == "first"
        assert shutdown.readers.count == 2
        shutdown.begin()
        for events in (on_stream, on_iterator):
            bye = await anext(event async for event in events if event.event == "covey.bye")
            assert bye.retry == json.loads(bye.data)["retry_ms"]
            with pytest.raises(StopAsyncIteration):
                await anext(events)
        assert (shutdown.readers.count, interop_app.running) == (0, [])


@pytest.mark.requirement("interop.response.disconnect")
async def test_django_closes_what_its_reader_left() -> None:
    stream = django_app.news
    async with in_loop(django_app.app) as client:
        async with open_events(client, "/news") as events:
            await anext(events)
            await until(lambda: stream._wakers)
        await until(lambda: not stream._wakers)


@pytest.mark.requirement("interop.response.django-needs-asgi")
async def test_django_refuses_what_would_never_end_under_wsgi() -> None:
    response = django_sse_response(django_app.news)
    with pytest.raises(LocalProtocolError, match="WSGI"):
        list(response)
    async with in_loop(django_app.app) as client, open_events(client, "/news-sync?from=start") as events:
        assert (await anext(events)).event == "covey.open"
