from __future__ import annotations

import asyncio
import gc

import pytest

import covey.streams.streams as streams_module
from covey.errors import (
    HeadMovedError,
    InvalidInputError,
    KeyReusedError,
    NameTakenError,
    RefusedError,
    StreamClosedError,
    StreamNotFoundError,
    TooLargeError,
)
from covey.streams.event import EVENT_BYTES_MAX, Entry, Event, Skipped
from covey.streams.retention import Retention
from covey.streams.stream import Draft, Stream
from covey.streams.streams import ENDED_MAX, Streams
from covey.testing.clock import ManualClock
from covey.testing.randomness import SeededRandomness


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def streams(clock: ManualClock) -> Streams:
    return Streams(clock=clock, randomness=SeededRandomness(7), ended_kept_s=60.0)


@pytest.fixture
def stream(streams: Streams) -> Stream[object]:
    return streams.stream("news", object)


async def collect(stream: Stream[object], count: int, *, after: str | None = None) -> list[Event[object]]:
    events: list[Event[object]] = []
    async with asyncio.timeout(5):
        async for event in stream.read(after=after):
            events.append(event)
            if len(events) == count:
                break
    return events


@pytest.mark.requirement("stream.read.replays-then-goes-on-live")
async def test_a_reader_gets_what_was_and_then_what_comes(stream: Stream[object]) -> None:
    first = await stream.append({"n": 1})
    reading = asyncio.create_task(collect(stream, 3))
    await stream.append({"n": 2}, kind="tick", by="ada", key="k")
    await asyncio.sleep(0)
    await stream.append({"n": 3})
    events = await reading
    assert [event.data for event in events] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert events[0].id == first
    assert (events[1].kind, events[1].by, events[1].key) == ("tick", "ada", "k")


@pytest.mark.requirement("stream.read.resumes-without-gap-or-repeat")
async def test_reading_after_an_id_gives_exactly_the_rest(stream: Stream[object]) -> None:
    ids = [await stream.append(n) for n in range(5)]
    assert [event.data for event in await collect(stream, 2, after=ids[2])] == [3, 4]


@pytest.mark.requirement("stream.read.typed")
async def test_data_comes_back_as_the_streams_type(streams: Streams) -> None:
    typed = streams.stream("points", Retention)
    await typed.append(Retention(events=3))
    async for event in typed.read():
        assert event.data == Retention(events=3)
        break


@pytest.mark.requirement("stream.end")
async def test_readers_get_the_rest_and_then_the_end(stream: Stream[object]) -> None:
    await stream.append(1)
    stream.close()
    stream.close()
    assert [event.data async for event in stream.read()] == [1]
    with pytest.raises(StreamClosedError):
        await stream.append(2)


@pytest.mark.requirement("stream.end")
async def test_a_waiting_reader_learns_of_the_end(stream: Stream[object]) -> None:
    async def drain() -> list[object]:
        return [event.data async for event in stream.read()]

    reading = asyncio.create_task(drain())
    await asyncio.sleep(0)
    stream.close()
    assert await asyncio.wait_for(reading, 5) == []


@pytest.mark.requirement("stream.append.if-head")
async def test_a_conditional_append_needs_the_head_it_names(stream: Stream[object]) -> None:
    first = await stream.append(1)
    second = await stream.append(2, if_head=first)
    with pytest.raises(HeadMovedError) as caught:
        await stream.append(3, if_head=first)
    assert caught.value.head == second
    with pytest.raises(InvalidInputError):
        await stream.append(3, if_head="nonsense")


@pytest.mark.requirement("stream.append.once")
async def test_the_same_drafts_under_a_key_are_appended_once(stream: Stream[object]) -> None:
    drafts = [Draft("a", b"1"), Draft("b", b"2")]
    first = await stream.append_all(drafts, once="key-1")
    await stream.append("between")
    assert await stream.append_all(drafts, once="key-1", if_head="x.999") == first
    assert len(stream.ring) == 3
    with pytest.raises(KeyReusedError):
        await stream.append_all([Draft("a", b"12")], once="key-1")
    with pytest.raises(InvalidInputError):
        await stream.append_all(drafts, once="new\nline")


@pytest.mark.requirement("stream.append.all-or-none")
async def test_one_draft_too_large_keeps_all_out(stream: Stream[object]) -> None:
    with pytest.raises(TooLargeError):
        await stream.append_all([Draft("a", b"1"), Draft("a", b"1" * (EVENT_BYTES_MAX + 1))])
    assert len(stream.ring) == 0


@pytest.mark.requirement("stream.kinds.reserved")
@pytest.mark.parametrize("kind", ["covey.gap", "open", "error", "", "a,b", "a\nb", "a b", "x" * 65])
async def test_reserved_and_malformed_kinds_are_refused(stream: Stream[object], kind: str) -> None:
    with pytest.raises(InvalidInputError):
        await stream.append(1, kind=kind)


@pytest.mark.requirement("stream.append.json")
async def test_data_that_is_no_json_is_refused(stream: Stream[object]) -> None:
    with pytest.raises(InvalidInputError, match="cannot be written as JSON"):
        await stream.append(object())


@pytest.mark.requirement("stream.filter")
async def test_filtered_events_still_move_the_cursor(stream: Stream[object]) -> None:
    await stream.append(1, kind="a")
    await stream.append(2, kind="b")
    last = await stream.append(3, kind="b")
    reader = stream.reader(kinds={"a"})
    shown, skipped = reader.take()
    assert isinstance(shown, Entry)
    assert isinstance(skipped, Skipped)
    assert reader.cursor == skipped.id == last


@pytest.mark.requirement("stream.view")
async def test_a_view_shows_both_ends_and_counts_the_middle(stream: Stream[object]) -> None:
    for n in range(10):
        await stream.append(n)
    view = stream.view(head=2, tail=3)
    assert ([e.data for e in view.head], view.omitted, [e.data for e in view.tail]) == ([0, 1], 5, [7, 8, 9])
    whole = stream.view(head=8, tail=8)
    assert ([e.data for e in whole.head], whole.omitted, [e.data for e in whole.tail]) == (list(range(8)), 0, [8, 9])


@pytest.mark.requirement("stream.readers-leak-nothing")
async def test_ten_thousand_readers_leave_nothing_behind(stream: Stream[object]) -> None:
    async def read_one() -> object:
        async for event in stream.read():
            return event.data
        return None

    finished = [asyncio.create_task(read_one()) for _ in range(5000)]
    cancelled = [asyncio.create_task(read_one()) for _ in range(5000)]
    await asyncio.sleep(0)
    assert len(stream._wakers) == 10_000
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
    await stream.append("x")
    assert set(await asyncio.gather(*finished)) == {"x"}
    assert stream._wakers == {}


@pytest.mark.requirement("stream.readers-leak-nothing")
async def test_a_lagging_reader_keeps_no_event_alive(streams: Streams) -> None:
    stream = streams.stream("small", object, retain=Retention(events=2))
    reader = stream.reader()
    for n in range(200):
        await stream.append(n)
    gc.collect()  # streams of earlier tests have the same epoch
    own = f"{stream.ring.epoch}."
    # `isinstance` would ask objects of others, such as proxies to what is gone, for their class.
    assert sum(type(held) is Entry and held.id.startswith(own) for held in gc.get_objects()) == 2
    assert [type(item).__name__ for item in reader.take()] == ["Control", "Entry", "Entry"]


@pytest.mark.requirement("streams.names")
async def test_streams_are_found_by_name_and_near_names_are_offered(streams: Streams, stream: Stream[object]) -> None:
    assert streams.get("news") is stream
    assert streams.stream("news", object) is stream
    with pytest.raises(StreamNotFoundError, match="newz") as caught:
        streams.get("newz")
    assert caught.value.hint == "did you mean 'news'?"
    with pytest.raises(NameTakenError):
        streams.create("news", object)
    with pytest.raises(InvalidInputError):
        streams.stream("no/slash", object)


@pytest.mark.requirement("streams.names")
async def test_a_glob_finds_a_branch_of_names(streams: Streams) -> None:
    for name in ("ada.out", "ada.log", "bob.out"):
        streams.stream(name, object)
    assert [stream.name for stream in streams.matching("ada.*")] == ["ada.log", "ada.out"]


@pytest.mark.requirement("streams.bounded")
async def test_there_are_no_more_streams_than_allowed(clock: ManualClock) -> None:
    streams = Streams(streams_max=2, clock=clock, ended_kept_s=10.0)
    streams.stream("a", object)
    streams.stream("b", object)
    with pytest.raises(RefusedError):
        streams.stream("c", object)
    await streams.end("a")
    clock.advance(11.0)
    assert streams.stream("c", object).name == "c"
    with pytest.raises(StreamNotFoundError):
        streams.get("a")


@pytest.mark.requirement("streams.bounded")
async def test_ended_streams_stay_readable_for_a_while_but_not_without_bound(streams: Streams) -> None:
    for number in range(ENDED_MAX + 5):
        streams.stream(f"s{number}", object)
        await streams.end(f"s{number}")
    assert len(streams.matching("s*")) == ENDED_MAX
    assert streams.get(f"s{ENDED_MAX}").is_closed


@pytest.mark.requirement("stream.epoch")
async def test_a_stream_made_anew_under_its_name_begins_a_new_epoch(streams: Streams, stream: Stream[object]) -> None:
    last = await stream.append(1)
    await streams.end("news")
    again = streams.create("news", object)
    assert again.ring.epoch != stream.ring.epoch
    await again.append("fresh")
    events = await collect(again, 2, after=last)
    assert [event.kind for event in events] == ["covey.reset", "message"]


@pytest.mark.requirement("stream.retention-checked")
@pytest.mark.parametrize(
    "retain", [Retention(events=0), Retention(bytes=-1), Retention(age_s=0), Retention(age_s=float("nan"))]
)
async def test_a_nonsense_retention_is_refused_by_its_field(streams: Streams, retain: Retention) -> None:
    with pytest.raises(InvalidInputError, match=r"retain\.(events|bytes|age_s)"):
        streams.stream("bad", object, retain=retain)


@pytest.mark.requirement("streams.close-with-the-block")
async def test_leaving_the_block_ends_all_streams() -> None:
    async with Streams() as streams:
        stream = streams.stream("news", object)
    assert stream.is_closed


@pytest.mark.requirement("streams.bounded")
async def test_ended_streams_hold_no_more_bytes_than_allowed(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "ENDED_BYTES_MAX", 5000)
    for number in range(4):
        await streams.stream(f"s{number}", object).append("x" * 2000)
        await streams.end(f"s{number}")
    assert [stream.name for stream in streams.matching()] == ["s2", "s3"]


@pytest.mark.requirement("streams.bounded")
async def test_ending_a_stream_again_does_not_keep_it_longer(streams: Streams, clock: ManualClock) -> None:
    streams.stream("old", object)
    await streams.end("old")
    clock.advance(streams.ended_kept_s / 2)
    await streams.end("old")
    clock.advance(streams.ended_kept_s / 2)
    streams.stream("new", object)
    assert [stream.name for stream in streams.matching()] == ["new"]


@pytest.mark.requirement("streams.bounded")
async def test_a_name_among_very_many_is_looked_for_in_a_bounded_time(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "NEAR_NAMES_MAX", 2)
    for name in ("aaa1", "aaa2", "aaa3"):
        streams.stream(name, object)
    with pytest.raises(StreamNotFoundError) as caught:
        streams.get("aaa")
    assert "aaa1" in str(caught.value.hint)
    assert "aaa3" not in str(caught.value.hint)
