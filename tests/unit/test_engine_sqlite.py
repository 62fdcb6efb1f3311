from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from covey.engines import group_commit
from covey.engines.sqlite import SqliteEngine
from covey.engines.sqlite_format import APPLICATION_ID, STEPS, migrate
from covey.engines.sqlite_store import Durability
from covey.errors import EngineError, HeadMovedError, StreamNotFoundError
from covey.ports.engine import Engine, Record
from covey.testing.clock import ManualClock

RECORD = Record(1.5, "message", b'"x"')


@asynccontextmanager
async def opened(
    path: Path, *, durability: Durability = "commit", clock: ManualClock | None = None
) -> AsyncIterator[SqliteEngine]:
    engine = SqliteEngine(path, durability=durability, clock=clock)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


async def with_a_log(engine: Engine, name: str = "news", epoch: str = "one") -> str:
    return (await engine.open_log(name, epoch=epoch, settings=b"{}")).epoch


async def payloads(engine: Engine, name: str = "news") -> list[bytes]:
    return [found.record.data for found in await engine.read_after(name, 0, limit=10_000)]


def in_a_child(code: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the code in a process of its own; it finds what `PRELUDE` imports."""
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=check,
        timeout=50,
    )


PRELUDE = """
import asyncio, os, resource, sys
from pathlib import Path
from covey.engines.sqlite import SqliteEngine
from covey.errors import EngineError
from covey.ports.engine import Record
RECORD = Record(1.5, "message", b'"x"')
"""

DIE_UNCLEAN = """
async def main():
    engine = SqliteEngine(Path(sys.argv[1]), durability=sys.argv[2])
    await engine.open()
    await engine.open_log("news", epoch="one", settings=b"{}")
    await engine.append("news", [RECORD])
    lease = await engine.acquire("k", "ada", ttl_s=2.0)
    value = await engine.put("k", b"1")
    print(lease.token, value, flush=True)
    os._exit(9)
asyncio.run(main())
"""


# ---- durability


def note_another_boot(path: Path) -> None:
    """Let the file say that it was last open before the machine went down."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE state SET boot = 'an earlier one'")
        connection.commit()


@pytest.mark.requirement("engine.sqlite.epoch")
@pytest.mark.parametrize("durability", ["commit", "fsync"])
async def test_a_killed_process_costs_no_epoch(tmp_path: Path, durability: Durability) -> None:
    path = tmp_path / "covey.db"
    in_a_child(DIE_UNCLEAN, path, durability, check=False)
    async with opened(path, durability=durability) as engine:
        assert await with_a_log(engine, epoch="two") == "one"
        assert await payloads(engine) == [b'"x"']


@pytest.mark.requirement("engine.sqlite.epoch")
@pytest.mark.parametrize(("durability", "epoch"), [("commit", "two"), ("fsync", "one")])
async def test_a_machine_that_went_down_begins_a_new_epoch_unless_every_commit_was_synced(
    tmp_path: Path, durability: Durability, epoch: str
) -> None:
    path = tmp_path / "covey.db"
    in_a_child(DIE_UNCLEAN, path, durability, check=False)
    note_another_boot(path)
    # The durability that counts is that of the run that died.
    async with opened(path, durability="commit" if durability == "fsync" else "fsync") as engine:
        assert await with_a_log(engine, epoch="two") == epoch
        assert await payloads(engine) == [b'"x"']
        assert await with_a_log(engine, epoch="three") == epoch
    async with opened(path) as engine:
        assert await with_a_log(engine, epoch="four") == epoch


@pytest.mark.requirement("engine.sqlite.epoch")
async def test_a_log_that_was_not_opened_after_the_crash_gets_its_new_epoch_later(tmp_path: Path) -> None:
    path = tmp_path / "covey.db"
    in_a_child(DIE_UNCLEAN, path, "commit", check=False)
    note_another_boot(path)
    async with opened(path) as engine:
        assert await with_a_log(engine, "other", epoch="o") == "o"
    async with opened(path) as engine:
        assert await with_a_log(engine, epoch="later") == "later"


@pytest.mark.requirement("engine.sqlite.epoch")
async def test_a_clean_end_keeps_the_epoch(tmp_path: Path) -> None:
    async with opened(tmp_path / "covey.db") as engine:
        assert await with_a_log(engine) == "one"
    async with opened(tmp_path / "covey.db") as engine:
        assert await with_a_log(engine, epoch="two") == "one"


@pytest.mark.requirement("engine.sqlite.fences-after-a-crash")
async def test_tokens_and_revisions_jump_ahead_of_all_that_a_crash_may_have_lost(tmp_path: Path) -> None:
    path = tmp_path / "covey.db"
    token, revision = map(int, in_a_child(DIE_UNCLEAN, path, "commit", check=False).stdout.split())
    note_another_boot(path)
    clock = ManualClock()
    async with opened(path, clock=clock) as engine:
        assert await engine.acquire("k", "bob", ttl_s=2.0) is None  # a restart never shortens a lease
        clock.advance(2.5)
        lease = await engine.acquire("k", "bob", ttl_s=2.0)
        assert lease is not None
        assert lease.token > token + 1_000_000
        assert (await engine.put("k", b"2", expect_revision=revision) or 0) > revision + 1_000_000


@pytest.mark.requirement("engine.sqlite.own-time")
async def test_time_while_the_file_was_closed_and_jumps_of_clocks_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "covey.db"
    async with opened(path, clock=ManualClock(monotonic_s=5_000_000.0)) as engine:
        assert await engine.acquire("k", "ada", ttl_s=2.0) is not None
        assert await engine.journal_start("call", b"d", "run1", keep_s=2.0) is None
    clock = ManualClock(monotonic_s=3.0)  # the machine was started anew
    async with opened(path, clock=clock) as engine:
        assert await engine.acquire("k", "bob", ttl_s=2.0) is None
        assert await engine.journal_start("call", b"d", "run2", keep_s=2.0) is not None
        clock.advance(2.5)
        assert await engine.acquire("k", "bob", ttl_s=2.0) is not None
        assert await engine.journal_start("call", b"d", "run3", keep_s=2.0) is None


APPEND_TEN = """
async def main():
    engine = SqliteEngine(Path(sys.argv[1]), durability=sys.argv[2])
    await engine.open()
    await engine.open_log("news", epoch="one", settings=b"{}")
    for number in range(10):
        await engine.append("news", [RECORD])
        os.write(1, b"acknowledged %d\\n" % number)
    os._exit(9)
asyncio.run(main())
"""
_SYNC = re.compile(r"(?:fsync|fdatasync)\(\d+<[^>]*-wal>")
_WRITE = re.compile(r"pwrite64\(\d+<[^>]*-wal>")
_ACKNOWLEDGED = re.compile(r'write\(1<[^>]*>, "acknowledged')


def calls_of_appends(folder: Path, durability: Durability) -> list[str]:
    """Return for each acknowledgement the calls since the one before it: w writes the log file, s syncs it."""
    trace = folder / f"{durability}.trace"
    child = [sys.executable, "-c", PRELUDE + APPEND_TEN, str(folder / f"{durability}.db"), durability]
    calls = "trace=write,pwrite64,fsync,fdatasync"
    subprocess.run(
        ["strace", "-f", "-y", "-o", trace, "-e", calls, *child], capture_output=True, check=False, timeout=50
    )
    found = [""]
    for line in trace.read_text().splitlines():
        if _ACKNOWLEDGED.search(line):
            found.append("")
        elif _SYNC.search(line):
            found[-1] += "s"
        elif _WRITE.search(line):
            found[-1] += "w"
    return found[1:-1]  # the first has the making of the file before it


@pytest.mark.requirement("engine.sqlite.sync-before-acknowledgement")
def test_fsync_syncs_what_was_written_before_it_acknowledges(tmp_path: Path) -> None:
    calls = calls_of_appends(tmp_path, "fsync")
    assert len(calls) == 9
    assert all(re.fullmatch("w+s", seen) for seen in calls), calls


@pytest.mark.requirement("engine.sqlite.sync-before-acknowledgement")
def test_commit_writes_before_it_acknowledges_and_does_not_sync(tmp_path: Path) -> None:
    calls = calls_of_appends(tmp_path, "commit")
    assert len(calls) == 9
    assert all(re.fullmatch("w+", seen) for seen in calls), calls


# ---- no room


async def pragma(engine: SqliteEngine, text: str) -> None:
    await engine._writer.submit(lambda: engine._store.connection.execute(f"PRAGMA {text}").fetchall())


@pytest.mark.requirement("engine.sqlite.disk-full")
async def test_without_room_nothing_acknowledged_is_lost_and_with_room_it_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "covey.db") as engine:
        await with_a_log(engine)
        await pragma(engine, "max_page_count = 100")
        large = Record(1.0, "k", b"x" * 50_000)
        acknowledged: list[int] = []

        async def fill() -> None:
            while len(acknowledged) < 100:
                acknowledged.extend(await engine.append("news", [large]))

        with pytest.raises(EngineError, match="full") as failure:
            await fill()
        assert "free space" in (failure.value.hint or "")
        assert [found.seq for found in await engine.read_after("news", 0, limit=100)] == acknowledged
        # What fits still goes in, also beside what does not.
        answers = await asyncio.gather(
            engine.append("news", [large] * 10), engine.append("news", [RECORD]), return_exceptions=True
        )
        assert isinstance(answers[0], EngineError)
        assert answers[1] == [len(acknowledged) + 1]
        await pragma(engine, "max_page_count = 1000000")
        assert await engine.append("news", [large]) == [len(acknowledged) + 2]


FILE_LIMIT = """
async def main():
    engine = SqliteEngine(Path(sys.argv[1]))
    await engine.open()
    await engine.open_log("news", epoch="one", settings=b"{}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
    acknowledged = []
    try:
        while len(acknowledged) < 1000:
            acknowledged += await engine.append("news", [Record(1.0, "k", b"x" * 50_000)])
    except EngineError as error:
        assert "acknowledged" in error.hint, error.hint
    assert 1 < len(acknowledged) < 1000, acknowledged
    found = [found.seq for found in await engine.read_after("news", 0, limit=1000)]
    assert found == acknowledged, (found, acknowledged)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert await engine.append("news", [RECORD]) == [len(acknowledged) + 1]
    await engine.close()
    print(len(acknowledged) + 1)
asyncio.run(main())
"""


@pytest.mark.requirement("engine.sqlite.disk-full")
async def test_a_write_that_the_system_refuses_is_an_error_and_no_acknowledgement(tmp_path: Path) -> None:
    path = tmp_path / "covey.db"
    kept = int(in_a_child(FILE_LIMIT, path).stdout)
    async with opened(path) as engine:
        assert len(await payloads(engine)) == kept


# ---- files that can't be used


async def fails_to_open(path: Path) -> EngineError:
    engine = SqliteEngine(path)
    with pytest.raises(EngineError) as failure:
        await engine.open()
    await engine.close()
    return failure.value


@contextmanager
def untouched(path: Path) -> Iterator[None]:
    before = path.read_bytes()
    yield
    assert path.read_bytes() == before


@pytest.mark.requirement("engine.sqlite.unusable-files")
@pytest.mark.parametrize("content", [b"hello", b"x" * 5000, b"SQLite format 3\0"])
async def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with untouched(path):
        error = await fails_to_open(path)
    assert "is not a database" in error.message
    assert error.hint


@pytest.mark.requirement("engine.sqlite.unusable-files")
@pytest.mark.parametrize("application_id", [0, 7])
async def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path, application_id: int) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE logs (a)")
        connection.execute(f"PRAGMA application_id = {application_id}")
    with untouched(path):
        assert "another program" in (await fails_to_open(path)).message


@pytest.mark.requirement("engine.sqlite.unusable-files")
async def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "covey.db"
    async with opened(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with untouched(path):
        error = await fails_to_open(path)
    assert f"format {len(STEPS) + 1}" in error.message
    assert "newer covey" in (error.hint or "")


@pytest.mark.requirement("engine.sqlite.unusable-files")
async def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "covey.db"
    async with opened(path) as engine:
        await with_a_log(engine)
        await engine.append("news", [Record(1.0, "k", b"x" * 3000)] * 100)
    sound = path.read_bytes()
    path.write_bytes(sound[:100] + b"\xff" * (len(sound) - 100))
    with untouched(path):
        error = await fails_to_open(path)
    assert "is damaged" in error.message
    assert "backup" in (error.hint or "")
    path.write_bytes(sound[: len(sound) // 2] + b"\xff" * (len(sound) - len(sound) // 2))
    async with opened(path) as engine:
        await engine.put("k", b"1")
        with pytest.raises(EngineError, match="damaged"):
            await engine.read_after("news", 0, limit=1000)


UNPRIVILEGED = """
engine = SqliteEngine(Path(sys.argv[1]))
if os.getuid() == 0:
    os.setuid(65534)
try:
    asyncio.run(engine.open())
except EngineError as error:
    print(error.message, "|", error.hint)
"""


@pytest.mark.requirement("engine.sqlite.unusable-files")
async def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    # The folder of tests is closed to the other user that root becomes to lose its rights.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "covey.db"
        async with opened(path):
            pass
        path.chmod(0o444)
        path.with_name("covey.db.lock").chmod(0o666)
        path.parent.chmod(0o777)
        with untouched(path):
            said = in_a_child(UNPRIVILEGED, path).stdout
    assert "Permission denied" in said
    assert "the right to write" in said


@pytest.mark.requirement("engine.sqlite.unusable-files")
@pytest.mark.parametrize("name", ["missing/covey.db", ""])
async def test_a_path_that_can_be_no_file_is_refused(tmp_path: Path, name: str) -> None:
    assert (await fails_to_open(tmp_path / name)).hint


# ---- one holder


@pytest.mark.requirement("engine.sqlite.one-holder")
async def test_a_file_is_held_by_one_engine_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "covey.db"
    (tmp_path / "link.db").symlink_to(path)
    async with opened(path) as engine:
        for other in (path, tmp_path / "link.db"):
            error = await fails_to_open(other)
            assert "in use by another engine of this process" in error.message
        await with_a_log(engine)  # and the attempts took nothing from it
        assert str(os.getpid()) in in_a_child(UNPRIVILEGED.replace("os.getuid()", "1"), path).stdout
    async with opened(path):
        pass


HOLD = """
async def main():
    engine = SqliteEngine(Path(sys.argv[1]))
    await engine.open()
    if os.fork() == 0:  # a child that outlives it
        os.close(1)
        os.read(0, 1)
        os._exit(0)
    print("held", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.requirement("engine.sqlite.one-holder")
async def test_a_killed_holder_lets_go_even_when_a_forked_child_lives_on(tmp_path: Path) -> None:
    path = tmp_path / "covey.db"
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        error = await fails_to_open(path)
        assert f"in use by process {holder.pid}" in error.message
        holder.kill()
        holder.wait(10)
        async with opened(path) as engine:
            await with_a_log(engine)


@pytest.mark.requirement("engine.sqlite.one-holder")
async def test_a_program_that_locks_the_database_is_named_as_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("covey.engines.sqlite_format._BUSY_TIMEOUT_S", 0.01)
    path = tmp_path / "covey.db"
    async with opened(path) as engine:
        await with_a_log(engine)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(EngineError, match="locked by another program"):
                await engine.append("news", [RECORD])
            other.execute("ROLLBACK")
        assert await engine.append("news", [RECORD]) == [1]


# ---- format


def version_one(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, path, STEPS[:1])
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO logs VALUES (1, 'news', 'old', 0, 0, 0, x'7b7d')")
        # The body as the first version wrote it: [1, [1.5, "message", b'"x"', nil, nil]].
        body = b'\x92\xcf\0\0\0\0\0\0\0\x01\x95\xcb\x3f\xf8\0\0\0\0\0\0\xa7message\xc4\x03"x"\xc0\xc0'
        connection.execute("INSERT INTO records VALUES (1, 1, ?)", (body,))
        connection.execute("INSERT INTO registry VALUES ('k', x'31', 5)")
        connection.execute("UPDATE state SET sequence = 5")


def versions(path: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    return version, application_id


@pytest.mark.requirement("engine.sqlite.migrates")
async def test_a_file_of_version_1_is_brought_to_the_newest_with_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "covey.db"
    version_one(path)
    assert versions(path) == (1, APPLICATION_ID)
    async with opened(path) as engine:
        assert await with_a_log(engine, epoch="new") == "old"
        assert await engine.append("news", [RECORD]) == [2]
        assert [found.record for found in await engine.read_after("news", 0, limit=9)] == [RECORD, RECORD]
        assert await engine.put("k", b"2", expect_revision=5) == 6
        assert await engine.journal_start("call", b"d", "run", keep_s=1.0) is None
    assert versions(path) == (len(STEPS), APPLICATION_ID)


@pytest.mark.requirement("engine.sqlite.migrates")
def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "covey.db"
    version_one(path)
    broken = (*STEPS, ("CREATE TABLE added (a)", "INSERT INTO missing VALUES (1)"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="missing"):
            migrate(connection, path, broken)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    assert tables.isdisjoint({"added", "journal"})
    assert versions(path) == (1, APPLICATION_ID)


@pytest.mark.requirement("engine.sqlite.migrates")
async def test_a_file_that_was_only_begun_is_made_whole(tmp_path: Path) -> None:
    path = tmp_path / "covey.db"
    path.touch()
    path.chmod(0o640)
    async with opened(path) as engine:
        await with_a_log(engine)
    assert versions(path) == (len(STEPS), APPLICATION_ID)
    assert path.stat().st_mode & 0o777 == 0o640  # one that was there keeps its mode


@pytest.mark.requirement("engine.sqlite.private")
async def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "covey.db") as engine:
        await with_a_log(engine)
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir() if file.is_file()}
    assert modes == dict.fromkeys(["covey.db", "covey.db-wal", "covey.db-shm", "covey.db.lock"], 0o600)


@pytest.mark.requirement("engine.sqlite.close")
async def test_closing_leaves_one_file_and_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with opened(tmp_path / "covey.db") as engine:
        await with_a_log(engine)
        await engine.append("news", [RECORD])
        assert await payloads(engine) == [b'"x"']
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert set(threading.enumerate()) <= before
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} == {"covey.db", "covey.db.lock"}


@pytest.mark.requirement("engine.sqlite.close")
async def test_a_cancelled_open_lets_go_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "covey.db"
    before = set(threading.enumerate())
    opening = asyncio.ensure_future(SqliteEngine(path).open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    for thread in set(threading.enumerate()) - before:
        await asyncio.to_thread(thread.join, 10)
    async with opened(path) as engine:
        await with_a_log(engine)


# ---- group commit


@pytest.mark.requirement("engine.sqlite.group-commit")
async def test_what_is_appended_together_is_committed_together(tmp_path: Path) -> None:
    async with opened(tmp_path / "covey.db") as engine:
        await with_a_log(engine)
        commits: list[str] = []
        await engine._writer.submit(lambda: engine._store.connection.set_trace_callback(commits.append))
        await asyncio.gather(*(engine.append("news", [RECORD]) for _ in range(1000)))
        await engine._writer.submit(lambda: engine._store.connection.set_trace_callback(None))
        assert commits.count("COMMIT") <= 3
        assert len(await payloads(engine)) == 1000


@pytest.mark.requirement("engine.sqlite.group-commit")
async def test_a_refused_request_does_not_touch_those_in_its_transaction(tmp_path: Path) -> None:
    async with opened(tmp_path / "covey.db") as engine:
        await with_a_log(engine)

        def breaks_down() -> None:
            engine._store.connection.execute("INSERT INTO registry VALUES ('half', x'31', 1)")
            raise ZeroDivisionError

        answers = await asyncio.gather(
            engine.append("news", [RECORD]),
            engine.append("missing", [RECORD]),
            engine.append("news", [RECORD], expect_head=7),
            engine._writer.submit(breaks_down),
            engine.append("news", [RECORD]),
            engine.put("k", b"1"),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [
            list, StreamNotFoundError, HeadMovedError, EngineError, list, int
        ]  # fmt: skip
        assert (answers[0], answers[4]) == ([1], [2])
        assert await engine.get("half") is None
        assert len(await payloads(engine)) == 2


@pytest.mark.requirement("engine.sqlite.back-pressure")
@pytest.mark.parametrize(("bound", "value"), [("IN_FLIGHT_MAX", 5), ("IN_FLIGHT_BYTES_MAX", 2000)])
async def test_the_writer_holds_no_more_than_its_bound_and_takes_the_rest_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    monkeypatch.setattr(group_commit, bound, value)
    async with opened(tmp_path / "covey.db") as engine:
        await with_a_log(engine)
        writer = engine._writer
        held: list[int] = []
        finish = writer._finish

        def note_and_finish(batch: list[group_commit._Request]) -> None:
            held.append(writer._in_flight)
            finish(batch)

        monkeypatch.setattr(writer, "_finish", note_and_finish)
        records = [Record(1.0, "k", b"%d" % number + b" " * 500) for number in range(200)]
        requests = [asyncio.ensure_future(engine.append("news", [record])) for record in records]
        await asyncio.sleep(0)
        requests[150].cancel()  # it waits and was not handed over: it never happens
        await asyncio.gather(*requests, return_exceptions=True)
        assert max(held) <= 5
        assert len(held) >= 40
        assert await payloads(engine) == [record.data for record in records if record is not records[150]]
        assert writer._in_flight == writer._in_flight_bytes == 0
