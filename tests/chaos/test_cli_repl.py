"""`covey serve`, `repl`, `ps` and `stop` as people run them: real processes, real sockets, a real terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.terminal import Terminal

COVEY = [sys.executable, "-m", "covey"]
PATIENCE_S = 20.0
DETACH = "\x04"
INTERRUPT = "\x03"

pytestmark = pytest.mark.xdist_group("cli")


class Hub:
    """`covey serve` in a process of its own."""

    def __init__(self, state: Path, *, port: str = "0") -> None:
        self.environ = {**os.environ, "COVEY_STATE": str(state)}
        self.process = subprocess.Popen(
            [*COVEY, "serve", "--port", port],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        self.port = self.first_line.partition("//127.0.0.1:")[2].partition("/")[0]
        assert self.port, self.process.communicate(timeout=5)

    def command(self, *arguments: str) -> list[str]:
        return [*COVEY, arguments[0], "--port", self.port, *arguments[1:]]

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    def names(self) -> list[str]:
        return [row["name"] for row in json.loads(self.run("ps", "--json").stdout)]

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        self.process.send_signal(number)
        status = self.process.wait(timeout=PATIENCE_S)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        with self.process.stdout, self.process.stderr:
            return status, self.process.stdout.read(), self.process.stderr.read()


class Seat(Terminal):
    """A command on a terminal, with somebody at it who reads from top to bottom."""

    def __init__(self, hub: Hub, *arguments: str) -> None:
        # It must not ask where the cursor is: only a real terminal knows.
        super().__init__(hub.command(*arguments), env={**hub.environ, "PROMPT_TOOLKIT_NO_CPR": "1"})
        _taken.append(self)
        self._read_to = 0

    def expect(self, expected: str) -> str:
        """Wait for a text after all that was expected before, and return what came before it."""
        shown = self.wait_for(lambda shown: expected in shown[self._read_to :])
        found = shown.index(expected, self._read_to)
        before = shown[self._read_to : found]
        self._read_to = found + len(expected)
        return before

    def run(self, code: str) -> str:
        """Type a cell at the prompt and return what stands between it and the next prompt."""
        self.type(code + "\r")
        # With its line end, for the prompt may be drawn more than once before it is left.
        self.expect(code + "\n")
        return self.expect(">>>")

    def wait(self) -> int:
        """Return the exit status once it has ended, everything it wrote read."""
        with self:
            return self.wait_closed()


_taken: list[Seat] = []


@pytest.fixture(autouse=True)
def nobody_stays() -> Iterator[None]:
    """End what a failed test has left behind."""
    yield
    while _taken:
        seat = _taken.pop()
        if seat.process.poll() is None:
            seat.kill()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("state"))
    yield hub
    hub.stop()


@pytest.fixture
def own_hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub that the test may end."""
    hub = Hub(tmp_path)
    yield hub
    if hub.process.poll() is None:
        hub.stop()


def new_session(hub: Hub, name: str) -> Seat:
    terminal = Seat(hub, "repl", "--new", name)
    terminal.expect(">>>")
    return terminal


def leave(terminal: Seat) -> None:
    terminal.type(DETACH)
    assert terminal.wait() == 0


# ---- on a terminal


@pytest.mark.requirement("cli.repl.reads-like-a-prompt")
def test_it_reads_like_a_prompt(hub: Hub) -> None:
    terminal = new_session(hub, "prompt")
    assert terminal.run("6 * 7") == "42\n"
    assert terminal.run("x = 1") == ""
    assert terminal.run("print('no end', end='')") == "no end\n"
    error = terminal.run("1 / 0")
    assert error.startswith("Traceback (most recent call last):")
    assert error.endswith("ZeroDivisionError: division by zero\n")
    assert b"\x1b[31mTraceback" in terminal._raw
    leave(terminal)


@pytest.mark.requirement("cli.repl.multi-line")
def test_a_block_is_typed_over_several_lines_and_ends_with_an_empty_one(hub: Hub) -> None:
    terminal = new_session(hub, "block")
    terminal.type("def double(x):\r")
    terminal.expect("...")
    # The indent is there already.
    terminal.type("return 2 * x\r\r")
    terminal.expect("    return 2 * x")
    terminal.expect(">>>")
    assert terminal.run("double(21)") == "42\n"
    leave(terminal)


@pytest.mark.requirement("cli.repl.interrupts")
def test_ctrl_c_interrupts_the_running_cell_and_at_the_prompt_only_the_line(hub: Hub) -> None:
    terminal = new_session(hub, "stop-me")
    terminal.type("print('going'); [None for _ in iter(int, 1)]\r")
    terminal.expect("\ngoing")
    terminal.type(INTERRUPT)
    terminal.expect("KeyboardInterrupt\n")
    terminal.expect(">>>")
    terminal.type("half a line" + INTERRUPT)
    terminal.expect("KeyboardInterrupt")
    terminal.expect(">>>")
    assert terminal.run("'still here'") == "'still here'\n"
    leave(terminal)


@pytest.mark.requirement("cli.repl.input")
def test_a_cell_that_asks_gets_the_line_that_is_typed(hub: Hub) -> None:
    terminal = new_session(hub, "ask")
    terminal.type("'<' + input('who? ') + '>'\r")
    terminal.expect("\nwho?")
    terminal.type("ada\r")
    terminal.expect("'<ada>'\n")
    terminal.expect(">>>")
    terminal.type("input('more? ')\r")
    terminal.expect("\nmore?")
    terminal.type(DETACH)  # ends the input, as at any prompt of a program
    terminal.expect("EOFError")
    terminal.expect(">>>")
    leave(terminal)


@pytest.mark.requirement("cli.repl.shared")
def test_two_terminals_at_one_session_see_each_other_and_the_first_answer_counts(hub: Hub) -> None:
    first = new_session(hub, "shared")
    second = Seat(hub, "repl", "shared")
    second.expect(">>>")
    assert first.run("shared = 'from the first'") == ""
    second.expect(">>> shared = 'from the first'")
    assert second.run("shared") == "'from the first'\n"
    first.expect("'from the first'\n")
    first.type("'got ' + input('who? ')\r")
    first.expect("\nwho?")
    third = Seat(hub, "repl", "shared")
    third.expect("who?")
    third.expect("who?")
    third.type("the third\r")
    third.expect("'got the third'")
    first.expect("'got the third'")
    first.expect(">>>")
    for terminal in (first, second, third):
        leave(terminal)


@pytest.mark.requirement("cli.repl.detach")
@pytest.mark.parametrize("key", [DETACH, "\x1c"])
def test_leaving_says_how_to_come_back_and_a_running_cell_goes_on(hub: Hub, key: str) -> None:
    name = f"left-{ord(key)}"
    terminal = new_session(hub, name)
    terminal.type("import threading; print('begun'); print(input())\r")
    terminal.expect("\nbegun")
    terminal.kill()
    terminal = Seat(hub, "repl", name)
    terminal.expect(">>> import threading; print('begun'); print(input())\nbegun\n")
    terminal.type("the answer\r")
    terminal.expect("\nthe answer\n")
    terminal.expect(">>>")
    terminal.type("import time; print('on'); time.sleep(60)\r")
    terminal.expect("\non")
    terminal.type(key)
    farewell = terminal.expect("ends it")
    assert f"covey repl --port {hub.port} {name}" in farewell
    assert f"covey stop --port {hub.port} {name}" in farewell
    assert terminal.wait() == 0
    assert name in hub.names()
    assert hub.run("stop", name).returncode == 0


@pytest.mark.requirement("cli.repl.survives-kill")
def test_a_killed_terminal_misses_nothing(hub: Hub) -> None:
    terminal = new_session(hub, "counting")
    terminal.type("import time\rfor i in range(40): print('line', i); time.sleep(0.05)\r\r")
    terminal.expect("\nline 3\n")
    terminal.kill()
    again = Seat(hub, "repl", "counting")
    again.expect("\nline 39\n")
    again.expect(">>>")
    shown = [int(number) for number in re.findall(r"^line (\d+)$", again.shown, re.MULTILINE)]
    assert shown == list(range(40))
    assert again.run("i") == "39\n"
    leave(again)


@pytest.mark.requirement("cli.repl.survives-kill")
def test_from_now_shows_only_what_comes(hub: Hub) -> None:
    terminal = new_session(hub, "from-now")
    terminal.run("print('be' + 'fore')")
    leave(terminal)
    terminal = Seat(hub, "repl", "from-now", "--from", "now")
    terminal.expect(">>>")
    assert terminal.run("'af' + 'ter'") == "'after'\n"
    assert "before" not in terminal.shown
    leave(terminal)


@pytest.mark.requirement("cli.repl.lost")
@pytest.mark.parametrize(
    ("code", "word"),
    [("import os; os._exit(3)", "exit status 3"), ("import os; os.kill(os.getpid(), 9)", "SIGKILL")],
)
def test_a_process_that_ended_is_one_clear_line_and_the_next_cell_starts_afresh(hub: Hub, code: str, word: str) -> None:
    name = f"lost-{word[-1]}"
    terminal = new_session(hub, name)
    terminal.run("x = 1")
    said = terminal.run(code)
    assert word in said
    assert "variables are gone" in said
    assert said.count("\n") == 1
    assert "NameError" in terminal.run("x")
    leave(terminal)


@pytest.mark.requirement("cli.repl.lost")
@pytest.mark.parametrize("code", ["exit()", "quit()", "import sys; sys.exit()"])
def test_a_cell_that_exits_takes_the_terminal_along(hub: Hub, code: str) -> None:
    name = f"exit-{len(code)}-{code[0]}"
    terminal = new_session(hub, name)
    terminal.type(code + "\r")
    terminal.expect("has left its process")
    assert terminal.wait() == 0
    assert terminal.shown.count(">>>") <= terminal.shown.count(code) + 1


@pytest.mark.requirement("cli.repl.stopped")
def test_a_session_that_is_stopped_elsewhere_ends_the_terminal(hub: Hub) -> None:
    terminal = new_session(hub, "stopped")
    assert "stopped" in hub.run("stop", "stopped").stdout
    terminal.expect("session stopped was stopped")
    assert terminal.wait() == 0


@pytest.mark.requirement("cli.repl.heals")
def test_a_hub_that_goes_away_is_one_line_and_one_that_comes_back_without_the_session_another(own_hub: Hub) -> None:
    terminal = new_session(own_hub, "orphan")
    own_hub.stop()
    terminal.expect("trying again")
    successor = Hub(Path(own_hub.environ["COVEY_STATE"]), port=own_hub.port)
    terminal.expect("session orphan is gone")
    terminal.expect("`covey repl --port")
    assert terminal.wait() == 1
    assert terminal.shown.count("trying again") == 1
    successor.stop()


@pytest.mark.requirement("cli.repl.heals")
@pytest.mark.parametrize("cell", ["", "import time; print('on'); time.sleep(60)\r"])
def test_without_a_hub_one_can_still_leave(own_hub: Hub, cell: str) -> None:
    terminal = new_session(own_hub, "left")
    terminal.type(cell)
    terminal.expect("\non" if cell else "")
    own_hub.stop()
    terminal.expect("trying again")
    leave(terminal)


@pytest.mark.requirement("cli.repl.heals")
def test_a_paused_terminal_loses_nothing(hub: Hub) -> None:
    terminal = new_session(hub, "paused")
    os.kill(terminal.process.pid, signal.SIGSTOP)
    assert hub.run("repl", "--plain", "paused", stdin="for i in range(2000): print('row', i)\n\n").returncode == 0
    os.kill(terminal.process.pid, signal.SIGCONT)
    terminal.expect("row 1999\n")
    shown = [int(number) for number in re.findall(r"^row (\d+)$", terminal.shown, re.MULTILINE)]
    assert shown == list(range(2000))
    leave(terminal)


@pytest.mark.requirement("cli.repl.history")
def test_what_was_typed_is_kept_for_its_owner_alone(hub: Hub) -> None:
    terminal = new_session(hub, "history")
    terminal.run("remembered = 1")
    leave(terminal)
    path = Path(hub.environ["COVEY_STATE"]) / "repl_history"
    assert "remembered = 1" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.requirement("cli.repl.attach-only")
def test_a_name_that_is_not_there_says_how_to_make_it_and_a_taken_one_that_it_is_taken(hub: Hub) -> None:
    leave(new_session(hub, "there"))
    missing = hub.run("repl", "ther")
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1
    assert "`covey repl --new ther`" in missing.stderr
    assert "'there'" in missing.stderr
    taken = hub.run("repl", "--new", "there")
    assert (taken.returncode, taken.stderr.count("\n")) == (1, 1)
    assert "there" in taken.stderr


# ---- in a pipe


@pytest.mark.requirement("cli.plain.runs-cells")
def test_cells_come_in_and_plain_text_goes_out(hub: Hub) -> None:
    code = "x = 20\ndef f():\n    return x + 22\nf()\nprint('out')\nimport sys\n_ = sys.stderr.write('err\\n')\n'last'"
    answer = hub.run("repl", "--plain", stdin=code)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "42\nout\n'last'\n", "err\n")


@pytest.mark.requirement("cli.plain.runs-cells")
def test_a_failed_cell_is_told_by_the_status_and_the_others_run(hub: Hub) -> None:
    answer = hub.run("repl", "--plain", stdin="1/0\nprint('after')\nx = = 1\nprint('end')\n")
    assert (answer.returncode, answer.stdout) == (1, "after\nend\n")
    assert "ZeroDivisionError" in answer.stderr
    assert "SyntaxError" in answer.stderr


@pytest.mark.requirement("cli.plain.runs-cells")
def test_a_cell_reads_the_lines_that_follow_it(hub: Hub) -> None:
    answer = hub.run("repl", "--plain", stdin="name = input('who? ')\nada\nname\ninput()\n")
    assert answer.stdout == "who? 'ada'\n"
    assert "EOFError" in answer.stderr


@pytest.mark.requirement("cli.plain.runs-cells")
@pytest.mark.parametrize(
    ("code", "status"), [("exit()", 0), ("import sys; sys.exit(7)", 7), ("import os; os._exit(3)", 3)]
)
def test_a_cell_that_exits_gives_its_status(hub: Hub, code: str, status: int) -> None:
    answer = hub.run("repl", "--plain", stdin=f"print('a', end='', flush=True)\n{code}\nprint('never')\n")
    assert (answer.returncode, answer.stdout, answer.stderr) == (status, "a", "")


@pytest.mark.requirement("cli.plain.runs-cells")
def test_a_crash_is_one_line_and_runs_no_further_cell(hub: Hub) -> None:
    cells = [
        "import ctypes, faulthandler",
        "_ = faulthandler.disable()",
        "print('a'); ctypes.string_at(0)",
        "print('never')",
    ]
    code = "\n".join(cells)
    answer = hub.run("repl", "--plain", stdin=code)
    assert (answer.returncode, answer.stdout) == (1, "a\n")
    assert answer.stderr.count("\n") == 1
    assert "SIGSEGV" in answer.stderr


@pytest.mark.requirement("cli.plain.cleans-up")
def test_a_session_without_a_name_goes_with_the_pipe_and_a_named_one_stays(hub: Hub) -> None:
    before = set(hub.names())
    hub.run("repl", "--plain", stdin="x = 1\n")
    assert set(hub.names()) == before
    hub.run("repl", "--plain", "--new", "kept", stdin="x = 'kept'\nprint('old')\n")
    assert hub.run("repl", "--plain", "kept", stdin="x\n").stdout == "'kept'\n"
    assert hub.run("repl", "--plain", "kept", "--from", "start", stdin="'new'\n").stdout == "old\n'kept'\n'new'\n"


@pytest.mark.requirement("cli.plain.cleans-up")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_its_session(hub: Hub, number: int, status: int) -> None:
    before = set(hub.names())
    process = subprocess.Popen(
        hub.command("repl", "--plain"),
        env=hub.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"import time; print('up', flush=True); time.sleep(60)\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"up\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stderr) == (status, b"")
    assert set(hub.names()) == before


@pytest.mark.requirement("cli.pipe.closed")
def test_a_reader_that_had_enough_ends_it_without_a_word(hub: Hub) -> None:
    before = set(hub.names())
    process = subprocess.Popen(
        hub.command("repl", "--plain"),
        env=hub.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"for i in range(10**6): print(i)\n\n")
    process.stdin.close()
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.wait(timeout=PATIENCE_S) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert set(hub.names()) == before


@pytest.mark.requirement("cli.plain.bounded")
def test_much_output_comes_whole_and_makes_nothing_grow(hub: Hub) -> None:
    process = subprocess.Popen(
        hub.command("repl", "--plain"), env=hub.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("print('up')\nfor i in range(300_000): print(i, 'x' * 60)\n\nprint('down')\ninput()\n")
    process.stdin.flush()
    assert process.stdout.readline() == "up\n"
    grown = psutil.Process(process.pid)
    before = grown.memory_info().rss
    for number in range(300_000):
        assert process.stdout.readline() == f"{number} {'x' * 60}\n"
    assert process.stdout.readline() == "down\n"
    assert grown.memory_info().rss - before < 16 << 20
    process.stdin.write("end\n")
    process.stdin.close()
    assert process.stdout.read() == "'end'\n"
    assert process.wait(timeout=PATIENCE_S) == 0
    process.stdout.close()


# ---- the hub itself


@pytest.mark.requirement("cli.serve.says-how-to-reach-it")
def test_the_hub_prints_its_url_and_two_next_commands(own_hub: Hub) -> None:
    token_file = Path(own_hub.environ["COVEY_STATE"]) / own_hub.port / "token"
    token = token_file.read_text().strip()
    assert own_hub.first_line == f"covey serves http://127.0.0.1:{own_hub.port}/#token={token}\n"
    status, stdout, stderr = own_hub.stop()
    assert f"covey repl --port {own_hub.port}" in stdout
    assert f'"Authorization: Bearer $(cat {token_file})"' in stdout
    assert token not in stdout
    assert (status, stderr) == (0, "")
    assert "left nothing running" in stdout


@pytest.mark.requirement("cli.serve.leaves-nothing")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_drains_the_hub_and_leaves_no_process(own_hub: Hub, number: int) -> None:
    own_hub.run("repl", "--plain", "--new", "one", stdin="import time\n")
    busy = new_session(own_hub, "busy")
    busy.type("import time; print('on'); time.sleep(60)\r")
    busy.expect("\non")
    children = psutil.Process(own_hub.process.pid).children(recursive=True)
    assert len(children) == 2
    status, _, stderr = own_hub.stop(number)
    assert (status, stderr) == (0, "")
    busy.kill()
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert alive == []


@pytest.mark.requirement("cli.serve.live-line")
def test_on_a_terminal_one_line_says_what_the_hub_does(tmp_path: Path) -> None:
    environ = {**os.environ, "COVEY_STATE": str(tmp_path)}
    stand_in = Hub.__new__(Hub)
    stand_in.environ, stand_in.port = environ, "0"
    terminal = Seat(stand_in, "serve")
    terminal.expect("0 sessions, 0 readers")
    terminal.process.send_signal(signal.SIGINT)
    terminal.expect("left nothing running")
    assert terminal.wait() == 0


@pytest.mark.requirement("cli.ps-and-stop")
def test_the_roster_and_stopping(hub: Hub) -> None:
    hub.run("repl", "--plain", "--new", "a.b", stdin="1\n")
    header, *rows = hub.run("ps").stdout.splitlines()
    assert header.split() == ["NAME", "KIND", "STATE", "PLACE", "STREAM"]
    assert ["a.b", "repl", "idle", "process", "a.b.out"] in [row.split() for row in rows]
    answer = hub.run("stop", "a.b", "a.bc")
    assert answer.returncode == 1
    assert answer.stdout.startswith("a.b stopped")
    assert answer.stderr.count("\n") == 1
    assert "a.bc" in answer.stderr
    assert "a.b" not in hub.names()


@pytest.mark.requirement("cli.mistakes.one-line")
def test_a_wrong_token_is_one_line_that_does_not_repeat_it(hub: Hub) -> None:
    answer = subprocess.run(
        hub.command("ps"),
        env={**hub.environ, "COVEY_TOKEN": "wrong-token-0123"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (1, "", 1)
    assert "COVEY_TOKEN" in answer.stderr
    assert "wrong-token" not in answer.stderr
