"""ASGI servers: each as its own process, as a user starts it, and uvicorn inside the test's own loop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import httpx2
import uvicorn
from tests.serving import TOKEN, until

ROOT: Final = Path(__file__).parents[1]


class Command(NamedTuple):
    """How a server is started: what tells it to listen, and further options for either way to stop."""

    listen: str
    bounded: str  # it stops within seconds whatever the app does
    unbounded: str = ""  # it waits for the app


SERVERS: Final = {
    "uvicorn": Command("uvicorn --no-access-log --host 127.0.0.1 --port {port}", "--timeout-graceful-shutdown 1"),
    "granian": Command("granian --interface asgi --host 127.0.0.1 --port {port}", "--workers-kill-timeout 1"),
    # Its worker processes get no signal; without any, the app runs where the signal arrives.
    "hypercorn": Command(
        "hypercorn --bind 127.0.0.1:{port}", "--graceful-timeout 1", "--graceful-timeout 60 --workers 0"
    ),
}


class ServerProcess:
    """A server that runs, and a client of it."""

    def __init__(self, process: Process, url: str, output: IO[bytes]) -> None:
        self.process = process
        self._output = output
        self.url = url
        self.http = httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False)

    @property
    def log(self) -> str:
        """What it has written so far."""
        return os.pread(self._output.fileno(), 1 << 20, 0).decode(errors="replace")

    async def stop(self) -> None:
        """Ask it to stop and wait until it is gone; fails after fifteen seconds."""
        self.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(self.process.wait(), 15)


@asynccontextmanager
async def server_process(
    server: str, app: str, *, is_bounded: bool = True, folder: Path = ROOT
) -> AsyncIterator[ServerProcess]:
    """Run ``app`` (``module:name``).

    Args:
        server: one of ``SERVERS``.
        app: where the app is.
        folder: where it is started.
        is_bounded: with the options that bound its shutdown; else it waits for the app for a minute, or without end.
    """
    command = SERVERS[server]
    port = _free_port()
    options = command.bounded if is_bounded else command.unbounded
    arguments = [*command.listen.format(port=port).split(), *options.split(), app]
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments, cwd=folder, stdout=output, stderr=STDOUT, start_new_session=True
        )
        running = ServerProcess(process, f"http://127.0.0.1:{port}", output)
        try:
            await _wait_ready(running)
            yield running
        finally:
            await running.http.aclose()
            if process.returncode is None:
                await _end(process)


@asynccontextmanager
async def in_loop(app: Any, *, root_path: str = "") -> AsyncIterator[httpx2.AsyncClient]:  # noqa: ANN401 -- any framework's
    """Serve an app by uvicorn in this loop, so that what it serves is at hand; yield a client."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, root_path=root_path, ws="websockets-sansio", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve([listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        try:
            await until(lambda: server.started or running.done())
            yield client
        finally:
            server.should_exit = True
            await running


async def _end(process: Process) -> None:
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 10)
    except TimeoutError:
        # Its workers with it: they are in its process group, which is its own.
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise


def _free_port() -> int:
    """Return a port that is free now; not every server can take over a socket or tell the port it chose."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _wait_ready(running: ServerProcess) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await running.http.get("/livez")
            except httpx2.TransportError:
                assert running.process.returncode is None, "the server did not start"
                await asyncio.sleep(0.05)
            else:
                return
