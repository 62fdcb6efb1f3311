"""Whatever is written, the transcript has each byte once and in order."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.repl.transcript import Record, Transcript, cut

anything = st.lists(
    st.one_of(st.text().map(str.encode), st.binary(), st.sampled_from([b"\xe2\x82\xac", b"\xff", b"\xf0\x9f"]))
)


def bytes_of(records: Iterable[Record]) -> bytes:
    parts: list[bytes] = []
    for record in records:
        data = record.data
        parts.append(str(data["text"]).encode() if "text" in data else base64.b64decode(str(data["base64"])))
    return b"".join(parts)


@pytest.mark.requirement("repl.transcript.every-byte-once")
@given(written=anything.map(b"".join), cuts=st.lists(st.integers(0, 400)))
def test_the_events_are_the_bytes_at_any_split(written: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(written), *(min(cut_at, len(written)) for cut_at in cuts)})
    transcript = Transcript()
    records = [r for start, end in pairwise(places) for r in transcript.output("stdout", written[start:end])]
    assert bytes_of([*records, *transcript.finish_output()]) == written


@pytest.mark.requirement("repl.transcript.every-byte-once")
@given(text=st.text(), cuts=st.lists(st.integers(0, 200)))
def test_utf8_never_becomes_base64_at_any_split(text: str, cuts: list[int]) -> None:
    written = text.encode()
    places = sorted({0, len(written), *(min(cut_at, len(written)) for cut_at in cuts)})
    transcript = Transcript()
    records = [r for start, end in pairwise(places) for r in transcript.output("stdout", written[start:end])]
    assert transcript.finish_output() == []
    assert "".join(str(record.data["text"]) for record in records) == text


@pytest.mark.requirement("repl.transcript.within-the-event-limit")
@given(text=st.text(min_size=1), times=st.integers(1, 500), limit=st.integers(300, 2000))
def test_a_cut_text_is_within_any_limit(text: str, times: int, limit: int) -> None:
    assert len(msgspec.json.encode(cut(text * times, size_bytes_max=limit))) <= limit
