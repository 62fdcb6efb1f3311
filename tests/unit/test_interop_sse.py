from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import FrameType
from typing import Any

import pytest

import covey
from covey.errors import InvalidInputError
from covey.interop.shutdown import Shutdown
from covey.interop.sse import BUFFER_BYTES, Asked, Options, Plan, Source, encode_item, plan
from covey.wire.event_stream import parse_event_stream

QUICK_S = 0.02


def planned(source: Source, asked: Asked | None = None, **options: Any) -> Plan:  # noqa: ANN401 -- those of Options
    return plan(source, asked or Asked(), Options(**options), None)


def blocks_of(source: Source, **options: Any) -> AsyncGenerator[bytes, None]:  # noqa: ANN401 -- as above
    blocks = planned(source, **options).blocks
    assert blocks is not None
    return blocks


async def at_once(*items: object) -> AsyncIterator[object]:
    for item in items:
        yield item


@pytest.mark.requirement("interop.sse.coalesced")
async def test_items_that_are_ready_together_leave_together() -> None:
    parts = [part async for part in blocks_of(at_once("a", "b", {"c": 1}))]
    assert parts == [b'data: a\n\ndata: b\n\ndata: {"c":1}\n\n']


@pytest.mark.requirement("interop.sse.back-pressure")
async def test_an_iterator_is_never_far_ahead_of_its_reader() -> None:
    given = 0

    async def endless() -> AsyncIterator[object]:
        nonlocal given
        while True:
            given += 1
            yield "x" * 1000

    blocks = blocks_of(endless())
    part = await anext(blocks)
    assert len(part) < BUFFER_BYTES + 2000
    for _ in range(20):
        await asyncio.sleep(0)
    assert given * 1000 < 2 * BUFFER_BYTES + 4000
    await blocks.aclose()


@pytest.mark.requirement("interop.sse.closed")
async def test_an_iterator_is_closed_in_the_task_that_began_it() -> None:
    tasks: list[asyncio.Task[Any] | None] = []

    async def source() -> AsyncIterator[object]:
        tasks.append(asyncio.current_task())
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            tasks.append(asyncio.current_task())

    blocks = blocks_of(source())
    await anext(blocks)
    await blocks.aclose()
    assert len(tasks) == 2
    assert tasks[0] is tasks[1] is not asyncio.current_task()


@pytest.mark.requirement("interop.sse.error")
async def test_what_an_iterator_raises_comes_after_what_it_gave() -> None:
    async def source() -> AsyncIterator[object]:
        yield 1
        message = "broke"
        raise RuntimeError(message)

    blocks = blocks_of(source())
    assert await anext(blocks) == b"data: 1\n\n"
    with pytest.raises(RuntimeError, match="broke"):
        await anext(blocks)


@pytest.mark.requirement("interop.sse.error")
async def test_an_item_without_a_form_breaks_the_stream() -> None:
    blocks = blocks_of(at_once(1, object()))
    assert await anext(blocks) == b"data: 1\n\n"
    with pytest.raises(InvalidInputError, match="object"):
        await anext(blocks)


@pytest.mark.requirement("interop.sse.heartbeat")
async def test_silence_is_a_named_event_on_a_stream_and_a_comment_on_an_iterator() -> None:
    stream = covey.Streams().stream("news", object)
    on_stream, on_iterator = blocks_of(stream, heartbeat_s=QUICK_S), blocks_of(_silent(), heartbeat_s=QUICK_S)
    async with asyncio.timeout(10):
        opened = next(iter(parse_event_stream([await anext(on_stream)])))
        assert json.loads(opened.data)["heartbeat_s"] == QUICK_S
        assert (await anext(on_stream)).startswith(b"event: covey.heartbeat\ndata:")
        assert await anext(on_iterator) == b":heartbeat\n"
    for blocks in (on_stream, on_iterator):
        await blocks.aclose()
    assert not stream._wakers


@pytest.mark.requirement("interop.sse.heartbeat")
async def test_without_heartbeats_nobody_is_told_to_expect_them() -> None:
    blocks = blocks_of(covey.Streams().stream("news", object), heartbeat_s=None)
    opened = next(iter(parse_event_stream([await anext(blocks)])))
    assert json.loads(opened.data)["heartbeat_s"] is None
    await blocks.aclose()


@pytest.mark.requirement("interop.sse.where-to-start")
async def test_what_the_request_asks_for_goes_before_what_the_program_says() -> None:
    stream = covey.Streams().stream("news", object)
    first, second, third = [await stream.append(n) for n in range(3)]
    for asked, options, expected in (
        (Asked(), {}, third),
        (Asked(), {"start": "start"}, stream.start),
        (Asked(), {"after": first}, first),
        (Asked(after=second), {"after": first}, second),
        (Asked(last_event_id=first, after=second), {}, first),
        (Asked(start="now"), {"after": first}, third),
        (Asked(start="start"), {"after": second}, stream.start),
    ):
        blocks = planned(stream, asked, **options).blocks
        assert blocks is not None
        assert next(iter(parse_event_stream([await anext(blocks)]))).id == expected
        await blocks.aclose()


@pytest.mark.requirement("interop.sse.bad-input")
@pytest.mark.parametrize(
    "options",
    [{"heartbeat_s": 0}, {"heartbeat_s": -1}, {"heartbeat_s": float("inf")}, {"after": "junk"}, {"start": "x"}],
)
def test_a_programs_own_mistake_raises_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        planned(covey.Streams().stream("news", object), **options)


@pytest.mark.requirement("interop.sse.bad-input")
@pytest.mark.parametrize("options", [{"after": "k.1"}, {"start": "start"}, {"kinds": ["a"]}, {"envelope": True}])
def test_an_iterator_has_no_place_to_start_from(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="iterators"):
        planned(_silent(), **options)


@pytest.mark.requirement("interop.sse.bad-input")
@pytest.mark.parametrize("asked", [Asked(last_event_id="junk"), Asked(after="k."), Asked(start="x" * 10_000)])
def test_a_requests_mistake_is_answered(asked: Asked) -> None:
    made = planned(covey.Streams().stream("news", object), asked)
    assert (made.status, made.blocks) == (400, None)
    assert len(made.body) < 1000


@pytest.mark.requirement("interop.sse.injection")
@pytest.mark.parametrize("text", ["a\nevent: forged", "a\r\n\r\ndata: forged", "a\rid: 9"])
def test_text_never_becomes_a_field(text: str) -> None:
    [event] = parse_event_stream([encode_item(text)])
    assert (event.event, event.id, event.data) == ("message", "", text.replace("\r\n", "\n").replace("\r", "\n"))
    with pytest.raises(InvalidInputError):
        encode_item(covey.ServerSentEvent(event=text, data=""))


@pytest.mark.requirement("interop.shutdown")
async def test_the_servers_own_handler_still_runs_and_is_put_back() -> None:
    heard: list[int] = []

    def own(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    shutdown = Shutdown()
    blocks = plan(_silent(), Asked(), Options(), shutdown.readers).blocks
    assert blocks is not None
    waiting = asyncio.ensure_future(anext(blocks))
    before = signal.signal(signal.SIGUSR1, own)
    try:
        with shutdown.on_signals(signal.SIGUSR1):
            await asyncio.sleep(0)
            signal.raise_signal(signal.SIGUSR1)
            assert b"covey.bye" in await asyncio.wait_for(waiting, 10)
        assert signal.getsignal(signal.SIGUSR1) is own
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]


@pytest.mark.requirement("interop.shutdown")
def test_shutdown_refuses_what_is_no_hub() -> None:
    other: Callable[..., Any] = lambda *_: None  # noqa: E731 -- any ASGI app
    with pytest.raises(InvalidInputError, match="asgi"):
        Shutdown(other)


async def _silent() -> AsyncIterator[object]:
    await asyncio.Event().wait()
    yield None
