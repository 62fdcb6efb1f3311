"""How much faster than real time a simulation runs, and what one turn of its loop costs beside asyncio's own.

The idle-heavy runs are what most of a simulation is: connections on which a heartbeat passes now and then, and tasks
that wait for a timer. Two busy runs show the price of being simulated: tasks that only hand the turn on, and an echo
over a connection. Their limit is the same program on asyncio's own loop, over a socket of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable

from covey.testing import SimWorld

ROUNDS = 3
HOUR_S = 3600.0
CONNECTIONS = 100
HEARTBEAT_S = 15.0
SLEEPERS = 1000
YIELDS = 200_000
ECHOES = 5000
Row = dict[str, object]


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
    writer.close()


def heartbeats() -> SimWorld:
    world = SimWorld(1)

    async def hub() -> None:
        async with await asyncio.start_server(serve, port=80) as server:
            await server.serve_forever()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("hub", 80)
        while world.now_s < HOUR_S:
            await asyncio.sleep(world.randomness.uniform(0.8, 1.2) * HEARTBEAT_S)
            writer.write(b"beat\n")
            await reader.readline()
        writer.close()

    async def main() -> None:
        world.spawn(hub, host="hub")
        await asyncio.sleep(0.1)
        await asyncio.gather(*(world.spawn(client, host=f"client-{number}") for number in range(CONNECTIONS)))

    world.run(main)
    return world


def sleepers() -> SimWorld:
    world = SimWorld(1)

    async def sleep() -> None:
        for _ in range(11):
            await asyncio.sleep(world.randomness.uniform(60, 600))

    async def main() -> None:
        await asyncio.gather(*(sleep() for _ in range(SLEEPERS)))

    world.run(main)
    return world


async def hand_on() -> None:
    for _ in range(YIELDS):
        await asyncio.sleep(0)


async def echo() -> None:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        for _ in range(ECHOES):
            writer.write(b"ping\n")
            await reader.readline()
        writer.write_eof()
        await reader.read()
        writer.close()


def real_s(run: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    run()
    return time.perf_counter() - begin_s


def idle_row(what: str, run: Callable[[], SimWorld]) -> Row:
    worlds: list[SimWorld] = []
    took_s = statistics.median(real_s(lambda: worlds.append(run())) for _ in range(ROUNDS))
    simulated_s = worlds[0].now_s
    return {
        "what": what,
        "simulated s": simulated_s,
        "real s": took_s,
        "x real time": simulated_s / took_s,
        "turns/s": worlds[0].loop.turns / took_s,
    }


def busy_row(what: str, run: Callable[[], Awaitable[None]], count: int) -> Row:
    async def main() -> None:
        await run()

    ours: list[float] = []
    asyncios: list[float] = []
    for _ in range(ROUNDS):  # in turn, so that a slow moment of the machine meets both
        asyncios.append(real_s(lambda: asyncio.run(main())))
        ours.append(real_s(lambda: SimWorld(1).run(main)))
    took_s, limit_s = statistics.median(ours), statistics.median(asyncios)
    return {"what": what, "real s": took_s, "µs each": took_s / count * 1e6, "of asyncio's loop": limit_s / took_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    as_json = parser.parse_args().json
    rows = [
        idle_row(f"{CONNECTIONS} connections, a heartbeat each every {HEARTBEAT_S:.0f} s, an hour", heartbeats),
        idle_row(f"{SLEEPERS} tasks that sleep 1 to 10 min, eleven times", sleepers),
        busy_row("a turn handed on by sleep(0)", hand_on, YIELDS),
        busy_row("an echo over a connection", echo, ECHOES),
    ]
    if as_json:
        print(json.dumps({"title": "SimWorld: simulated beside real time", "rows": rows}))
    else:
        for row in rows:
            print(row)


if __name__ == "__main__":
    main()
