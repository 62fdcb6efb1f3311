"""Every frame, frozen. What a frame means is in its docstring; how it travels is ``codec``'s affair.

Here so far: the frames between a session's host and its process. Source: protocol 3.1, whose events they become.
"""

from __future__ import annotations

from typing import Literal

import msgspec

EndStatus = Literal["ok", "error", "interrupted"]


class Frame(msgspec.Struct, frozen=True, tag_field="frame"):
    """Base of all frames; the tag says which it is."""


# ---- host to process


class Execute(Frame, frozen=True, tag="execute"):
    """Run a cell. The host sends the next one only after ``Done``."""

    cell: str
    code: str


class Answer(Frame, frozen=True, tag="answer"):
    """The line that ``Ask`` number ``number`` waits for; None ends the input (EOFError)."""

    number: int
    text: str | None


class Stop(Frame, frozen=True, tag="stop"):
    """Interrupt this cell. The SIGINT that follows is only the bell; this frame says which cell is meant.

    A bell with a frame for another cell means nothing; one with no frame at all is a plain SIGINT from elsewhere.
    """

    cell: str


class Quit(Frame, frozen=True, tag="quit"):
    """End the process in an orderly way once the running cell is done."""


# ---- process to host


class Ready(Frame, frozen=True, tag="ready"):
    """The process can take cells. ``banner`` is what an interpreter says first."""

    pid: int
    banner: str


class Result(Frame, frozen=True, tag="result"):
    """The value of an expression, as a MIME bundle."""

    cell: str
    mime: dict[str, object]


class Traceback(Frame, frozen=True, tag="traceback"):
    """An exception left the cell."""

    cell: str
    name: str
    message: str
    text: str


class Ask(Frame, frozen=True, tag="ask"):
    """The cell waits for a line of input."""

    cell: str
    number: int
    prompt: str
    password: bool


class Stopping(Frame, frozen=True, tag="stopping"):
    """The bell was heard; no need to ring again."""

    cell: str


class Done(Frame, frozen=True, tag="done"):
    """The cell is over, and all that it wrote to fd 1 and 2 was written before this frame."""

    cell: str
    status: EndStatus


class Leaving(Frame, frozen=True, tag="leaving"):
    """The cell asked the process to end (``sys.exit``); it will, with this status."""

    cell: str
    status: int


ToProcess = Execute | Answer | Stop | Quit
FromProcess = Ready | Result | Traceback | Ask | Stopping | Done | Leaving
