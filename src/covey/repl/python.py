"""The Python evaluator: cells as at ``>>>``, with top-level await on a loop that lives as long as the session.

Runs in the session's process, on its main thread. asyncio is imported only when a cell first awaits something: most
sessions start faster without it.
"""

from __future__ import annotations
import __future__

import ast
import base64
import builtins
import inspect
import io
import linecache
import select
import sys
import sysconfig
import traceback
import types
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from covey.repl.transcript import cut, fit_mime, printable

if TYPE_CHECKING:
    import asyncio

    from covey.ports.evaluator import Outputs, Status

# Sources of cells kept for tracebacks; older ones lose their lines, not their code.
SOURCE_CHARACTERS_MAX: Final = 16 << 20
SOURCE_OVERHEAD: Final = 500  # what the shortest cell costs
# How long a cell's task may take to give up after another task swallowed the interrupt.
UNWIND_S: Final = 0.2

_FEATURES: Final = tuple(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
_COMPOUND: Final = frozenset("\n;:")  # without any of them there is one simple statement at most
_OWN_FOLDER: Final = str(Path(__file__).parents[1])
_STANDARD_LIBRARY: Final = sysconfig.get_path("stdlib")
_REPRESENTATIONS: Final = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_latex_": "text/latex",
    "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
}


class Part(NamedTuple):
    """Code that runs in one go; ``shows_once`` when all it does last is show one value."""

    code: CodeType
    shows_once: bool


class Compiler:
    """Source to code objects; remembers ``from __future__`` imports from cell to cell, as ``>>>`` does."""

    def __init__(self) -> None:
        self._flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

    def compile(self, source: str, filename: str) -> list[Part]:
        """Return what to run, in order.

        A single statement or line shows every value, like a line at ``>>>``; of a longer cell only a last expression.

        Raises:
            SyntaxError, ValueError, OverflowError, RecursionError, MemoryError: it is not Python.
        """
        if _COMPOUND.isdisjoint(source):
            # A single simple statement needs no tree taken apart, which is a third of the time of a short cell.
            with suppress(SyntaxError):
                return [Part(self._finish(source, filename, "single"), shows_once=True)]
        tree: ast.Module = self._compile(source, filename, "exec", ast.PyCF_ONLY_AST)
        if not tree.body:
            return []
        try:
            if len(tree.body) == 1 or "\n" not in source.strip():
                return [self._interactive(tree.body, filename)]
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            parts = [Part(self._finish(tree, filename, "exec"), shows_once=False)]
            if last is not None:
                parts.append(self._interactive([last], filename))
        except SyntaxError as error:
            _add_source_line(error, source)
            raise
        return parts

    def _interactive(self, body: list[ast.stmt], filename: str) -> Part:
        shows_once = len(body) == 1 and isinstance(body[0], ast.Expr)
        return Part(self._finish(ast.Interactive(body), filename, "single"), shows_once=shows_once)

    def _finish(self, tree: str | ast.Module | ast.Interactive, filename: str, mode: str) -> CodeType:
        code: CodeType = self._compile(tree, filename, mode, 0)
        for feature in _FEATURES:
            self._flags |= code.co_flags & feature
        return code

    def _compile(self, source: str | ast.Module | ast.Interactive, filename: str, mode: str, flags: int) -> Any:  # noqa: ANN401 -- as `compile` itself
        return compile(source, filename, mode, self._flags | flags, dont_inherit=True)


class PythonEvaluator:
    """See ``ports.evaluator.Evaluator``.

    Args:
        module: whose namespace the cells share.
    """

    def __init__(self, module: types.ModuleType) -> None:
        self.namespace = module.__dict__
        self._compiler = Compiler()
        self._sources: dict[str, int] = {}
        self._sources_size = 0
        self._outputs: Outputs | None = None
        self._cell = ""
        self._count = 0
        self._is_final = False
        self._is_in_user_code = False
        self._interrupted_cell: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None
        self._is_cancelling = False

    @property
    def banner(self) -> str:
        """See ``Evaluator``."""
        return f"Python {sys.version.splitlines()[0]} on {sys.platform}"

    def take_over(self) -> None:
        """Put the session in the place of the terminal: what shows values and what asks for lines."""
        import getpass

        sys.displayhook = self.show
        sys.stdin = SessionInput(self.ask)
        builtins.input = self.ask
        getpass.getpass = self.ask_password

    # ---- Evaluator
    def execute(self, cell: str, code: str, outputs: Outputs) -> Status:
        """See ``Evaluator``."""
        self._outputs, self._cell = outputs, cell
        # In tracebacks cells are counted: their names are made by programs, and say nothing to people.
        self._count += 1
        filename = f"<cell {self._count}>"
        failure: BaseException | None = None
        try:
            try:
                self._remember_source(filename, code)
                parts = self._compiler.compile(code, filename)
                for part in parts:
                    self._is_final = part.shows_once
                    self._run(part.code)
            finally:
                self._is_in_user_code = False
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 -- whatever a cell raises is the cell's result
            self._is_in_user_code = False
            failure = error
        if failure is None:
            return "ok"
        outputs.traceback(*self._describe(failure, filename))
        return "interrupted" if isinstance(failure, KeyboardInterrupt) else "error"

    def idle(self, wake_fd: int) -> None:
        """See ``Evaluator``.

        Raises:
            SystemExit: a background task asked the process to end.
        """
        loop = self._loop
        if loop is None or loop.is_closed():
            select.select([wake_fd], [], [])
            return
        loop.add_reader(wake_fd, loop.stop)
        self._is_in_user_code = True
        try:
            loop.run_forever()
        finally:
            self._is_in_user_code = False
            loop.remove_reader(wake_fd)

    def interrupt(self, cell: str, frame: FrameType | None) -> None:
        """See ``Evaluator``. Never raises inside asyncio's own frames: that can lose a task for ever."""
        if not self._is_in_user_code:
            self._interrupted_cell = cell
            return
        running = _running_loop()
        if running is None:
            raise KeyboardInterrupt
        is_safe = _is_user_code(frame if frame is not None else inspect.currentframe())
        if running is not self._loop:
            # A loop of the cell's own, as in asyncio.run(): raise between two of its callbacks.
            if is_safe:
                raise KeyboardInterrupt
            running.call_soon_threadsafe(_raise_keyboard_interrupt)
            return
        is_in_task = sys.modules["asyncio"].current_task(running) is not None
        if is_safe and (is_in_task or self._is_cancelling):
            raise KeyboardInterrupt
        if self._task is not None:
            self._is_cancelling = True
            running.call_soon_threadsafe(self._task.cancel)  # a plain call would not wake a loop that waits

    # ---- what stands in the place of the terminal
    def show(self, value: object) -> None:
        """Be ``sys.displayhook``: show the value and keep it as ``_``."""
        if value is None:
            return
        # As Python's own: `_` must not keep the old value alive, nor be half there, while repr() runs.
        builtins._ = None  # type: ignore[attr-defined]
        mime = mime_bundle(value)
        if self._outputs is None:
            print(mime["text/plain"])  # noqa: T201 -- a thread shows a value before any cell ran
        else:
            self._outputs.result(mime, final=self._is_final)
        builtins._ = value  # type: ignore[attr-defined]

    def ask(self, prompt: object = "", /) -> str:
        """Be ``input``."""
        return self._ask(prompt, password=False)

    def ask_password(self, prompt: str = "Password: ", stream: object = None) -> str:  # noqa: ARG002 -- getpass's signature
        """Be ``getpass.getpass``."""
        return self._ask(prompt, password=True)

    def _ask(self, prompt: object, *, password: bool) -> str:
        if self._outputs is None:
            raise EOFError("no cell runs that could be asked for a line")
        return self._outputs.input(cut(printable(str(prompt))), password=password)

    # ---- running
    def _run(self, code: CodeType) -> None:
        self._is_in_user_code = True
        if self._interrupted_cell == self._cell:
            raise KeyboardInterrupt
        value: object = eval(code, self.namespace)  # noqa: S307 -- running what people type is the purpose
        if code.co_flags & inspect.CO_COROUTINE and inspect.iscoroutine(value):
            self._run_on_loop(value)

    def _run_on_loop(self, coroutine: Coroutine[Any, Any, object]) -> None:
        loop = self._own_loop()
        self._is_cancelling = False
        task = self._task = loop.create_task(coroutine)
        try:
            loop.run_until_complete(task)
        except sys.modules["asyncio"].CancelledError:
            if self._is_cancelling:
                raise KeyboardInterrupt from None
            raise
        except KeyboardInterrupt:
            # It was raised in the cell's own code, or in a background task that ran just then.
            self._is_in_user_code = False
            if not task.done():
                task.cancel()
                loop.run_until_complete(sys.modules["asyncio"].wait([task], timeout=UNWIND_S))
            raise
        finally:
            self._task = None

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        import asyncio

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop

    def _remember_source(self, filename: str, source: str) -> None:
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        self._sources[filename] = size = len(source) + SOURCE_OVERHEAD
        self._sources_size += size
        while len(self._sources) > 1 and self._sources_size > SOURCE_CHARACTERS_MAX:
            oldest = next(iter(self._sources))
            self._sources_size -= self._sources.pop(oldest)
            linecache.cache.pop(oldest, None)

    # ---- telling what went wrong
    def _describe(self, failure: BaseException, filename: str) -> tuple[str, str, str]:
        own_frames = _from_frame_of(failure.__traceback__, filename)
        sys.last_type, sys.last_value, sys.last_traceback = type(failure), failure, own_frames
        name = type(failure).__name__
        try:
            report = traceback.TracebackException(type(failure), failure, own_frames, compact=True)
            _drop_own_frames(report, set())
            text = "".join(report.format())
        except BaseException as error:  # noqa: BLE001 -- its __str__ and attributes are user code
            text = f"{name} (its traceback cannot be shown: {type(error).__name__})\n"
        return name, cut(printable(_message_of(failure))), cut(printable(text))


class SessionInput(io.TextIOBase):
    """``sys.stdin`` of a session: a line is asked of whoever is there."""

    def __init__(self, ask: Callable[[], str]) -> None:
        super().__init__()
        self._ask = ask

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def readable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
        """Return the next line; an empty text at the end of input. A ``size`` is a limit nobody types."""
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        try:
            line = self._ask() + "\n"
        except EOFError:
            return ""
        return line if size is None or size < 0 else line[:size]

    def read(self, size: int | None = -1, /) -> str:
        """Return all lines up to the end of input, or the next one where a size is given."""
        if size is not None and size >= 0:
            return self.readline(size)
        return "".join(iter(self.readline, ""))


def session_evaluator() -> PythonEvaluator:
    """Return the evaluator of this process, in the place of its terminal; an ``EvaluatorFactory``."""
    evaluator = PythonEvaluator(sys.modules["__main__"])
    evaluator.take_over()
    return evaluator


def mime_bundle(value: object) -> dict[str, object]:
    """Return what to show of a value: its ``repr``, and what it offers beside it, by MIME type.

    Raises:
        Exception: its ``repr`` did.
    """
    bundle: dict[str, object] = {"text/plain": printable(repr(value))}
    if not isinstance(value, type):
        for method, kind in _REPRESENTATIONS.items():
            shown = _representation(value, method)
            if shown is not None:
                bundle[kind] = shown
    return fit_mime(bundle)


def _representation(value: object, method: str) -> str | None:
    # Looked up on the class: an object that answers to every name would otherwise offer everything.
    represent = getattr(type(value), method, None)
    if represent is None:
        return None
    with suppress(Exception):
        shown: object = represent(value)
        if isinstance(shown, bytes):
            return base64.b64encode(shown).decode()
        if isinstance(shown, str):
            return printable(shown)
    return None


def _message_of(failure: BaseException) -> str:
    try:
        return str(failure)
    except BaseException as error:  # noqa: BLE001 -- its __str__ is user code
        return f"(no message: {type(error).__name__})"


def _from_frame_of(frames: TracebackType | None, filename: str) -> TracebackType | None:
    """Return the traceback from the cell's own frame inwards; what is outside of it ran the cell."""
    while frames is not None and frames.tb_frame.f_code.co_filename != filename:
        frames = frames.tb_next
    return frames


def _drop_own_frames(report: traceback.TracebackException, seen: set[int]) -> None:
    """Leave out covey's frames between those of the user, as where a ``__repr__`` of theirs raised."""
    if id(report) in seen:
        return
    seen.add(id(report))
    if report.stack:
        report.stack[:] = [frame for frame in report.stack if not frame.filename.startswith(_OWN_FOLDER)]
    chained: Iterable[traceback.TracebackException | None] = (
        report.__cause__,
        report.__context__,
        *(getattr(report, "exceptions", None) or ()),
    )
    for other in chained:
        if other is not None:
            _drop_own_frames(other, seen)


def _add_source_line(error: SyntaxError, source: str) -> None:
    """Give an error found after parsing the line it is in, which Python would look for in a file."""
    lines = source.splitlines()
    if error.text is None and error.lineno is not None and 0 < error.lineno <= len(lines):
        error.text = lines[error.lineno - 1] + "\n"


def _running_loop() -> asyncio.AbstractEventLoop | None:
    asyncio_module = sys.modules.get("asyncio")
    if asyncio_module is None:
        return None
    try:
        loop: asyncio.AbstractEventLoop = asyncio_module.get_running_loop()
    except (RuntimeError, AttributeError):
        return None
    return loop


def _is_user_code(frame: FrameType | None) -> bool:
    """Tell whether the frame works for the user and not for the event loop.

    The nearest frame outward that is neither covey's nor the standard library's decides; asyncio's says no.
    """
    while frame is not None:
        module: str = frame.f_globals.get("__name__") or ""
        filename = frame.f_code.co_filename
        if module.partition(".")[0] == "asyncio":
            return False
        if not filename.startswith(_OWN_FOLDER) and not _is_standard_library(filename):
            return True
        frame = frame.f_back
    return False


def _is_standard_library(filename: str) -> bool:
    if filename.startswith("<frozen "):
        return True
    return filename.startswith(_STANDARD_LIBRARY) and "site-packages" not in filename


def _raise_keyboard_interrupt() -> NoReturn:
    raise KeyboardInterrupt
