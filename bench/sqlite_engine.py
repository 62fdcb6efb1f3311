"""Appends and replays of the SQLite engine beside what SQLite itself does on the same disk.

The limit of an append is one thread that writes rows with `executemany`, a thousand a transaction; that of a replay is
`fetchall`. covey's appends each wait for their acknowledgement, so many or few of them at once. Rounds go through all
contenders in turn, so that a slow moment of the machine meets them alike. Events have 256 bytes, in 50 streams; the
loop is uvloop, as under `covey serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop

from covey.engines.sqlite import SqliteEngine
from covey.engines.sqlite_store import Durability
from covey.ports.engine import Record

ROUNDS = 5
STREAMS = 50
BATCH = 1000
DATA = b'"' + b"x" * 254 + b'"'
RECORD = Record(1764000000.123, "stdout", DATA)
REPLAYED = 20_000
CONCURRENT = (1, 10, 100, 1000)
# Enough for a figure, few enough for a disk that syncs slowly.
APPENDS = {1: 1000, 10: 5000, 100: 20_000, 1000: 50_000}
SYNCED_SHARE = 5


@dataclass(frozen=True)
class Contender:
    what: str
    limit: str  # the contender that it is compared with
    rate: Callable[[Path], Awaitable[float]]  # events a second


async def raw_append(folder: Path, *, synchronous: str, events: int) -> float:
    connection = raw_table(folder, synchronous)
    begin_s = time.perf_counter()
    for start in range(0, events, BATCH):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?)",
            [(f"t{number % STREAMS}", number, 0.0, DATA) for number in range(start, start + BATCH)],
        )
        connection.execute("COMMIT")
    took_s = time.perf_counter() - begin_s
    connection.close()
    return events / took_s


async def raw_replay(folder: Path) -> float:
    connection = raw_table(folder, "NORMAL")
    rows = [("t", number, 0.0, DATA) for number in range(REPLAYED)]
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
    begin_s = time.perf_counter()
    found = connection.execute("SELECT seq, data FROM events WHERE stream = 't' AND seq >= 0 ORDER BY seq").fetchall()
    took_s = time.perf_counter() - begin_s
    assert len(found) == REPLAYED
    connection.close()
    return REPLAYED / took_s


def raw_table(folder: Path, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(
        "CREATE TABLE events (stream TEXT, seq INTEGER, time REAL, data BLOB, PRIMARY KEY (stream, seq)) WITHOUT ROWID"
    )
    return connection


async def opened(folder: Path, durability: Durability) -> SqliteEngine:
    engine = SqliteEngine(folder / "covey.db", durability=durability)
    await engine.open()
    for number in range(STREAMS):
        await engine.open_log(f"t{number}", epoch="bench", settings=b"{}")
    return engine


async def covey_append(folder: Path, *, durability: Durability, concurrent: int, events: int) -> float:
    engine = await opened(folder, durability)

    async def writer(stream: str) -> None:
        for _ in range(events // concurrent):
            await engine.append(stream, [RECORD])

    begin_s = time.perf_counter()
    await asyncio.gather(*(writer(f"t{number % STREAMS}") for number in range(concurrent)))
    took_s = time.perf_counter() - begin_s
    await engine.close()
    return events / took_s


async def covey_append_batches(folder: Path, *, durability: Durability, events: int) -> float:
    engine = await opened(folder, durability)
    begin_s = time.perf_counter()
    for start in range(0, events, BATCH):
        await engine.append(f"t{start // BATCH % STREAMS}", [RECORD] * BATCH)
    took_s = time.perf_counter() - begin_s
    await engine.close()
    return events / took_s


async def covey_replay(folder: Path) -> float:
    engine = await opened(folder, "commit")
    for _ in range(0, REPLAYED, BATCH):
        await engine.append("t0", [RECORD] * BATCH)
    begin_s = time.perf_counter()
    seq = 0
    while found := await engine.read_after("t0", seq, limit=BATCH):
        seq = found[-1].seq
    took_s = time.perf_counter() - begin_s
    assert seq == REPLAYED
    await engine.close()
    return REPLAYED / took_s


def contenders() -> list[Contender]:
    found: list[Contender] = []
    durabilities: list[tuple[Durability, str, int]] = [("commit", "NORMAL", 1), ("fsync", "FULL", SYNCED_SHARE)]
    for durability, synchronous, share in durabilities:
        limit = f"raw SQLite, {synchronous}, {BATCH} a transaction"
        events = APPENDS[1000] // share
        found.append(Contender(limit, limit, partial(raw_append, synchronous=synchronous, events=events)))
        found += [
            Contender(
                f"append, {durability}, {concurrent} at once",
                limit,
                partial(
                    covey_append, durability=durability, concurrent=concurrent, events=APPENDS[concurrent] // share
                ),
            )
            for concurrent in CONCURRENT
        ]
        whole = partial(covey_append_batches, durability=durability, events=events)
        found.append(Contender(f"append, {durability}, {BATCH} events each", limit, whole))
    limit = "raw SQLite, fetchall"
    found.append(Contender(limit, limit, raw_replay))
    found.append(Contender(f"replay, {BATCH} events a read", limit, covey_replay))
    return found


def rows() -> list[dict[str, object]]:
    rates: dict[str, list[float]] = {}
    chosen = contenders()
    for _ in range(ROUNDS):
        for contender in chosen:
            with tempfile.TemporaryDirectory() as folder:
                rates.setdefault(contender.what, []).append(uvloop.run(_run(contender, Path(folder))))
    medians = {what: statistics.median(found) for what, found in rates.items()}
    return [
        {
            "what": contender.what,
            "events/s": medians[contender.what],
            "of limit": medians[contender.what] / medians[contender.limit],
        }
        for contender in chosen
    ]


async def _run(contender: Contender, folder: Path) -> float:
    return await contender.rate(folder)


def main() -> None:
    options = argparse.ArgumentParser(description="Measure the SQLite engine.")
    options.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    is_json = options.parse_args().json
    found = rows()
    if is_json:
        print(json.dumps({"title": f"SQLite engine, 256 B events, medians of {ROUNDS} rounds", "rows": found}))
        return
    for row in found:
        print("{what:<44} {events/s:>12,.0f} events/s {of limit:>6.2f} of the limit".format_map(row))


if __name__ == "__main__":
    main()
