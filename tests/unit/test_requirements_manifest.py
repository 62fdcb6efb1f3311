"""The manifest and the tests agree both ways.

The tests are read as text and not collected, so that the answer is the same for one file, for all of them and in each
of xdist's workers.
"""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def manifest_files() -> list[Path]:
    return [TESTS / "requirements.toml", *sorted((TESTS / "requirements.d").glob("*.toml"))]


def listed() -> list[dict[str, str]]:
    return [entry for path in manifest_files() for entry in tomllib.loads(path.read_text())["requirement"]]


def is_requirement_mark(node: ast.AST) -> bool:
    """Tell whether the node is `pytest.mark.requirement(...)`, as a decorator, in `pytestmark` or in a parameter."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.requirement"


def named_in(path: Path) -> set[str]:
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and is_requirement_mark(node)
    ]
    for call in calls:
        literal = [argument for argument in call.args if isinstance(argument, ast.Constant)]
        assert len(literal) == len(call.args) == 1, (
            f"{path}:{call.lineno}: a requirement is named by one literal string"
        )
    return {str(ast.literal_eval(call.args[0])) for call in calls}


def named() -> dict[str, Path]:
    return {name: path for path in sorted(TESTS.rglob("*.py")) for name in named_in(path)}


@pytest.mark.requirement("project.requirements-and-tests-agree")
def test_every_id_is_listed_once() -> None:
    repeated = [name for name, count in Counter(entry["id"] for entry in listed()).items() if count > 1]
    assert repeated == []


@pytest.mark.requirement("project.requirements-and-tests-agree")
def test_every_listed_requirement_is_shown_by_a_test() -> None:
    assert {entry["id"] for entry in listed()} - named().keys() == set()


@pytest.mark.requirement("project.requirements-and-tests-agree")
def test_every_requirement_a_test_names_is_listed() -> None:
    unlisted = named().keys() - {entry["id"] for entry in listed()}
    assert {name: str(named()[name]) for name in unlisted} == {}


@pytest.mark.requirement("project.requirements-and-tests-agree")
def test_every_entry_says_what_and_why() -> None:
    incomplete = [
        entry for entry in listed() if entry.keys() != {"id", "behaviour", "source"} or not all(entry.values())
    ]
    assert incomplete == []
