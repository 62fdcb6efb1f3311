from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from covey.hub.chunks import Chunks
from covey.hub.fanout import SLICE, Connection, Fanout
from covey.hub.http import Wake
from covey.hub.readers import Readers
from covey.hub.representation import ReadOptions
from covey.streams.retention import Retention
from covey.streams.stream import Stream
from covey.streams.streams import Streams
from covey.testing.clock import ManualClock
from covey.testing.randomness import SeededRandomness
from covey.wire.event_stream import EventStreamParser

HEARTBEAT_S = 10.0


class Handle:
    def __init__(self, call: Callable[[], None], due_s: float) -> None:
        self.call = call
        self.due_s = due_s
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class TurnedLoop:
    """A loop whose turns and whose time a test takes one by one."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.soon: list[Handle] = []
        self.timers: list[Handle] = []

    def time(self) -> float:
        return self.now_s

    def call_soon(self, call: Callable[..., None], *arguments: object) -> Handle:
        self.soon.append(Handle(lambda: call(*arguments), self.now_s))
        return self.soon[-1]

    def call_at(self, due_s: float, call: Callable[[], None]) -> Handle:
        self.timers.append(Handle(call, due_s))
        return self.timers[-1]

    create_future: Callable[[], asyncio.Future[Any]]  # a real loop's own, for tests that have one

    def turn(self) -> None:
        ready, self.soon = self.soon, []
        for handle in ready:
            if not handle.is_cancelled:
                handle.call()

    def settle(self) -> int:
        """Take turns until there is nothing left to do; return how many it took."""
        turns = 0
        while any(not handle.is_cancelled for handle in self.soon):
            self.turn()
            turns += 1
            assert turns < 1000, "it never comes to rest"
        return turns

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        due = [timer for timer in self.timers if timer.due_s <= self.now_s and not timer.is_cancelled]
        self.timers = [timer for timer in self.timers if timer not in due and not timer.is_cancelled]
        for timer in due:
            timer.call()


class Transport(asyncio.Transport):
    """Remembers what is written; asks to pause and goes on as the test says."""

    def __init__(self, loop: TurnedLoop) -> None:
        super().__init__()
        self.loop = loop
        self.written: list[bytes] = []
        self.protocol: asyncio.Protocol | None = None
        self.is_aborted = False
        self._is_closing = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self._is_closing, "written to after it was closed"
        assert isinstance(data, bytes)
        self.written.append(data)

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            assert self.protocol is not None
            self.loop.call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.is_aborted = True
        self.close()

    @property
    def seen(self) -> list[tuple[str, str]]:
        """What came after the head, as a client sees it: events and their data, or their id for control events."""
        events = EventStreamParser().receive_data(b"".join(self.written[1:]))
        return [(event.event, event.data if event.event == "message" else event.id) for event in events]


class World:
    """A stream, the fan-out, and readers that joined at its head."""

    def __init__(self, loop: TurnedLoop, *, retain: Retention | None = None) -> None:
        self.loop = loop
        self.readers = Readers(SeededRandomness())
        self.fanout = Fanout(self.readers, SeededRandomness())
        streams = Streams(clock=ManualClock(), randomness=SeededRandomness())
        self.stream: Stream[int] = streams.stream("news", int, retain=retain)
        self.options = ReadOptions(heartbeat_s=HEARTBEAT_S)

    def join(self, *, after: str | None = None) -> Transport:
        transport = Transport(self.loop)

        def take_over(make: Callable[[asyncio.Transport], asyncio.Protocol]) -> bool:
            transport.protocol = make(transport)
            return True

        reader = self.stream.reader(after or self.stream.head)
        assert self.fanout.adopt(take_over, reader, self.options, b"head\r\n\r\n")
        return transport

    def append(self, *numbers: int) -> None:
        for number in numbers:
            self.stream.append_now(b"%d" % number, kind="message")

    def id(self, number: int) -> str:
        return f"{self.stream.ring.epoch}.{number}"


def connection_of(transport: Transport) -> Connection:
    assert isinstance(transport.protocol, Connection)
    return transport.protocol


def messages(*numbers: int) -> list[tuple[str, str]]:
    return [("message", str(number)) for number in numbers]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> TurnedLoop:
    loop = TurnedLoop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


@pytest.mark.requirement("fanout.slices")
def test_one_event_reaches_everybody_as_the_same_bytes_a_slice_a_turn(loop: TurnedLoop) -> None:
    world = World(loop)
    transports = [world.join() for _ in range(2 * SLICE + 10)]
    world.append(1)
    reached = []
    while loop.soon:
        loop.turn()
        reached.append(sum(len(transport.written) == 2 for transport in transports))
    assert reached == [SLICE, 2 * SLICE, 2 * SLICE + 10]
    block = transports[0].written[1]
    assert all(transport.written[1] is block for transport in transports)
    assert transports[-1].seen == messages(1)


@pytest.mark.requirement("fanout.slices")
@pytest.mark.parametrize("readers", [SLICE - 1, SLICE, SLICE + 1, 3 * SLICE])
def test_events_that_come_during_a_sweep_reach_everybody_once_and_in_order(loop: TurnedLoop, readers: int) -> None:
    world = World(loop)
    transports = [world.join() for _ in range(readers)]
    for number in range(1, 8):
        world.append(number)
        loop.turn()
    loop.settle()
    assert all(transport.seen == messages(*range(1, 8)) for transport in transports)


@pytest.mark.requirement("fanout.coalesces")
def test_events_of_one_turn_are_one_write(loop: TurnedLoop) -> None:
    world = World(loop)
    transport = world.join()
    world.append(*range(16))
    loop.settle()
    assert len(transport.written) == 2
    assert transport.seen == messages(*range(16))


@pytest.mark.requirement("fanout.lagging")
def test_a_paused_reader_is_passed_over_and_goes_on_from_its_own_number(loop: TurnedLoop) -> None:
    world = World(loop)
    slow, fast = world.join(), world.join()
    world.append(1)
    loop.settle()
    connection_of(slow).pause_writing()
    for number in (2, 3, 4):
        world.append(number)
        loop.settle()
    assert (slow.seen, fast.seen) == (messages(1), messages(1, 2, 3, 4))
    connection_of(slow).resume_writing()
    loop.settle()
    world.append(5)
    loop.settle()
    assert slow.seen == fast.seen == messages(1, 2, 3, 4, 5)


@pytest.mark.requirement("fanout.lagging")
def test_a_reader_far_behind_gets_bounded_pieces_and_stops_when_it_pauses_again(loop: TurnedLoop) -> None:
    world = World(loop)
    slow = world.join()
    connection_of(slow).pause_writing()
    for number in range(10):
        world.stream.append_now(b'"%s%d"' % (b"x" * 20_000, number), kind="message")
    loop.settle()
    connection_of(slow).resume_writing()
    first = len(slow.seen)
    connection_of(slow).pause_writing()
    loop.settle()
    assert 0 < first == len(slow.seen) < 10
    connection_of(slow).resume_writing()
    loop.settle()
    assert [data[-2] for _, data in slow.seen] == list("0123456789")


@pytest.mark.requirement("fanout.gap")
def test_a_lagging_reader_is_told_of_events_that_left_the_ring(loop: TurnedLoop) -> None:
    world = World(loop, retain=Retention(events=2))
    slow, fast = world.join(), world.join()
    connection_of(slow).pause_writing()
    for number in range(1, 7):
        world.append(number)
        loop.settle()
    connection_of(slow).resume_writing()
    loop.settle()
    assert fast.seen == messages(1, 2, 3, 4, 5, 6)
    assert slow.seen == [("covey.gap", world.id(4)), *messages(5, 6)]


@pytest.mark.requirement("fanout.lagging")
def test_a_change_during_a_sweep_that_finds_everybody_paused_is_not_missed(loop: TurnedLoop) -> None:
    world = World(loop)
    transports = [world.join() for _ in range(SLICE + 1)]
    for transport in transports:
        connection_of(transport).pause_writing()
    world.append(1)
    loop.turn()
    world.append(2)
    loop.settle()
    for transport in transports:
        connection_of(transport).resume_writing()
    loop.settle()
    world.append(3)
    loop.settle()
    assert all(transport.seen == messages(1, 2, 3) for transport in transports)


@pytest.mark.requirement("fanout.end")
def test_the_end_of_the_stream_closes_every_connection_also_one_that_lags(loop: TurnedLoop) -> None:
    world = World(loop)
    slow, fast = world.join(), world.join()
    connection_of(slow).pause_writing()
    world.append(1)
    world.stream.close()
    loop.settle()
    assert fast.is_closing()
    assert not slow.is_closing()
    connection_of(slow).resume_writing()
    loop.settle()
    assert slow.seen == fast.seen == [*messages(1), ("covey.end", world.id(1))]
    assert slow.is_closing()
    assert world.readers.count == 0


@pytest.mark.requirement("fanout.drain")
def test_a_drain_says_goodbye_and_cuts_who_cannot_be_told(loop: TurnedLoop) -> None:
    world = World(loop)
    stuck, open_ = world.join(), world.join()
    connection_of(stuck).pause_writing()
    world.readers.drain()
    loop.settle()
    assert [event for event, _ in open_.seen] == ["covey.bye"]
    assert (open_.is_closing(), open_.is_aborted, stuck.is_aborted) == (True, False, True)
    assert stuck.seen == []
    assert world.readers.count == 0


@pytest.mark.requirement("fanout.nothing-left")
def test_the_last_reader_takes_timers_and_wakers_with_it(loop: TurnedLoop) -> None:
    world = World(loop)
    transports = [world.join() for _ in range(3)]
    for transport in transports:
        transport.close()
    world.append(1)
    loop.settle()
    assert world.readers.count == 0
    assert all(timer.is_cancelled for timer in loop.timers)
    assert not world.stream._wakers
    world.append(2)
    assert not loop.soon


@pytest.mark.requirement("fanout.heartbeat")
def test_silence_is_filled_and_an_event_puts_it_off(loop: TurnedLoop) -> None:
    world = World(loop)
    transport, stuck = world.join(), world.join()
    connection_of(stuck).pause_writing()
    loop.advance(HEARTBEAT_S * 0.79)
    world.append(1)
    loop.settle()
    loop.advance(HEARTBEAT_S * 0.79)
    assert transport.seen == messages(1)
    loop.advance(HEARTBEAT_S * 0.42)
    assert [event for event, _ in transport.seen] == ["message", "covey.heartbeat"]
    loop.advance(HEARTBEAT_S * 1.2)
    assert [event for event, _ in transport.seen] == ["message", "covey.heartbeat", "covey.heartbeat"]
    assert stuck.seen == []


@pytest.mark.requirement("chunks.shared")
def test_readers_at_one_number_share_one_step_until_the_stream_moves(loop: TurnedLoop) -> None:
    world = World(loop)
    chunks = Chunks(world.stream, None, world.options.render)
    assert chunks.after(0) is None
    world.append(1, 2)
    step = chunks.after(0)
    assert step is not None
    assert chunks.after(0) is step
    assert step.seq == 2
    world.append(3)
    moved = chunks.after(0)
    assert moved is not None
    assert (moved.seq, moved.data.count(b"\n\n")) == (3, 3)


@pytest.mark.requirement("chunks.bounded")
def test_what_is_remembered_for_lagging_readers_stays_small(loop: TurnedLoop) -> None:
    world = World(loop)
    world.append(*range(1000))
    chunks = Chunks(world.stream, None, world.options.render)
    for seq in range(1000):
        step = chunks.after(seq)
        assert step is not None
        assert step.data.startswith(f"id: {world.id(seq + 1)}\n".encode())
        assert len(chunks._known) < 16


async def silence(wake: Wake, timeout_s: float | None) -> asyncio.Task[bool]:
    """Begin to wait."""
    task = asyncio.create_task(wake.silence(timeout_s))
    await asyncio.sleep(0)
    return task


def wake_on(loop: TurnedLoop, monkeypatch: pytest.MonkeyPatch) -> Wake:
    real = asyncio.get_running_loop()
    loop.create_future = real.create_future
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", lambda: loop)
        return Wake()


@pytest.mark.requirement("hub.wake.one-timer")
async def test_many_waits_need_one_timer_and_the_last_is_timed_from_its_own_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = TurnedLoop()
    wake = wake_on(loop, monkeypatch)
    for _ in range(5):
        waiting = await silence(wake, 10.0)
        loop.advance(1.0)
        wake()
        assert await waiting is False
    assert len(loop.timers) == 1
    waiting = await silence(wake, 10.0)
    loop.advance(5.0)  # the timer was set for the first wait: it finds a later one
    await asyncio.sleep(0)
    assert not waiting.done()
    loop.advance(4.9)
    await asyncio.sleep(0)
    assert not waiting.done()
    loop.advance(0.1)
    assert await waiting is True


@pytest.mark.requirement("hub.wake.one-timer")
async def test_a_shorter_wait_is_not_held_by_the_timer_of_a_longer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = TurnedLoop()
    wake = wake_on(loop, monkeypatch)
    waiting = await silence(wake, 100.0)
    wake()
    assert await waiting is False
    waiting = await silence(wake, 1.0)
    loop.advance(1.0)
    assert await waiting is True
    waiting = await silence(wake, 1.0)
    wake()
    assert await waiting is False
    wake.close()
    assert all(timer.is_cancelled for timer in loop.timers)


@pytest.mark.requirement("hub.wake.one-timer")
async def test_a_timer_that_finds_nobody_waiting_lets_the_next_wait_set_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = TurnedLoop()
    wake = wake_on(loop, monkeypatch)
    waiting = await silence(wake, 1.0)
    wake()
    assert await waiting is False
    loop.advance(1.0)
    endless = await silence(wake, None)
    loop.advance(1000.0)
    await asyncio.sleep(0)
    assert not endless.done()
    wake()
    assert await endless is False
    waiting = await silence(wake, 1.0)
    loop.advance(1.0)
    assert await waiting is True
