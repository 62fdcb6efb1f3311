from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from covey.engines.memory import MemoryEngine
from covey.engines.sqlite import SqliteEngine
from covey.errors import (
    EngineError,
    HeadMovedError,
    InvalidInputError,
    KeyReusedError,
    LocalProtocolError,
    StreamClosedError,
)
from covey.ports.engine import Once, Record
from covey.streams.durable import TRIM_EVENTS, DurableStream
from covey.streams.retention import Retention
from covey.streams.stream import Draft
from covey.streams.streams import Streams


class HeldEngine(MemoryEngine):
    """Commits when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.may_commit = asyncio.Event()
        self.is_full = False

    async def append(
        self, name: str, records: Sequence[Record], *, expect_head: int | None = None, once: Once | None = None
    ) -> list[int]:
        self.asked.set()
        await self.may_commit.wait()
        if self.is_full:
            raise EngineError("the disk is full")
        return await super().append(name, records, expect_head=expect_head, once=once)


@pytest.fixture
async def held() -> AsyncIterator[tuple[Streams, HeldEngine]]:
    engine = HeldEngine()
    async with Streams(engine) as streams:
        yield streams, engine
        engine.may_commit.set()


@pytest.mark.requirement("durable.committed-only")
async def test_nobody_sees_an_event_before_it_is_committed(held: tuple[Streams, HeldEngine]) -> None:
    streams, engine = held
    stream = streams.stream("log", object, durable=True)
    appending = asyncio.create_task(stream.append(1))
    await engine.asked.wait()
    assert stream.reader().take() == []
    assert len(stream.ring) == 0
    engine.may_commit.set()
    assert await appending == stream.head
    assert [event.data for event in stream.view(tail=9).tail] == [1]


@pytest.mark.requirement("durable.committed-only")
async def test_a_cancelled_writer_keeps_no_committed_event_from_readers(held: tuple[Streams, HeldEngine]) -> None:
    streams, engine = held
    stream = streams.stream("log", object, durable=True)
    appending = asyncio.create_task(stream.append("kept"))
    await engine.asked.wait()
    appending.cancel()
    await asyncio.gather(appending, return_exceptions=True)
    engine.may_commit.set()
    await stream.append("next")
    assert [event.data for event in stream.view(tail=9).tail] == ["kept", "next"]


@pytest.mark.requirement("durable.committed-only")
async def test_what_could_not_be_kept_is_told_and_never_seen(held: tuple[Streams, HeldEngine]) -> None:
    streams, engine = held
    stream = streams.stream("log", object, durable=True)
    engine.is_full = True
    engine.may_commit.set()
    with pytest.raises(EngineError, match="full"):
        await stream.append("lost")
    engine.is_full = False
    await stream.append("kept")
    assert [event.data for event in stream.view(tail=9).tail] == ["kept"]


@pytest.mark.requirement("durable.order")
async def test_many_writers_at_once_are_published_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    async with Streams(SqliteEngine(tmp_path / "covey.db")) as streams:
        stream = streams.stream("log", int, durable=True)
        ids = await asyncio.gather(*(stream.append(n) for n in range(500)))
        events = stream.view(tail=1000).tail
    assert [event.data for event in events] == list(range(500))
    assert [event.id for event in events] == list(ids)


@pytest.mark.requirement("durable.restart")
async def test_a_restart_finds_every_event_under_its_id(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "covey.db")
    async with Streams(engine) as streams:
        stream = streams.stream("log", object, durable=True, retain=Retention(events=3))
        ids = [await stream.append(n, kind="tick", by="ada", key=str(n)) for n in range(5)]
    async with Streams(SqliteEngine(tmp_path / "covey.db")) as streams:
        again = streams.get("log")
        assert again.ring.retention == Retention(events=3)
        assert [(e.id, e.kind, e.data, e.by, e.key) for e in again.view(tail=9).tail] == [
            (ids[n], "tick", n, "ada", str(n)) for n in (2, 3, 4)
        ]
        assert again.reader(ids[3]).take()[0].id == ids[4]
        assert int((await again.append("more")).partition(".")[2]) == 6


@pytest.mark.requirement("durable.restart")
async def test_a_restart_finds_streams_that_are_empty_or_ended(tmp_path: Path) -> None:
    async with Streams(SqliteEngine(tmp_path / "covey.db")) as streams:
        empty = streams.stream("empty", object, durable=True)
        assert isinstance(empty, DurableStream)
        await empty.open()
        ended = streams.stream("ended", object, durable=True)
        await ended.append("last")
        await streams.end("ended")
    async with Streams(SqliteEngine(tmp_path / "covey.db")) as streams:
        assert streams.get("empty").head == empty.head
        again = streams.get("ended")
        assert again.is_closed
        assert [event.data async for event in again.read()] == ["last"]
        with pytest.raises(StreamClosedError):
            await again.append("more")
        fresh = streams.create("ended", object, durable=True)
        assert (await fresh.append("first")).endswith(".1")
        assert fresh.ring.epoch != ended.ring.epoch
    async with Streams(SqliteEngine(tmp_path / "covey.db")) as streams:
        assert [event.data for event in streams.get("ended").view(tail=9).tail] == ["first"]


@pytest.mark.requirement("durable.once")
async def test_the_same_drafts_under_a_key_are_appended_once_also_over_a_restart(tmp_path: Path) -> None:
    drafts = [Draft("a", b"1"), Draft("a", b"2")]
    async with Streams(SqliteEngine(tmp_path / "covey.db")) as streams:
        stream = streams.stream("log", object, durable=True)
        first, second = await asyncio.gather(*(stream.append_all(drafts, once="k") for _ in range(2)))
        assert first == second
        assert len(stream.ring) == 2
    async with Streams(SqliteEngine(tmp_path / "covey.db")) as streams:
        stream = streams.stream("log", object, durable=True)
        assert await stream.append_all(drafts, once="k") == first
        assert len(stream.ring) == 2
        with pytest.raises(KeyReusedError):
            await stream.append_all([Draft("a", b"3")], once="k")


@pytest.mark.requirement("durable.if-head")
async def test_a_conditional_append_is_decided_by_the_engine(tmp_path: Path) -> None:
    async with Streams(SqliteEngine(tmp_path / "covey.db")) as streams:
        stream = streams.stream("log", object, durable=True)
        head = await stream.append(0)
        results = await asyncio.gather(*(stream.append(n, if_head=head) for n in range(1, 4)), return_exceptions=True)
        assert [type(result) for result in results] == [str, HeadMovedError, HeadMovedError]
        with pytest.raises(HeadMovedError):
            await stream.append(9, if_head="zzz.1")


@pytest.mark.requirement("durable.trim")
async def test_what_left_the_retention_is_trimmed_from_the_log(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "covey.db")
    async with Streams(engine) as streams:
        stream = streams.stream("log", object, durable=True, retain=Retention(events=10))
        for _ in range(3):
            await stream.append_all([Draft("a", b"1")] * TRIM_EVENTS)
        assert isinstance(stream, DurableStream)
        await stream.settle()
        (state,) = await engine.logs()
    assert state.head == 3 * TRIM_EVENTS
    assert state.oldest > 2 * TRIM_EVENTS


@pytest.mark.requirement("durable.misuse")
async def test_misuse_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no engine"):
        Streams().stream("log", object, durable=True)
    async with Streams(SqliteEngine(tmp_path / "covey.db")) as streams:
        with pytest.raises(InvalidInputError, match="latest"):
            streams.stream("log", object, durable=True, overflow="latest")
        stream = streams.stream("log", object, durable=True)
        with pytest.raises(LocalProtocolError, match="await"):
            stream.append_now(b"1", kind="message")


class SlowEndEngine(MemoryEngine):
    """Carries out the first end of a log when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.is_ending = asyncio.Event()
        self.may_end = asyncio.Event()

    async def end_log(self, name: str) -> None:
        if self.is_ending.is_set():
            await super().end_log(name)
            return
        self.is_ending.set()
        await self.may_end.wait()


@pytest.mark.requirement("durable.ended-twice")
async def test_of_two_who_end_a_stream_the_later_leaves_one_of_its_name_alone() -> None:
    engine = SlowEndEngine()
    async with Streams(engine, ended_kept_s=0.0) as streams:
        await streams.create("log", object, durable=True).append("old")
        late = asyncio.create_task(streams.end("log"))
        await engine.is_ending.wait()
        await streams.end("log")
        again = streams.create("log", object, durable=True)
        await again.append("new")
        engine.may_end.set()
        await late
        streams.create("other", object)  # which forgets what ended long ago
        assert streams.get("log") is again
        assert [state.is_ended for state in await engine.logs()] == [False]
