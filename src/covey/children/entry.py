"""The main program of a child process that runs cells; the evaluator is loaded by name, so no import points up.

Everything here happens on the main thread. The order of output and results rests on one rule: flush, then send the
frame; the host reads both pipes before it publishes the frame.

A SIGINT is only a bell. Which cell to stop is said by ``Stop`` frames, so a bell that is early or late does no harm.
"""

from __future__ import annotations

import ctypes
import importlib
import io
import os
import select
import signal
import socket
import sys
import threading
import types
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType
from typing import Final, Literal, cast

from covey.children.channel import ChildChannel
from covey.ports.evaluator import Evaluator, EvaluatorFactory, Status
from covey.wire.frames import (
    Answer,
    Ask,
    Done,
    Execute,
    FromProcess,
    Leaving,
    Quit,
    Ready,
    Result,
    Stop,
    Stopping,
    ToProcess,
    Traceback,
)

_C: Final = ctypes.CDLL(None)
_PR_SET_PDEATHSIG: Final = 1
BUFFER_BYTES: Final = 64 << 10


class HostGoneError(BaseException):
    """Nobody is at the other end any more; not an ``Exception``, because user code must not catch it."""


class CellProcess:
    """The process's side of a session; the ``Outputs`` of its evaluator.

    Args:
        channel: to the host.
        evaluator: runs the cells.
    """

    def __init__(self, channel: ChildChannel[ToProcess, FromProcess], evaluator: Evaluator) -> None:
        self._channel = channel
        self._evaluator = evaluator
        self._own_streams = (sys.stdout, sys.stderr)
        self._held: list[FromProcess] = []
        self._asked = 0
        self._cell: str | None = None
        self._stopped: str | None = None
        self._is_idle = False
        self._is_talking = False
        self._is_bell_pending = False
        self._is_fork = False

    def run(self) -> None:
        """Serve cells until the host says ``Quit``.

        Raises:
            SystemExit: a cell asked the process to end.
            HostGoneError: the host went away.
        """
        os.register_at_fork(after_in_child=self._after_fork)
        signal.signal(signal.SIGINT, self._on_sigint)
        self._send(Ready(os.getpid(), self._evaluator.banner))
        while True:
            frame = self._next_frame()
            if isinstance(frame, Execute):
                self._run_cell(frame)
            elif isinstance(frame, Quit):
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                return
            # A Stop or an Answer for a cell that is over means nothing any more.

    # ---- Outputs
    def result(self, mime: Mapping[str, object], *, final: bool) -> None:
        """See ``Outputs``."""
        if self._is_fork:
            print(mime.get("text/plain", ""))  # noqa: T201 -- a copy of the process has only its output
            return
        frame = Result(self._cell or "", dict(mime))
        if final:
            self._held.append(frame)
        else:
            self.flush()
            self._send(frame)

    def traceback(self, name: str, message: str, text: str) -> None:
        """See ``Outputs``."""
        if self._is_fork:
            print(text, end="", file=sys.stderr)  # noqa: T201 -- as above
        else:
            self._held.append(Traceback(self._cell or "", name, message, text))

    def input(self, prompt: str, *, password: bool) -> str:
        """See ``Outputs``."""
        if self._is_fork:
            raise EOFError("a forked copy of the session has no input")
        if self._cell is None or threading.current_thread() is not threading.main_thread():
            raise EOFError("input is for the main thread of a running cell")
        self.flush()
        self._asked += 1
        number = self._asked
        self._send(Ask(self._cell, number, prompt, password))
        while True:
            for frame in tuple(self._channel.inbox):
                if isinstance(frame, Answer):
                    self._channel.inbox.remove(frame)
                    if frame.number == number:
                        if frame.text is None:
                            raise EOFError
                        return frame.text
            # An exception raised while waiting loses nothing; none is raised while bytes are in hand.
            select.select([self._channel], [], [])
            self._pull()

    def flush(self) -> None:
        """See ``Outputs``."""
        self._is_talking = True
        try:
            for stream in {id(s): s for s in (sys.stdout, sys.stderr, *self._own_streams)}.values():
                with suppress(BaseException):  # user code may have closed it, or put anything in its place
                    stream.flush()
            # C has buffers of its own: without this a printf would show up in a later cell.
            _C.fflush(None)
        finally:
            self._is_talking = False
        self._answer_pending_bell()

    # ---- cells
    def _next_frame(self) -> ToProcess:
        inbox = self._channel.inbox
        while not inbox:
            self._is_idle = True
            try:
                self._evaluator.idle(self._channel.fileno())
            except KeyboardInterrupt:
                pass  # it ended a background task that kept a cell waiting
            finally:
                self._is_idle = False
            self._pull()
        return inbox.popleft()

    def _run_cell(self, frame: Execute) -> None:
        self._cell = frame.cell
        if self._is_bell_pending:
            self._is_bell_pending = False
            self._hear(None, is_plain_allowed=False)
        status: Status = "error"
        try:
            status = self._evaluator.execute(frame.cell, frame.code, self)
        except SystemExit as leaving:
            self._leave(frame.cell, leaving)
            raise
        finally:
            self._cell = None
        self.flush()
        if self._is_fork:  # the cell called os.fork(): only the original may answer
            os._exit(0 if status == "ok" else 1)
        held, self._held = self._held, []
        self._send(*held, Done(frame.cell, status))

    def _leave(self, cell: str, leaving: SystemExit) -> None:
        # What runs from here on, threads and atexit handlers, may be interrupted like any program.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.flush()
        if not self._is_fork:
            held, self._held = self._held, []
            self._send(*held, Leaving(cell, exit_status(leaving)))

    def _after_fork(self) -> None:
        self._is_fork = True
        self._held = []
        self._channel.close()

    # ---- the bell
    def _on_sigint(self, _signum: int, frame: FrameType | None) -> None:
        if self._is_fork:
            raise KeyboardInterrupt
        if self._is_talking or (self._cell is None and not self._is_idle):
            self._is_bell_pending = True
        else:
            self._hear(frame, is_plain_allowed=True)

    def _answer_pending_bell(self) -> None:
        if self._is_bell_pending and self._cell is not None:
            self._is_bell_pending = False
            self._hear(None, is_plain_allowed=True)

    def _hear(self, frame: FrameType | None, *, is_plain_allowed: bool) -> None:
        self._pull_quietly()
        inbox = self._channel.inbox
        stops = {each.cell for each in inbox if isinstance(each, Stop)}
        cell = self._cell
        if cell is None:
            # Idle: the cell that is meant waits behind a background task. The bell stays pending for it.
            self._is_bell_pending = True
            waiting = next((each.cell for each in inbox if isinstance(each, Execute)), None)
            if waiting is not None and waiting in stops:
                self._evaluator.interrupt(waiting, frame)
            return
        for each in tuple(inbox):
            if isinstance(each, Stop):
                inbox.remove(each)
        if cell in stops:
            self._stopped = cell
            self._send(Stopping(cell))
            self._evaluator.interrupt(cell, frame)
        elif not stops and is_plain_allowed and self._stopped != cell:
            # No frame came with it, now or before: a plain SIGINT, from os.kill() in a cell or a shell.
            self._evaluator.interrupt(cell, frame)

    # ---- the channel, never cut in half by a KeyboardInterrupt
    def _send(self, *frames: FromProcess) -> None:
        self._is_talking = True
        try:
            self._channel.send(frames)
        except OSError:
            raise HostGoneError from None
        finally:
            self._is_talking = False
        self._answer_pending_bell()

    def _pull(self) -> None:
        self._is_talking = True
        try:
            if not self._channel.pull():
                raise HostGoneError
        finally:
            self._is_talking = False
        self._answer_pending_bell()

    def _pull_quietly(self) -> None:
        self._is_talking = True
        try:
            self._channel.pull()  # when the host is gone, the next wait for a frame will tell
        finally:
            self._is_talking = False


def exit_status(leaving: SystemExit) -> int:
    """Return the status that Python makes of it."""
    if leaving.code is None:
        return 0
    return leaving.code & 0xFF if isinstance(leaving.code, int) else 1


def main() -> None:
    """Run a child: the arguments are the control descriptor, the host's process id and the evaluator's name."""
    fd, host_pid, name = sys.argv[1:4]
    _die_with(int(host_pid))
    sys.argv = [""]
    sys.path.insert(0, "")  # from here on as in `python -i`: the working folder comes first
    _take_over_stdio()
    _take_over_main()
    module, _, factory = name.partition(":")
    evaluator = cast("EvaluatorFactory", getattr(importlib.import_module(module), factory))()
    channel: ChildChannel[ToProcess, FromProcess] = ChildChannel(socket.socket(fileno=int(fd)), ToProcess)
    try:
        CellProcess(channel, evaluator).run()
    except HostGoneError:
        os._exit(0)


def _die_with(host_pid: int) -> None:
    """Be killed when the host is, also in the middle of a cell. Elsewhere than on Linux the closed channel ends us."""
    if sys.platform == "linux":
        _C.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != host_pid:  # it was gone before we could ask for that
        os._exit(0)


def _take_over_stdio() -> None:
    """Text goes out as UTF-8 whatever the locale, by lines, and what UTF-8 cannot say is written as escapes."""
    sys.stdout = _text_stream(1)
    sys.stderr = _text_stream(2)
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]


def _text_stream(fd: Literal[1, 2]) -> io.TextIOWrapper:
    buffer = io.BufferedWriter(io.FileIO(fd, "wb", closefd=False), BUFFER_BYTES)
    return io.TextIOWrapper(buffer, "utf-8", "backslashreplace", "\n", line_buffering=True)


def _take_over_main() -> None:
    """Give user code a ``__main__`` of its own, so that what it defines can be pickled and imported from there."""
    main_module = types.ModuleType("__main__")
    main_module.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main_module
