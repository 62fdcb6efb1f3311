"""`cli/statements.py`: cells are whole statements, none is lost, and each comes as early as the prompt would run it."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.cli.statements import Form, StatementSplitter, form_of, is_complete

SIMPLE = [
    "x = 1", "print('a')", "x = [\n    1,\n2,\n]", "s = '''one\n\n  two\nthree'''", "y = (1 +\n\n  2)", "match = 5",
    "a = 1; b = 2", "z = 1 \\\n  + 2", "await f()", "x: int = 3", "match = {\n'a': 1}", "f'{x!r}'",
]  # fmt: skip
BLOCK = [
    "def f():\n    return 1", "class A:\n    x = 1\n    def g(self):\n        pass",
    "if x:\n    a\nelif y:\n    b\nelse:\n    c",
    "try:\n    a\nexcept E:\n    b\nfinally:\n    c", "@d\ndef f(): pass", "for i in x: y",
    "async with a:\n    await b",
    "def f():\n    '''doc\nat the margin\n    '''\n    return [\n1,\n]", "while x:\n\ty\n\tz",
    "match x:\n    case 1:\n        a\n    case _:\n        b", "with a as b, \\\n     c as d:\n    pass",
    "if x:\n    a\n# a comment at the margin\n    b", "@a\n@b(\n1\n)\nclass C: pass",
]  # fmt: skip

statements = st.lists(st.sampled_from([*SIMPLE, *BLOCK]), max_size=12)


def split(text: str) -> list[str]:
    splitter = StatementSplitter()
    cells = [cell for line in text.split("\n") for cell in splitter.receive_line(line)]
    return cells + splitter.finish()


@pytest.mark.requirement("cli.plain.splits-statements")
@given(statements)
def test_statements_under_each_other_are_cells_of_their_own(parts: list[str]) -> None:
    assert split("\n".join(parts)) == parts


@pytest.mark.requirement("cli.plain.splits-statements")
@given(statements, st.integers(min_value=1, max_value=3))
def test_empty_lines_between_statements_change_nothing_but_the_ends_of_blocks(parts: list[str], count: int) -> None:
    assert [cell.rstrip("\n") for cell in split(("\n" * (count + 1)).join(parts))] == parts


@pytest.mark.requirement("cli.plain.splits-statements")
@given(st.lists(st.sampled_from(SIMPLE), min_size=1, max_size=6))
def test_a_simple_statement_comes_with_its_last_line(parts: list[str]) -> None:
    splitter = StatementSplitter()
    for part in parts:
        *before, last = part.split("\n")
        assert [cell for line in before for cell in splitter.receive_line(line)] == []
        assert splitter.receive_line(last) == [part]


@pytest.mark.requirement("cli.plain.splits-statements")
@pytest.mark.parametrize("block", BLOCK)
def test_a_block_comes_with_the_empty_line_after_it(block: str) -> None:
    splitter = StatementSplitter()
    assert [cell for line in block.split("\n") for cell in splitter.receive_line(line)] == []
    assert [cell.rstrip("\n") for cell in splitter.receive_line("")] == [block]


@pytest.mark.requirement("cli.plain.splits-statements")
@given(st.text(alphabet="ab=()[]{}:'\"\\\n\t #@,.0", max_size=80))
def test_any_text_is_split_without_losing_or_inventing_a_line(text: str) -> None:
    kept = [line for cell in split(text) for line in cell.split("\n") if line.strip()]
    given_lines = [line for line in text.split("\n") if line.strip()]
    lost = [line for line in given_lines if not line.lstrip().startswith("#")]
    assert [line for line in kept if not line.lstrip().startswith("#")] == lost


@pytest.mark.requirement("cli.plain.splits-statements")
@given(st.text(max_size=60))
def test_any_text_has_a_form_and_completeness(text: str) -> None:
    form = form_of(text)
    if form in {Form.SIMPLE, Form.BLOCK}:
        assert ast.parse(text) is not None or "await" in text
    assert is_complete(text) in {True, False}


@pytest.mark.requirement("cli.plain.splits-statements")
def test_a_wrong_statement_is_a_cell_at_once_so_that_the_session_can_say_so() -> None:
    splitter = StatementSplitter()
    assert splitter.receive_line("x = = 1") == ["x = = 1"]
    assert splitter.receive_line("y = 2") == ["y = 2"]


@pytest.mark.requirement("cli.plain.splits-statements")
def test_what_is_cut_off_is_the_last_cell() -> None:
    assert split("x = (1,\n") == ["x = (1,\n"]


@pytest.mark.requirement("cli.plain.splits-statements")
def test_a_long_block_and_a_long_literal_are_split_in_reasonable_time() -> None:
    block = "def f():\n" + "\n".join(f"    x{number} = {number}" for number in range(20_000))
    literal = "rows = [\n" + "\n".join(f"    ({number}, 'row'),  # )" for number in range(20_000)) + "\n]"
    assert split(f"{block}\n{literal}\nlast = 1") == [block, literal, "last = 1"]


@pytest.mark.requirement("cli.repl.multi-line")
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", True), ("1+1", True), ("x = (", False), ("def f():", False), ("def f():\n    return 1", False),
        ("def f():\n    return 1\n", True), ("def f():\n    return 1\n    ", True), ("if x: y", False),
        ("if x: y\n", True),
        ("x = = 1", True), ("'''a", False), ("def f():\n    x\nf()", True), ("@d", False), ("await f()", True),
        ("async with x:", False), ("\x00", True), ("(" * 1000, True),
    ],
)  # fmt: skip
def test_enter_runs_what_is_complete(code: str, expected: bool) -> None:  # noqa: FBT001 -- a parameter of the table
    assert is_complete(code) is expected
