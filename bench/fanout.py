"""How fast one stream reaches many readers: covey beside a bare uvloop protocol, other Python servers and nchan.

A load client in C (`load/sse_load.c`) holds the readers and checks that each of them gets every event once and in
order; a server that loses or repeats one fails the run. Events are published inside the server's process; only nchan is
published to by HTTP. Where there are two cores the server has one and the client the other.

Rounds go through all servers in turn, and a ratio to the limit is taken within its round: on a shared machine ratios of
one round say more than rates do. `time a delivery` is the server's own processor time, which neighbours disturb least.

Peers are taken as far as they are installed: `bench/requirements.txt`, and for nchan `apt install libnginx-mod-nchan
nginx-light`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

BENCH: Final = Path(__file__).parent
LIMIT: Final = "raw uvloop"
BURST: Final = 16
AHEAD: Final = 1024
# Latency is taken at ten thousand deliveries a second in all.
DELIVERIES_PER_S: Final = 10_000
LATENCY_PUBLICATIONS: Final = 50
# Beside stalled readers 200 events a second flow to each of the others, in ten publications.
FLOW: Final = (10, 20)
# What the ring holds by default; a ring that is full grows no more, so that all growth seen after is the readers'.
RING_EVENTS: Final = 10_000
BEARER: Final = "Authorization: Bearer token-of-the-benchmark-0123456789"

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """One server and how much is asked of it: enough for seconds, not for minutes.

    Args:
        needs: the package or the file without which it cannot run, and how to get it.
        single: publications of one event, for a thousand readers.
        joined: publications of sixteen.
        is_bounded: it is measured with stalled readers, too.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    path: str = "/"
    header: str = "Accept-Language: en"
    needs: tuple[str, str] = ("uvloop", "")
    single: int = 100
    joined: int = 8
    is_bounded: bool = False

    @property
    def missing(self) -> str | None:
        """Return how to get what is not there, None when it can run."""
        name, remedy = self.needs
        is_there = Path(name).exists() if name.startswith("/") else importlib.util.find_spec(name) is not None
        return None if is_there else remedy


STREAM: Final = "/v1/streams/news"
PIP: Final = "pip install -r bench/requirements.txt"
APT: Final = "Debian: apt install libnginx-mod-nchan nginx-light"
SERVERS: Final = (
    Server(LIMIT, "raw_uvloop", single=500, joined=600),
    Server("covey native", "covey_hub", ("native",), STREAM, BEARER, single=500, joined=600, is_bounded=True),
    Server("nchan", "nchan", needs=("/usr/lib/nginx/modules/ngx_nchan_module.so", APT), single=300, joined=20),
    Server("uvicorn, raw ASGI", "uvicorn_raw", ("single",), single=150),
    Server("covey ASGI", "covey_hub", ("asgi",), STREAM, BEARER, single=150, joined=60, is_bounded=True),
    Server("uvicorn, raw ASGI, joined", "uvicorn_raw", ("joined",), single=150, joined=60),
    Server("aiohttp-sse", "aiohttp_sse_app", needs=("aiohttp_sse", PIP), single=60, joined=4),
    Server("sse-starlette", "sse_starlette_app", needs=("sse_starlette", PIP), single=40, joined=3),
)


@dataclass
class Figures:
    """What the rounds found for one server."""

    single_per_s: list[float] = field(default_factory=list)
    single_cpu_us: list[float] = field(default_factory=list)
    single_joined: list[float] = field(default_factory=list)
    joined_per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    reader_kib: list[float] = field(default_factory=list)
    connect_s: list[float] = field(default_factory=list)


class BrokenError(Exception):
    """A server lost, repeated or reordered an event, or did not answer."""


class Running:
    """A server, and the load client beside it."""

    def __init__(self, pid: int, client: subprocess.Popen[str]) -> None:
        self.pid = pid
        self._client = client

    def order(self, text: str) -> Numbers:
        """Give the client an order and return its answer."""
        self.begin(text)
        return self.answer()

    def begin(self, text: str) -> None:
        assert self._client.stdin is not None
        self._client.stdin.write(text + "\n")
        self._client.stdin.flush()

    def has_answered(self, *, timeout_s: float) -> bool:
        """Wait for the answer to the order that was begun, and return whether it is there."""
        assert self._client.stdout is not None
        return bool(select.select([self._client.stdout], [], [], timeout_s)[0])

    def answer(self) -> Numbers:
        """Return the answer to the order that was begun.

        Raises:
            BrokenError: not everything that was published came, once and in order.
        """
        assert self._client.stdout is not None
        line = self._client.stdout.readline()
        if not line:
            raise BrokenError("the load client failed")
        found: Numbers = json.loads(line)
        if found.get("broken") or found.get("events", 0) < found.get("wanted", 0):
            raise BrokenError(f"not delivered as published: {line.strip()}")
        return found

    @property
    def rss_kib(self) -> int:
        """What the server has in memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))

    @property
    def cpu_s(self) -> float:
        """The processor time that the server has used."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9


def build(folder: Path) -> Path:
    """Compile the load client."""
    program = folder / "sse_load"
    subprocess.run(["cc", "-O2", "-o", program, BENCH / "load" / "sse_load.c"], check=True)
    return program


def pinned(core: int) -> list[str]:
    """Return what makes a command stay on one core, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(cores[core])] if len(cores) > 1 else []


@contextlib.contextmanager
def running(server: Server, program: Path, *, readers: int) -> Iterator[Running]:
    """Start a server and the load client, and end both."""
    command = [*pinned(0), sys.executable, "-m", f"bench.servers.{server.module}", *server.arguments, str(readers)]
    process = subprocess.Popen(command, cwd=BENCH.parent, stdout=subprocess.PIPE, text=True)
    pid = process.pid
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BrokenError(f"{server.name} did not start")
        said = json.loads(line)
        pid = said["pid"]
        client = subprocess.Popen(
            [*pinned(1), program, str(said["port"]), server.path, str(said["control"]), server.header],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with client:
            yield Running(pid, client)
    finally:
        os.kill(pid, signal.SIGKILL)
        process.wait()


def connect(run: Running, readers: int, *, slow: int = 0) -> tuple[float, float]:
    """Open the readers; return the seconds it took and the KiB that each costs once all is quiet."""
    before_kib = run.rss_kib
    found = run.order(f"connect {readers} {slow}")
    if found["answered"] < readers:
        raise BrokenError(f"{found['answered']} of {readers} readers were answered")
    run.order("quiet 500")
    return found["s"], (run.rss_kib - before_kib) / readers


def scaled(publications: int, readers: int) -> int:
    return max(1, publications * 1000 // readers)


def measure(server: Server, program: Path, figures: Figures, *, readers: int) -> None:
    """Take one round's figures of one server."""
    with running(server, program, readers=readers) as run:
        _, reader_kib = connect(run, readers)
        run.order(f"burst {scaled(10, readers)} 1 {AHEAD}")
        before_s = run.cpu_s
        single = run.order(f"burst {scaled(server.single, readers)} 1 {AHEAD}")
        figures.single_cpu_us.append((run.cpu_s - before_s) / single["events"] * 1e6)
        joined = run.order(f"burst {BURST * scaled(server.joined, readers)} {BURST} {AHEAD}")
        latency = run.order(f"rate {max(1, DELIVERIES_PER_S // readers)} {LATENCY_PUBLICATIONS} 1")
    figures.reader_kib.append(reader_kib)
    figures.single_per_s.append(single["events"] / single["s"])
    figures.single_joined.append(single["events"] / single["reads"])
    figures.joined_per_s.append(joined["events"] / joined["s"])
    figures.p50_ms.append(latency["p50_ms"])
    figures.p99_ms.append(latency["p99_ms"])


def measure_connect(server: Server, program: Path, figures: Figures, *, readers: int) -> None:
    """See how long a rush of readers takes."""
    with running(server, program, readers=readers) as run:
        figures.connect_s.append(connect(run, readers)[0])


def measure_stalled(server: Server, program: Path, *, readers: int, seconds: float) -> Numbers:
    """Let a tenth of the readers stop reading while events flow, and see what that costs.

    The ring is full before, so that what grows is what the stalled readers are kept for. In the end events come in
    bursts until those that the stalled readers stand at have left the ring. Then they read on: each must get all there
    is, after a word about what is gone, unless the server let go of it because it took nothing for too long.
    """
    stalled = max(1, readers // 10)
    per_second, batch = FLOW
    with running(server, program, readers=readers) as run:
        connect(run, readers, slow=stalled)
        run.order(f"burst {RING_EVENTS * 5 // 4} {BURST} {AHEAD}")
        run.order(f"rate {per_second} {per_second} {batch}")
        run.order(f"stall {stalled}")
        before_kib = most_kib = run.rss_kib
        for order in (
            f"rate {per_second} {round(seconds * per_second)} {batch}",
            f"burst {RING_EVENTS * 3} {BURST} {AHEAD}",
        ):
            run.begin(order)
            while not run.has_answered(timeout_s=0.2):
                most_kib = max(most_kib, run.rss_kib)
            run.answer()
        after = run.order("resume")
    if after["caught_up"] + after["freed"] < stalled:
        raise BrokenError(f"{after['caught_up']} of {stalled} stalled readers got on, {after['freed']} were let go")
    return {
        "growth": (most_kib - before_kib) / stalled,
        "gaps": after["gaps"],
        "freed": after["freed"],
        "stalled": stalled,
    }


def present(chosen: Sequence[str]) -> list[Server]:
    """Return the servers that can be measured here; say of the others why not."""
    servers = []
    for server in SERVERS:
        if chosen and server.name != LIMIT and server.name not in chosen:
            continue
        if server.missing is None:
            servers.append(server)
        else:
            print(f"fanout: {server.name} is left out, it is not installed; {server.missing}", file=sys.stderr)
    return servers


def spread(values: Sequence[float]) -> str:
    """Return the median with what it lies between."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def beside(values: Sequence[float], limits: Sequence[float]) -> str:
    return spread([value / limit for value, limit in zip(values, limits, strict=True)])


def row(server: Server, figures: Figures, limit: Figures, stalled: Numbers | None) -> Numbers:
    return {
        "server": server.name,
        "single events/s": round(statistics.median(figures.single_per_s)),
        "of limit": beside(figures.single_per_s, limit.single_per_s),
        "events a read": statistics.median(figures.single_joined),
        "time a delivery, of limit's": beside(figures.single_cpu_us, limit.single_cpu_us),
        f"bursts of {BURST}, events/s": round(statistics.median(figures.joined_per_s)),
        "of limit's": beside(figures.joined_per_s, limit.joined_per_s),
        "p50 ms": statistics.median(figures.p50_ms),
        "p50 of limit's": beside(figures.p50_ms, limit.p50_ms),
        "p99 ms": statistics.median(figures.p99_ms),
        "p99 of limit's": beside(figures.p99_ms, limit.p99_ms),
        "KiB a reader": statistics.median(figures.reader_kib),
        "5,000 connected s": statistics.median(figures.connect_s) if figures.connect_s else None,
        "KiB a stalled reader": stalled and stalled["growth"],
        "stalled readers told of a gap": stalled and f"{stalled['gaps']} of {stalled['stalled']}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the fan-out of event streams.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--minutes", type=float, default=0.25, help="how long some readers are stalled; 0 for not at all"
    )
    parser.add_argument("--rush", type=int, default=5000, help="readers whose connecting is timed; 0 for none")
    parser.add_argument("--only", action="append", default=[], metavar="SERVER", help="measure this beside the limit")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    servers = present(options.only)
    figures = {server.name: Figures() for server in servers}
    stalled: dict[str, Numbers] = {}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        for number in range(options.rounds):
            for server in servers:
                print(f"fanout: round {number + 1}, {server.name}", file=sys.stderr, flush=True)
                measure(server, program, figures[server.name], readers=options.readers)
                if options.rush:
                    measure_connect(server, program, figures[server.name], readers=options.rush)
            loads.append(os.getloadavg()[0])
        for server in servers:
            if server.is_bounded and options.minutes:
                print(f"fanout: stalled readers, {server.name}", file=sys.stderr, flush=True)
                stalled[server.name] = measure_stalled(
                    server, program, readers=options.readers, seconds=options.minutes * 60
                )
    rows = [row(server, figures[server.name], figures[LIMIT], stalled.get(server.name)) for server in servers]
    title = (
        f"Fan-out to {options.readers:,} readers, events of about 200 B, medians (ranges) of {options.rounds} rounds;"
        f" {options.minutes:g} min with a tenth of the readers stalled;"
        f" load average of the machine {min(loads):.1f}-{max(loads):.1f}, of which the run itself makes about 2"
    )
    if options.json:
        print(json.dumps({"title": title, "rows": rows}))
        return
    print(title)
    for found in rows:
        print(f"\n{found['server']}")
        for name, value in list(found.items())[1:]:
            if value is not None:
                print(f"    {name:<32} {value:,.4g}" if isinstance(value, float) else f"    {name:<32} {value}")


if __name__ == "__main__":
    main()
