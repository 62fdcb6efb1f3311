"""The guide to failures does what it says of HTTP clients and SDKs: those snippets run as they stand."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from tests.conformance.test_llm_sdks import Anthropic, OpenAI
from tests.guide import write_snippets
from tests.scripted_http import ScriptedServer, answer, events, scripted_server

pytestmark = pytest.mark.timeout(120)

# Not sent by the server of the tests, but what the SDKs want to be told.
KEYS = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}


async def output_of(name: str, folder: Path, server: ScriptedServer) -> str:
    write_snippets("failures.md", folder, url=server.url)
    environment = {**os.environ, **KEYS, "OPENAI_BASE_URL": server.url, "ANTHROPIC_BASE_URL": server.url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, name, cwd=folder, env=environment, stdout=PIPE, stderr=PIPE
    )
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return out.decode()


@pytest.mark.requirement("guide.failures.clients")
async def test_the_client_of_httpx_survives_a_restart(tmp_path: Path) -> None:
    async with scripted_server(answer(503), answer(200, b"sunny")) as server:
        assert await output_of("weather.py", tmp_path, server) == "200 sunny\n"


@pytest.mark.requirement("guide.failures.clients")
async def test_the_sdk_of_openai_gets_its_answer_after_a_failure_inside_a_stream(tmp_path: Path) -> None:
    service = OpenAI()
    async with scripted_server(events(service.failure), events(*service.words, service.end)) as server:
        assert await output_of("ask.py", tmp_path, server) == "hello there"


@pytest.mark.requirement("guide.failures.clients")
async def test_the_stream_of_anthropic_is_one_of_a_target(tmp_path: Path) -> None:
    service = Anthropic()
    whole = events(service.prelude, *service.words, service.end)
    async with scripted_server(answer(529), whole) as server:
        assert await output_of("stream_of.py", tmp_path, server) == "hello there"
