"""`covey why`: what an error means, for people and for programs."""

from __future__ import annotations

import errno
import json

import pytest

from covey.cli.main import main


@pytest.mark.requirement("cli.why")
def test_it_says_what_an_error_means_and_what_a_policy_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", f"[Errno {errno.ECONNRESET}]", "Connection", "reset", "by", "peer"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("errno ECONNRESET: ambiguous")
    assert "it ran perhaps" in said
    assert "tries a call again that has a key or is idempotent" in said


@pytest.mark.requirement("cli.why")
@pytest.mark.parametrize(
    ("error", "plan"),
    [
        ("503", "tries again, after the time the target asked for"),
        ("404", "does not try again: the same call would fail again"),
        ("ECONNREFUSED", "tries again, after a jittered backoff"),
        ("421", "tries again, on a new connection"),
        ("425", "tries again, at once"),
    ],
)
def test_the_plan_is_that_of_the_default_policy(error: str, plan: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", error]) == 0
    assert plan in " ".join(capsys.readouterr().out.split())


@pytest.mark.requirement("cli.why")
def test_it_prints_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "--json", "529"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["domain"], row["key"], row["verdict"]) == ("http", "529", "overloaded")


@pytest.mark.requirement("cli.why")
def test_what_is_not_known_is_one_line_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "foo\x1b[2J"]) == 1
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert "\x1b" not in answer.err
    assert "not repeated" in answer.err
