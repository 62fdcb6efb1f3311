"""The hub inside apps of other frameworks: a recipe each, and what each of them makes of the path."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import httpx2
import litestar
import pytest
import websockets
from fastapi import FastAPI
from litestar.handlers import asgi
from starlette.applications import Starlette
from starlette.routing import Mount
from tests import django_app
from tests.asgi_servers import in_loop
from tests.serving import open_events, until

import covey
from covey.hub.app import Hub
from covey.hub.http import ASGIApp, Receive, Request, Scope, Send

NEWS = "/covey/v1/streams/news"


class Mounted(NamedTuple):
    """The hub below ``/covey`` of an app."""

    http: httpx2.AsyncClient
    hub: Hub
    streams: covey.Streams


def in_fastapi(hub: ASGIApp) -> object:
    app = FastAPI()
    app.mount("/covey", hub)
    return app


def in_starlette(hub: ASGIApp) -> object:
    return Starlette(routes=[Mount("/covey", app=hub)])


def in_starlette_twice(hub: ASGIApp) -> object:
    return Starlette(routes=[Mount("/covey", routes=[Mount("/", app=hub)])])


def in_litestar(hub: ASGIApp) -> object:
    @asgi("/covey", is_mount=True, copy_scope=True)
    async def mounted(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 -- Litestar's own are typed dicts
        await hub(scope, receive, send)

    return litestar.Litestar([mounted], logging_config=None)  # its own would set the root logger of the whole run


def by_hand_without_root_path(hub: ASGIApp) -> object:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            path = scope["path"].partition("/covey")[2]
            await hub({**scope, "path": path}, receive, send)

    return app


FRAMEWORKS: list[Callable[[ASGIApp], object]] = [
    in_fastapi,
    in_starlette,
    in_starlette_twice,
    in_litestar,
    by_hand_without_root_path,
]


@pytest.fixture(params=[*FRAMEWORKS, "django"], ids=lambda made: getattr(made, "__name__", made))
def app_and_streams(request: pytest.FixtureRequest) -> tuple[object, ASGIApp, covey.Streams]:
    if request.param == "django":
        return django_app.app, django_app.hub, django_app.streams
    streams = covey.Streams()
    streams.stream("news", object)
    hub = covey.asgi(streams=streams)
    return request.param(hub), hub, streams


@pytest.fixture(params=["", "/outer"], ids=["at-the-root", "below-a-proxy"])
async def mounted(
    request: pytest.FixtureRequest, app_and_streams: tuple[object, ASGIApp, covey.Streams]
) -> AsyncIterator[Mounted]:
    app, hub, streams = app_and_streams
    assert isinstance(hub, Hub)
    async with in_loop(app, root_path=request.param) as client:
        yield Mounted(client, hub, streams)


@pytest.mark.requirement("interop.mounts")
async def test_a_mounted_hub_serves_its_streams_below_its_path(mounted: Mounted) -> None:
    first = (await mounted.http.post(NEWS, json={"data": 1})).json()["id"]
    second = (await mounted.http.post(NEWS, json=[{"data": 2}])).json()["id"]
    async with open_events(mounted.http, NEWS, last_event_id=first) as events:
        opened, missed = [await anext(events) for _ in range(2)]
        assert (opened.event, opened.id, missed.id) == ("covey.open", first, second)
        live = await mounted.streams.get("news").append("live")
        assert (await anext(events)).id == live
    await until(lambda: mounted.hub.readers.count == 0)
    polled = await mounted.http.get(NEWS, params={"after": second})
    assert [event["data"] for event in polled.json()["events"]] == ["live"]
    listed = await mounted.http.get("/covey/v1/streams", params={"match": "news"})
    assert [row["name"] for row in listed.json()["streams"]] == ["news"]


@pytest.mark.requirement("interop.mounts")
async def test_a_mounted_hub_takes_websockets(mounted: Mounted) -> None:
    url = str(mounted.http.base_url).replace("http", "ws", 1).rstrip("/") + NEWS
    async with websockets.connect(url, proxy=None) as socket, asyncio.timeout(10):
        assert [event["kind"] for event in json.loads(await socket.recv())] == ["covey.open"]
        await mounted.streams.get("news").append("live")
        assert [event["data"] for event in json.loads(await socket.recv())] == ["live"]
    await until(lambda: mounted.hub.readers.count == 0)


@pytest.mark.requirement("interop.mounts")
async def test_refusals_of_a_mounted_hub_stay_problem_documents(mounted: Mounted) -> None:
    for path in ("/covey/v1/streams/nothing", "/covey/nowhere"):
        answer = await mounted.http.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert (await mounted.http.get(NEWS, params={"after": "junk"})).status_code == 400
    assert (await mounted.http.get("/covey/livez")).text == "ok\n"


@pytest.mark.requirement("interop.mounts.path")
@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/v1/streams", "", "/v1/streams"),
        ("/covey/v1/streams", "/covey", "/v1/streams"),
        ("/covey/v1/streams", "/covey/", "/v1/streams"),
        ("/v1/streams", "/covey", "/v1/streams"),
        ("/v1/streams/news/", "", "/v1/streams/news"),
        ("/coveyed/v1", "/covey", "/coveyed/v1"),
        ("/covey", "/covey", "/"),
        ("/covey/", "/covey", "/"),
        ("", "", "/"),
        ("/", "", "/"),
        ("//", "", "/"),
    ],
)
async def test_the_path_below_the_mount_is_found_whoever_takes_it_off(path: str, root: str, expected: str) -> None:
    async def receive() -> dict[str, Any]:
        return {}

    scope = {"type": "http", "method": "GET", "path": path, "root_path": root, "headers": []}
    assert Request(scope, receive).path == expected
