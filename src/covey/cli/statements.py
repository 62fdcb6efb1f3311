"""Where one statement ends and the next begins, as the interactive interpreter sees it. Pure: lines in, cells out."""

from __future__ import annotations

import ast
import codeop
import re
import warnings
from enum import Enum
from typing import Final

# A clause goes on with the statement before it, though it begins at the margin.
_CLAUSE: Final = re.compile(r"(?:else|elif|except|finally)\b")
_COMPOUND: Final = re.compile(r"(?:async|class|def|for|if|try|while|with)\b|@|match\b.*:\s*(?:#.*)?$")
# Compiling what has grown this long on every line would take longer than anybody waits.
_COMPILED_EACH_LINE_CHARACTERS: Final = 1 << 12
_CLOSING: Final = re.compile(r"[)\]}'\"]")


class Form(Enum):
    """What a piece of code is, as far as it goes."""

    OPEN = "more has to follow"
    SIMPLE = "complete, and ended by its line"
    BLOCK = "complete, and more may follow in its block"
    WRONG = "no continuation can make it right"


def form_of(code: str) -> Form:
    """Tell whether code is complete; that of sessions may have ``await`` at the top."""
    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        with warnings.catch_warnings():
            # They are about the user's code, and the session gives them when it runs.
            warnings.simplefilter("ignore")
            if compiler(code, "<cell>", "exec") is None:
                return Form.OPEN
            body = ast.parse(code).body
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return Form.WRONG
    return Form.BLOCK if body and _is_compound(body[-1]) else Form.SIMPLE


def is_complete(code: str) -> bool:
    """Tell whether Enter at the end of ``code`` should run it: a block needs an empty line after it."""
    if not code.strip():
        return True
    form = form_of(code)
    if form is Form.BLOCK:
        last_line = code.rpartition("\n")[2]
        return "\n" in code and not last_line.strip()
    return form is not Form.OPEN


class StatementSplitter:
    """Lines in, cells out: each as soon as it is known to be complete.

    An empty line ends a block, as at the prompt; so does a line at the margin that is no clause of it, so that a file
    need not have empty lines between its functions and what follows them.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._characters = 0

    def receive_line(self, line: str) -> list[str]:
        """Return the cells that ``line``, without its line end, completes."""
        cells: list[str] = []
        is_blank = not line.strip()
        if not self._lines:
            if is_blank or line.lstrip().startswith("#"):
                return cells
        elif self._ends_block_before(line):
            cells += self.finish()
        self._lines.append(line)
        self._characters += len(line) + 1
        if self._is_complete(line, is_blank=is_blank):
            cells += self.finish()
        return cells

    def finish(self) -> list[str]:
        """Return what is left when no more lines come."""
        code = "\n".join(self._lines)
        self._lines.clear()
        self._characters = 0
        return [code] if code.strip() else []

    def _ends_block_before(self, line: str) -> bool:
        """Tell whether the lines so far are a whole block that this line is not part of."""
        if not line or line[0] in " \t#" or _CLAUSE.match(line) or not self._is_block:
            return False
        return form_of("\n".join(self._lines)) in {Form.BLOCK, Form.WRONG}

    def _is_complete(self, line: str, *, is_blank: bool) -> bool:
        if not is_blank and not self._can_end_at(line):
            return False
        form = form_of("\n".join(self._lines))
        return form in {Form.SIMPLE, Form.WRONG} or (form is Form.BLOCK and is_blank)

    def _can_end_at(self, line: str) -> bool:
        """Tell whether it is worth compiling after a line that is not empty."""
        is_indented = line[0] in " \t"
        if self._is_block:
            # Nothing but an empty line or one at the margin ends it.
            return not is_indented
        # A long literal: it ends with a bracket or a quotation mark, and mostly at the margin.
        is_long = self._characters > _COMPILED_EACH_LINE_CHARACTERS
        return not is_long or (not is_indented and _CLOSING.search(line) is not None)

    @property
    def _is_block(self) -> bool:
        return bool(self._lines) and _COMPOUND.match(self._lines[0]) is not None


def _is_compound(statement: ast.stmt) -> bool:
    return hasattr(statement, "body") or isinstance(statement, ast.Match)
