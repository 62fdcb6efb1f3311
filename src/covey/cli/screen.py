"""What is written on the terminal of a session: directly while a cell runs, above the prompt while there is one."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final

from covey.cli.rendering import Piece, Style
from covey.cli.text import wants_colour

_COLOURS: Final[Mapping[Style, tuple[bytes, bytes]]] = {
    Style.OUTPUT: (b"", b""),
    Style.ERROR: (b"\x1b[31m", b"\x1b[39m"),
    Style.NOTE: (b"\x1b[2m", b"\x1b[22m"),
}
_PLAIN: Final = (b"", b"")
# Above a prompt only whole lines can stand. One that grows longer than this without an end is written in parts.
_LINE_BYTES_MAX: Final = 1 << 16


class Screen:
    """Writes pieces in order, and knows whether the cursor is at the beginning of a line."""

    def __init__(self) -> None:
        self._is_coloured = wants_colour(sys.stdout)
        self._is_at_margin = True
        self._has_prompt = False
        self._held = bytearray()

    def write(self, pieces: list[Piece]) -> None:
        """Write pieces; above a prompt what has no line end yet is held back."""
        for piece in pieces:
            self._held += self._painted(piece)
        if not self._has_prompt:
            self._flush(len(self._held))
        elif size := _whole_lines(self._held):
            self._flush_above_prompt(size)

    def go_to_margin(self) -> None:
        """End the line if something stands in it; a prompt, and a line of covey's, begins at the margin."""
        if not self._is_at_margin:
            self._held += b"\n"
            self._is_at_margin = True
            self._flush(len(self._held))

    @contextmanager
    def prompting(self) -> Generator[None]:
        """Keep a prompt at the bottom: what is written in this block stands above it."""
        self.go_to_margin()
        self._has_prompt = True
        try:
            yield
        finally:
            self._has_prompt = False
            self._flush(len(self._held))

    def _painted(self, piece: Piece) -> bytes:
        if not piece.data:
            return b""
        before, after = _COLOURS[piece.style] if self._is_coloured else _PLAIN
        margin = b"" if self._is_at_margin or not piece.is_own_line else b"\n"
        self._is_at_margin = piece.data.endswith(b"\n")
        if self._is_at_margin:
            # The colour ends before the line does: what is held back until its line is whole is then whole, too.
            return margin + before + piece.data[:-1] + after + b"\n"
        return margin + before + piece.data + after

    def _flush_above_prompt(self, size: int) -> None:
        """Take the prompt away, write, and let it be drawn again.

        prompt_toolkit's own way, ``in_terminal``, also gives the keyboard back to the terminal meanwhile: a Ctrl-C
        typed at that moment would end this program, and a Ctrl-D would be lost.
        """
        from prompt_toolkit.application.current import get_app_or_none

        app = get_app_or_none()
        if app is None or not app.is_running or app.is_done:
            self._flush(size)
            return
        app.renderer.erase()
        self._flush(size)
        app.invalidate()

    def _flush(self, size: int) -> None:
        ready = bytes(self._held[:size])
        del self._held[:size]
        if ready:
            sys.stdout.flush()
            sys.stdout.buffer.write(ready)
            sys.stdout.buffer.flush()


def _whole_lines(held: bytearray) -> int:
    """Return how many bytes can be written above a prompt."""
    end = held.rfind(b"\n") + 1
    return len(held) if len(held) - end > _LINE_BYTES_MAX else end
