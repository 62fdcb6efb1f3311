"""The hub on servers that are not covey's own: all three representations, readers that leave, and the shutdown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
import pytest_asyncio
import websockets
from tests.asgi_servers import SERVERS, ServerProcess, server_process
from tests.serving import TOKEN, open_events

BEARER = {"authorization": f"Bearer {TOKEN}"}
NEWS = "/v1/streams/news"

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(SERVERS))
async def running(request: pytest.FixtureRequest) -> AsyncIterator[ServerProcess]:
    async with server_process(request.param, "tests.asgi_app:hub") as running:
        yield running


async def append(running: ServerProcess, data: object) -> str:
    answer = await running.http.post(NEWS, json={"data": data})
    assert answer.status_code == 200
    identifier: str = answer.json()["id"]
    return identifier


async def readers(running: ServerProcess) -> list[int]:
    """Return how many readers the hub has, and how many wait for an event."""
    counts: list[int] = (await running.http.post("/v1/call/probe/readers", json={})).json()["result"]
    return counts


async def until_readers(running: ServerProcess, expected: list[int]) -> None:
    async with asyncio.timeout(10):
        while await readers(running) != expected:  # noqa: ASYNC110 -- it is another process that is looked at
            await asyncio.sleep(0.02)


@pytest.mark.requirement("interop.servers.sse")
async def test_events_are_replayed_then_live_and_resumed(running: ServerProcess) -> None:
    first = await append(running, "missed")
    second = await append(running, "missed too")
    async with open_events(running.http, NEWS, last_event_id=first) as events:
        assert events.response.headers["content-type"] == "text/event-stream"
        assert events.response.headers["cache-control"] == "no-cache, no-transform"
        assert "content-length" not in events.response.headers
        assert (await anext(events)).event == "covey.open"
        assert (await anext(events)).id == second
        live = await append(running, {"n": "live"})
        event = await anext(events)
        assert (event.id, json.loads(event.data)) == (live, {"n": "live"})
    while_away = await append(running, "while away")
    async with open_events(running.http, NEWS, last_event_id=live) as events:
        opened, event = [await anext(events) for _ in range(2)]
    assert (opened.id, event.id, event.data) == (live, while_away, '"while away"')


@pytest.mark.requirement("interop.servers.heartbeat")
async def test_a_silent_stream_beats(running: ServerProcess) -> None:
    async with open_events(running.http, f"{NEWS}?heartbeat=1") as events:
        assert (await anext(events)).event == "covey.open"
        assert (await anext(events)).event == "covey.heartbeat"


@pytest.mark.requirement("interop.servers.poll")
async def test_a_long_poll_waits_for_an_event(running: ServerProcess) -> None:
    poll = asyncio.create_task(running.http.get(NEWS, headers={"prefer": "wait=30"}, timeout=20))
    await until_readers(running, [1, 1])
    await append(running, "now")
    assert [event["data"] for event in (await poll).json()["events"]] == ["now"]


@pytest.mark.requirement("interop.servers.websocket")
async def test_a_websocket_carries_the_stream(running: ServerProcess) -> None:
    last = await append(running, "before")
    url = f"{running.url}{NEWS}?after={last}".replace("http", "ws", 1)
    async with websockets.connect(url, additional_headers=BEARER, proxy=None) as socket, asyncio.timeout(10):
        assert [event["kind"] for event in json.loads(await socket.recv())] == ["covey.open"]
        await append(running, 2)
        assert [event["data"] for event in json.loads(await socket.recv())] == [2]
    await until_readers(running, [0, 0])


@pytest.mark.requirement("interop.servers.websocket")
async def test_a_websocket_without_a_token_is_refused(running: ServerProcess) -> None:
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(f"{running.url}{NEWS}".replace("http", "ws", 1), proxy=None)
    # Servers that cannot send an answer of ours instead of the handshake send their own 403.
    assert caught.value.response.status_code in {401, 403}


@pytest.mark.requirement("interop.servers.freed")
async def test_a_reader_that_leaves_is_freed_without_a_write(running: ServerProcess) -> None:
    async with open_events(running.http, NEWS) as events:
        await anext(events)
        await until_readers(running, [1, 1])
    await until_readers(running, [0, 0])


@pytest.mark.requirement("interop.servers.refusals")
async def test_refusals_are_problem_documents(running: ServerProcess) -> None:
    missing = await running.http.get("/v1/streams/nothing")
    anonymous = await running.http.get(NEWS, headers={"authorization": "Bearer wrong"})
    huge = await running.http.post(NEWS, content=b'{"data":"' + b"x" * (1 << 20) + b'"}')
    assert [answer.status_code for answer in (missing, anonymous, huge)] == [404, 401, 413]
    assert {a.headers["content-type"] for a in (missing, anonymous, huge)} == {"application/problem+json"}


@pytest.mark.requirement("interop.servers.shutdown-says-bye")
@pytest.mark.parametrize("server", SERVERS)
async def test_with_shutdown_readers_are_sent_away_and_nothing_is_waited_for(server: str) -> None:
    async with server_process(server, "tests.asgi_app:app", is_bounded=False) as running:
        url = f"{running.url}{NEWS}".replace("http", "ws", 1)
        async with (
            open_events(running.http, NEWS) as events,
            websockets.connect(url, additional_headers=BEARER, proxy=None) as socket,
        ):
            await anext(events)
            await socket.recv()
            stopped = asyncio.create_task(running.stop())
            bye = await anext(events)
            assert bye.event == "covey.bye"
            assert 500 <= (bye.retry or 0) <= 3000
            with pytest.raises(StopAsyncIteration):
                await anext(events)
            async with asyncio.timeout(10):
                await socket.wait_closed()
            # Granian may cut a WebSocket before its last frames have left; the reader resumes all the same.
            assert socket.close_code in ({1012, 1006} if server == "granian" else {1012})
            await stopped
        assert "Traceback" not in running.log


@pytest.mark.requirement("interop.servers.shutdown-is-bounded")
@pytest.mark.parametrize("server", SERVERS)
async def test_without_it_the_servers_own_bound_ends_open_streams(server: str) -> None:
    async with server_process(server, "tests.asgi_app:hub") as running, open_events(running.http, NEWS) as events:
        await anext(events)
        await running.stop()
        # Cut, so that the client knows that it was not the end.
        with pytest.raises(httpx2.RemoteProtocolError):
            await anext(events)
