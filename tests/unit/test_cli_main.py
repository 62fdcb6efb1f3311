"""`cli/main.py` and the small commands: one clear line for every mistake, and never a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from covey.cli.main import COMMANDS, main
from covey.cli.text import printable, table


def covey(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "covey", *arguments],
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture
def bound() -> Iterator[int]:
    """Keep a port that nobody listens on, and that nobody else can take meanwhile."""
    with socket.socket() as keeper:
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        yield listening


def assert_one_line(answer: subprocess.CompletedProcess[str], *words: str) -> None:
    assert answer.returncode != 0
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1, answer.stderr
    for word in words:
        assert word in answer.stderr


@pytest.mark.requirement("cli.help.quick")
def test_help_lists_the_commands_and_loads_next_to_nothing() -> None:
    probe = (
        "import sys, covey.cli.main as m; m.main(['--help']); "
        "late = ('argparse', 'asyncio', 'httpx2', 'msgspec', 'prompt_toolkit', 'uvicorn'); "
        "print([name for name in late if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert all(name in answer.stdout for name in COMMANDS)
    assert answer.stdout.endswith("[]\n")


@pytest.mark.requirement("cli.help.quick")
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "serve"])
def test_a_commands_help_needs_no_third_party(command: str) -> None:
    probe = (
        f"import sys, covey.cli.main as m; status = m.main([{command!r}, '--help']); "
        "print(status, [n for n in ('httpx2', 'prompt_toolkit', 'uvicorn', 'rich') if n in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert f"usage: covey {command}" in answer.stdout
    assert answer.stdout.endswith("0 []\n")


@pytest.mark.requirement("cli.mistakes.one-line")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sevre"], ["'sevre'", "'serve'"]),
        (["\x1b[2Jx"], ["\\x1b[2Jx", "--help"]),
        (["--port", "1", "ps"], ["after the command"]),
        (["ps", "--jsn"], ["--jsn", "'--json'"]),
        (["ps", "--port", "0"], ["not a port"]),
        (["ps", "--port", "x"], ["not a port"]),
        (["ps", "--url", "ftp://x"], ["http"]),
        (["ps", "--url", "http://127.0.0.1/#token=SECRET"], ["COVEY_TOKEN"]),
        (["stop"], ["NAME"]),
        (["stop", "a", "--timeout", "nan"], ["--timeout"]),
        (["repl", "--new"], ["NAME"]),
        (["repl", "--from", "now"], ["NAME"]),
        (["repl", "x", "--from", "middle"], ["middle"]),
        (["serve", "--port", "70000"], ["not a port"]),
        (["serve", "--grace", "-1"], ["--grace"]),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(arguments: list[str], words: list[str]) -> None:
    answer = covey(*arguments)
    assert_one_line(answer, *words)
    assert "SECRET" not in answer.stderr
    assert answer.stderr.rstrip("\n").isprintable()


@pytest.mark.requirement("cli.mistakes.one-line")
@pytest.mark.parametrize("arguments", [["ps"], ["stop", "ada"], ["repl"], ["repl", "ada"], ["repl", "--plain"]])
def test_without_a_hub_it_says_how_to_start_one(arguments: list[str], bound: int) -> None:
    answer = covey(*arguments, "--port", str(bound))
    assert_one_line(answer, f"no hub answers at http://127.0.0.1:{bound}", "`covey serve`")


@pytest.mark.requirement("cli.mistakes.one-line")
def test_a_server_that_is_no_hub_is_told_apart(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    command = [sys.executable, "-m", "covey", "ps", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as asking:
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(65536).startswith(b"GET /v1/teammates ")
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
            _, stderr = asking.communicate(timeout=30)
    assert asking.returncode == 1
    assert stderr.count("\n") == 1
    assert "COVEY_URL" in stderr


@pytest.mark.requirement("cli.mistakes.one-line")
def test_a_port_in_use_is_one_line(listener: socket.socket) -> None:
    port = str(listener.getsockname()[1])
    assert_one_line(covey("serve", "--port", port), port, "in use", "--port")


@pytest.mark.requirement("cli.mistakes.one-line")
def test_a_state_folder_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    # A file where the folder should be: refused also to root, who may write everywhere else.
    (tmp_path / "file").write_text("")
    answer = covey("serve", "--port", "0", "--state", str(tmp_path / "file" / "state"))
    assert_one_line(answer, "state folder", "COVEY_STATE")


@pytest.mark.requirement("cli.mistakes.one-line")
def test_an_address_that_others_reach_needs_a_word() -> None:
    assert_one_line(covey("serve", "--host", "0.0.0.0", "--port", "0"), "--insecure")  # noqa: S104


@pytest.mark.requirement("cli.output.harmless")
def test_control_characters_are_shown_and_not_sent() -> None:
    assert printable("a\x1b]0;title\x07b\r\n\u202e") == "a\\x1b]0;title\\x07b\\r\\n\\u202e"
    assert printable("a\tb\n", kept="\t\n") == "a\tb\n"
    assert printable("naïve 漢字") == "naïve 漢字"
    assert "\x1b" not in table(("NAME",), [("\x1b[2J",)])


@pytest.mark.requirement("cli.output.harmless")
def test_columns_are_aligned_without_trailing_blanks() -> None:
    assert (
        table(("NAME", "KIND"), [("ada-lovelace", "repl"), ("b", "")]) == "NAME          KIND\nada-lovelace  repl\nb\n"
    )


@pytest.mark.requirement("cli.version")
@pytest.mark.parametrize("argument", ["version", "--version", "-V"])
def test_the_version_is_told(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument]) == 0
    assert capsys.readouterr().out.startswith("covey 0.")


@pytest.mark.requirement("cli.help.quick")
def test_without_a_command_the_help_comes_with_the_status_of_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: covey COMMAND" in capsys.readouterr().out


@pytest.mark.requirement("cli.pipe.closed")
def test_a_reader_that_went_away_ends_it_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    answer = subprocess.run(
        [sys.executable, "-m", "covey", "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (answer.returncode, answer.stderr) == (141, "")


@pytest.mark.requirement("cli.mistakes.one-line")
def test_json_of_the_roster_is_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from covey.cli import ps
    from covey.client.connect import TeammateRow

    async def roster(_: object) -> list[TeammateRow]:
        return [TeammateRow("ada", "repl", "idle", "process", "ada.out")]

    monkeypatch.setattr(ps, "_roster", roster)
    assert main(["ps", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "ada"
    assert main(["ps"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["ada", "repl", "idle", "process", "ada.out"]
