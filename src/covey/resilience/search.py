"""Finding what a text is about in the table of outcomes: an error message, a status, an errno, the name of a class."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import Final

from covey.resilience.outcome import Outcomes, Row

_ERRNO: Final = re.compile(r"\[?Errno (-?\d+)\]?", re.IGNORECASE)
_WORDS: Final = re.compile(r"[A-Za-z0-9_.]+")
# Too common in prose to mean the code.
_PROSE: Final = frozenset({"ask", "busy", "shed", "cancel", "aborted", "unknown", "internal", "throttling", "loading"})


def rows_about(text: str, outcomes: Outcomes) -> list[Row]:
    """Return the rows that a text names, the most telling first; empty when it names none."""
    found: dict[tuple[str, str], Row] = {}
    for row in _candidates(text, outcomes):
        found.setdefault((row.domain, row.key), row)
    return list(found.values())


def _candidates(text: str, outcomes: Outcomes) -> Iterator[Row]:
    for number in _ERRNO.findall(text):
        row = outcomes.row("errno", errno.errorcode.get(int(number), ""))
        if row is not None:
            yield row
    words = _WORDS.findall(text)
    for word in words:
        yield from _named(word.strip("."), outcomes, is_alone=len(words) == 1)
    for row in outcomes:
        number = getattr(errno, row.key, None) if row.domain == "errno" else None
        if number is not None and os.strerror(number).lower() in text.lower():
            yield row


def _named(word: str, outcomes: Outcomes, *, is_alone: bool) -> Iterator[Row]:
    """Give the rows whose key the word is; in the middle of a sentence only where it is written as the key is."""
    if word.isdigit() and len(word) < 3:
        return
    exact = [row for row in outcomes if word in {row.key, row.key.rpartition(".")[2]}] or _classes(word, outcomes)
    yield from sorted(exact, key=lambda row: row.domain != "http")
    if not exact and (is_alone or word.lower() not in _PROSE):
        yield from (row for row in outcomes if is_alone and row.key.lower() == word.lower())
    if not exact and is_alone and word.isdigit():
        row = outcomes.row("errno", errno.errorcode.get(int(word), ""))
        if row is not None:
            yield row


def _classes(word: str, outcomes: Outcomes) -> list[Row]:
    """Return the row of a class that is written with the module inside its package, as tracebacks do."""
    package, _, last = word.partition(".")
    key = f"{package}.{last.rpartition('.')[2]}"
    return [row for row in outcomes if row.key == key] if last else []
