"""A FastAPI app whose path functions answer with event streams, for servers as processes and inside a test's loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

import covey
from covey.interop.shutdown import Shutdown
from covey.interop.starlette import sse_response

app: Final = FastAPI()
streams: Final = covey.Streams()
news: Final = streams.stream("news", object)
shutdown: Final = Shutdown()
# One entry for each iterator of `/ticks` that runs: the task that began it.
running: Final[list[asyncio.Task[object] | None]] = []


class Reading(BaseModel):
    """What FastAPI's users yield."""

    celsius: float


async def ticks() -> AsyncGenerator[object]:
    task = asyncio.current_task()
    running.append(task)
    try:
        async with asyncio.timeout(60):  # must be left in the task that entered it
            yield "first"
            await asyncio.Event().wait()
    finally:
        assert asyncio.current_task() is task
        running.remove(task)


async def items() -> AsyncGenerator[object]:
    yield "two\nlines"
    yield b"bytes"
    yield {"n": 1, "reading": Reading(celsius=21.5)}
    yield Reading(celsius=22)
    yield covey.ServerSentEvent(event="named", data="x", id="7", retry=50)
    yield covey.Event(id="k.1", time=0.0, kind="tick", data=[1])


async def breaks() -> AsyncGenerator[object]:
    yield "before"
    message = "the source broke"
    raise RuntimeError(message)


@app.get("/livez")
async def livez() -> str:
    return "ok"


@app.get("/running")
async def count() -> int:
    return len(running)


@app.head("/news", include_in_schema=False)
@app.get("/news")
async def read_news(request: Request) -> Response:
    return sse_response(news, request=request, shutdown=shutdown)


@app.get("/news/ticks-alone")
async def read_some(request: Request) -> Response:
    return sse_response(news, request=request, start="start", kinds=["tick"], envelope=True)


@app.post("/ticks", include_in_schema=False)
@app.get("/ticks")
async def read_ticks(heartbeat_s: float | None = 15) -> Response:
    return sse_response(ticks(), heartbeat_s=heartbeat_s, shutdown=shutdown)


@app.get("/items")
async def read_items() -> Response:
    return sse_response(items())


@app.get("/breaks")
async def read_breaks() -> Response:
    return sse_response(breaks())
