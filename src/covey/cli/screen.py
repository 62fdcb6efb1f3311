"""What is written on the terminal of a session: directly while a cell runs, above the prompt while there is one."""

from __future__ import annotations

import asyncio
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
        self._flushing: asyncio.Task[None] | None = None

    async def write(self, pieces: list[Piece]) -> None:
        """Write pieces. Returns late when much waits to be written above a prompt, so that no more is read."""
        self.write_now(pieces)
        if self._flushing is not None and len(self._held) > _LINE_BYTES_MAX:
            await asyncio.wait([self._flushing])

    def write_now(self, pieces: list[Piece]) -> None:
        """Write pieces, without waiting."""
        for piece in pieces:
            self._held += self._painted(piece)
        if not self._has_prompt:
            self._flush(self._held)
        elif self._flushing is None and _whole_lines(self._held):
            self._flushing = asyncio.get_running_loop().create_task(self._flush_above_prompt())

    def go_to_margin(self) -> None:
        """End the line if something stands in it; a prompt, and a line of covey's, begins at the margin."""
        if not self._is_at_margin:
            self._held += b"\n"
            self._is_at_margin = True
            self._flush(self._held)

    @contextmanager
    def prompting(self) -> Generator[None]:
        """Keep a prompt at the bottom: what is written in this block stands above it."""
        self.go_to_margin()
        self._has_prompt = True
        try:
            yield
        finally:
            self._has_prompt = False
            self._flush(self._held)

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

    async def _flush_above_prompt(self) -> None:
        from prompt_toolkit.application import in_terminal

        try:
            while self._has_prompt and (size := _whole_lines(self._held)):
                async with in_terminal():
                    self._flush(self._held, min(size, len(self._held)))
        finally:
            self._flushing = None

    def _flush(self, held: bytearray, size: int | None = None) -> None:
        ready = bytes(held[:size])
        del held[:size]
        if ready:
            sys.stdout.flush()
            sys.stdout.buffer.write(ready)
            sys.stdout.buffer.flush()


def _whole_lines(held: bytearray) -> int:
    """Return how many bytes can be written above a prompt."""
    end = held.rfind(b"\n") + 1
    return len(held) if len(held) - end > _LINE_BYTES_MAX else end
