from __future__ import annotations

import msgspec
import pytest

from covey.streams.event import Control, Entry
from covey.streams.retention import Retention
from covey.streams.ring import Ring
from covey.wire.cursor import Cursor

MANY = Retention(events=1000)


def filled(ring: Ring, count: int, *, key: str | None = None, size: int = 1) -> Ring:
    for _ in range(count):
        seq = ring.head + 1
        ring.append(Entry(seq, f"{ring.epoch}.{seq}", 0.0, "message", b"1" * size, None, key), now_s=0.0)
    return ring


def told(notice: Control | None) -> tuple[str, object, str | None]:
    assert notice is not None
    return notice.kind, msgspec.json.decode(notice.data), notice.id


def seqs(ring: Ring, after: int = 0) -> list[int]:
    return [entry.seq for entry in ring.after(after, count=10_000, size_bytes=1 << 30)]


@pytest.mark.requirement("ring.read-after")
def test_reading_after_a_number_gives_exactly_the_rest() -> None:
    ring = filled(Ring("e", MANY), 5)
    assert seqs(ring, 2) == [3, 4, 5]
    assert seqs(ring, 5) == []


@pytest.mark.requirement("ring.read-after")
def test_a_batch_is_bounded_and_never_empty_while_there_is_more() -> None:
    ring = filled(Ring("e", MANY), 5, size=100)
    assert len(ring.after(0, count=3, size_bytes=1 << 20)) == 3
    assert len(ring.after(0, count=100, size_bytes=1)) == 1
    assert len(ring.after(0, count=100, size_bytes=150)) == 2


@pytest.mark.requirement("ring.retention")
def test_the_oldest_go_when_there_are_too_many() -> None:
    ring = filled(Ring("e", Retention(events=3)), 10)
    assert seqs(ring) == [8, 9, 10]
    assert (len(ring), ring.oldest_id, ring.head_id) == (3, "e.8", "e.10")


@pytest.mark.requirement("ring.retention")
def test_the_oldest_go_when_there_are_too_many_bytes_but_the_newest_stays() -> None:
    ring = filled(Ring("e", Retention(bytes=2000)), 10, size=700)
    assert seqs(ring) == [9, 10]
    assert ring.size_bytes <= 2000
    assert seqs(filled(Ring("e", Retention(bytes=10)), 3, size=700)) == [3]


@pytest.mark.requirement("ring.retention")
def test_what_is_too_old_goes() -> None:
    ring = Ring("e", Retention(age_s=10))
    for seq, time_s in ((1, 0.0), (2, 5.0), (3, 12.0)):
        ring.append(Entry(seq, f"e.{seq}", time_s, "message", b"1", None, None), now_s=time_s)
    assert seqs(ring) == [2, 3]
    ring.evict(now_s=100.0)
    assert seqs(ring) == []
    assert ring.locate(Cursor("e", 3)).notice is None
    assert told(ring.locate(Cursor("e", 1)).notice)[0] == "covey.gap"


@pytest.mark.requirement("ring.gap")
def test_a_cursor_older_than_what_is_kept_gets_a_gap_that_counts_the_loss() -> None:
    ring = filled(Ring("e", Retention(events=3)), 10)
    position = ring.locate(Cursor("e", 4))
    assert told(position.notice) == ("covey.gap", {"after": "e.4", "before": "e.8", "lost": 3}, "e.7")
    assert position.seq == 7


@pytest.mark.requirement("ring.gap")
def test_a_cursor_just_before_the_oldest_has_lost_nothing() -> None:
    ring = filled(Ring("e", Retention(events=3)), 10)
    assert ring.locate(Cursor("e", 7)) == (7, None)


@pytest.mark.requirement("ring.reset")
@pytest.mark.parametrize("cursor", [Cursor("other", 2), Cursor("e", 11), Cursor("e", 10**18)])
def test_a_foreign_cursor_or_one_beyond_the_head_gets_a_reset_to_the_oldest(cursor: Cursor) -> None:
    ring = filled(Ring("e", Retention(events=3)), 10)
    position = ring.locate(cursor)
    assert told(position.notice) == ("covey.reset", {"head": "e.10", "oldest": "e.8"}, "e.7")
    assert position.seq == 7


@pytest.mark.requirement("ring.latest")
def test_latest_keeps_the_newest_of_each_key_and_calls_that_no_loss() -> None:
    ring = Ring("e", MANY, latest=True)
    filled(ring, 3, key="a")
    filled(ring, 2, key="b")
    filled(ring, 1, key="a")
    filled(ring, 1)
    assert seqs(ring) == [5, 6, 7]
    assert len(ring) == 3
    assert ring.locate(Cursor("e", 1)) == (1, None)


@pytest.mark.requirement("ring.latest")
def test_latest_costs_no_more_than_its_keys_however_long_it_runs() -> None:
    ring = Ring("e", Retention(events=100), latest=True)
    filled(ring, 50_000, key="gauge", size=1000)
    assert len(ring) == 1
    assert ring.size_bytes < 2000
    assert len(ring._entries) < 300


@pytest.mark.requirement("ring.retention")
def test_evicted_entries_are_free_before_the_list_is_packed() -> None:
    ring = filled(Ring("e", Retention(events=2)), 60, size=1000)
    assert sum(len(entry.data) for entry in ring._entries) == 2000


@pytest.mark.requirement("ring.read-after")
def test_numbers_that_are_not_dense_are_found_too_and_their_loss_is_not_counted() -> None:
    ring = Ring("e", Retention(events=3))
    for seq in (3, 7, 20, 21, 50):
        ring.append(Entry(seq, f"e.{seq}", 0.0, "message", b"1", None, None), now_s=0.0)
    assert seqs(ring, 20) == [21, 50]
    assert seqs(ring, 30) == [50]
    assert told(ring.locate(Cursor("e", 1)).notice)[1] == {"after": "e.1", "before": "e.8", "lost": None}


@pytest.mark.requirement("ring.read-after")
def test_the_newest_are_given_oldest_first() -> None:
    ring = filled(Ring("e", MANY), 5)
    assert [entry.seq for entry in ring.newest(2)] == [4, 5]
    assert [entry.seq for entry in ring.newest(99)] == [1, 2, 3, 4, 5]
