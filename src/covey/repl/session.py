"""The session teammate: owns the process that runs cells, their queue, and the transcript that says all of it.

Source: protocol 3.1.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import signal
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from covey.children.output import OutputPipe
from covey.children.process import ChildProcess, Exit, start_child
from covey.context import current_principal
from covey.errors import CoveyError, InvalidInputError, KeyReusedError, RefusedError, RemoteProtocolError, TooLargeError
from covey.repl.transcript import OutputKind, Record, Transcript, cut, fit_mime
from covey.streams.event import EVENT_BYTES_MAX, encode_data
from covey.streams.retention import Retention
from covey.team.members import StopReport
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
    Traceback,
)

if TYPE_CHECKING:
    from covey.streams.stream import Stream
    from covey.streams.streams import Streams

State = Literal["starting", "idle", "busy", "lost", "stopped"]

PYTHON: Final = "covey.repl.python:session_evaluator"
TRANSCRIPT: Final = Retention(events=1_000_000, bytes=64 << 20)
QUEUED_CELLS_MAX: Final = 1_000
QUEUED_BYTES_MAX: Final = 16 << 20
# Cells that are remembered, so that a repeat of one is answered and not run.
KNOWN_CELLS_MAX: Final = 100_000
RETRY_AFTER_S: Final = 1.0
# The bell is rung again until it is heard (os.system ignores it for a while), each time after twice as long.
FIRST_BELL_S: Final = 0.02
BELLS_MAX: Final = 8
PATIENT_BELLS: Final = 4
# How long `interrupt` waits to tell whether the cell ended.
INTERRUPT_REPORT_S: Final = 2.0
# A process that closed its channel without ending can do nothing more for anyone.
MUTE_GRACE_S: Final = 2.0
# Of an exception's name and message; its text, which has both again, is what people read.
NAME_BYTES_MAX: Final = 16 << 10
MESSAGE_BYTES_MAX: Final = 64 << 10
_INPUT: Final = re.compile(r"(\d{1,18})-(\d{1,18})", re.ASCII)
_CELL: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class Phase(Enum):
    """Where the session's process is in its life."""

    NEW = "new"
    STARTING = "starting"
    UP = "up"
    LOST = "lost"
    STOPPED = "stopped"


class Turn(Enum):
    """What happens to the process."""

    SPAWN = "spawn"
    READY = "ready"
    GONE = "gone"
    STOP = "stop"


TRANSITIONS: Final[Mapping[tuple[Phase, Turn], Phase]] = {
    (Phase.NEW, Turn.SPAWN): Phase.STARTING,
    (Phase.LOST, Turn.SPAWN): Phase.STARTING,
    (Phase.STARTING, Turn.READY): Phase.UP,
    (Phase.STARTING, Turn.GONE): Phase.LOST,
    (Phase.UP, Turn.GONE): Phase.LOST,
    (Phase.NEW, Turn.STOP): Phase.STOPPED,
    (Phase.LOST, Turn.STOP): Phase.STOPPED,
}


class Accepted(msgspec.Struct, frozen=True):
    """A cell is in the transcript and will run.

    Args:
        cell: its name.
        after: the transcript's cursor just before the cell; reading after it gives all that the cell says.
    """

    cell: str
    after: str


class Interrupted(msgspec.Struct, frozen=True):
    """What an interrupt did.

    Args:
        state: ``kept`` when the process and all it holds are still there, ``lost`` when it ended, ``idle`` when no
            cell ran.
        cell: the one that was interrupted.
        is_over: whether it has ended; code in C stops only when it returns to Python, code may ignore an interrupt.
    """

    state: Literal["kept", "lost", "idle"]
    cell: str | None = None
    is_over: bool = True


class InputAccepted(msgspec.Struct, frozen=True):
    """The line went to the cell that asked for it."""

    accepted: bool


class Cancelled(msgspec.Struct, frozen=True):
    """What was done about a queued cell: a ``running`` or ``finished`` one is left alone."""

    state: Literal["cancelled", "running", "finished"]


class Known(msgspec.Struct, frozen=True):
    """What is remembered of a cell, to answer a repeat."""

    digest: bytes
    after: str


class Cell:
    """A cell that is queued or running."""

    __slots__ = ("asked", "bells", "code", "ended", "is_stop_heard", "is_stop_wanted", "name")

    def __init__(self, name: str, code: str, ended: asyncio.Future[None]) -> None:
        self.name = name
        self.code = code
        self.ended = ended
        self.asked: tuple[str, int] | None = None  # the input that is pending: its id, its number in the process
        self.is_stop_wanted = False
        self.is_stop_heard = False
        self.bells = 0


class Session:
    """A live REPL: cells go in, everything they say is in the stream ``<name>.out``.

    ``CALLS`` names the methods that people at a distance may call; starting and stopping are the hub's.

    Args:
        name: the teammate's name.
        streams: where the transcript is made.
        evaluator: import name of what runs the cells, in the process.
        env: the process's environment; the host's own unless given. Secrets of covey are taken out of it.
    """

    CALLS: Final = ("execute", "interrupt", "input", "cancel")

    def __init__(
        self, name: str, streams: Streams, *, evaluator: str = PYTHON, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        # Made and not looked up: a session that had the name before left its ended transcript behind.
        self._streams = streams
        self.stream: Stream[object] = streams.create(f"{name}.out", object, retain=TRANSCRIPT, is_owned=True)
        self.incarnation = 0
        self._evaluator = evaluator
        self._env = env
        self._phase = Phase.NEW
        self._process: ChildProcess | None = None
        self._pipes: tuple[OutputPipe, ...] = ()
        self._transcript = Transcript()
        self._queue: OrderedDict[str, Cell] = OrderedDict()
        self._queued_bytes = 0
        self._running: Cell | None = None
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._last_ask = (0, 0)  # incarnation and number of the newest input that was asked for
        self._made_names = 0
        self._is_closing = False  # the process is known to be gone or going: it gets no more cells
        self._is_stopping = False
        self._last_exit = Exit(None, None)

    @property
    def state(self) -> State:
        """What to show in a roster."""
        match self._phase:
            case Phase.NEW | Phase.STARTING:
                return "starting"
            case Phase.UP:
                return "idle" if self._running is None else "busy"
            case Phase.LOST:
                return "lost"
            case Phase.STOPPED:
                return "stopped"

    @property
    def pid(self) -> int | None:
        """The process that runs cells now."""
        return self._process.pid if self._process is not None else None

    # ---- calls
    async def execute(self, code: str, cell: str | None = None) -> Accepted:
        """Queue a cell and answer at once; what it says is read from the transcript.

        Repeating a call with the same ``cell`` and code gives the same answer and runs nothing again. A session whose
        process was lost starts a new one.

        Args:
            code: source in the session's language.
            cell: 1-64 characters of ``[A-Za-z0-9_-]``, unique in the session; made up if absent.

        Raises:
            InvalidInputError: ``cell`` is malformed, or the code is not text.
            TooLargeError: the code is over 1 MiB.
            KeyReusedError: ``cell`` was used for other code.
            RefusedError: too much is queued, or the session was stopped.
        """
        digest = _digest(code)
        if cell is not None:
            repeated = self._known.get(_checked_cell(cell))
            if repeated is not None:
                return _repeat(cell, repeated, digest)
        self._check_room(code)
        name = cell if cell is not None else self._next_name()
        by = current_principal()
        data = encode_data({"cell": name, "code": code, "by": by})
        if len(data) > EVENT_BYTES_MAX:
            message = f"a cell may have {EVENT_BYTES_MAX} bytes as JSON, this one has {len(data)}"
            raise TooLargeError(message, limit_bytes=EVENT_BYTES_MAX, hint="put the code in a file and import it")
        accepted = Accepted(name, self.stream.head)
        self.stream.append_now(data, kind="cell", by=by)
        self._remember(name, Known(digest, accepted.after))
        self._queue[name] = Cell(name, code, asyncio.get_running_loop().create_future())
        self._queued_bytes += len(code)
        self._run_next()
        return accepted

    async def interrupt(self) -> Interrupted:
        """Interrupt the running cell, as Ctrl-C would, and tell what came of it within two seconds.

        Queued cells stay queued and run afterwards.
        """
        cell = self._running
        if cell is None:
            return Interrupted("idle")
        incarnation = self.incarnation
        self._want_stop(cell)
        await asyncio.wait([cell.ended], timeout=INTERRUPT_REPORT_S)
        is_alive = incarnation == self.incarnation and self._phase in {Phase.STARTING, Phase.UP}
        return Interrupted("kept" if is_alive else "lost", cell.name, is_over=cell.ended.done())

    async def input(self, id: str, text: str | None) -> InputAccepted:
        """Answer a cell that waits for a line; the first answer counts.

        Args:
            id: of the transcript's ``input`` event.
            text: the line without its end; null ends the input (``EOFError`` in the cell).

        Raises:
            RefusedError: someone answered first, or the cell no longer waits.
            InvalidInputError: nothing ever asked under that id.
            TooLargeError: the line is over 1 MiB.
        """
        cell = self._running
        process = self._process
        is_awaited = cell is not None and cell.asked is not None and cell.asked[0] == id
        if cell is None or cell.asked is None or not is_awaited or process is None or not process.channel.is_open:
            if self._was_asked(id):
                raise RefusedError("that input was answered, or the cell no longer waits for it")
            message = f"nothing waits for an input {id[:80]!r}"
            raise InvalidInputError(message, hint="take the id from the newest `input` event of the transcript")
        if text is not None and len(text) > EVENT_BYTES_MAX:
            raise TooLargeError("a line of input may have 1 MiB", limit_bytes=EVENT_BYTES_MAX)
        number = cell.asked[1]
        process.channel.send(Answer(number, text if text is None else text.removesuffix("\n")))
        cell.asked = None
        by = current_principal()
        self._publish("input_taken", {"cell": cell.name, "id": id, "by": by}, by=by)
        return InputAccepted(accepted=True)

    async def cancel(self, cell: str) -> Cancelled:
        """Take a queued cell out of the queue; a running one is for ``interrupt``.

        Raises:
            InvalidInputError: no cell of that name is known.
        """
        if self._running is not None and self._running.name == cell:
            return Cancelled("running")
        queued = self._take(cell) if cell in self._queue else None
        if queued is not None:
            self._end_cell(queued, "cancelled")
            return Cancelled("cancelled")
        if cell not in self._known:
            message = f"the session {self.name!r} knows no cell {cell[:80]!r}"
            raise InvalidInputError(message)
        return Cancelled("finished")

    # ---- life, the hub's affair
    async def start(self) -> None:
        """Start the process, without waiting until it is ready; harmless when it runs.

        A process that cannot be started is an event ``lost`` in the transcript, as one that crashed.

        Raises:
            RefusedError: the session was stopped.
        """
        self._check_open()
        if (self._phase, Turn.SPAWN) in TRANSITIONS:
            self._spawn()

    async def stop(self, *, timeout_s: float) -> StopReport:
        """End the process and the transcript; queued cells are cancelled, a running one may finish or is lost.

        Args:
            timeout_s: how long the process may take before it is killed.
        """
        self._is_stopping = True
        for name in tuple(self._queue):
            self._end_cell(self._take(name), "cancelled")
        steps: list[str] = []
        process = self._process
        if process is not None:
            steps = await process.stop(partial(_ask_to_quit, process), timeout_s=timeout_s)
        if (self._phase, Turn.STOP) in TRANSITIONS:
            self._turn(Turn.STOP)
        # Of two who stop it the first does: by the time of the second the name may be another session's.
        if not self.stream.is_closed:
            await self._streams.end(self.stream.name)
        return StopReport(tuple(steps), self._last_exit.status, self._last_exit.signal)

    # ---- the queue
    def _check_open(self) -> None:
        if self._is_stopping or self._phase is Phase.STOPPED:
            message = f"the session {self.name!r} was stopped"
            raise RefusedError(message, hint="create another session")

    def _check_room(self, code: str) -> None:
        self._check_open()
        if len(self._queue) >= QUEUED_CELLS_MAX or self._queued_bytes + len(code) > QUEUED_BYTES_MAX:
            message = f"{len(self._queue)} cells are queued in {self.name!r}; there is no room for another"
            raise RefusedError(message, retry_after_s=RETRY_AFTER_S, hint="wait until some have run, or cancel them")

    def _next_name(self) -> str:
        while True:
            self._made_names += 1
            name = f"c{self._made_names}"
            if name not in self._known:
                return name

    def _remember(self, name: str, known: Known) -> None:
        self._known[name] = known
        if len(self._known) > KNOWN_CELLS_MAX:
            self._known.popitem(last=False)

    def _take(self, name: str) -> Cell:
        cell = self._queue.pop(name)
        self._queued_bytes -= len(cell.code)
        return cell

    def _run_next(self) -> None:
        """Send the next cell; one waits here and not in the process, so that an interrupt can't hit the wrong one."""
        if self._running is not None or self._is_closing or not self._queue:
            return
        if self._phase in {Phase.NEW, Phase.LOST} and not self._spawn():
            return
        if self._process is None:
            return
        cell = self._running = self._take(next(iter(self._queue)))
        self._transcript.cell = cell.name
        self._process.channel.send(Execute(cell.name, cell.code))

    def _end_cell(self, cell: Cell, status: str) -> None:
        if cell.asked is not None:
            cell.asked = None
        if not cell.ended.done():
            cell.ended.set_result(None)
        self._publish("done", {"cell": cell.name, "status": status})

    def _end_running(self, status: str) -> None:
        self._publish_all(self._transcript.finish_output())
        cell, self._running = self._running, None
        self._transcript.cell = None
        if cell is not None:
            self._end_cell(cell, status)

    # ---- interrupting
    def _want_stop(self, cell: Cell) -> None:
        is_ringing = cell.is_stop_wanted and not cell.is_stop_heard and cell.bells < BELLS_MAX
        if self._process is None or is_ringing:
            return
        cell.is_stop_wanted, cell.is_stop_heard, cell.bells = True, False, 0
        if self._process.channel.is_open:
            self._process.channel.send(Stop(cell.name))
        self._ring(cell)

    def _ring(self, cell: Cell) -> None:
        """Ring until the process says it heard; not before it is ready, because an untaught process dies of it."""
        if cell.is_stop_heard or cell.ended.done() or self._process is None or self._phase is not Phase.UP:
            return
        # Programs that the cell started hear the first bell, as they would hear Ctrl-C; and the last ones, in case they
        # are what keeps Python from hearing any: os.system() ignores SIGINT as long as its program runs.
        self._process.signal(signal.SIGINT, group=cell.bells == 0 or cell.bells >= PATIENT_BELLS)
        cell.bells += 1
        if cell.bells < BELLS_MAX:
            delay_s = FIRST_BELL_S * 2 ** (cell.bells - 1)
            asyncio.get_running_loop().call_later(delay_s, self._ring, cell)

    # ---- the process
    def _spawn(self) -> bool:
        self._turn(Turn.SPAWN)
        self.incarnation += 1
        self._is_closing = False
        self._transcript = Transcript()
        try:
            process = start_child(self._evaluator, on_exit=self._on_exit, env=self._env)
        except OSError as error:
            self._lose(Exit(None, None), reason=f"the process could not be started: {error}")
            return False
        loop = asyncio.get_running_loop()
        self._process = process
        process.channel.watch(self._on_frames, self._on_channel_end)
        self._pipes = (
            OutputPipe(process.stdout, partial(self._on_output, "stdout"), loop=loop),
            OutputPipe(process.stderr, partial(self._on_output, "stderr"), loop=loop),
        )
        return True

    def _turn(self, turn: Turn) -> None:
        self._phase = TRANSITIONS[self._phase, turn]

    def _on_output(self, kind: OutputKind, data: bytes) -> None:
        self._publish_all(self._transcript.output(kind, data))

    def _on_frames(self, frames: list[FromProcess]) -> None:
        # The fence: what the process wrote before it sent a frame is in the pipes, and is told before the frame.
        for pipe in self._pipes:
            pipe.read_waiting()
        for frame in frames:
            try:
                self._on_frame(frame)
            except (CoveyError, TypeError, ValueError) as error:
                # The process itself makes only frames that become events; this one user code wrote into the channel.
                self._on_channel_end(RemoteProtocolError(f"a frame cannot be told: {error}"))
                return

    def _on_frame(self, frame: FromProcess) -> None:
        if isinstance(frame, Ready):
            self._on_ready(frame)
            return
        running = self._running
        if running is None or frame.cell != running.name:
            return  # no cell of ours; user code can write into the channel, and must not be able to confuse anyone
        match frame:
            case Result():
                self._publish("result", {"cell": frame.cell, "mime": fit_mime(frame.mime)})
            case Traceback():
                # All three together must fit one event: a class can have any name, and the text repeats it.
                name = cut(frame.name, size_bytes_max=NAME_BYTES_MAX)
                said = {"name": name, "message": cut(frame.message, size_bytes_max=MESSAGE_BYTES_MAX)}
                self._publish("traceback", {"cell": frame.cell, **said, "text": cut(frame.text)})
            case Ask():
                self._on_ask(running, frame)
            case Stopping():
                running.is_stop_heard = True
            case Done():
                self._end_running(frame.status)
                self._run_next()
            case Leaving():
                self._is_closing = True

    def _on_ready(self, frame: Ready) -> None:
        if self._phase is not Phase.STARTING:
            return
        self._turn(Turn.READY)
        started = {"incarnation": self.incarnation, "pid": self.pid, "banner": cut(frame.banner)}
        self._publish("started", started)
        if self._running is not None and self._running.is_stop_wanted:
            self._ring(self._running)
        self._run_next()

    def _on_ask(self, cell: Cell, frame: Ask) -> None:
        identity = f"{self.incarnation}-{frame.number}"
        cell.asked = (identity, frame.number)
        self._last_ask = (self.incarnation, frame.number)
        asked = {"id": identity, "prompt": cut(frame.prompt), "password": frame.password}
        self._publish("input", {"cell": cell.name, **asked})

    def _was_asked(self, identity: str) -> bool:
        asked = _INPUT.fullmatch(identity)
        return asked is not None and (int(asked[1]), int(asked[2])) <= self._last_ask

    def _on_channel_end(self, error: RemoteProtocolError | None) -> None:
        """Without its channel the process is of no use; nearly always it has ended, and the notice is on its way."""
        self._is_closing = True
        process = self._process
        if process is not None:
            grace_s = 0.0 if error is not None else MUTE_GRACE_S
            asyncio.get_running_loop().call_later(grace_s, partial(process.signal, signal.SIGKILL, group=True))

    def _on_exit(self, ended: Exit) -> None:
        self._is_closing = True
        process = self._process
        if process is not None:
            process.channel.drain()
            process.channel.close()
        for pipe in self._pipes:
            pipe.read_waiting()
            pipe.close()
        self._pipes = ()
        self._process = None
        self._lose(ended)

    def _lose(self, ended: Exit, *, reason: str | None = None) -> None:
        self._last_exit = ended
        self._turn(Turn.GONE)
        self._end_running("lost")
        self._publish_all(self._transcript.finish_output())
        for name in tuple(self._queue):
            self._end_cell(self._take(name), "cancelled")
        state = "stopped" if self._is_stopping else "lost"
        lost: dict[str, object] = {"exit": ended.status, "signal": ended.signal, "state": state}
        self._publish("lost", lost if reason is None else lost | {"reason": reason})
        self._is_closing = False

    # ---- the transcript
    def _publish_all(self, records: Iterable[Record]) -> None:
        for record in records:
            self._publish(record.kind, record.data)

    def _publish(self, kind: str, data: object, *, by: str | None = None) -> None:
        if not self.stream.is_closed:
            self.stream.append_now(encode_data(data), kind=kind, by=by)


def _ask_to_quit(process: ChildProcess) -> None:
    if process.channel.is_open:
        process.channel.send(Quit())


def _checked_cell(cell: str) -> str:
    if _CELL.fullmatch(cell) is None:
        message = f"{cell[:80]!r} cannot name a cell"
        raise InvalidInputError(message, hint="use 1-64 characters of A-Z a-z 0-9 _ -")
    return cell


def _digest(code: str) -> bytes:
    try:
        return hashlib.blake2b(code.encode(), digest_size=16).digest()
    except UnicodeEncodeError as error:
        raise InvalidInputError("the code has a lone surrogate, which no source text can contain") from error


def _repeat(cell: str, known: Known, digest: bytes) -> Accepted:
    if known.digest != digest:
        message = f"the cell {cell!r} was used for other code"
        raise KeyReusedError(message, hint="give each cell a name of its own; a repeat must have the same code")
    return Accepted(cell, known.after)
