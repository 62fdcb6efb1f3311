"""Whatever happens to a ring, a reader gets every event once and in order, or is told of a hole."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from covey.streams.event import Control, Entry
from covey.streams.retention import Retention
from covey.streams.stream import Reader, Stream
from covey.streams.streams import Streams
from covey.testing.clock import ManualClock
from covey.testing.randomness import SeededRandomness


class Follower:
    """A reader, and what it may expect: all events after where it started."""

    def __init__(self, reader: Reader, start: int) -> None:
        self.reader = reader
        self.last = start

    def read(self, count: int) -> None:
        for item in self.reader.take(count=count):
            if isinstance(item, Control):
                assert item.id is not None
                past = int(item.id.partition(".")[2])
                if item.kind == "covey.gap":
                    assert msgspec.json.decode(item.data)["lost"] == past - self.last
                    assert past > self.last
                self.last = past
            else:
                assert isinstance(item, Entry)
                assert item.seq == self.last + 1
                assert item.data == str(item.seq).encode()
                self.last = item.seq
        assert self.reader.cursor.endswith(f".{self.last}")


class RingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        streams = Streams(clock=self.clock, randomness=SeededRandomness(1))
        self.retention = Retention(events=7, bytes=2600, age_s=50)
        self.stream: Stream[object] = streams.stream("s", object, retain=self.retention)
        self.followers: list[Follower] = []

    @rule(count=st.integers(1, 30))
    def append(self, count: int) -> None:
        for _ in range(count):
            seq = self.stream.ring.head + 1
            assert self.stream.append_now(str(seq).encode(), kind="message") == f"{self.stream.ring.epoch}.{seq}"

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def follow_from_now(self) -> None:
        self.followers.append(Follower(self.stream.reader(self.stream.head), self.stream.ring.head))

    @rule(back=st.integers(0, 40))
    def follow_from_a_cursor(self, back: int) -> None:
        seq = max(0, self.stream.ring.head - back)
        self.followers.append(Follower(self.stream.reader(f"{self.stream.ring.epoch}.{seq}"), seq))

    @rule()
    def follow_with_a_foreign_cursor(self) -> None:
        reader = self.stream.reader("zzz.3")
        first = reader.take(count=1)[0]
        assert isinstance(first, Control)
        assert first.kind == "covey.reset"

    @rule(index=st.integers(0, 9), count=st.integers(1, 9))
    def read(self, index: int, count: int) -> None:
        if self.followers:
            self.followers[index % len(self.followers)].read(count)

    @rule(index=st.integers(0, 9))
    def reconnect(self, index: int) -> None:
        if self.followers:
            follower = self.followers[index % len(self.followers)]
            follower.reader = self.stream.reader(follower.reader.cursor)

    @invariant()
    def nothing_is_kept_beyond_the_retention(self) -> None:
        assert len(self.stream.ring) <= self.retention.events
        assert self.stream.ring.size_bytes <= self.retention.bytes


TestRing = RingMachine.TestCase
TestRing = pytest.mark.requirement("ring.every-event-once-or-a-gap")(TestRing)
