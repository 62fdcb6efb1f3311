from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import pytest

from covey.errors import InvalidInputError, TooLargeError
from covey.wire.event_stream import (
    RETRY_MS_MAX,
    EventStreamParser,
    ServerSentEvent,
    aparse_event_stream,
    encode_comment,
    encode_event,
    encode_id_only,
    encode_retry,
    parse_event_stream,
)

SPLITTING = ["\n", "\r", "\r\n", "x\ndata: injected", "x\r\rdata: injected", "\0", "a\0b"]


def events_of(stream: bytes, *, event_bytes_max: int = 1000) -> list[ServerSentEvent]:
    return EventStreamParser(event_bytes_max=event_bytes_max).receive_data(stream)


def outcome(chunks: Iterable[bytes], *, event_bytes_max: int) -> tuple[list[str], bool, str]:
    """Return the data of the events, whether the parser then refused to go on, and the last event id."""
    parser = EventStreamParser(event_bytes_max=event_bytes_max)
    data: list[str] = []
    try:
        for chunk in chunks:
            data += [event.data for event in parser.receive_data(chunk)]
        parser.receive_data(b"")
    except TooLargeError:
        return data, True, parser.last_event_id
    return data, False, parser.last_event_id


def outcome_at_every_split(stream: bytes, *, event_bytes_max: int) -> tuple[list[str], bool, str]:
    whole = outcome([stream], event_bytes_max=event_bytes_max)
    for position in range(len(stream) + 1):
        chunks = [stream[:position], stream[position:]]
        assert outcome(chunks, event_bytes_max=event_bytes_max) == whole
    single = [stream[position : position + 1] for position in range(len(stream))]
    assert outcome(single, event_bytes_max=event_bytes_max) == whole
    return whole


@pytest.mark.requirement("event-stream.parse.fields")
def test_an_event_has_its_type_data_id_and_retry() -> None:
    stream = b"event: news\nid: 7\nretry: 1500\ndata: a\ndata: b\n\n"
    assert events_of(stream) == [ServerSentEvent("news", "a\nb", "7", 1500)]


@pytest.mark.requirement("event-stream.parse.fields")
@pytest.mark.parametrize("other", [b"", b"event\n", b"event: \n", b"Event: y\n", b"event : y\n"])
def test_an_event_without_a_type_is_a_message(other: bytes) -> None:
    assert events_of(other + b"data: x\n\n") == [ServerSentEvent("message", "x")]


@pytest.mark.requirement("event-stream.parse.fields")
def test_one_space_after_the_colon_is_no_part_of_the_value() -> None:
    assert [event.data for event in events_of(b"data:x\n\ndata: x\n\ndata:  x\n\ndata\n\n")] == ["x", "x", " x", ""]


@pytest.mark.requirement("event-stream.parse.eager")
@pytest.mark.parametrize("stream", [b"data: x\r\r", b"data: x\r\n\r", b"data: x\n\n", b"data: x\n\r"])
def test_an_event_is_given_with_the_first_byte_of_its_blank_line(stream: bytes) -> None:
    parser = EventStreamParser()
    assert parser.receive_data(stream[:-1]) == []
    assert parser.receive_data(stream[-1:]) == [ServerSentEvent(data="x")]
    assert parser.receive_data(b"\n") == []
    assert parser.receive_data(b"data: y\n\n") == [ServerSentEvent(data="y")]


@pytest.mark.requirement("event-stream.parse.eager")
def test_comments_and_retry_count_from_the_end_of_their_line() -> None:
    comments: list[str] = []
    parser = EventStreamParser(on_comment=comments.append)
    parser.receive_data(b": still here\nretry: 20\n: half a")
    assert comments == [" still here"]
    assert parser.retry_ms == 20


@pytest.mark.requirement("event-stream.parse.id")
def test_the_id_in_force_is_moved_by_whole_blocks_only() -> None:
    parser = EventStreamParser(last_event_id="1")
    assert parser.receive_data(b"data: a\n\n") == [ServerSentEvent(data="a", id="1")]
    parser.receive_data(b"id: 2\n")
    assert parser.last_event_id == "1"
    parser.receive_data(b"\n")
    assert parser.last_event_id == "2"
    assert parser.receive_data(b"data: b\n\nid\ndata: c\n\n") == [
        ServerSentEvent(data="b", id="2"),
        ServerSentEvent(data="c", id=""),
    ]


@pytest.mark.requirement("event-stream.parse.id")
def test_an_id_with_a_nul_changes_nothing() -> None:
    assert events_of(b"id: 1\nid: 2\x003\ndata: a\n\n") == [ServerSentEvent(data="a", id="1")]


@pytest.mark.requirement("event-stream.parse.retry")
def test_an_event_has_the_retry_seen_since_the_event_before() -> None:
    events = events_of(b"retry: 1\n\nretry: 2\n\ndata: a\n\ndata: b\n\nretry: x\ndata: c\n\n")
    assert [event.retry for event in events] == [2, None, None]


@pytest.mark.requirement("event-stream.parse.retry")
@pytest.mark.parametrize(
    ("value", "retry_ms"),
    [
        (b"0", 0),
        (b"0010", 10),
        (b"0" * 5000 + b"7", 7),
        (str(RETRY_MS_MAX).encode(), RETRY_MS_MAX),
        (str(RETRY_MS_MAX + 1).encode(), RETRY_MS_MAX),
        (b"9" * 100_000, RETRY_MS_MAX),
    ],
)
def test_retry_is_a_number_with_a_bound(value: bytes, retry_ms: int) -> None:
    parser = EventStreamParser()
    parser.receive_data(b"retry: " + value + b"\n")
    assert parser.retry_ms == retry_ms


@pytest.mark.requirement("event-stream.parse.retry")
@pytest.mark.parametrize("value", ["", "-1", "+1", "1_000", "1.5", "1 ", " 1", "٣", "²", "0x10", "1\0"])
def test_retry_that_is_not_ascii_digits_changes_nothing(value: str) -> None:
    parser = EventStreamParser()
    parser.receive_data(b"retry: 5\nretry: " + value.encode() + b"\n\n")
    assert parser.retry_ms == 5


@pytest.mark.requirement("event-stream.parse.bytes")
@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"\xef\xbb\xbfdata: x\n\n", ["x"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
        (b"data: \xef\xbb\xbfx\n\n", ["\ufeffx"]),
        (b"data: \xf0\x9f\x90\xa6\n\n", ["🐦"]),
        (b"data: \xf0\x9f\n\n", ["�"]),
        (b"data: \xff\xc0\x80\xed\xa0\x80\n\n", ["�" * 6]),
    ],
)
def test_bytes_are_utf8_with_replacement_at_any_split(stream: bytes, data: list[str]) -> None:
    assert outcome_at_every_split(stream, event_bytes_max=1000) == (data, False, "")


@pytest.mark.requirement("event-stream.parse.bytes")
def test_a_chunk_larger_than_a_part_gives_all_its_events() -> None:
    stream = b"".join(b"id: %d\r\ndata: %b\r\n\r\n" % (number, b"x" * 100) for number in range(5000))
    assert [event.id for event in events_of(stream)] == [str(number) for number in range(5000)]


@pytest.mark.requirement("event-stream.parse.unfinished-is-dropped")
def test_what_has_no_blank_line_at_the_end_is_dropped() -> None:
    assert list(parse_event_stream([b"data: a\n\nda", b"ta: b\n"])) == [ServerSentEvent(data="a")]


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.requirement("event-stream.parse.unfinished-is-dropped")
async def test_an_async_stream_gives_the_same_events() -> None:
    events = [event async for event in aparse_event_stream(chunks_of(b"data: a\n", b"\ndata: b", b"\n\ndata: c\n"))]
    assert events == [ServerSentEvent(data="a"), ServerSentEvent(data="b")]


@pytest.mark.requirement("event-stream.limit")
@pytest.mark.parametrize(
    ("stream", "within"),
    [
        (b"data: 456789\n\n", True),  # 12 bytes: exactly the limit
        (b"data: 4567890\n\n", False),
        (b"data\r\ndata\r\nda:t\r\n\r\n", True),  # twice 4 held and 4 being read
        (b"data\ndata\ndata:\n\n", False),
        (b"data\ndata\nother", False),  # whatever it becomes, it is over
        (b":2345678901\n:2345678901\n:2345678901\ndata: x\n\n", True),  # comments are not held
        (b"event: a\nid: 1\nevent: b\nid: 2\nother: x\ndata: x\n\n", True),  # a later value replaces an earlier one
        (b":234567890123\n", False),  # one line that is too long, of whatever kind
        (b"data: 456789\n\ndata: 456789\n\ndata: 456789\n\n", True),  # counting starts anew with each event
        (b"\n\n\ndata: 456789\n\n\n\n", True),
        (b"data: 45\r\rdata\r\rdata\r\r", True),
        (b"data: 4\ndatab\nid\n:45\n\n", True),  # `datab` is not `data`
        ("data: éé\nid\n\n".encode(), True),  # bytes count, not characters
        ("data: ééé\nid\n\n".encode(), False),
    ],
)
def test_only_what_must_be_held_counts_and_at_any_split(stream: bytes, within: bool) -> None:  # noqa: FBT001
    _, is_over, _ = outcome_at_every_split(stream, event_bytes_max=12)
    assert is_over is not within


@pytest.mark.requirement("event-stream.limit")
def test_a_line_without_end_is_refused_and_not_kept() -> None:
    parser = EventStreamParser(event_bytes_max=10_000)
    for _ in range(10):
        assert parser.receive_data(b"x" * 1000) == []
    with pytest.raises(TooLargeError, match="larger than 10000 bytes") as caught:
        parser.receive_data(b"x")
    assert caught.value.limit_bytes == 10_000
    assert caught.value.hint is not None
    with pytest.raises(TooLargeError):
        parser.receive_data(b"\n\ndata: x\n\n")


@pytest.mark.requirement("event-stream.limit")
def test_events_before_a_too_large_one_are_given_before_the_error() -> None:
    parser = EventStreamParser(event_bytes_max=20)
    events = parser.receive_data(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\nid: 3\ndata: " + b"x" * 50 + b"\n\n")
    assert [event.data for event in events] == ["a", "b"]
    assert parser.last_event_id == "2"
    with pytest.raises(TooLargeError):
        parser.receive_data(b"")


@pytest.mark.requirement("event-stream.limit")
def test_a_whole_stream_raises_at_a_too_large_event_after_those_before_it() -> None:
    events = parse_event_stream([b"data: a\n\ndata: " + b"x" * 50], event_bytes_max=20)
    assert next(events) == ServerSentEvent(data="a")
    with pytest.raises(TooLargeError):
        next(events)


@pytest.mark.requirement("event-stream.limit")
async def test_an_async_stream_raises_at_a_too_large_event_after_those_before_it() -> None:
    events = aparse_event_stream(chunks_of(b"data: a\n\ndata: " + b"x" * 50), event_bytes_max=20)
    assert await anext(events) == ServerSentEvent(data="a")
    with pytest.raises(TooLargeError):
        await anext(events)


@pytest.mark.requirement("event-stream.limit")
def test_a_stream_of_comments_alone_never_reaches_the_limit() -> None:
    parser = EventStreamParser(event_bytes_max=20)
    for _ in range(1000):
        assert parser.receive_data(b": still here\n") == []
    assert parser.receive_data(b"data: x\n\n") == [ServerSentEvent(data="x")]


@pytest.mark.requirement("event-stream.limit")
def test_a_limit_that_is_not_positive_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="must be positive"):
        EventStreamParser(event_bytes_max=0)


@pytest.mark.requirement("event-stream.parse.linear")
@pytest.mark.parametrize("chunk_bytes", [1, 7, 4096, 1 << 20])
@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + b"x" * 200_000 + b"\n\n",
        b"data: z\n" * 25_000 + b"\n",
        b"data: z\r\n: c\r\n" * 15_000 + b"\r\n",
        b"\n" * 200_000,
        b": c\n" * 50_000,
    ],
    ids=["one line", "many lines", "comments between lines", "blank lines", "comments"],
)
def test_no_byte_is_looked_at_again_however_small_the_chunks(
    stream: bytes, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = 0
    measured = 0
    take_text = EventStreamParser._take_text
    measure = EventStreamParser._measure

    def counting_take_text(parser: EventStreamParser, text: str, events: list[ServerSentEvent]) -> None:
        nonlocal decoded
        decoded += len(text)
        take_text(parser, text, events)

    def counting_measure(parser: EventStreamParser, lines: list[bytes]) -> int:
        nonlocal measured
        measured += sum(map(len, lines)) + len(lines)
        return measure(parser, lines)

    monkeypatch.setattr(EventStreamParser, "_take_text", counting_take_text)
    monkeypatch.setattr(EventStreamParser, "_measure", counting_measure)
    parser = EventStreamParser()
    for begin in range(0, len(stream), chunk_bytes):
        parser.receive_data(stream[begin : begin + chunk_bytes])
    assert decoded <= len(stream)
    assert measured <= len(stream)
    assert len(parser._line) == 0


@pytest.mark.requirement("event-stream.write.event")
def test_a_written_event_has_only_the_fields_it_was_given() -> None:
    assert encode_event(b'{"a": 1}') == b'data: {"a": 1}\n\n'
    assert encode_event(b"x", event="news", id="k.7", retry_ms=250) == (
        b"id: k.7\nevent: news\nretry: 250\ndata: x\n\n"
    )


@pytest.mark.requirement("event-stream.write.event")
@pytest.mark.parametrize(
    ("data", "read"),
    [
        (b"", ""),
        (b" x", " x"),
        (b"a\nb", "a\nb"),
        (b"a\rb", "a\nb"),
        (b"a\r\nb", "a\nb"),
        (b"a\n\rb", "a\n\nb"),
        (b"\n", "\n"),
        (b"a\n", "a\n"),
        (b"x\n\ndata: y\nid: 9\n\n", "x\n\ndata: y\nid: 9\n\n"),
        ("naïve 🐦\u2028\x85".encode(), "naïve 🐦\u2028\x85"),
        (b"\xff", "�"),
        (b"a\0b", "a\0b"),
    ],
)
def test_any_data_is_read_as_one_event_with_lf_as_line_end(data: bytes, read: str) -> None:
    assert events_of(encode_event(data, id="1")) == [ServerSentEvent(data=read, id="1")]


@pytest.mark.requirement("event-stream.write.event")
def test_an_empty_type_is_a_message_and_an_empty_id_clears_the_id() -> None:
    parser = EventStreamParser(last_event_id="7")
    assert parser.receive_data(encode_event(b"x", event="", id="")) == [ServerSentEvent(data="x", id="")]


@pytest.mark.requirement("event-stream.write.no-injection")
@pytest.mark.parametrize("value", [*SPLITTING, "\ud800"])
def test_an_id_or_type_that_would_begin_a_field_is_refused(value: str) -> None:
    with pytest.raises(InvalidInputError, match="the event of an event"):
        encode_event(b"x", event=value)
    with pytest.raises(InvalidInputError, match="the id of an event"):
        encode_event(b"x", id=value)
    with pytest.raises(InvalidInputError, match="the id of an event"):
        encode_id_only(value)


@pytest.mark.requirement("event-stream.write.no-injection")
@pytest.mark.parametrize("value", SPLITTING)
def test_a_comment_stays_a_comment(value: str) -> None:
    comments: list[str] = []
    parser = EventStreamParser(on_comment=comments.append)
    assert parser.receive_data(encode_comment(value) + b"data: x\n\n") == [ServerSentEvent(data="x")]
    assert "\n".join(comments) == value.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.requirement("event-stream.write.no-injection")
def test_a_comment_that_has_no_utf8_form_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="a comment cannot be written"):
        encode_comment("\ud800")


@pytest.mark.requirement("event-stream.write.no-injection")
@pytest.mark.parametrize("retry_ms", [-1, RETRY_MS_MAX + 1])
def test_a_retry_out_of_range_is_refused(retry_ms: int) -> None:
    with pytest.raises(InvalidInputError, match="retry_ms"):
        encode_retry(retry_ms)
    with pytest.raises(InvalidInputError, match="retry_ms"):
        encode_event(b"x", retry_ms=retry_ms)


@pytest.mark.requirement("event-stream.write.cursor")
def test_a_block_of_an_id_alone_moves_the_id_and_dispatches_nothing() -> None:
    parser = EventStreamParser()
    assert parser.receive_data(encode_id_only("k.8")) == []
    assert parser.last_event_id == "k.8"


@pytest.mark.requirement("event-stream.write.cursor")
@pytest.mark.parametrize("retry_ms", [0, 3000, RETRY_MS_MAX])
def test_a_written_retry_is_read_at_once(retry_ms: int) -> None:
    parser = EventStreamParser()
    assert parser.receive_data(encode_retry(retry_ms)) == []
    assert parser.retry_ms == retry_ms
