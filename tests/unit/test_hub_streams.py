from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import websockets
from tests.serving import TOKEN, Served, open_events, serving, until

from covey.engines.memory import MemoryEngine
from covey.errors import EngineError
from covey.hub.streams import APPEND_EVENTS_MAX
from covey.ports.engine import LogState
from covey.streams.retention import Retention

BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(params=["asgi", "native"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """The hub under plain ASGI, and with the fast path that covey's own start has: both must answer alike."""
    async with serving(is_native=request.param == "native") as served:
        yield served


async def open_data(served: Served, path: str, **headers: str) -> tuple[str, dict[str, object]]:
    async with open_events(served.http, path, **headers) as events:
        first = await anext(events)
        return first.id, json.loads(first.data)


@pytest.mark.requirement("hub.sse.open")
async def test_the_first_event_says_where_reading_starts(served: Served) -> None:
    stream = served.streams.stream("news", object, retain=Retention(events=2))
    for n in range(5):
        await stream.append(n)
    epoch = stream.ring.epoch
    identifier, data = await open_data(served, "/v1/streams/news?from=start")
    assert identifier == f"{epoch}.3"
    assert data == {"stream": "news", "head": f"{epoch}.5", "oldest": f"{epoch}.4", "heartbeat_s": 15.0}
    assert (await open_data(served, "/v1/streams/news"))[0] == f"{epoch}.5"
    assert (await open_data(served, f"/v1/streams/news?after={epoch}.4"))[0] == f"{epoch}.4"
    assert (await open_data(served, f"/v1/streams/news?after={epoch}.4", last_event_id=f"{epoch}.5"))[0] == f"{epoch}.5"


@pytest.mark.requirement("hub.sse.headers")
async def test_the_headers_keep_proxies_from_holding_events(served: Served) -> None:
    served.streams.stream("news", object)
    async with open_events(served.http, "/v1/streams/news") as events:
        headers = events.response.headers
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert "content-length" not in headers
        assert "content-encoding" not in headers
        first = await anext(events)
        assert first.retry is not None


@pytest.mark.requirement("hub.sse.replay-then-live")
async def test_what_was_missed_comes_first_then_what_is_new(served: Served) -> None:
    stream = served.streams.stream("news", object)
    missed = [await stream.append({"n": n}, kind="tick") for n in range(3)]
    async with open_events(served.http, "/v1/streams/news", last_event_id=missed[0]) as events:
        assert (await anext(events)).event == "covey.open"
        assert [(await anext(events)).id for _ in range(2)] == missed[1:]
        live = await stream.append({"n": "live"})
        event = await anext(events)
        assert (event.event, event.id, json.loads(event.data)) == ("message", live, {"n": "live"})


@pytest.mark.requirement("hub.sse.gap")
async def test_a_hole_is_told_before_what_follows_it(served: Served) -> None:
    stream = served.streams.stream("news", object, retain=Retention(events=2))
    first = await stream.append(0)
    for n in range(1, 6):
        await stream.append(n)
    async with open_events(served.http, "/v1/streams/news", last_event_id=first) as events:
        opened, gap, then = [await anext(events) for _ in range(3)]
    assert opened.id == first
    assert gap.event == "covey.gap"
    assert json.loads(gap.data) == {"after": first, "before": then.id, "lost": 3}
    assert then.data == "4"


@pytest.mark.requirement("hub.sse.reset")
async def test_a_foreign_cursor_is_told_to_start_over(served: Served) -> None:
    stream = served.streams.stream("news", object)
    await stream.append("kept")
    async with open_events(served.http, "/v1/streams/news", last_event_id="zzz9.42") as events:
        opened, reset, then = [await anext(events) for _ in range(3)]
    assert (opened.id, reset.event, reset.id) == ("zzz9.42", "covey.reset", stream.start)
    assert then.data == '"kept"'


@pytest.mark.requirement("hub.sse.end")
async def test_a_stream_that_ended_ends_and_then_answers_204(served: Served) -> None:
    stream = served.streams.stream("news", object)
    first = await stream.append(1)
    last = await stream.append(2)
    async with open_events(served.http, "/v1/streams/news", last_event_id=first) as events:
        assert [(await anext(events)).event for _ in range(2)] == ["covey.open", "message"]
        assert (await served.http.delete("/v1/streams/news")).json()["ended"] is True
        end = await anext(events)
        assert (end.event, end.id) == ("covey.end", last)
        with pytest.raises(StopAsyncIteration):
            await anext(events)
    async with open_events(served.http, "/v1/streams/news", last_event_id=last) as events:
        assert events.response.status_code == 204
    async with open_events(served.http, "/v1/streams/news", last_event_id=first) as events:
        assert [(await anext(events)).event for _ in range(3)] == ["covey.open", "message", "covey.end"]


@pytest.mark.requirement("hub.sse.heartbeat")
@pytest.mark.parametrize(("asked", "expected"), [("1", b"event: covey.heartbeat"), ("comment", b"\n:")])
async def test_silence_is_filled_with_heartbeats(
    served: Served, asked: str, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("covey.hub.representation.HEARTBEAT_S", 0.05)
    monkeypatch.setattr("covey.hub.representation.HEARTBEAT_RANGE_S", (0.01, 300.0))
    served.streams.stream("news", object)
    async with served.http.stream(
        "GET",
        f"/v1/streams/news?heartbeat={asked if asked == 'comment' else '0.05'}",
        headers={"accept": "text/event-stream"},
    ) as response:
        seen = b""
        async with asyncio.timeout(10):
            async for chunk in response.aiter_raw():
                seen += chunk
                if expected in seen:
                    break
    assert expected in seen
    assert b"id:" not in seen.partition(expected)[2]


@pytest.mark.requirement("hub.sse.filter")
async def test_a_filter_leaves_events_out_but_moves_the_cursor(served: Served) -> None:
    stream = served.streams.stream("news", object)
    await stream.append(1, kind="a")
    last = await stream.append(2, kind="b")
    async with served.http.stream(
        "GET", "/v1/streams/news?from=start&kinds=a", headers={"accept": "text/event-stream"}
    ) as response:
        seen = b""
        async with asyncio.timeout(10):
            async for chunk in response.aiter_raw():
                seen += chunk
                if seen.endswith(f"id: {last}\n\n".encode()):
                    break
    assert b"event: a\n" in seen
    assert b"event: b\n" not in seen


@pytest.mark.requirement("hub.sse.as-event")
async def test_whole_events_come_unnamed_so_that_a_page_gets_them_all(served: Served) -> None:
    stream = served.streams.stream("news", object)
    identifier = await stream.append({"x": 1}, kind="tick", by="ada")
    async with open_events(served.http, "/v1/streams/news?from=start&as=event") as events:
        assert (await anext(events)).event == "covey.open"
        event = await anext(events)
    assert event.event == "message"
    envelope = json.loads(event.data)
    assert envelope.pop("time") > 0
    assert envelope == {"id": identifier, "kind": "tick", "data": {"x": 1}, "by": "ada", "key": None}


@pytest.mark.requirement("hub.poll")
async def test_a_poll_answers_at_once_with_what_is_there(served: Served) -> None:
    stream = served.streams.stream("news", object)
    first = await stream.append(1)
    last = await stream.append(2)
    answer = (await served.http.get("/v1/streams/news", params={"after": first})).json()
    assert [event["data"] for event in answer["events"]] == [2]
    assert (answer["cursor"], answer["head"], answer["ended"]) == (last, last, False)
    assert (await served.http.get("/v1/streams/news")).json()["events"] == []
    reset = (await served.http.get("/v1/streams/news", params={"after": "zz.1"})).json()["events"]
    assert [event["kind"] for event in reset] == ["covey.reset", "message", "message"]
    assert all(event["time"] > 1.7e9 for event in reset)


@pytest.mark.requirement("hub.poll.wait")
async def test_a_long_poll_waits_for_the_first_event(served: Served) -> None:
    stream = served.streams.stream("news", object)
    poll = asyncio.create_task(served.http.get("/v1/streams/news", headers={"prefer": "wait=30"}))
    await until(lambda: served.hub.readers.count)
    await stream.append("now")
    answer = await poll
    assert [event["data"] for event in answer.json()["events"]] == ["now"]
    assert answer.headers["preference-applied"] == "wait=30"
    assert served.hub.readers.count == 0


@pytest.mark.requirement("hub.poll.wait")
async def test_a_long_poll_comes_back_empty_when_its_time_is_over(served: Served) -> None:
    stream = served.streams.stream("news", object)
    answer = await served.http.get("/v1/streams/news", headers={"prefer": "respond-async, wait=0.05"})
    assert answer.json() == {"events": [], "cursor": stream.head, "head": stream.head, "ended": False}


@pytest.mark.requirement("hub.websocket")
async def test_a_websocket_carries_arrays_of_events(served: Served) -> None:
    stream = served.streams.stream("news", object)
    await stream.append(1)
    url = served.url.replace("http", "ws") + "/v1/streams/news?from=start"
    async with websockets.connect(url, additional_headers=BEARER, proxy=None) as socket, asyncio.timeout(10):
        opened = json.loads(await socket.recv())
        assert [event["kind"] for event in opened] == ["covey.open"]
        assert [event["data"] for event in json.loads(await socket.recv())] == [1]
        await stream.append(2)
        assert [event["data"] for event in json.loads(await socket.recv())] == [2]
        await served.streams.end("news")
        assert [event["kind"] for event in json.loads(await socket.recv())] == ["covey.end"]
        await socket.wait_closed()
        assert socket.close_code == 1000


@pytest.mark.requirement("hub.websocket")
async def test_a_websocket_that_is_refused_gets_the_problem(served: Served) -> None:
    url = served.url.replace("http", "ws") + "/v1/streams/nothing"
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(url, additional_headers=BEARER, proxy=None)
    assert caught.value.response.status_code == 404
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(url, proxy=None)
    assert caught.value.response.status_code == 401


@pytest.mark.requirement("hub.native")
@pytest.mark.parametrize("is_native", [True, False])
async def test_only_coveys_own_server_takes_connections_out_of_asgi(is_native: bool) -> None:  # noqa: FBT001
    async with serving(is_native=is_native) as served:
        served.streams.stream("news", object)
        async with open_events(served.http, "/v1/streams/news") as events:
            await anext(events)
            assert bool(served.hub.fanout._groups) == is_native


@pytest.mark.requirement("hub.readers.freed")
async def test_a_reader_that_leaves_is_noticed_and_freed(served: Served) -> None:
    stream = served.streams.stream("news", object)
    async with open_events(served.http, "/v1/streams/news") as events:
        await anext(events)
        assert served.hub.readers.count == 1
    await until(lambda: not served.hub.readers.count and not stream._wakers)


@pytest.mark.requirement("hub.drain")
async def test_a_drain_says_goodbye_to_every_reader_and_refuses_new_ones_kindly(served: Served) -> None:
    served.streams.stream("news", object)
    url = served.url.replace("http", "ws") + "/v1/streams/news"
    async with (
        open_events(served.http, "/v1/streams/news") as events,
        websockets.connect(url, additional_headers=BEARER, proxy=None) as socket,
    ):
        await anext(events)
        await socket.recv()
        served.hub.readers.drain()
        bye = await anext(events)
        assert bye.event == "covey.bye"
        assert bye.retry == json.loads(bye.data)["retry_ms"]
        assert 500 <= (bye.retry or 0) <= 3000
        assert [event["kind"] for event in json.loads(await socket.recv())] == ["covey.bye"]
        await socket.wait_closed()
        assert socket.close_code == 1012
    async with open_events(served.http, "/v1/streams/news") as events:
        assert events.response.status_code == 200
        assert (await anext(events)).event == "covey.bye"
    assert (await served.http.get("/readyz")).status_code == 503


@pytest.mark.requirement("hub.readers.limit")
async def test_one_reader_too_many_is_sent_away_for_now(served: Served) -> None:
    served.streams.stream("news", object)
    served.hub.readers.readers_max = 0
    async with open_events(served.http, "/v1/streams/news") as events:
        bye = await anext(events)
    assert (bye.event, json.loads(bye.data)["reason"]) == ("covey.bye", "too many readers")


@pytest.mark.requirement("hub.append")
async def test_events_are_appended_one_or_several(served: Served) -> None:
    assert (await served.http.put("/v1/streams/news")).status_code == 201
    one = await served.http.post("/v1/streams/news", json={"kind": "tick", "data": {"n": 1}})
    several = await served.http.post("/v1/streams/news", json=[{"data": 2}, {"data": None}])
    stream = served.streams.get("news")
    assert one.json()["id"].endswith(".1")
    assert several.json()["id"] == stream.head
    assert [(e.kind, e.data, e.by) for e in stream.view(tail=9).tail] == [
        ("tick", {"n": 1}, "owner"),
        ("message", 2, "owner"),
        ("message", None, "owner"),
    ]


@pytest.mark.requirement("hub.append.once")
async def test_a_repeated_append_is_harmless(served: Served) -> None:
    stream = served.streams.stream("news", object)
    headers = {"idempotency-key": "k1"}
    first = await served.http.post("/v1/streams/news", json={"data": 1}, headers=headers)
    again = await served.http.post("/v1/streams/news", json={"data": 1}, headers=headers)
    other = await served.http.post("/v1/streams/news", json={"data": 2}, headers=headers)
    assert first.json() == again.json()
    assert len(stream.ring) == 1
    assert other.status_code == 422


@pytest.mark.requirement("hub.append.if-match")
async def test_an_append_may_depend_on_the_head(served: Served) -> None:
    stream = served.streams.stream("news", object)
    ok = await served.http.post("/v1/streams/news", json={"data": 1}, headers={"if-match": stream.head})
    assert ok.status_code == 200
    late = await served.http.post("/v1/streams/news", json={"data": 2}, headers={"if-match": stream.start})
    assert late.status_code == 412
    assert late.json()["head"] == stream.head


@pytest.mark.requirement("hub.create")
async def test_creating_again_with_the_same_settings_is_harmless(served: Served) -> None:
    body = {"retain": {"events": 5}, "overflow": "latest"}
    assert (await served.http.put("/v1/streams/gauges", json=body)).status_code == 201
    assert (await served.http.put("/v1/streams/gauges", json=body)).status_code == 200
    assert (await served.http.put("/v1/streams/gauges", json={"overflow": "drop"})).status_code == 409
    listed = (await served.http.get("/v1/streams", params={"match": "gau*"})).json()["streams"]
    assert [row["name"] for row in listed] == ["gauges"]


@pytest.mark.requirement("hub.head-and-options")
async def test_head_and_options_answer_without_a_body(served: Served) -> None:
    served.streams.stream("news", object)
    head = await served.http.head("/v1/streams/news", headers={"accept": "text/event-stream"})
    assert (head.status_code, head.headers["content-type"], head.content) == (200, "text/event-stream", b"")
    options = await served.http.options("/v1/streams/news")
    assert options.status_code == 204
    assert set(options.headers["allow"].split(", ")) == {"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"}


@pytest.mark.requirement("hub.bad-input.streams")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/streams/nothing", 404),
        ("POST", "/v1/streams/nothing", 404),
        ("DELETE", "/v1/streams/nothing", 404),
        ("GET", "/v1/streams/n%00", 400),
        ("GET", "/v1/streams/..", 404),
        ("GET", "/v1/streams/%2e%2e", 400),
        ("GET", "/v1/streams/a%2Fb", 404),
        ("GET", "/v1/streams/" + "x" * 5000, 400),
        ("GET", "/v1/streams/news?after=junk", 400),
        ("GET", "/v1/streams/news?after=a.99999999999999999999", 400),
        ("GET", "/v1/streams/news?after=a.-1", 400),
        ("GET", "/v1/streams/news?from=middle", 400),
        ("GET", "/v1/streams/news?as=xml", 400),
        ("GET", "/v1/streams/news?heartbeat=0", 400),
        ("GET", "/v1/streams/news?heartbeat=nan", 400),
        ("GET", "/v1/streams/news?" + "&".join(["a"] * 10_000), 400),
        ("PUT", "/v1/streams/covey.own", 400),
        ("PUT", "/v1/streams/call.1", 400),
        ("PUT", "/v1/streams/board", 422),
        ("POST", "/v1/streams/team", 403),
        ("DELETE", "/v1/streams/team", 403),
        ("PATCH", "/v1/streams/news", 405),
        ("GET", "/v1/nothing", 404),
    ],
)
async def test_bad_requests_get_a_problem_and_never_a_500(served: Served, method: str, path: str, status: int) -> None:
    served.streams.stream("news", object)
    answer = await served.http.request(method, path, content=b'{"data":1}' if method in {"POST", "PUT"} else None)
    if method == "PUT":
        answer = await served.http.request(method, path)
    if answer.status_code == 400 and not answer.content.startswith(b"{"):
        assert answer.text == "Invalid HTTP request received."  # refused by the HTTP parser before it reached the hub
        return
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    assert len(answer.content) < 2000


@pytest.mark.requirement("hub.bad-input.append")
@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"", 400, "the body is empty"),
        (b"{", 400, "truncated"),
        (b"\xff", 400, "does not fit"),
        (b'{"kind":"x"}', 400, "missing required field `data`"),
        (b'{"data":1,"colour":2}', 400, "unknown field `colour`"),
        (b"[]", 400, "1 to"),
        (b"[" + b",".join([b'{"data":1}'] * (APPEND_EVENTS_MAX + 1)) + b"]", 400, "1 to"),
        (b'{"data":1,"kind":"covey.gap"}', 422, "reserved"),
        (b'{"data":"' + b"x" * (1 << 20) + b'"}', 413, "1048576"),
        (b'{"data":"' + b"x" * (9 << 20) + b'"}', 413, "body"),
        (b"[" * 100_000, 400, "does not fit"),
        (b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "does not fit"),
    ],
)
async def test_bad_appends_say_what_is_wrong_and_append_nothing(
    served: Served, body: bytes, status: int, detail: str
) -> None:
    stream = served.streams.stream("news", object)
    answer = await served.http.post("/v1/streams/news", content=body)
    assert (answer.status_code, len(stream.ring)) == (status, 0)
    assert detail in answer.json()["detail"]


@pytest.mark.requirement("durable.created-again")
async def test_a_stream_that_could_not_be_kept_is_no_stream_that_is_there(served: Served) -> None:
    class Full(MemoryEngine):
        is_full = True

        async def open_log(self, name: str, *, epoch: str, settings: bytes) -> LogState:
            if self.is_full:
                raise EngineError("the disk is full")
            return await super().open_log(name, epoch=epoch, settings=settings)

    served.streams.engine = engine = Full(is_open=True)
    statuses = [(await served.http.put("/v1/streams/log", json={"durable": True})).status_code for _ in range(2)]
    assert statuses == [503, 503]
    engine.is_full = False
    assert (await served.http.put("/v1/streams/log", json={"durable": True})).status_code == 200
    assert [state.name for state in await engine.logs()] == ["log"]
