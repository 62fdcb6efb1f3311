"""The guide to Server-Sent Events does what it says: its snippets run as they stand."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.asgi_servers import server_process
from tests.guide import snippets, write_snippets

GUIDE = "sse.md"
RUN = {
    "watch": ("bash", "watch"),
    "publish": ("bash", "publish"),
    "hub": ("bash", "-e", "hub"),
    "watch.py": (sys.executable, "watch.py"),
    "parse.py": (sys.executable, "parse.py"),
    "ledger.py": (sys.executable, "ledger.py"),
}
SERVED = {"news.py", "answer.py", "plain.py", "news.html"}

pytestmark = pytest.mark.timeout(120)


@asynccontextmanager
async def started(name: str, folder: Path) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(*RUN[name], cwd=folder, stdout=PIPE, start_new_session=True)
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
        await process.communicate()


async def output_of(name: str, folder: Path) -> str:
    async with started(name, folder) as process, asyncio.timeout(30):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def lines_until(process: Process, expected: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(30):
        while expected not in "".join(lines):
            line = await process.stdout.readline()
            assert line, f"it ended after {lines}"
            lines.append(line.decode())
    return lines


@pytest.mark.requirement("guide.sse.snippets-run")
def test_every_named_snippet_is_run_by_a_test() -> None:
    assert snippets(GUIDE).keys() == RUN.keys() | SERVED


@pytest.mark.requirement("guide.sse.snippets-run")
async def test_the_fastapi_app_serves_curl_and_the_python_client(tmp_path: Path) -> None:
    write_snippets(GUIDE, tmp_path)
    async with server_process("uvicorn", "news:app", is_bounded=False, folder=tmp_path) as server:
        write_snippets(GUIDE, tmp_path, url=server.url)
        published = json.loads(await output_of("publish", tmp_path))["id"]
        async with started("watch", tmp_path) as watch, started("watch.py", tmp_path) as client:
            assert f"id: {published}\n" in await lines_until(watch, '{"text":"hello"}')
            assert await lines_until(client, "hello") == [f"{published} message {{'text': 'hello'}}\n"]
            again = json.loads(await output_of("publish", tmp_path))["id"]
            assert (await lines_until(client, "hello"))[0].startswith(again)
            await server.stop()  # with readers, and without a bound
        assert "Traceback" not in server.log


@pytest.mark.requirement("guide.sse.snippets-run")
async def test_an_answer_is_parsed_with_another_http_client(tmp_path: Path) -> None:
    write_snippets(GUIDE, tmp_path)
    async with server_process("uvicorn", "answer:app", folder=tmp_path) as server:
        write_snippets(GUIDE, tmp_path, url=server.url)
        words = (await output_of("parse.py", tmp_path)).splitlines()
    assert words[0] == '{"token":"You"}'
    assert words[-1] == '{"token":"blue?"}'


@pytest.mark.requirement("guide.sse.snippets-run")
async def test_the_plain_asgi_hub_answers_curl_by_stream_and_by_poll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEWS_TOKEN", "a-token-for-this-test")
    write_snippets(GUIDE, tmp_path)
    async with server_process("uvicorn", "plain:app", folder=tmp_path) as server:
        write_snippets(GUIDE, tmp_path, url=server.url)
        seen = await output_of("hub", tmp_path)
    decoder = json.JSONDecoder()
    appended, end = decoder.raw_decode(seen)
    listed, end_of_list = decoder.raw_decode(seen[end:])
    waited, _ = decoder.raw_decode(seen[end + end_of_list :])
    assert [(event["id"], event["data"]) for event in listed["events"]] == [(appended["id"], {"text": "hello"})]
    assert waited["events"] == []
    assert f'id: {appended["id"]}\ndata: {{"id":"{appended["id"]}",' in seen


@pytest.mark.requirement("guide.sse.snippets-run")
async def test_the_ledger_remembers_what_an_earlier_run_appended(tmp_path: Path) -> None:
    write_snippets(GUIDE, tmp_path)
    first, count = (await output_of("ledger.py", tmp_path)).split()
    second, again = (await output_of("ledger.py", tmp_path)).split()
    assert (count, again) == ("1", "2")
    assert first.partition(".")[0] == second.partition(".")[0]
    assert (first[-2:], second[-2:]) == (".1", ".2")
