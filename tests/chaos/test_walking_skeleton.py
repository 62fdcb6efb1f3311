"""The main job, whole, as a person does it: real processes, a real terminal, kill -9, curl."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest
from tests.terminal import Terminal

COVEY = [sys.executable, "-m", "covey"]
LINES = 30


@contextmanager
def serving(env: dict[str, str]) -> Iterator[tuple[Terminal, str, str]]:
    """Run `covey serve` on a terminal; yield it, its address and its token."""
    with Terminal([*COVEY, "serve", "--port", "0"], env=env) as hub:
        shown = hub.wait_for(lambda text: re.search(r"#token=\S{32,}\s", text))
        match = re.search(r"(http://127\.0\.0\.1:\d+)/#token=(\S+)", shown)
        assert match is not None, shown
        yield hub, match[1], match[2]


def covey(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COVEY, *arguments], env=env, capture_output=True, text=True, timeout=30, check=False)


def events_of(url: str, token: str) -> list[dict[str, object]]:
    answer = httpx2.get(url, headers={"authorization": f"Bearer {token}"}, trust_env=False)
    found: list[dict[str, object]] = answer.json()["events"]
    return found


def numbers(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"^line (\d+)\.$", text, re.MULTILINE)]


@pytest.mark.timeout(120)
@pytest.mark.requirement("skeleton.whole")
def test_a_session_outlives_the_terminal_and_replays_what_was_missed(state_folder: Path) -> None:
    env = {**os.environ, "COVEY_STATE": str(state_folder)}
    with serving(env) as (hub, address, token):
        port = address.rpartition(":")[2]
        children = psutil.Process(hub.process.pid)

        # Type code and see output, results and tracebacks as `>>>` shows them.
        with Terminal([*COVEY, "repl", "--port", port, "--new", "demo"], env=env) as first:
            first.wait_for(">>>")
            first.type("21 * 2\r")
            first.wait_for("\n42\n")
            first.type("1 / 0\r")
            first.wait_for("ZeroDivisionError: division by zero")
            first.type(f"import time\rfor n in range({LINES}):\rprint(f'line {{n}}.'); time.sleep(0.2)\r\r\r")
            first.wait_for("line 3.")
            first.kill()
        assert [child.is_running() for child in children.children()] == [True]

        # Another terminal shows all of it from the start, once and in order, and goes on live.
        with Terminal([*COVEY, "repl", "--port", port, "demo"], env=env) as second:
            second.wait_for(f"line {LINES - 1}.\n")
            assert numbers(second.shown) == list(range(LINES))
            assert (
                second.shown.index("\n42\n") < second.shown.index("ZeroDivisionError") < second.shown.index("line 0.")
            )
            second.type("'still ' + 'here'\r")
            second.wait_for("'still here'")
            second.type("\x04")
            assert second.wait_closed() == 0

        # curl with Last-Event-ID shows exactly what came after.
        events = events_of(f"{address}/v1/streams/demo.out?from=start", token)
        middle = next(i for i, event in enumerate(events) if "line 9." in json.dumps(event["data"]))
        curl = subprocess.run(
            ["curl", "-sN", "-m", "2", f"{address}/v1/streams/demo.out", "-H", "Accept: text/event-stream",
             "-H", f"Authorization: Bearer {token}", "-H", f"Last-Event-ID: {events[middle]['id']}"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert re.findall(r"^id: (\S+)$", curl.stdout, re.MULTILINE) == [event["id"] for event in events[middle:]]

        # The roster, stopping, and pipes.
        assert "demo" in covey(env, "ps", "--port", port).stdout
        rows = json.loads(covey(env, "ps", "--port", port, "--json").stdout)
        assert "demo" in json.dumps(rows)
        code = "x = 2\nfor n in range(3):\n    print(n * x)\n\nx\n"
        piped = subprocess.run(
            [*COVEY, "repl", "--plain", "--port", port],
            env=env, input=code, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert (piped.returncode, piped.stdout, piped.stderr) == (0, "0\n2\n4\n2\n", "")
        assert covey(env, "stop", "--port", port, "demo").returncode == 0
        assert "demo" not in covey(env, "ps", "--port", port).stdout

        # Ctrl-C drains and leaves nothing behind.
        with Terminal([*COVEY, "repl", "--port", port, "--new", "left"], env=env) as left:
            left.wait_for(">>>")
            left.type("import time; time.sleep(1000)\r")
            left.wait_for("1000)\n")
            family = children.children(recursive=True)
            assert family
            hub.type("\x03")
            assert hub.wait_closed() == 0
        assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert "drained" in hub.shown
