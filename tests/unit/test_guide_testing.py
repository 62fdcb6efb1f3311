"""The guide to testing does what it says: its snippets run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.guide import snippets, write_snippets

GUIDE = "testing.md"
TESTS = {"test_shop.py", "test_ledger.py", "test_patience.py"}


@pytest.mark.requirement("guide.testing.snippets-run")
def test_every_named_snippet_is_run_by_a_test() -> None:
    assert snippets(GUIDE).keys() == TESTS | {"shop.py"}


@pytest.mark.requirement("guide.testing.snippets-run")
def test_the_snippets_pass(tmp_path: Path) -> None:
    write_snippets(GUIDE, tmp_path)
    options = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-q", "-W", "error", f"--rootdir={tmp_path}")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *sorted(TESTS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert "3 passed" in run.stdout
