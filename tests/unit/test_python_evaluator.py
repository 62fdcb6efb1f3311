"""Cells behave as at ``>>>``. The evaluator runs in the test's own process, with outputs that remember."""

from __future__ import annotations

import asyncio
import builtins
import getpass
import os
import sys
import types
from collections.abc import Iterator, Mapping

import pytest

from covey.ports.evaluator import Status
from covey.repl.python import PythonEvaluator


class Remembered:
    """Outputs that keep what they were told."""

    def __init__(self) -> None:
        self.results: list[Mapping[str, object]] = []
        self.tracebacks: list[tuple[str, str, str]] = []
        self.lines: list[str] = []
        self.asked: list[tuple[str, bool]] = []

    def result(self, mime: Mapping[str, object], *, final: bool) -> None:
        self.results.append(mime)

    def traceback(self, name: str, message: str, text: str) -> None:
        self.tracebacks.append((name, message, text))

    def input(self, prompt: str, *, password: bool) -> str:
        self.asked.append((prompt, password))
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)

    def flush(self) -> None:
        sys.stdout.flush()


class Repl:
    """An evaluator and what it said."""

    def __init__(self) -> None:
        module = types.ModuleType("__main__")
        self.evaluator = PythonEvaluator(module)
        self.outputs = Remembered()
        self.cells = 0

    def run(self, code: str) -> Status:
        self.cells += 1
        return self.evaluator.execute(f"c{self.cells}", code, self.outputs)

    def shown(self, code: str) -> list[object]:
        """Run the cell, which must succeed, and return the texts of its results."""
        self.outputs.results.clear()
        assert self.run(code) == "ok", self.outputs.tracebacks
        return [mime["text/plain"] for mime in self.outputs.results]

    def error(self, code: str) -> tuple[str, str, str]:
        assert self.run(code) == "error"
        return self.outputs.tracebacks[-1]


@pytest.fixture
def repl(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repl]:
    for owner, name in ((sys, "displayhook"), (sys, "stdin"), (builtins, "input"), (getpass, "getpass")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(builtins, "_", None, raising=False)
    made = Repl()
    made.evaluator.take_over()
    yield made
    if made.evaluator._loop is not None:
        made.evaluator._loop.close()
        asyncio.set_event_loop(None)


@pytest.mark.requirement("repl.evaluator.shows-as-prompt")
@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("1 + 1", ["2"]),
        ("None", []),
        ("x = 5", []),
        ("1; 'two'", ["1", "'two'"]),
        ("x = 1\nx + 1", ["2"]),
        ("1\n2", ["2"]),
        ("for i in range(3): i", ["0", "1", "2"]),
        ("", []),
        ("# nothing\n", []),
        ("def f():\n    return 7\n\nf()", ["7"]),
        ("'a\\nb'", ["'a\\nb'"]),
        ("\n\n  \n1", ["1"]),
    ],
)
def test_a_cell_shows_what_the_prompt_would(repl: Repl, code: str, shown: list[str]) -> None:
    assert repl.shown(code) == shown


@pytest.mark.requirement("repl.evaluator.shows-as-prompt")
def test_underscore_is_the_last_value_shown(repl: Repl) -> None:
    repl.run("41")
    repl.run("None")
    assert repl.shown("_ + 1") == ["42"]


@pytest.mark.requirement("repl.evaluator.shows-as-prompt")
def test_a_displayhook_of_the_users_is_used(repl: Repl) -> None:
    repl.run("import sys; seen = []; sys.displayhook = seen.append")
    assert repl.shown("5") == []
    assert repl.evaluator.namespace["seen"] == [5]


@pytest.mark.requirement("repl.evaluator.shows-as-prompt")
def test_future_imports_hold_for_later_cells(repl: Repl) -> None:
    repl.run("from __future__ import annotations")
    repl.run("def f(x: not_defined): ...")
    assert repl.shown("f.__annotations__") == ["{'x': 'not_defined'}"]


@pytest.mark.requirement("repl.evaluator.tracebacks-show-the-cell")
def test_a_traceback_has_source_lines_and_only_the_users_frames(repl: Repl) -> None:
    repl.run("def f():\n    return 1 / 0")
    name, message, text = repl.error("f()")
    assert (name, message) == ("ZeroDivisionError", "division by zero")
    assert '  File "<cell 2>", line 1, in <module>\n    f()\n' in text
    assert '  File "<cell 1>", line 2, in f\n    return 1 / 0\n' in text
    assert "covey" not in text


@pytest.mark.requirement("repl.evaluator.tracebacks-show-the-cell")
def test_a_syntax_error_points_at_its_place(repl: Repl) -> None:
    name, _, text = repl.error("x = (1,\ny = 2")
    assert name == "SyntaxError"
    assert text.startswith('  File "<cell 1>", line 1\n    x = (1,\n        ^\n')


@pytest.mark.requirement("repl.evaluator.tracebacks-show-the-cell")
def test_an_error_found_after_parsing_shows_its_line_too(repl: Repl) -> None:
    _, _, text = repl.error("x = 1\nreturn x")
    assert "    return x\n" in text


@pytest.mark.requirement("repl.evaluator.tracebacks-show-the-cell")
def test_chained_and_grouped_errors_are_told_whole(repl: Repl) -> None:
    _, _, text = repl.error(
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ExceptionGroup('many', [ValueError('one')]) from e"
    )
    assert "ZeroDivisionError: division by zero" in text
    assert "The above exception was the direct cause" in text
    assert "ValueError: one" in text


@pytest.mark.requirement("repl.evaluator.tracebacks-show-the-cell")
@pytest.mark.parametrize("code", ["'\x00'", "1" * 5000, "(" * 300 + ")" * 300])
def test_source_that_cannot_be_compiled_is_the_cells_error(repl: Repl, code: str) -> None:
    assert repl.error(code)[2] != ""
    assert repl.shown("1") == ["1"]


@pytest.mark.requirement("repl.evaluator.unprintable-survives")
def test_a_repr_that_raises_is_the_cells_error(repl: Repl) -> None:
    repl.run("class Bad:\n    def __repr__(self): raise ValueError('no')")
    name, _, text = repl.error("Bad()")
    assert name == "ValueError"
    assert "covey" not in text
    assert repl.shown("2") == ["2"]


@pytest.mark.requirement("repl.evaluator.unprintable-survives")
def test_an_error_whose_message_raises_is_told(repl: Repl) -> None:
    repl.run("class Odd(Exception):\n    def __str__(self): raise ValueError('no')")
    name, message, _ = repl.error("raise Odd")
    assert (name, message) == ("Odd", "(no message: ValueError)")


@pytest.mark.requirement("repl.evaluator.unprintable-survives")
def test_lone_surrogates_in_results_and_errors_survive(repl: Repl) -> None:
    class_code = "class S:\n    def __repr__(self): return chr(0xdc80)\nS()"
    assert repl.shown(class_code) == ["\\udc80"]
    assert repl.error("raise ValueError(chr(0xdc80))")[1] == "\\udc80"


@pytest.mark.requirement("repl.evaluator.unprintable-survives")
def test_a_huge_result_is_cut_with_a_note(repl: Repl) -> None:
    (text,) = repl.shown("'x' * 3_000_000")
    assert isinstance(text, str)
    assert len(text) < 530_000
    assert "left out here" in text


@pytest.mark.requirement("repl.evaluator.shows-as-prompt")
def test_a_value_offers_more_than_its_repr(repl: Repl) -> None:
    repl.run("class Page:\n    def __repr__(self): return 'page'\n    def _repr_html_(self): return '<p>'\nPage()")
    assert repl.outputs.results == [{"text/plain": "page", "text/html": "<p>"}]


@pytest.mark.requirement("repl.evaluator.await")
def test_one_loop_lives_across_cells(repl: Repl) -> None:
    repl.run("import asyncio")
    assert repl.shown("await asyncio.sleep(0, 3)") == ["3"]
    repl.run("async def loop(): return asyncio.get_running_loop()")
    repl.run("one = await loop()")
    assert repl.shown("one is await loop()") == ["True"]
    repl.run("async def numbers():\n    yield 1\n    yield 2")
    assert repl.shown("[x async for x in numbers()]") == ["[1, 2]"]


@pytest.mark.requirement("repl.evaluator.await")
def test_background_tasks_go_on_between_cells(repl: Repl) -> None:
    ready, wake = os.pipe()
    repl.evaluator.namespace["wake"] = wake
    repl.run("import asyncio, os")
    repl.run("async def later():\n    await asyncio.sleep(0)\n    os.write(wake, b'x')")
    repl.run("async def start(): return asyncio.create_task(later())\ntask = await start()")
    repl.evaluator.idle(ready)
    assert os.read(ready, 1) == b"x"
    assert repl.shown("await task") == []
    os.close(ready)
    os.close(wake)


@pytest.mark.requirement("repl.evaluator.await")
def test_an_error_in_awaited_code_shows_only_the_users_frames(repl: Repl) -> None:
    repl.run("import asyncio")
    repl.run("async def f():\n    await asyncio.sleep(0)\n    raise ValueError('x')")
    _, _, text = repl.error("await f()")
    assert '"<cell 3>", line 1, in <module>' in text
    assert '"<cell 2>", line 3, in f' in text
    assert "base_events" not in text


@pytest.mark.requirement("repl.evaluator.await")
def test_cancelling_oneself_is_an_error_and_no_interrupt(repl: Repl) -> None:
    repl.run("import asyncio")
    assert repl.error("asyncio.current_task().cancel(); await asyncio.sleep(0)")[0] == "CancelledError"


@pytest.mark.requirement("repl.evaluator.interrupts")
def test_an_interrupt_before_the_code_runs_stops_the_cell(repl: Repl) -> None:
    repl.evaluator.interrupt("c1", None)
    assert repl.run("ran = True") == "interrupted"
    assert "ran" not in repl.evaluator.namespace


@pytest.mark.requirement("repl.evaluator.interrupts")
def test_an_interrupt_for_a_cell_that_is_over_hits_no_other(repl: Repl) -> None:
    repl.run("1")
    repl.evaluator.interrupt("c1", None)
    assert repl.shown("2") == ["2"]


@pytest.mark.requirement("repl.evaluator.interrupts")
def test_a_keyboard_interrupt_is_told_with_its_traceback(repl: Repl) -> None:
    assert repl.run("raise KeyboardInterrupt") == "interrupted"
    assert repl.outputs.tracebacks[0][0] == "KeyboardInterrupt"


@pytest.mark.requirement("repl.evaluator.exit")
@pytest.mark.parametrize(
    "code",
    ["import sys; sys.exit(4)", "raise SystemExit(4)", "import asyncio, sys\nawait asyncio.sleep(0)\nsys.exit(4)"],
)
def test_sys_exit_leaves_the_evaluator(repl: Repl, code: str) -> None:
    with pytest.raises(SystemExit) as leaving:
        repl.run(code)
    assert leaving.value.code == 4
    assert repl.outputs.tracebacks == []


@pytest.mark.requirement("repl.evaluator.input")
def test_input_and_getpass_and_stdin_ask_for_lines(repl: Repl) -> None:
    repl.outputs.lines = ["ada", "secret", "by hand"]
    repl.run("import getpass, sys")
    assert repl.shown("input('name? '), getpass.getpass(), sys.stdin.readline()") == ["('ada', 'secret', 'by hand\\n')"]
    assert repl.outputs.asked == [("name? ", False), ("Password: ", True), ("", False)]


@pytest.mark.requirement("repl.evaluator.input")
def test_the_end_of_input_is_an_eof_error(repl: Repl) -> None:
    assert repl.error("input()")[0] == "EOFError"
    assert repl.shown("import sys; sys.stdin.readline()") == ["''"]
    repl.outputs.lines = ["a", "b"]
    assert repl.shown("sys.stdin.read()") == ["'a\\nb\\n'"]
    assert repl.shown("sys.stdin.isatty(), sys.stdin.encoding") == ["(False, 'utf-8')"]
