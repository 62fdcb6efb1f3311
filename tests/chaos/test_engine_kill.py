"""A real process writes through the SQLite engine and is killed, again and again, on one file."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from covey.engines.sqlite import SqliteEngine
from covey.engines.sqlite_store import Durability
from covey.ports.engine import Engine, Lease, Record

# Writes without end, and says on its standard output what was acknowledged, one line each, at once. Records name the
# run and the writer, so that nothing of another run can stand in for what is lost.
WRITER = """
import asyncio, itertools, os, sys
from pathlib import Path
from covey.engines.sqlite import SqliteEngine
from covey.ports.engine import Record

path, durability, run, closes = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "closes"

def say(*words):
    os.write(1, " ".join(map(str, words)).encode() + b"\\n")

async def append(engine, writer):
    name = f"log{writer % 3}"
    for number in itertools.count():
        text = f"{run}-{writer}-{number}"
        size = 1 + number % 3
        texts = [f"{text}-{part}-{size}" for part in range(size)]
        records = [Record(1.0, "k", text.encode() + b" " * (number % 7 * 300)) for text in texts]
        for seq, text in zip(await engine.append(name, records), texts):
            say("record", name, seq, text)
        if number % 50 == 49:
            await engine.trim(name, seq - 100)

async def others(engine):
    for number in itertools.count():
        lease = await engine.acquire("lease", f"{run}-{number}", ttl_s=60.0)
        if lease is not None:
            say("token", lease.token)
            await engine.release(lease)
        say("value", await engine.put("value", f"{run}-{number}".encode()), f"{run}-{number}")
        await engine.journal_start(f"{run}-{number}", b"digest", run, keep_s=3600.0)
        await engine.journal_done(f"{run}-{number}", b"done")
        say("journal", f"{run}-{number}")

async def main():
    engine = SqliteEngine(path, durability=durability)
    await engine.open()
    for number in range(3):
        state = await engine.open_log(f"log{number}", epoch=run, settings=b"")
    say("open", state.epoch)
    writers = [append(engine, writer) for writer in range(8)]
    tasks = [asyncio.ensure_future(work) for work in (*writers, others(engine))]
    if closes:
        await asyncio.wait(tasks, timeout=0.05)
        closing = asyncio.ensure_future(engine.close())
        say("closing")
        await closing
    await asyncio.wait(tasks)

asyncio.run(main())
"""


@dataclass
class Acknowledged:
    """What the killed processes had been told is kept."""

    records: dict[tuple[str, int], str] = field(default_factory=dict)
    token: int = 0
    revision: int = 0
    value: str = ""
    journal: set[str] = field(default_factory=set)
    epoch: str = ""

    def learn(self, line: str) -> None:
        match line.split():
            case ["record", name, seq, text]:
                assert (name, int(seq)) not in self.records, "a number was given out twice"
                self.records[name, int(seq)] = text
            case ["token", token]:
                assert int(token) > self.token
                self.token = int(token)
            case ["value", revision, text]:
                assert int(revision) > self.revision
                self.revision, self.value = int(revision), text
            case ["journal", key]:
                self.journal.add(key)
            case ["open", epoch]:
                self.epoch = epoch
            case words:
                assert words == ["closing"]


def write_and_be_killed(
    path: Path, durability: Durability, run: int, chance: random.Random, told: Acknowledged
) -> None:
    """Start a writer and kill it: while it starts, after some acknowledgements, or while it closes."""
    moment = chance.choice(["starting", "writing", "writing", "writing", "closing"])
    arguments = [str(path), durability, f"r{run}", "closes" if moment == "closing" else "-"]
    with subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        lines: list[bytes] = []
        count = 1 if moment == "starting" else chance.randrange(2, 400)
        while len(lines) < count and (line := writer.stdout.readline()) and line != b"closing\n":
            lines.append(line)
        writer.kill()
        lines += writer.stdout.readlines()  # what it said before it died
    assert lines, "the writer died by itself"
    for line in lines:
        if line.endswith(b"\n"):
            told.learn(line.decode())


async def check(path: Path, told: Acknowledged, durability: Durability, run: int) -> None:
    engine = SqliteEngine(path, durability=durability)
    await engine.open()
    for number in range(3):
        name = f"log{number}"
        state = await engine.open_log(name, epoch=f"c{run}", settings=b"")
        assert state.epoch == told.epoch  # a kill loses nothing, so no number is used again
        found = await read_all(engine, name, state.oldest - 1)
        assert sorted(found) == list(range(state.oldest, state.head + 1))
        for (log, seq), text in told.records.items():
            if log == name and seq >= state.oldest:
                assert found[seq].split()[0] == text
            assert log != name or seq <= state.head
        for seq, text in found.items():  # an append is there whole or not at all, acknowledged or not
            part, size = map(int, text.split()[0].split("-")[-2:])
            first = seq - part
            assert first + size - 1 <= state.head
            for other in range(max(first, state.oldest), first + size):
                assert found[other].split()[0].rsplit("-", 2)[0] == text.split()[0].rsplit("-", 2)[0]
    value = await engine.get("value")
    assert value is None or value.revision >= told.revision
    assert value is not None or told.revision == 0
    if value is not None and value.revision == told.revision:
        assert value.data.decode() == told.value
    for key in told.journal:
        entry = await engine.journal_start(key, b"digest", "check", keep_s=3600.0)
        assert entry is not None
        assert entry.outcome == b"done"
    lease: Lease | None = await engine.acquire(f"check{run}", "check", ttl_s=1.0)
    assert lease is not None
    assert lease.token > told.token
    told.token = lease.token
    await engine.append("log0", [Record(1.0, "k", b"check-0-0-0-1")])
    await engine.close()


async def read_all(engine: Engine, name: str, seq: int) -> dict[int, str]:
    found: dict[int, str] = {}
    while part := await engine.read_after(name, seq, limit=1000):
        found |= {committed.seq: committed.record.data.decode() for committed in part}
        seq = part[-1].seq
    return found


async def kill_again_and_again(path: Path, durability: Durability, *, kills: int, seed: int) -> Acknowledged:
    chance = random.Random(seed)
    told = Acknowledged()
    for run in range(kills):
        write_and_be_killed(path, durability, run, chance, told)
        await check(path, told, durability, run)
        oldest = {name: max((seq for log, seq in told.records if log == name), default=0) - 2000 for name in LOGS}
        told.records = {at: text for at, text in told.records.items() if at[1] >= oldest[at[0]]}
    return told


LOGS = ("log0", "log1", "log2")


@pytest.mark.requirement("engine.sqlite.survives-kill")
@pytest.mark.parametrize(("durability", "seed"), [("commit", 1), ("fsync", 2)])
async def test_what_was_acknowledged_survives_kills(tmp_path: Path, durability: Durability, seed: int) -> None:
    told = await kill_again_and_again(tmp_path / "covey.db", durability, kills=12, seed=seed)
    assert told.records
    assert told.token > 0


@pytest.mark.soak
@pytest.mark.requirement("engine.sqlite.survives-kill")
@pytest.mark.parametrize("durability", ["commit", "fsync"])
async def test_what_was_acknowledged_survives_hundreds_of_kills(tmp_path: Path, durability: Durability) -> None:
    told = await kill_again_and_again(tmp_path / "covey.db", durability, kills=200, seed=3)
    assert len(told.journal) > 200
