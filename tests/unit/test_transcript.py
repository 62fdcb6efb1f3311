"""Bytes and frames become events of a transcript."""

from __future__ import annotations

import msgspec
import pytest

from covey.repl.transcript import MIME_BYTES_MAX, Record, Transcript, cut, fit_mime, printable


@pytest.mark.requirement("repl.transcript.every-byte-once")
def test_a_character_cut_by_a_read_is_put_together() -> None:
    transcript = Transcript()
    transcript.cell = "a"
    assert transcript.output("stdout", b"caf\xc3") == [Record("stdout", {"cell": "a", "text": "caf"})]
    assert transcript.output("stdout", b"\xa9\n") == [Record("stdout", {"cell": "a", "text": "é\n"})]


@pytest.mark.requirement("repl.transcript.every-byte-once")
def test_the_streams_do_not_mix_their_halves() -> None:
    transcript = Transcript()
    transcript.output("stdout", b"\xe2\x82")
    assert transcript.output("stderr", b"x") == [Record("stderr", {"cell": None, "text": "x"})]
    assert transcript.output("stdout", b"\xac") == [Record("stdout", {"cell": None, "text": "€"})]


@pytest.mark.requirement("repl.transcript.not-utf8-is-base64")
def test_only_what_is_not_utf8_travels_as_base64() -> None:
    records = Transcript().output("stdout", b"one\xfftwo")
    assert [record.data for record in records] == [
        {"cell": None, "text": "one"},
        {"cell": None, "base64": "/w=="},
        {"cell": None, "text": "two"},
    ]


@pytest.mark.requirement("repl.transcript.not-utf8-is-base64")
def test_binary_data_does_not_become_hundreds_of_events() -> None:
    assert len(Transcript().output("stdout", b"\xff\x00" * 30_000)) < 40


@pytest.mark.requirement("repl.transcript.not-utf8-is-base64")
def test_half_a_character_at_the_end_is_told_as_base64() -> None:
    transcript = Transcript()
    transcript.output("stderr", b"\xf0\x9f")
    assert transcript.finish_output() == [Record("stderr", {"cell": None, "base64": "8J8="})]
    assert transcript.finish_output() == []


@pytest.mark.requirement("repl.transcript.within-the-event-limit")
@pytest.mark.parametrize("character", ["x", "é", "\x00", "\U0001f980"])
def test_a_long_text_is_cut_with_a_note(character: str) -> None:
    text = character * 2_000_000
    shown = cut(text)
    assert len(msgspec.json.encode(shown)) <= 512 << 10
    assert shown.startswith(character)
    assert shown.endswith(character)
    assert "2000000 characters are left out here" in shown


@pytest.mark.requirement("repl.transcript.within-the-event-limit")
def test_a_text_that_fits_is_left_alone() -> None:
    assert cut("x" * 1000) == "x" * 1000


@pytest.mark.requirement("repl.transcript.within-the-event-limit")
def test_a_representation_that_does_not_fit_is_named_not_cut() -> None:
    bundle = fit_mime({"text/plain": "<image>", "image/png": "A" * (MIME_BYTES_MAX + 1), "text/html": "<b>"})
    assert bundle == {"text/plain": "<image>", "text/html": "<b>", "covey/omitted": ["image/png"]}


@pytest.mark.requirement("repl.evaluator.unprintable-survives")
def test_lone_surrogates_become_escapes() -> None:
    assert printable("a\udc80b") == "a\\udc80b"
    assert printable("é") == "é"
