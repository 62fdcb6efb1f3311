"""A session's start and round trips inside the hub, beside the limit: a bare socket ping-pong with eval.

    python bench/repl_roundtrip.py [--json] [--starts 20] [--cells 2000]

Blocks of both alternate in one run, so that a busy machine disturbs them alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import uvloop

from covey.repl.session import Session
from covey.streams.streams import Streams

BLOCK = 100
ECHO = """
import socket, sys
s = socket.socket(fileno=int(sys.argv[1]))
while data := s.recv(16384):
    s.sendall(repr(eval(data)).encode())
"""


async def until_done(session: Session, code: str) -> None:
    """Run a cell and return when its `done` is in the transcript, as a reader in the hub sees it."""
    accepted = await session.execute(code)
    reader = session.stream.reader(accepted.after)
    while not any(getattr(item, "kind", "") == "done" for item in reader.take()):
        await reader.wait()


async def start_to_result(number: int) -> tuple[float, float]:
    """Return the seconds for which the loop stood still and those until the first result."""
    session = Session(f"start-{number}", Streams())
    begin = time.perf_counter()
    await session.start()
    blocked = time.perf_counter()
    await until_done(session, "1+1")
    end = time.perf_counter()
    await session.stop(timeout_s=5)
    return blocked - begin, end - begin


def bare_start() -> float:
    """Return the seconds that `python -c` with the same imports needs to say something."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-P", "-c", "import covey.children.entry, covey.repl.python; print(1+1)"],
        check=True,
        stdout=subprocess.PIPE,
    )
    return time.perf_counter() - begin


async def timed(once: Callable[[], Awaitable[None]], into: list[float]) -> None:
    for _ in range(BLOCK):
        begin = time.perf_counter()
        await once()
        into.append(time.perf_counter() - begin)


async def timed_echo_on_loop(sock: socket.socket, into: list[float]) -> None:
    """The same with one end in the event loop, woken by a reader and a future: what any hub pays."""
    loop = asyncio.get_running_loop()
    woken: list[asyncio.Future[None]] = [loop.create_future()]

    def on_readable() -> None:
        sock.recv(16384)
        woken[0].set_result(None)

    loop.add_reader(sock, on_readable)
    for _ in range(BLOCK):
        begin = time.perf_counter()
        sock.sendall(b"1+1")
        await woken[0]
        into.append(time.perf_counter() - begin)
        woken[0] = loop.create_future()
    loop.remove_reader(sock)


async def interrupted(session: Session) -> float:
    """Return the seconds from the call of `interrupt` until the endless cell is over."""
    accepted = await session.execute("print('on it', flush=True)\nwhile True: pass")
    reader = session.stream.reader(accepted.after)
    while not any(getattr(item, "kind", "") == "stdout" for item in reader.take()):
        await reader.wait()
    begin = time.perf_counter()
    await session.interrupt()
    return time.perf_counter() - begin


def timed_echo(sock: socket.socket, into: list[float]) -> None:
    sock.settimeout(None)
    for _ in range(BLOCK):
        begin = time.perf_counter()
        sock.sendall(b"1+1")
        sock.recv(16384)
        into.append(time.perf_counter() - begin)


async def measure(starts: int, cells: int) -> dict[str, dict[str, float]]:
    blocked, started, bare = [], [], []
    for number in range(starts):
        stood, took = await start_to_result(number)
        blocked.append(stood)
        started.append(took)
        bare.append(bare_start())
    mine, theirs = socket.socketpair()
    echo = subprocess.Popen(  # noqa: ASYNC220 -- nothing else is measured meanwhile
        [sys.executable, "-c", ECHO, str(theirs.fileno())], pass_fds=[theirs.fileno()]
    )
    theirs.close()
    session = Session("round-trip", Streams())
    await until_done(session, "1+1")
    pingpong: list[float] = []
    on_loop: list[float] = []
    expression: list[float] = []
    printing: list[float] = []
    for _ in range(max(1, cells // BLOCK)):
        timed_echo(mine, pingpong)
        await timed_echo_on_loop(mine, on_loop)
        await timed(lambda: until_done(session, "1+1"), expression)
        await timed(lambda: until_done(session, "print(1)"), printing)
    lines_begin = time.perf_counter()
    await until_done(session, "for i in range(1_000_000): print(i)")
    lines_s = time.perf_counter() - lines_begin
    interrupts = [await interrupted(session) for _ in range(30)]
    await session.stop(timeout_s=5)
    mine.close()
    echo.wait()
    limit = statistics.median(on_loop)
    return {
        "limit: python with the same imports (ms)": figures(bare, 1e3),
        "start to first result (ms)": figures(started, 1e3),
        "loop blocked by the start (ms)": figures(blocked, 1e3),
        "limit: socket ping-pong and eval (us)": figures(pingpong, 1e6),
        "limit: the same, woken by the event loop (us)": figures(on_loop, 1e6),
        "1+1 until done (us)": figures(expression, 1e6, limit),
        "print(1) until done (us)": figures(printing, 1e6, limit),
        "interrupt of `while True` until over (ms)": figures(interrupts, 1e3),
        "1 M printed lines (s)": {"once": round(lines_s, 2)},
    }


def figures(seconds: list[float], unit: float, limit: float | None = None) -> dict[str, float]:
    ordered = sorted(seconds)
    found = {
        "p50": round(statistics.median(ordered) * unit, 2),
        "p99": round(ordered[int(len(ordered) * 0.99)] * unit, 2),
        "min": round(ordered[0] * unit, 2),
    }
    return found if limit is None else found | {"p50 / limit": round(statistics.median(ordered) / limit, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--cells", type=int, default=2000)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        results = runner.run(measure(options.starts, options.cells))
    if options.json:
        rows = [{"what": name, **values} for name, values in results.items()]
        print(json.dumps({"title": "Sessions inside the hub, beside a bare process and a bare socket", "rows": rows}))
    else:
        for name, values in results.items():
            print(f"{name:45}", *(f"{key} {value:>9}" for key, value in values.items()))


if __name__ == "__main__":
    main()
