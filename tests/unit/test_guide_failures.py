"""The guide to failures does what it says: its snippets run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.guide import GUIDES, snippets, write_snippets

from covey.cli.main import main
from covey.resilience.outcome import VERDICTS, shipped
from covey.resilience.policy import Policy

GUIDE = "failures.md"
EXPECTED = {
    "quick.py": "Oslo: sunny\n",
    "ways.py": "page 1\npage 0\npage 1\nattempt 1\nread notes.txt\n",
    "rows.py": "throttled\npermanent\npeer vanished after bytes were sent",
    "judge.py": "200\n",
    "twice.py": "it may have run: True\nsent 5 under invoice-17\n",
    "deadline.py": "nothing came from slow within 0.2 s, and no more time was left\n",
    "stream.py": "1\n2\n3\n4\n5\n",
    "chaos.py": "ran, each once; of",
    "metrics.py": 'covey_policy_events_total{event="retry",reason="",target="api"} 1.0\n',
}
# Those that need a server run in tests/conformance/test_guide_clients.py.
SERVED = {"weather.py", "ask.py", "stream_of.py"}


@pytest.mark.requirement("guide.failures.snippets-run")
def test_every_named_snippet_is_run() -> None:
    assert snippets(GUIDE).keys() == EXPECTED.keys() | SERVED


@pytest.mark.requirement("guide.failures.snippets-run")
@pytest.mark.parametrize("name", EXPECTED)
def test_a_snippet_prints_what_it_should(name: str, tmp_path: Path) -> None:
    write_snippets(GUIDE, tmp_path)
    run = subprocess.run(
        [sys.executable, "-W", "error", name], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )
    assert run.returncode == 0, run.stderr
    assert EXPECTED[name] in run.stdout


@pytest.mark.requirement("guide.failures.snippets-run")
def test_what_the_guide_says_about_the_table_and_the_defaults_is_so(capsys: pytest.CaptureFixture[str]) -> None:
    text = (GUIDES / GUIDE).read_text(encoding="utf-8")
    assert len(shipped()) > 350
    assert set(re.findall(r"^\| (\w+) \| ", text, re.MULTILINE)) >= VERDICTS.keys()
    policy = Policy()
    assert (policy.timeout_s, policy.attempt_timeout_s, policy.attempts_max, policy.hint_s_max) == (30, 10, 3, 60)
    main(["why", "[Errno 104] Connection reset by peer"])
    assert capsys.readouterr().out.splitlines()[0] in text
