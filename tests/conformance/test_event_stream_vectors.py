from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from tests.conformance.event_stream_vectors import Vector, load_vectors
from tests.conformance.reference_parser import ReferenceParser

from covey.wire.event_stream import EventStreamParser, ServerSentEvent

VECTORS = {vector.name: vector for vector in load_vectors()}
EVERY_SPLIT_BYTES_MAX = 4096
SMALL = [name for name, vector in VECTORS.items() if len(vector.stream) <= EVERY_SPLIT_BYTES_MAX]
LARGE = [name for name in VECTORS if name not in SMALL]
DRAWN_SPLITS = 200


@dataclass(frozen=True)
class Outcome:
    events: list[ServerSentEvent]
    events_after_chunk: list[int]
    last_event_id: str
    retry_ms: int | None
    comments: list[str]


def outcome(chunks: Iterable[bytes]) -> Outcome:
    comments: list[str] = []
    parser = EventStreamParser(on_comment=comments.append)
    events: list[ServerSentEvent] = []
    events_after_chunk: list[int] = []
    for chunk in chunks:
        events += parser.receive_data(chunk)
        events_after_chunk.append(len(events))
    return Outcome(events, events_after_chunk, parser.last_event_id, parser.retry_ms, comments)


def assert_as_expected(got: Outcome, vector: Vector) -> None:
    assert tuple((event.event, event.data, event.id) for event in got.events) == vector.events
    assert got.last_event_id == vector.last_event_id
    assert got.retry_ms == vector.retry_ms
    if isinstance(vector.comments, int):
        assert len(got.comments) == vector.comments
    else:
        assert tuple(got.comments) == vector.comments


def assert_same_at_any_split(got: Outcome, whole: Outcome) -> None:
    assert got.events == whole.events
    assert (got.last_event_id, got.retry_ms, got.comments) == (whole.last_event_id, whole.retry_ms, whole.comments)


@pytest.mark.requirement("event-stream.parse.vectors")
def test_there_are_132_vectors() -> None:
    assert len(VECTORS) == 132


@pytest.mark.requirement("event-stream.parse.vectors")
@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_gives_its_events_when_they_are_due(name: str) -> None:
    vector = VECTORS[name]
    got = outcome(vector.chunks)
    assert_as_expected(got, vector)
    assert tuple(got.events_after_chunk) == vector.events_after_chunk


@pytest.mark.requirement("event-stream.parse.vectors")
@pytest.mark.parametrize("name", VECTORS)
def test_the_reference_parser_agrees_with_a_vector(name: str) -> None:
    vector = VECTORS[name]
    reference = ReferenceParser().parse(vector.stream)
    assert tuple((event.event, event.data, event.id) for event in reference.events) == vector.events
    assert (reference.last_event_id, reference.retry_ms) == (vector.last_event_id, vector.retry_ms)
    assert vector.comments in (tuple(reference.comments), len(reference.comments))


@pytest.mark.requirement("event-stream.parse.any-split")
@pytest.mark.requirement("event-stream.parse.eager")
@pytest.mark.parametrize("name", SMALL)
def test_a_vector_cut_in_two_anywhere_gives_the_same_events_when_they_are_due(name: str) -> None:
    stream = VECTORS[name].stream
    whole = outcome([stream])
    assert_as_expected(whole, VECTORS[name])
    for position in range(len(stream) + 1):
        got = outcome([stream[:position], stream[position:]])
        assert_same_at_any_split(got, whole)
        assert got.events_after_chunk[0] == len(ReferenceParser().parse(stream[:position]).events)


@pytest.mark.requirement("event-stream.parse.any-split")
@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_in_single_bytes_gives_the_same_events(name: str) -> None:
    stream = VECTORS[name].stream
    got = outcome(stream[position : position + 1] for position in range(len(stream)))
    assert_same_at_any_split(got, outcome([stream]))
    assert_as_expected(got, VECTORS[name])


@pytest.mark.requirement("event-stream.parse.any-split")
@pytest.mark.parametrize("name", LARGE)
def test_a_large_vector_cut_anywhere_gives_the_same_events(name: str) -> None:
    stream = VECTORS[name].stream
    whole = outcome([stream])
    draw = random.Random(name)
    for _ in range(DRAWN_SPLITS):
        cuts = sorted(draw.randrange(len(stream) + 1) for _ in range(draw.randint(1, 8)))
        bounds = [0, *cuts, len(stream)]
        chunks = [stream[begin:end] for begin, end in itertools.pairwise(bounds)]
        assert_same_at_any_split(outcome(chunks), whole)
