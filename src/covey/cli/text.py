"""Text for a terminal: what came from elsewhere made harmless, tables, and colour where it is wanted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import IO, Final

_BLANKS: Final = "  "


def printable(text: str, *, kept: str = "") -> str:
    """Return the text with every control character shown and not sent, except those in ``kept``.

    Names, prompts and messages of a hub go through here: an escape sequence in one could rewrite the screen. What a
    program prints does not, as in every terminal.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows in columns under a header, each line with its line end."""
    lines = [header, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        _BLANKS.join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def wants_colour(file: IO[str], environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether to colour what goes to ``file``. Source: no-color.org."""
    return file.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
