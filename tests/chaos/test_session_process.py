"""Sessions with real processes: whatever the code in a cell does, the transcript tells it and the hub's loop lives."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from covey.context import acting_for
from covey.errors import InvalidInputError, KeyReusedError, RefusedError, TooLargeError
from covey.repl import session as session_module
from covey.repl.session import Accepted, Session
from covey.streams.event import EVENT_BYTES_MAX, Event
from covey.streams.streams import Streams
from covey.team.members import StopReport

# An event that does not come is a bug; how long it takes on a busy machine is not.
PATIENCE_S = 30.0

Events = list[Event[Any]]


class Watched:
    """A session and all that its transcript said so far."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.events: Events = []
        self._reader = session.stream.reader()

    async def until(self, accepts: Callable[[Event[Any]], bool]) -> Event[Any]:
        """Return the first event, of all so far or to come, that is accepted."""
        seen = 0
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for event in self.events[seen:]:
                    if accepts(event):
                        return event
                seen = len(self.events)
                await self._reader.wait()
                self.take()

    def take(self) -> None:
        for item in self._reader.take():
            entry: Any = item
            if entry.kind != "covey.end":
                self.events.append(self.session.stream.decode(entry))

    async def done(self, accepted: Accepted) -> str:
        event = await self.until(lambda e: e.kind == "done" and e.data["cell"] == accepted.cell)
        return str(event.data["status"])

    async def run(self, code: str) -> str:
        return await self.done(await self.session.execute(textwrap.dedent(code)))

    async def kind(self, kind: str) -> Event[Any]:
        return await self.until(lambda e: e.kind == kind)

    async def printed(self, text: str) -> Event[Any]:
        return await self.until(lambda e: e.kind == "stdout" and text in e.data.get("text", ""))

    def output(self, kind: str = "stdout", cell: str | None = "any") -> bytes:
        parts = [
            event.data["text"].encode() if "text" in event.data else base64.b64decode(event.data["base64"])
            for event in self.events
            if event.kind == kind and cell in {"any", event.data["cell"]}
        ]
        return b"".join(parts)

    def results(self) -> list[str]:
        return [event.data["mime"]["text/plain"] for event in self.events if event.kind == "result"]

    def of_kind(self, kind: str) -> Events:
        return [event for event in self.events if event.kind == kind]


def state_of(session: Session) -> str:
    return session.state  # through a function, because a type checker takes a property to stay as it was


@pytest.fixture
async def streams() -> AsyncIterator[Streams]:
    async with Streams() as made:
        yield made


@pytest.fixture
async def repl(streams: Streams) -> AsyncIterator[Watched]:
    watched = Watched(Session("ada", streams))
    yield watched
    pid = watched.session.pid
    await watched.session.stop(timeout_s=1.0)
    assert pid is None or not psutil.pid_exists(pid)


# ---- losing the process


@pytest.mark.requirement("repl.session.death-is-told")
@pytest.mark.parametrize(
    ("code", "exit_status", "number"),
    [
        ("import ctypes; ctypes.string_at(0)", None, signal.SIGSEGV),
        ("import os; os._exit(3)", 3, None),
        ("import sys; sys.exit(4)", 4, None),
        ("exit()", 0, None),
        ("import sys; sys.exit('why')", 1, None),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", None, signal.SIGKILL),
        ("import os; os.abort()", None, signal.SIGABRT),
    ],
)
async def test_a_death_is_told_truthfully_after_all_output(
    repl: Watched, code: str, exit_status: int | None, number: int | None
) -> None:
    written = await repl.session.execute(f"print('before'); {code}")
    queued = await repl.session.execute("'never'")
    lost = await repl.kind("lost")
    assert lost.data == {"exit": exit_status, "signal": number, "state": "lost"}
    assert repl.output().startswith(b"before\n")
    assert await repl.done(written) == "lost"
    assert await repl.done(queued) == "cancelled"
    assert [event.kind for event in repl.events][-3:] == ["done", "done", "lost"]
    assert state_of(repl.session) == "lost"
    assert await repl.run("1 + 1") == "ok"
    assert repl.results() == ["2"]
    assert [event.data["incarnation"] for event in repl.of_kind("started")] == [1, 2]
    assert len(repl.of_kind("done")) == 3


@pytest.mark.requirement("repl.session.death-is-told")
async def test_sys_exit_runs_the_programs_own_farewells(repl: Watched) -> None:
    await repl.run("import atexit, sys; atexit.register(print, 'farewell'); sys.exit('the reason')")
    await repl.kind("lost")
    assert repl.output() == b"farewell\n"
    assert repl.output("stderr") == b"the reason\n"
    assert repl.of_kind("traceback") == []


@pytest.mark.requirement("repl.session.death-is-told")
async def test_a_kill_from_outside_while_idle_is_told(repl: Watched) -> None:
    assert await repl.run("x = 1") == "ok"
    assert repl.session.pid is not None
    os.kill(repl.session.pid, signal.SIGKILL)
    lost = await repl.kind("lost")
    assert lost.data["signal"] == signal.SIGKILL
    assert len(repl.of_kind("done")) == 1


@pytest.mark.requirement("repl.session.death-is-told")
async def test_a_death_is_noticed_where_the_system_has_no_pidfd(repl: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    assert await repl.run("import os; os._exit(3)") == "lost"
    assert (await repl.kind("lost")).data["exit"] == 3


@pytest.mark.requirement("repl.session.no-restart-loop")
async def test_a_process_that_dies_at_its_start_is_lost_and_not_started_again(streams: Streams) -> None:
    repl = Watched(Session("ada", streams, evaluator="covey.repl.nowhere:evaluator"))
    assert await repl.run("1") == "lost"
    await repl.kind("lost")
    assert state_of(repl.session) == "lost"
    assert repl.session.incarnation == 1
    assert b"covey.repl.nowhere" in repl.output("stderr")
    assert await repl.session.stop(timeout_s=1.0) == StopReport((), 1, None)


@pytest.mark.requirement("repl.session.no-restart-loop")
async def test_a_process_that_cannot_be_started_is_told(repl: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    await repl.session.start()
    lost = await repl.kind("lost")
    assert lost.data["exit"] is lost.data["signal"] is None
    assert "/nowhere/python" in lost.data["reason"]
    monkeypatch.undo()
    assert await repl.run("1") == "ok"


@pytest.mark.requirement("repl.session.leaves-nothing-behind")
async def test_what_a_lost_process_had_started_ends_too(repl: Watched) -> None:
    await repl.run("import subprocess, os; p = subprocess.Popen(['sleep', '1000']); print(p.pid); os._exit(0)")
    await repl.kind("lost")
    await until_gone(int(repl.output()))


@pytest.mark.requirement("repl.session.leaves-nothing-behind")
@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(1000)"])
async def test_a_killed_host_leaves_no_orphan(tmp_path: Path, code: str) -> None:
    script = tmp_path / "host.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio, sys
            from covey.repl.session import Session
            from covey.streams.streams import Streams

            async def main():
                session = Session("ada", Streams())
                await session.execute("print('running', flush=True)\\n" + sys.argv[1])
                async for event in session.stream.read():
                    if event.kind == "stdout":
                        print(session.pid, flush=True)

            asyncio.run(main())
            """
        )
    )
    host = await asyncio.create_subprocess_exec(sys.executable, script, code, stdout=subprocess.PIPE)
    assert host.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        pid = int(await host.stdout.readline())
    assert psutil.pid_exists(pid)
    host.kill()
    await host.wait()
    await until_gone(pid)


async def until_gone(pid: int) -> None:
    """Return when the process has ended; a zombie that its new parent has not noticed yet counts as ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            await asyncio.to_thread(process.wait, PATIENCE_S)


@pytest.mark.requirement("repl.session.secrets-stay-out")
async def test_the_process_does_not_see_the_hubs_token(repl: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVEY_TOKEN", "hush")
    monkeypatch.setenv("PLAIN", "seen")
    await repl.run("import os; os.environ.get('COVEY_TOKEN'), os.environ.get('PLAIN')")
    assert repl.results() == ["(None, 'seen')"]


# ---- output


@pytest.mark.requirement("repl.session.output-before-result")
async def test_output_of_every_sort_comes_before_the_result_in_order(repl: Watched) -> None:
    code = """
    import ctypes, os, subprocess, sys
    print("python")
    sys.stdout.flush()
    os.write(1, b"os.write\\n")
    _ = subprocess.run(["echo", "subprocess"])
    _ = os.system("echo os.system")
    _ = ctypes.CDLL(None).printf(b"printf, not flushed\\n")
    print("last", end="")
    'result'
    """
    assert await repl.run(code) == "ok"
    # What C and Python each hold back has no order between them, but all of it is there.
    held_back = {b"printf, not flushed\nlast", b"lastprintf, not flushed\n"}
    assert repl.output() in {b"python\nos.write\nsubprocess\nos.system\n" + rest for rest in held_back}
    kinds = [event.kind for event in repl.events]
    assert kinds.index("result") > max(index for index, kind in enumerate(kinds) if kind == "stdout")
    assert kinds[-2:] == ["result", "done"]


@pytest.mark.requirement("repl.session.output-before-result")
async def test_many_cells_never_swap_output_and_result(repl: Watched) -> None:
    cells = [await repl.session.execute(f"print({n}); {n}") for n in range(200)]
    assert await repl.done(cells[-1]) == "ok"
    told = [
        event.data["text"].strip() if event.kind == "stdout" else event.data["mime"]["text/plain"]
        for event in repl.events
        if event.kind in {"stdout", "result"}
    ]
    assert told == [str(n) for n in range(200) for _ in range(2)]
    assert all(event.data["cell"] is not None for event in repl.of_kind("stdout"))


@pytest.mark.requirement("repl.session.output-before-result")
async def test_a_thread_that_prints_after_the_cell_belongs_to_none(repl: Watched) -> None:
    code = """
    import threading
    go = threading.Event()
    thread = threading.Thread(target=lambda: (go.wait(), print("late", flush=True)))
    thread.start()
    threading.Timer(0.05, go.set).start()
    """
    assert await repl.run(code) == "ok"
    assert (await repl.printed("late")).data["cell"] is None


@pytest.mark.requirement("repl.transcript.every-byte-once")
async def test_a_line_of_ten_megabytes_arrives_whole(repl: Watched) -> None:
    assert await repl.run("print('é' * 5_000_000)") == "ok"
    assert repl.output() == ("é" * 5_000_000 + "\n").encode()
    assert all("text" in event.data for event in repl.of_kind("stdout"))


@pytest.mark.requirement("repl.transcript.not-utf8-is-base64")
async def test_bytes_that_are_no_text_arrive_exactly(repl: Watched) -> None:
    assert await repl.run("import os; os.write(1, bytes(range(256))); print(chr(0xdc80))") == "ok"
    assert repl.output() == bytes(range(256)) + b"\\udc80\n"


@pytest.mark.requirement("repl.session.bad-cells-do-no-harm")
async def test_an_exception_of_any_size_ends_its_cell(repl: Watched) -> None:
    assert await repl.run(r"raise type('\x01' * 10**6, (Exception,), {})('\x02' * 10**6)") == "error"
    assert len(repl.of_kind("traceback")) == 1
    assert await repl.run("1") == "ok"


@pytest.mark.requirement("repl.session.bad-cells-do-no-harm")
async def test_a_frame_that_fits_no_event_loses_the_session_and_says_so(repl: Watched) -> None:
    code = """
    import os, stat, struct, msgspec
    frame = {"frame": "result", "cell": "a", "mime": {"application/x": msgspec.msgpack.Ext(5, b"")}}
    body = msgspec.msgpack.encode(frame)
    for fd in range(3, 64):
        try:
            is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
        except OSError:
            continue
        if is_socket:
            os.write(fd, struct.pack("<I", len(body)) + body)
    while True: pass
    """
    assert await repl.done(await repl.session.execute(textwrap.dedent(code), "a")) == "lost"


@pytest.mark.requirement("repl.session.bad-cells-do-no-harm")
async def test_closing_standard_output_ends_output_and_nothing_else(repl: Watched) -> None:
    assert await repl.run("import os; os.close(1)") == "ok"
    assert await repl.run("1 + 1") == "ok"
    assert repl.results() == ["2"]


@pytest.mark.requirement("repl.session.bad-cells-do-no-harm")
async def test_closing_every_descriptor_loses_the_session_and_says_so(repl: Watched) -> None:
    await repl.run("import os; os.closerange(0, 100)")
    assert (await repl.kind("lost")).data["state"] == "lost"
    assert await repl.run("1") == "ok"


@pytest.mark.requirement("repl.session.bad-cells-do-no-harm")
async def test_garbage_on_the_control_socket_loses_the_session_and_says_so(repl: Watched) -> None:
    code = r"""
    import os, stat
    for fd in range(3, 64):
        try:
            is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
        except OSError:
            continue
        if is_socket:
            os.write(fd, b"\xff" * 64)
    while True: pass
    """
    assert await repl.run(code) == "lost"
    assert (await repl.kind("lost")).data["signal"] == signal.SIGKILL


@pytest.mark.requirement("repl.session.bad-cells-do-no-harm")
async def test_only_the_original_answers_after_a_fork(repl: Watched) -> None:
    code = """
    import os
    pid = os.fork()
    if pid == 0:
        print("copy", flush=True)
    else:
        _ = os.waitpid(pid, 0)
    'copy' if pid == 0 else 'original'
    """
    assert await repl.run(code) == "ok"
    assert repl.results() == ["'original'"]
    assert b"copy\n" in repl.output()
    assert await repl.run("2") == "ok"
    assert len(repl.of_kind("done")) == 2


@pytest.mark.requirement("repl.session.bad-cells-do-no-harm")
async def test_deleting_builtins_and_streams_harms_only_the_cells_own_code(repl: Watched) -> None:
    assert await repl.run("import sys; sys.stdout = sys.stderr = None") == "ok"
    assert await repl.run("sys.stdout = sys.__stdout__; sys.modules.clear()") in {"ok", "error"}
    assert await repl.run("print('alive')") == "ok"


# ---- interrupting


@pytest.mark.requirement("repl.session.interrupt")
@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(1000)",
        "import asyncio; await asyncio.sleep(1000)",
        "import asyncio; await asyncio.gather(*[asyncio.sleep(1000) for _ in range(20)])",
        "import asyncio; asyncio.run(asyncio.sleep(1000))",
        "import asyncio\nasync def spin():\n    while True: pass\nawait spin()",
        "import asyncio\nwhile True: await asyncio.sleep(0)",
        "input('waiting')",
        "import subprocess; subprocess.run(['sleep', '1000'])",
        "import os\n_ = os.system('sleep 1000'); input()",
        "import threading; threading.Event().wait()",
        "while True: print('flood')",
    ],
)
async def test_an_interrupt_stops_the_cell_and_keeps_the_state(repl: Watched, code: str) -> None:
    assert await repl.run("kept = 'kept'") == "ok"
    before, _, last = code.rpartition("\n")
    endless = await repl.session.execute(f"{before}\nprint('on it', flush=True)\n{last}")
    await repl.printed("on it")
    interrupted = await repl.session.interrupt()
    assert (interrupted.state, interrupted.cell) == ("kept", endless.cell)
    assert await repl.done(endless) == "interrupted"
    assert repl.of_kind("traceback")[-1].data["name"] == "KeyboardInterrupt"
    assert await repl.run("kept") == "ok"
    assert repl.results() == ["'kept'"]
    assert repl.session.incarnation == 1


@pytest.mark.requirement("repl.session.interrupt")
async def test_an_interrupt_right_after_the_cell_was_sent_is_not_lost(repl: Watched) -> None:
    await repl.run("1")
    for _ in range(50):
        endless = await repl.session.execute("while True: pass")
        assert (await repl.session.interrupt()).state == "kept"
        assert await repl.done(endless) == "interrupted"


@pytest.mark.requirement("repl.session.interrupt")
async def test_an_interrupt_before_the_process_is_ready_waits_for_it(repl: Watched) -> None:
    endless = await repl.session.execute("while True: pass")
    assert (await repl.session.interrupt()).state == "kept"
    assert await repl.done(endless) == "interrupted"


@pytest.mark.requirement("repl.session.interrupt")
async def test_interrupts_hit_no_later_cell(repl: Watched) -> None:
    await repl.run("1")
    for number in range(100):
        short = await repl.session.execute("sum(range(1000))")
        asking = asyncio.ensure_future(repl.session.interrupt())
        after = await repl.session.execute(f"x = {number}")
        hit = (await asking).cell
        for cell in (short, after):
            assert await repl.done(cell) in ({"ok", "interrupted"} if cell.cell == hit else {"ok"})


@pytest.mark.requirement("repl.session.interrupt")
async def test_an_interrupt_while_nothing_runs_does_nothing(repl: Watched) -> None:
    assert (await repl.session.interrupt()).state == "idle"
    await repl.run("1")
    assert (await repl.session.interrupt()).state == "idle"
    assert await repl.run("2") == "ok"


@pytest.mark.requirement("repl.session.interrupt")
async def test_code_that_ignores_the_interrupt_is_reported_as_running(
    repl: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "INTERRUPT_REPORT_S", 0.3)
    stubborn = """
    while True:
        try:
            print("on it", flush=True)
            while True: pass
        except BaseException: pass
    """
    await repl.session.execute(textwrap.dedent(stubborn))
    await repl.printed("on it")
    interrupted = await repl.session.interrupt()
    assert (interrupted.state, interrupted.is_over) == ("kept", False)
    assert state_of(repl.session) == "busy"


@pytest.mark.requirement("repl.session.interrupt")
async def test_code_that_was_deaf_to_one_interrupt_hears_the_next(
    repl: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "INTERRUPT_REPORT_S", 0.05)
    monkeypatch.setattr(session_module, "BELLS_MAX", 1)
    deaf = """
    import signal
    hearing = signal.signal(signal.SIGINT, signal.SIG_IGN)
    input()
    signal.signal(signal.SIGINT, hearing)
    print("hears", flush=True)
    while True: pass
    """
    accepted = await repl.session.execute(textwrap.dedent(deaf))
    asked = await repl.kind("input")
    assert not (await repl.session.interrupt()).is_over
    await repl.session.input(asked.data["id"], "go on")
    await repl.printed("hears")
    monkeypatch.setattr(session_module, "INTERRUPT_REPORT_S", PATIENCE_S)
    assert (await repl.session.interrupt()).is_over
    assert await repl.done(accepted) == "interrupted"


@pytest.mark.requirement("repl.session.interrupt")
async def test_an_interrupt_that_kills_is_reported_as_lost(repl: Watched) -> None:
    code = """
    import os
    try:
        print("on it", flush=True)
        while True: pass
    except KeyboardInterrupt:
        os._exit(5)
    """
    await repl.session.execute(textwrap.dedent(code))
    await repl.printed("on it")
    assert (await repl.session.interrupt()).state == "lost"


@pytest.mark.requirement("repl.session.interrupt")
async def test_a_background_task_that_hogs_the_loop_gives_way_to_an_interrupted_cell(repl: Watched) -> None:
    code = """
    import asyncio
    async def hog():
        await asyncio.sleep(0)
        print("hogging", flush=True)
        while True: pass
    async def start(): return asyncio.create_task(hog())
    task = await start()
    """
    assert await repl.run(code) == "ok"
    await repl.printed("hogging")
    waiting = await repl.session.execute("1")
    assert (await repl.session.interrupt()).state == "kept"
    assert await repl.done(waiting) == "interrupted"
    assert await repl.run("2") == "ok"


@pytest.mark.requirement("repl.session.interrupt")
async def test_a_plain_sigint_interrupts_too(repl: Watched) -> None:
    assert (
        await repl.run("import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(1000)")
        == "interrupted"
    )
    assert await repl.run("1") == "ok"


@pytest.mark.requirement("repl.session.bad-cells-do-no-harm")
async def test_a_flood_leaves_the_hosts_loop_its_turns(repl: Watched) -> None:
    flood = await repl.session.execute("while True: print('x' * 1000)")
    await repl.printed("x")
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(1000):
            await asyncio.sleep(0)
    assert (await repl.session.interrupt()).is_over
    assert await repl.done(flood) == "interrupted"
    assert set(repl.output()) == set(b"x\n")


# ---- input


@pytest.mark.requirement("repl.session.input")
async def test_the_first_answer_reaches_the_cell_and_later_ones_are_refused(repl: Watched) -> None:
    asking = await repl.session.execute("print('hello'); name = input('name? '); name")
    asked = await repl.kind("input")
    assert (asked.data["prompt"], asked.data["password"], asked.data["cell"]) == ("name? ", False, asking.cell)
    assert repl.output() == b"hello\n"
    with acting_for("bob"):
        assert (await repl.session.input(asked.data["id"], "ada\n")).accepted
    with pytest.raises(RefusedError):
        await repl.session.input(asked.data["id"], "late")
    assert await repl.done(asking) == "ok"
    assert repl.results() == ["'ada'"]
    taken = await repl.kind("input_taken")
    assert (taken.by, taken.data) == ("bob", {"cell": asking.cell, "id": asked.data["id"], "by": "bob"})
    with pytest.raises(RefusedError):
        await repl.session.input(asked.data["id"], "later still")
    with pytest.raises(InvalidInputError):
        await repl.session.input("7-7", "to nobody")


@pytest.mark.requirement("repl.session.input")
async def test_the_end_of_input_and_passwords(repl: Watched) -> None:
    asking = await repl.session.execute(
        "import getpass\ntry: getpass.getpass('pass? ')\nexcept EOFError: print('ended')"
    )
    asked = await repl.kind("input")
    assert asked.data["password"] is True
    await repl.session.input(asked.data["id"], None)
    assert await repl.done(asking) == "ok"
    assert repl.output() == b"ended\n"


# ---- cells and their queue


@pytest.mark.requirement("repl.session.a-cell-runs-once")
async def test_a_repeated_cell_gives_the_same_answer_and_runs_once(repl: Watched) -> None:
    first = await repl.session.execute("n = globals().get('n', 0) + 1; n", "mine")
    assert await repl.session.execute("n = globals().get('n', 0) + 1; n", "mine") == first
    assert await repl.done(first) == "ok"
    assert await repl.session.execute("n = globals().get('n', 0) + 1; n", "mine") == first
    with pytest.raises(KeyReusedError):
        await repl.session.execute("other", "mine")
    assert await repl.run("n") == "ok"
    assert repl.results() == ["1", "1"]
    assert len(repl.of_kind("cell")) == 2


@pytest.mark.requirement("repl.session.a-cell-runs-once")
async def test_the_answer_says_where_the_cell_begins_and_who_sent_it(repl: Watched) -> None:
    await repl.run("1")
    with acting_for("ada"):
        accepted = await repl.session.execute("2")
    await repl.done(accepted)
    following = repl.session.stream.reader(accepted.after).take()
    cell: Any = following[0]
    assert repl.session.stream.decode(cell).data == {"cell": accepted.cell, "code": "2", "by": "ada"}
    assert cell.by == "ada"


@pytest.mark.requirement("repl.session.bad-calls-are-refused")
async def test_malformed_calls_are_refused_before_anything_happens(repl: Watched) -> None:
    with pytest.raises(InvalidInputError):
        await repl.session.execute("1", "no spaces")
    with pytest.raises(InvalidInputError):
        await repl.session.execute("'\udc80'")
    with pytest.raises(TooLargeError):
        await repl.session.execute("#" * (EVENT_BYTES_MAX + 1))
    with pytest.raises(InvalidInputError):
        await repl.session.cancel("unheard-of")
    assert repl.session.stream.reader().take() == []


@pytest.mark.requirement("repl.session.queue-is-bounded")
async def test_the_queue_is_bounded_and_a_queued_cell_can_be_cancelled(
    repl: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "QUEUED_CELLS_MAX", 2)
    running = await repl.session.execute("input()")
    queued = [await repl.session.execute("'queued'") for _ in range(2)]
    with pytest.raises(RefusedError) as refused:
        await repl.session.execute("'too many'")
    assert refused.value.retry_after_s is not None
    assert (await repl.session.cancel(queued[0].cell)).state == "cancelled"
    assert (await repl.session.cancel(running.cell)).state == "running"
    assert await repl.done(queued[0]) == "cancelled"
    await repl.session.input((await repl.kind("input")).data["id"], "")
    assert await repl.done(queued[1]) == "ok"
    assert (await repl.session.cancel(queued[1].cell)).state == "finished"
    assert repl.results() == ["''", "'queued'"]
    monkeypatch.setattr(session_module, "QUEUED_BYTES_MAX", 10)
    with pytest.raises(RefusedError):
        await repl.session.execute("'more than ten'")


@pytest.mark.requirement("repl.session.independent")
async def test_two_sessions_share_nothing(repl: Watched, streams: Streams) -> None:
    other = Watched(Session("bob", streams))
    await repl.run("x = 1")
    assert await other.run("x") == "error"
    await other.run("import os; os._exit(1)")
    assert await repl.run("x") == "ok"
    assert other.session.pid != repl.session.pid
    await other.session.stop(timeout_s=1.0)


@pytest.mark.requirement("repl.session.independent")
def test_a_session_lives_on_uvloop_too() -> None:
    async def life() -> list[str]:
        repl = Watched(Session("ada", Streams()))
        statuses = [await repl.run("1 + 1"), await repl.run("print('é' * 100_000)")]
        endless = await repl.session.execute("print('on it', flush=True)\nwhile True: pass")
        await repl.printed("on it")
        statuses += [(await repl.session.interrupt()).state, await repl.done(endless)]
        statuses += [await repl.run("import os; os._exit(3)"), await repl.run("2")]
        report = await repl.session.stop(timeout_s=10.0)
        return [*statuses, *report.steps, *repl.results(), str(len(repl.output()))]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(life()) == ["ok", "ok", "kept", "interrupted", "lost", "ok", "asked", "2", "2", "200007"]


@pytest.mark.requirement("repl.evaluator.main-module")
async def test_classes_of_cells_can_be_pickled(repl: Watched) -> None:
    await repl.run("class A: pass")
    assert await repl.run("import pickle, sys; type(pickle.loads(pickle.dumps(A()))) is A, __name__, sys.argv") == "ok"
    assert repl.results() == ["(True, '__main__', [''])"]


# ---- stopping


@pytest.mark.requirement("repl.session.stop-reports-truthfully")
async def test_an_idle_session_stops_when_asked(repl: Watched) -> None:
    await repl.run("import atexit; atexit.register(print, 'farewell')")
    assert state_of(repl.session) == "idle"
    report = await repl.session.stop(timeout_s=10.0)
    assert report == StopReport(("asked",), 0, None)
    repl.take()
    assert repl.output() == b"farewell\n"
    assert state_of(repl.session) == "stopped"
    assert repl.session.stream.is_closed
    with pytest.raises(RefusedError):
        await repl.session.execute("1")


@pytest.mark.requirement("repl.session.stop-reports-truthfully")
async def test_a_busy_session_is_terminated_and_its_cells_are_accounted_for(repl: Watched) -> None:
    running = await repl.session.execute("print('on it', flush=True)\nwhile True: pass")
    queued = await repl.session.execute("1")
    await repl.printed("on it")
    assert await repl.session.stop(timeout_s=0.2) == StopReport(("asked", "terminated"), None, signal.SIGTERM)
    repl.take()
    assert [(e.data["cell"], e.data["status"]) for e in repl.of_kind("done")] == [
        (queued.cell, "cancelled"),
        (running.cell, "lost"),
    ]
    assert repl.events[-1].data == {"exit": None, "signal": signal.SIGTERM, "state": "stopped"}


@pytest.mark.requirement("repl.session.stop-reports-truthfully")
async def test_a_session_that_ignores_everything_is_killed(repl: Watched) -> None:
    await repl.session.execute(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on it', flush=True)\nwhile True: pass"
    )
    await repl.printed("on it")
    report = await repl.session.stop(timeout_s=0.2)
    assert report == StopReport(("asked", "terminated", "killed"), None, signal.SIGKILL)


@pytest.mark.requirement("repl.session.stop-reports-truthfully")
async def test_a_session_that_never_started_stops_at_once(streams: Streams) -> None:
    session = Session("ada", streams)
    assert state_of(session) == "starting"
    assert await session.stop(timeout_s=1.0) == StopReport((), None, None)
    assert state_of(session) == "stopped"


@pytest.mark.requirement("repl.session.stop-reports-truthfully")
async def test_a_stopped_sessions_transcript_is_kept_for_a_while_only(streams: Streams) -> None:
    session = Session("ada", streams)
    await session.stop(timeout_s=1.0)
    again = Session("ada", streams)
    await session.stop(timeout_s=1.0)
    assert not again.stream.is_closed
    await again.stop(timeout_s=1.0)
    streams.ended_kept_s = 0.0
    streams.create("other", object)  # which forgets what ended long ago
    assert [stream.name for stream in streams.matching()] == ["other"]
