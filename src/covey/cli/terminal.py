"""`covey repl` on a terminal: a prompt, and above it everything the session says, whoever caused it.

Two tasks: one reads the transcript and writes it, one talks to the person. They share what is known of the cells. While
a cell of ours runs there is no prompt: keys then mean interrupt or detach, or wait for the next prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final

from covey.cli.rendering import Piece, code_piece, lost_text, note, pieces_of, prompt_piece
from covey.cli.screen import Screen
from covey.cli.statements import is_complete
from covey.cli.text import printable
from covey.client.session import is_at
from covey.client.sse import Change, Opened
from covey.errors import CoveyError, RefusedError, StreamNotFoundError, TeammateNotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    from covey.client.session import Entry, Event, Session

PS1: Final = ">>> "
PS2: Final = "... "
_INDENT: Final = "    "
# How long a new session may take to say that its process is there before the prompt comes without it.
STARTED_S: Final = 5.0


class _Detached(Exception):  # noqa: N818 -- it is not an error
    """The person leaves; the session stays."""


class _Interrupted(Exception):  # noqa: N818 -- it is not an error
    """Ctrl-C at a prompt. No ``KeyboardInterrupt``, which would end the event loop when a task raises it."""


class _Over(Exception):  # noqa: N818 -- it is not an error
    """There is no session any more, or no reason to stay."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


class Cells:
    """What is known of the cells that are queued or run, from the transcript alone."""

    def __init__(self) -> None:
        self.own: set[str] = set()
        self.open: dict[str, Event] = {}
        self.asked: Event | None = None
        self.me: str | None = None

    def take(self, entry: Entry) -> None:
        """Note what an entry says."""
        event = entry.event
        cell = event.cell or ""
        match entry.kind:
            case "cell":
                self.open[cell] = event
                if cell in self.own or self.me is None:
                    # Until a cell of ours is seen, who began counts as us: most sessions have one person.
                    self.me = event.by
            case "done":
                self.open.pop(cell, None)
                self.own.discard(cell)
                self.asked = None if self.asked is not None and self.asked.cell == cell else self.asked
            case "input":
                self.asked = event
            case "input_taken" if self.asked is not None and self.asked.input_id == event.input_id:
                self.asked = None
            case "lost" | "covey.reset":
                self.open.clear()
                self.own.clear()
                self.asked = None
            case _:
                pass

    def is_running(self, cell: str) -> bool:
        """Tell whether it is this cell's turn: the others wait behind it."""
        return next(iter(self.open), None) == cell

    def label(self, event: Event) -> str | None:
        """Return the name to show at a cell, None at those of our own."""
        return None if event.by == self.me else event.by


class Terminal:
    """One person at one session.

    Args:
        session: where.
        after: where in the transcript to begin, None for its start or its end.
        is_from_start: show what was written before.
        is_new: the session was made just now.
        history: the file that keeps what was typed, None for nowhere.
        flags: what says which hub it is, for the commands that are shown at the end.
    """

    def __init__(
        self,
        session: Session,
        *,
        after: str | None,
        is_from_start: bool,
        is_new: bool,
        history: Path | None,
        flags: str,
    ) -> None:
        self._session = session
        self._after = after
        self._is_from_start = is_from_start
        self._is_new = is_new
        self._history = history
        self._flags = flags
        self._screen = Screen()
        self._cells = Cells()
        self._awaited: str | None = None
        self._head: str | None = None
        self._is_replayed = False
        self._is_started = not is_new
        self._has_failed = False
        self._changed = asyncio.Event()
        self._interrupting: set[asyncio.Future[None]] = set()

    async def run(self) -> int:
        """Talk until the person leaves or the session ends; return the exit status."""
        from prompt_toolkit.application.current import get_app_session

        # The whole time, so that between two prompts, too, Ctrl-C is a key and doesn't end this program.
        with get_app_session().input.raw_mode():
            return await self._run()

    async def _run(self) -> int:
        reading = asyncio.ensure_future(self._read())
        talking = asyncio.ensure_future(self._talk())
        try:
            done, _ = await asyncio.wait({reading, talking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(talking)
            await _end(reading)
        try:
            for task in done:
                task.result()
        except _Detached:
            self._say(self._farewell())
            return 0
        except _Over as over:
            self._say(over.text)
            return over.status
        except (StreamNotFoundError, TeammateNotFoundError) as error:
            name = self._session.name
            hint = f"`covey repl{self._flags} --new {name}` makes a new one"
            self._say(f"session {name} is gone ({error.message}): {hint}")
            return 1
        finally:
            self._screen.go_to_margin()
        return 0

    def _farewell(self) -> str:
        target = f"{self._flags} {self._session.name}"
        goes_on = f"session {self._session.name} goes on"
        return f"{goes_on}: `covey repl{target}` comes back, `covey stop{target}` ends it"

    def _say(self, text: str) -> None:
        self._screen.write([note(text)])

    # ---- the transcript
    async def _read(self) -> None:
        entries = self._session.transcript(
            after=self._after, start="start" if self._is_from_start else "now", on_change=self._on_change
        )
        async with contextlib.aclosing(entries):
            async for entry in entries:
                self._take(entry)
        raise _Over(f"session {self._session.name} was stopped", 0)

    def _on_change(self, change: Change) -> None:
        if not isinstance(change, Opened):
            if not self._has_failed:
                self._say(f"{change.error.message}: trying again (Ctrl-D leaves)")
            self._has_failed = True
            return
        if self._has_failed:
            self._say("connected again")
            self._has_failed = False
        if self._head is None:
            self._head = change.head
            self._note_progress(change.cursor)

    def _take(self, entry: Entry) -> None:
        event = entry.event
        was_awaited = event.cell is not None and event.cell == self._awaited
        self._cells.take(entry)
        self._screen.write(self._pieces(entry))
        if entry.kind == "done" and was_awaited and event.status != "lost":
            self._awaited = None
        elif entry.kind == "lost":
            self._on_lost(event)
        self._is_started = self._is_started or entry.kind in {"started", "lost"}
        self._note_progress(entry.cursor)

    def _on_lost(self, event: Event) -> None:
        is_own_exit = event.exit == 0 and event.state != "stopped" and not event.reason
        if self._awaited is not None and self._is_replayed and is_own_exit:
            name = self._session.name
            text = f"session {name} has left its process; `covey repl{self._flags} {name}` starts it afresh"
            raise _Over(text, 0)
        self._awaited = None

    def _pieces(self, entry: Entry) -> list[Piece]:
        event = entry.event
        match entry.kind:
            case "cell":
                is_shown = event.cell != self._awaited
                return [code_piece(event, label=self._cells.label(event))] if is_shown else []
            case "started":
                text = event.banner or "the session's process is there"
                return [note(line) for line in text.splitlines()] if (event.incarnation or 1) == 1 else []
            case "lost":
                # What ends the talk is told at its end.
                is_told = event.state == "stopped" or (event.exit == 0 and self._awaited is not None)
                return [] if is_told else [note(lost_text(self._session.name, event))]
            case "input":
                return [] if self._is_replayed and self._awaited else [prompt_piece(event)]
            case "input_taken" if event.by is not None and event.by != self._cells.me:
                return [note(f"{event.by} answered")]
            case _:
                return pieces_of(entry)

    def _note_progress(self, cursor: str) -> None:
        if not self._is_replayed and self._head is not None and is_at(cursor, self._head):
            self._is_replayed = True
            # Whoever comes back to a cell that still runs is at it, as if they had never left.
            self._awaited = next(iter(self._cells.open), None)
        self._changed.set()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()

    # ---- the person
    async def _talk(self) -> None:
        with self._keys():
            await self._until(lambda: self._is_replayed)
            if self._is_new:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._until(lambda: self._is_started), STARTED_S)
        prompt = self._new_prompt()
        while True:
            await self._follow()
            code = await self._ask_code(prompt)
            if code.strip():
                await self._execute(code.rstrip())

    async def _ask_code(self, prompt: PromptSession[str]) -> str:
        with self._screen.prompting():
            try:
                return await prompt.prompt_async(PS1, prompt_continuation=PS2)
            except _Interrupted:
                self._screen.write([note("KeyboardInterrupt")])
                return ""
            except EOFError:
                raise _Detached from None

    async def _execute(self, code: str) -> None:
        cell = self._awaited = self._session.new_cell()
        self._cells.own.add(cell)
        with self._keys():
            try:
                await self._session.execute(code, cell)
            except CoveyError as error:
                if isinstance(error, TeammateNotFoundError):
                    raise
                self._awaited = None
                self._say(f"{error.message}: {error.hint}" if error.hint else error.message)

    async def _follow(self) -> None:
        """Wait until the cell that we are at is over, answering what it asks."""
        while self._awaited is not None:
            with self._keys():
                await self._until(lambda: self._awaited is None or self._cells.asked is not None)
            asked = self._cells.asked
            if asked is not None and self._is_at_cell():
                await self._answer(asked)

    def _is_at_cell(self) -> bool:
        return self._awaited is not None

    async def _answer(self, asked: Event) -> None:
        """Ask the person for the line, until they or somebody else gave it or the cell is over."""
        typing = asyncio.ensure_future(self._ask_line(asked))
        taken = asyncio.ensure_future(self._until(lambda: self._cells.asked is not asked))
        try:
            await asyncio.wait({typing, taken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(taken)
            await _end(typing)
        if typing.cancelled():
            return
        try:
            line = typing.result()
        except _Interrupted:
            await self._interrupt()
        else:
            with contextlib.suppress(RefusedError):
                await self._session.answer(asked.input_id, line)
        await self._until(lambda: self._cells.asked is not asked)

    async def _ask_line(self, asked: Event) -> str | None:
        from prompt_toolkit import PromptSession

        with self._screen.prompting():
            prompt: PromptSession[str] = PromptSession(key_bindings=_detach_keys(), interrupt_exception=_Interrupted)
            try:
                return await prompt.prompt_async(printable(asked.prompt, kept="\n"), is_password=asked.password)
            except EOFError:
                return None

    async def _interrupt(self) -> None:
        """Stop the cell that we are at: interrupt it when it runs, take it back when it waits behind others."""
        cell = self._awaited
        if cell is None:
            return
        try:
            if self._cells.is_running(cell) or cell not in self._cells.open:
                await self._session.interrupt()
            else:
                await self._session.cancel(cell)
        except CoveyError as error:
            self._say(f"{error.message}: {error.hint}" if error.hint else error.message)

    @contextlib.contextmanager
    def _keys(self) -> Generator[None]:
        """While this block runs keys are heard without a prompt: interrupt, detach; others wait for the next prompt."""
        from prompt_toolkit.application.current import get_app_session
        from prompt_toolkit.input.typeahead import store_typeahead
        from prompt_toolkit.keys import Keys

        keyboard = get_app_session().input
        task = asyncio.current_task()
        assert task is not None
        is_leaving = False

        def leave() -> None:
            nonlocal is_leaving
            is_leaving = True
            task.cancel()

        def heed() -> None:
            presses = keyboard.read_keys()
            if keyboard.closed:
                leave()
            for press in presses:
                if press.key == Keys.ControlC:
                    self._interrupt_soon()
                elif press.key in {Keys.ControlD, Keys.ControlBackslash}:
                    leave()
                elif press.key != Keys.CPRResponse:
                    # An answer of the terminal to a prompt that is over would mislead the next one.
                    store_typeahead(keyboard, [press])

        try:
            with keyboard.attach(heed):
                yield
        except asyncio.CancelledError:
            if not is_leaving:
                raise
            task.uncancel()
            raise _Detached from None

    def _interrupt_soon(self) -> None:
        interrupting = asyncio.ensure_future(self._interrupt())
        self._interrupting.add(interrupting)
        interrupting.add_done_callback(self._interrupting.discard)

    def _new_prompt(self) -> PromptSession[str]:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        history = InMemoryHistory() if self._history is None else FileHistory(str(self._history))
        return PromptSession(
            history=history, multiline=True, key_bindings=_code_keys(), interrupt_exception=_Interrupted
        )


def _detach_keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("c-\\")
    def _(press: KeyPressEvent) -> None:
        press.app.exit(exception=_Detached())

    return keys


def _code_keys() -> KeyBindings:
    """Enter runs what is complete and else begins a line; Tab indents at the beginning of one."""
    from prompt_toolkit.application.current import get_app
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import Condition, has_focus

    keys = _detach_keys()

    @Condition
    def is_in_margin() -> bool:
        return not get_app().current_buffer.document.current_line_before_cursor.strip()

    @keys.add("enter", filter=has_focus(DEFAULT_BUFFER))
    def _(press: KeyPressEvent) -> None:
        buffer = press.current_buffer
        is_last_line = not buffer.document.text_after_cursor.strip() or "\n" not in buffer.text
        if is_last_line and is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n" + next_indent(buffer.document.current_line_before_cursor))

    @keys.add("tab", filter=has_focus(DEFAULT_BUFFER) & is_in_margin)
    def _(press: KeyPressEvent) -> None:
        press.current_buffer.insert_text(_INDENT)

    return keys


def next_indent(line: str) -> str:
    """Return what the line after this one begins with."""
    indent = line[: len(line) - len(line.lstrip())]
    return indent + _INDENT if line.rstrip().endswith(":") else indent


async def _end(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])
