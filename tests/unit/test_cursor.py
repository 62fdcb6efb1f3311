from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.errors import InvalidInputError
from covey.wire.cursor import Cursor, parse_cursor


@pytest.mark.requirement("cursor.malformed-is-refused")
@pytest.mark.parametrize(
    "text",
    ["", "42", "k3f9", "k3f9.", ".42", "k3f9.-1", "k3f9.1.2", "k3f9. 1", "k3f9.1\n", "a" * 17 + ".1", "k." + "1" * 20,
     "k٣.1", "k.٣", "k3f9.1e3", "x" * 100_000],
)  # fmt: skip
def test_what_is_no_cursor_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_cursor(text)
    assert caught.value.hint is not None
    assert len(caught.value.message) < 200


@pytest.mark.requirement("cursor.round-trip")
@given(
    st.from_regex(r"[A-Za-z0-9]{1,16}", fullmatch=True).filter(str.isascii),
    st.integers(min_value=0, max_value=2**63 - 1),
)
def test_a_cursor_survives_being_written_and_read(epoch: str, seq: int) -> None:
    cursor = Cursor(epoch, seq)
    assert parse_cursor(str(cursor)) == cursor
    assert len(str(cursor)) < 64


@pytest.mark.requirement("cursor.malformed-is-refused")
@given(st.text())
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    try:
        cursor = parse_cursor(text)
    except InvalidInputError:
        return
    assert text.partition(".")[0] == cursor.epoch
