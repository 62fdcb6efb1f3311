"""What runs the cells of a session inside its process: Python first, other languages and shells later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FrameType
from typing import Literal, Protocol

Status = Literal["ok", "error", "interrupted"]


class Outputs(Protocol):
    """What an evaluator tells the session while a cell runs; text on fd 1 and 2 travels by itself."""

    def result(self, mime: Mapping[str, object], *, final: bool) -> None:
        """Show the value of an expression as a MIME bundle; ``final`` when nothing of the cell runs after it."""
        ...

    def traceback(self, name: str, message: str, text: str) -> None:
        """Tell of an exception: its type's name, its message, and the whole text as Python prints it."""
        ...

    def input(self, prompt: str, *, password: bool) -> str:
        """Ask the people at the session for a line and wait for it.

        Raises:
            EOFError: they ended the input.
        """
        ...

    def flush(self) -> None:
        """Push what is still in buffers of the process, Python's and C's, into fd 1 and 2."""
        ...


class Evaluator(Protocol):
    """Lives on the main thread of the session's process; one cell at a time."""

    @property
    def banner(self) -> str:
        """What an interpreter says first."""
        ...

    def execute(self, cell: str, code: str, outputs: Outputs) -> Status:
        """Run one cell to its end and say how it ended.

        Raises:
            SystemExit: the cell asked the process to end.
        """
        ...

    def idle(self, wake_fd: int) -> None:
        """Return when ``wake_fd`` is readable; let background tasks of the user run until then."""
        ...

    def interrupt(self, cell: str, frame: FrameType | None) -> None:
        """Stop this cell by raising KeyboardInterrupt where that is safe: now, or as soon as the cell runs user code.

        Called from the signal handler. ``frame`` is what was interrupted, None for whatever calls this. While ``idle``
        runs it is background code of the user that keeps ``cell`` waiting.
        """
        ...


EvaluatorFactory = Callable[[], Evaluator]
