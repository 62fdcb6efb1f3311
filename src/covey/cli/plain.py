"""`covey repl --plain`: cells from standard input, plain text out; a session as a filter in a pipe.

One cell runs at a time and its output is written as it comes, so nothing is held but what one event holds: a reader
that is slow slows the reading of the transcript, never the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final, Literal

from covey.cli.main import complain
from covey.cli.rendering import Piece, Style, lost_text, pieces_of
from covey.cli.statements import StatementSplitter
from covey.errors import CoveyError, RefusedError

if TYPE_CHECKING:
    from covey.client.session import Entry, Session

_READ_BYTES: Final = 1 << 16
_CHUNKS_AHEAD: Final = 4
_EXIT_MASK: Final = 0xFF


class _Left(Exception):  # noqa: N818 -- it is not an error
    """The session's process ended; there is nothing to run the other cells in."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Plain:
    """Runs the cells of standard input in a session.

    Args:
        session: where.
        after: where in the transcript to begin; None begins with the first own cell.
        is_alone: whether all that the session writes is shown, and not only what belongs to own cells.
    """

    def __init__(self, session: Session, *, after: str | None, is_alone: bool, is_from_start: bool) -> None:
        self._session = session
        self._after = after
        self._is_from_start = is_from_start
        self._shows_all = is_alone or is_from_start
        self._transcript: AsyncGenerator[Entry, None] | None = None
        self._running: str | None = None
        self._has_failed = False

    async def run(self) -> int:
        """Run everything and return the exit status: 1 if a cell failed, that of the process where a cell ended it."""
        lines = Lines(asyncio.get_running_loop())
        splitter = StatementSplitter()
        try:
            while (line := await lines.next()) is not None:
                for code in splitter.receive_line(line):
                    await self._run_cell(code, lines)
            for code in splitter.finish():
                await self._run_cell(code, lines)
        except _Left as left:
            return left.status or int(self._has_failed)
        finally:
            await self._close()
        return int(self._has_failed)

    async def _close(self) -> None:
        if self._transcript is not None:
            await self._transcript.aclose()
        if self._running is not None:
            # We leave in the middle of a cell, which nobody would wait for any more.
            with contextlib.suppress(CoveyError):
                await self._session.interrupt()

    async def _run_cell(self, code: str, lines: Lines) -> None:
        cell = self._running = self._session.new_cell()
        accepted = await self._session.execute(code, cell)
        if self._transcript is None:
            start: Literal["now", "start"] = "start" if self._is_from_start else "now"
            after = None if self._is_from_start else self._after or accepted.after
            self._transcript = self._session.transcript(after=after, start=start)
        is_lost = False
        async for entry in self._transcript:
            await self._show(entry, cell, lines)
            if entry.kind == "done" and entry.event.cell == cell:
                is_lost = entry.event.status == "lost"
                self._has_failed |= entry.event.status != "ok"
                if not is_lost:
                    self._running = None
                    return
            elif entry.kind == "lost" and is_lost:
                self._running = None
                self._leave(entry)
        self._running = None
        raise _Left(complain(f"session {self._session.name} was stopped"))

    def _leave(self, entry: Entry) -> None:
        event = entry.event
        if event.signal is None and event.exit is not None and not event.reason:
            # As a script that calls sys.exit(): its status is ours, and what follows in it does not run.
            self._has_failed = False
            raise _Left(event.exit & _EXIT_MASK)
        raise _Left(complain(lost_text(self._session.name, event, what_next="no further cell was run")))

    async def _show(self, entry: Entry, cell: str, lines: Lines) -> None:
        event = entry.event
        if entry.kind == "input" and event.cell == cell:
            write([Piece(Style.OUTPUT, event.prompt.encode("utf-8", "replace"))])
            # As for `python < script`: what follows the cell in the input is what it reads.
            with contextlib.suppress(RefusedError):
                await self._session.answer(event.input_id, await lines.next())
        elif entry.kind in {"covey.gap", "covey.reset"}:
            self._has_failed = True
            write(pieces_of(entry))
        elif self._shows_all or event.cell == cell:
            write(pieces_of(entry))


def write(pieces: list[Piece]) -> None:
    """Write output and results to stdout, all else to stderr, as they are."""
    for piece in pieces:
        file = sys.stdout if piece.style is Style.OUTPUT else sys.stderr
        file.buffer.write(piece.data)
        file.buffer.flush()


class Lines:
    """Lines of standard input without their ends, read ahead a little.

    A thread reads them, since a file can't be waited for; it is a daemon and reads past Python's buffered files, so
    that it holds up nobody when the program leaves before its input ends.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, fd: int = 0) -> None:
        self._loop = loop
        self._fd = fd
        self._chunks: asyncio.Queue[list[str] | None] = asyncio.Queue(_CHUNKS_AHEAD)
        self._ready: list[str] = []
        self._is_over = False
        threading.Thread(target=self._read, name="covey-stdin", daemon=True).start()

    async def next(self) -> str | None:
        """Return the next line, None after the last."""
        while not self._ready and not self._is_over:
            chunk = await self._chunks.get()
            if chunk is None:
                self._is_over = True
            else:
                self._ready = chunk[::-1]
        return self._ready.pop() if self._ready else None

    def _read(self) -> None:
        rest = b""
        is_first = True
        while data := self._read_some():
            *lines, rest = (rest + data).split(b"\n") if b"\n" in data else [rest + data]
            if lines:
                if is_first:
                    lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
                    is_first = False
                if not self._put([_decode(line) for line in lines]):
                    return
        if rest:
            self._put([_decode(rest)])
        self._put(None)

    def _read_some(self) -> bytes:
        try:
            return os.read(self._fd, _READ_BYTES)
        except OSError:
            return b""  # a terminal that was closed; for us its input has ended

    def _put(self, chunk: list[str] | None) -> bool:
        """Hand lines over, and wait while enough of them wait; return whether anybody still takes them."""
        putting = self._chunks.put(chunk)
        try:
            asyncio.run_coroutine_threadsafe(putting, self._loop).result()
        except (RuntimeError, asyncio.CancelledError):
            putting.close()
            return False
        return True


def _decode(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "replace")
