"""The public API of streams as users write it; checked, never run."""

from __future__ import annotations

from typing import assert_type

import msgspec

import covey
from covey.engines.sqlite import SqliteEngine


class Headline(msgspec.Struct):
    text: str


async def in_process() -> None:
    async with covey.Streams(SqliteEngine("covey.db")) as streams:
        news = streams.stream("news", Headline, retain=covey.Retention(events=100), durable=True)
        assert_type(news, covey.Stream[Headline])
        identifier = await news.append(Headline("covey is here"), kind="breaking", by="ada")
        assert_type(identifier, str)
        await news.append("no headline")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        async for event in news.read(after=identifier):
            assert_type(event, covey.Event[Headline])
            assert_type(event.data.text, str)
        view = news.view(head=1, tail=2)
        assert_type(view.tail, list[covey.Event[Headline]])
        app = covey.asgi(streams=streams, token="secret")
        await app({"type": "http"}, receive, send)


async def receive() -> dict[str, object]:
    return {}


async def send(message: object) -> None:
    del message


async def over_http() -> None:
    async for event in covey.subscribe("http://127.0.0.1:7077/v1/streams/news", token="secret", start="start"):
        assert_type(event, covey.ServerSentEvent)
        assert_type(event.id, str)
    for event in covey.subscribe_sync("http://127.0.0.1:7077/v1/streams/news", after="k3f9.42"):
        assert_type(event.data, str)
    for event in covey.parse_event_stream([b"data: hello\n\n"]):
        assert_type(event, covey.ServerSentEvent)
