from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conformance.reference_parser import ReferenceParser

from covey.errors import TooLargeError
from covey.wire.event_stream import (
    RETRY_MS_MAX,
    EventStreamParser,
    ServerSentEvent,
    encode_comment,
    encode_event,
    encode_id_only,
    encode_retry,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FIELD_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=12)
RETRIES = st.integers(0, RETRY_MS_MAX)
# What a stream is made of, and what may break it, so that few examples are mere noise.
PIECES = st.sampled_from(
    [b"\n", b"\r", b"\r\n", b"\n\n", b":", b" ", b"\0", b"data", b"data: ", b"data:x", b"event: ", b"id: 1", b"id",
     b"retry: 5", b"retry: ", b"9", b"\xef\xbb\xbf", b"\xef", b"\xf0\x9f", b"\x90\xa6", b"\xff", "é".encode()]
)  # fmt: skip
STREAMS = st.lists(PIECES | st.binary(max_size=4), max_size=40).map(b"".join)
CUTS = st.lists(st.integers(0, 400), max_size=12)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(position, len(stream)) for position in cuts), len(stream)]
    return [stream[begin:end] for begin, end in itertools.pairwise(bounds)]


@dataclass(frozen=True)
class Outcome:
    events: list[ServerSentEvent]
    comments: list[str]
    last_event_id: str
    retry_ms: int | None
    is_over_limit: bool


def outcome(chunks: list[bytes], *, event_bytes_max: int = 1 << 20) -> Outcome:
    comments: list[str] = []
    events: list[ServerSentEvent] = []
    parser = EventStreamParser(event_bytes_max=event_bytes_max, on_comment=comments.append)
    is_over_limit = False
    try:
        for chunk in chunks:
            events += parser.receive_data(chunk)
        parser.receive_data(b"")
    except TooLargeError:
        is_over_limit = True
    return Outcome(events, comments, parser.last_event_id, parser.retry_ms, is_over_limit)


@pytest.mark.requirement("event-stream.parse.as-the-standard")
@given(STREAMS, CUTS)
def test_any_bytes_give_what_the_standards_algorithm_gives(stream: bytes, cuts: list[int]) -> None:
    got = outcome(cut(stream, cuts))
    expected = ReferenceParser().parse(stream)
    assert [(event.event, event.data, event.id, event.retry) for event in got.events] == [
        (event.event, event.data, event.id, event.retry) for event in expected.events
    ]
    assert (got.comments, got.last_event_id, got.retry_ms) == (
        expected.comments,
        expected.last_event_id,
        expected.retry_ms,
    )


@pytest.mark.requirement("event-stream.parse.any-split")
@pytest.mark.requirement("event-stream.limit")
@given(STREAMS, CUTS, CUTS, st.integers(1, 60))
def test_any_two_ways_to_cut_a_stream_agree_up_to_the_limit_and_there(
    stream: bytes, cuts: list[int], other_cuts: list[int], event_bytes_max: int
) -> None:
    got = outcome(cut(stream, cuts), event_bytes_max=event_bytes_max)
    other = outcome(cut(stream, other_cuts), event_bytes_max=event_bytes_max)
    assert got == other


@st.composite
def written_streams(draw: st.DrawFn) -> tuple[bytes, list[ServerSentEvent], str]:
    """Draw what a writer wrote, the events that a reader must get, and the id that it must be left with."""
    stream = b""
    events: list[ServerSentEvent] = []
    last_event_id = ""
    retry_ms: int | None = None
    for kind in draw(st.lists(st.sampled_from(["event", "comment", "id", "retry"]), max_size=8)):
        if kind == "comment":
            stream += encode_comment(draw(TEXT))
        elif kind == "retry":
            retry_ms = draw(RETRIES)
            stream += encode_retry(retry_ms)
        elif kind == "id":
            last_event_id = draw(FIELD_TEXT)
            stream += encode_id_only(last_event_id)
        else:
            data = draw(TEXT)
            event = draw(st.none() | FIELD_TEXT)
            id_ = draw(st.none() | FIELD_TEXT)
            own_retry_ms = draw(st.none() | RETRIES)
            stream += encode_event(data.encode(), event=event, id=id_, retry_ms=own_retry_ms)
            last_event_id = last_event_id if id_ is None else id_
            read = data.replace("\r\n", "\n").replace("\r", "\n")
            retry_ms = retry_ms if own_retry_ms is None else own_retry_ms
            events.append(ServerSentEvent(event or "message", read, last_event_id, retry_ms))
            retry_ms = None
    return stream, events, last_event_id


@pytest.mark.requirement("event-stream.write.event")
@given(written_streams(), CUTS)
def test_what_is_written_is_read_back_at_any_split(
    written: tuple[bytes, list[ServerSentEvent], str], cuts: list[int]
) -> None:
    stream, events, last_event_id = written
    got = outcome(cut(stream, cuts))
    assert got.events == events
    assert got.last_event_id == last_event_id
