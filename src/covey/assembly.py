"""The one place that picks concrete parts: which streams, which team, which server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from covey.calls.journal import Journal
from covey.engines.memory import MemoryEngine
from covey.engines.sqlite import SqliteEngine
from covey.errors import CoveyError, InvalidInputError, TeammateNotFoundError
from covey.hub.app import Hub
from covey.hub.auth import Outside, keep_token, outside_of
from covey.ports.system import SystemClock, SystemRandomness
from covey.streams.streams import Streams
from covey.team.members import Spawn, Spawned, Team

if TYPE_CHECKING:
    from types import FrameType

    import uvicorn

    from covey.hub.http import ASGIApp
    from covey.ports.randomness import Randomness

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
DEFAULT_PORT: Final = 7077
# All readers that a hub takes, and its sessions; no more, for programs in sessions inherit the limit.
DESCRIPTORS_MAX: Final = 65_536


class StartError(CoveyError):
    """The hub cannot start."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a hub is started.

    Args:
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        state_folder: where the hub's state lies; the hub's own is a folder of it, named by the port.
        insecure: listen on an address that others reach, without TLS.
        tls_cert: a PEM file with the certificate and its chain; the hub then speaks TLS itself.
        tls_key: the PEM file of its key, where that is another one.
        public_url: the URL that clients outside use, when a proxy stands before the hub.
        origins: other sites whose pages may use the hub.
        grace_s: how long a shutdown waits for what runs.
    """

    state_folder: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    public_url: str | None = None
    origins: frozenset[str] = frozenset()
    grace_s: float = 5.0


class Status(msgspec.Struct, frozen=True):
    """What a running hub does at this moment."""

    sessions: int
    readers: int
    streams: int
    events_total: int
    is_draining: bool


class Running:
    """A hub that listens."""

    def __init__(self, hub: Hub, *, host: str, port: int, token: str, token_path: Path, is_tls: bool) -> None:
        scheme = "https" if is_tls else "http"
        self.address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        self.port = port
        self.token_path = token_path
        self._hub = hub
        self._token = token

    @property
    def url(self) -> str:
        """The page, with the token in the fragment, which browsers never send or log."""
        return f"{self.address}/#token={self._token}"

    def status(self) -> Status:
        """Return what it does now."""
        return Status(
            sessions=len(self._hub.team),
            readers=self._hub.readers.count,
            streams=len(self._hub.streams),
            events_total=sum(stream.ring.head for stream in self._hub.streams),
            is_draining=self._hub.readers.is_draining,
        )


def asgi(
    *, streams: Streams | None = None, teammates: Mapping[str, object] | None = None, token: str | None = None
) -> ASGIApp:
    """Return a hub to mount in an ASGI app; the app enters what it serves, and no lifespan is needed.

    Args:
        streams: what ``/v1/streams`` serves.
        teammates: objects by name, whose public ``async def``s ``/v1/call`` serves.
        token: what opens it; None leaves that to the app it is mounted in.
    """
    streams = streams or Streams()
    team = Team(streams)
    for name, teammate in (teammates or {}).items():
        team.add(name, teammate)
    return Hub(
        streams=streams,
        team=team,
        journal=Journal(streams.engine or MemoryEngine(is_open=True), incarnation=_incarnation(streams.randomness)),
        token=token,
        outside=Outside(),
        clock=streams.clock,
        randomness=streams.randomness,
    )


async def run(settings: Settings, *, on_ready: Callable[[Running], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM, then drain: readers are told, sessions end, nothing is left behind.

    Args:
        settings: how.
        on_ready: called once, when the hub listens.

    Raises:
        StartError: the address cannot be used.
        StateFolderError: the state folder cannot be used.
    """
    _check_exposure(settings)
    listener = _listen(settings)
    try:
        host, port = listener.getsockname()[:2]
        folder = settings.state_folder / str(port)
        token = keep_token(folder)
        clock, randomness = SystemClock(), SystemRandomness()
        engine = SqliteEngine(folder / "covey.db", clock=clock)
        async with Streams(engine, clock=clock, randomness=randomness) as streams:
            team = Team(streams, kinds={"repl": _spawn_repl(streams)})
            is_tls = settings.tls_cert is not None
            outside = outside_of(
                settings.host, port, public_url=settings.public_url, origins=settings.origins, is_tls=is_tls
            )
            journal = Journal(engine, incarnation=_incarnation(randomness))
            hub = Hub(
                streams=streams,
                team=team,
                journal=journal,
                token=token,
                outside=outside,
                clock=clock,
                randomness=randomness,
            )
            running = Running(hub, host=host, port=port, token=token, token_path=folder / "token", is_tls=is_tls)
            server = _server(hub, settings, on_started=lambda: on_ready(running) if on_ready else None)
            try:
                await server.serve(sockets=[listener])
            finally:
                await _stop_all(team, timeout_s=settings.grace_s)
                await journal.close()
    finally:
        listener.close()


def serve(settings: Settings, *, on_ready: Callable[[Running], None] | None = None) -> None:
    """Run a hub until it is told to stop; see ``run``."""
    _allow_descriptors()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run(settings, on_ready=on_ready))


async def _stop_all(team: Team, *, timeout_s: float) -> None:
    team.is_draining = True
    async with asyncio.TaskGroup() as stops:
        for member in team.members():
            stops.create_task(_stop(team, member.name, timeout_s=timeout_s))


async def _stop(team: Team, name: str, *, timeout_s: float) -> None:
    with contextlib.suppress(TeammateNotFoundError):  # a client stopped it a moment ago
        await team.stop(name, timeout_s=timeout_s)


def _spawn_repl(streams: Streams) -> Spawn:
    from covey.repl.session import Session

    async def spawn(name: str) -> Spawned:
        session = Session(name, streams)
        await session.start()
        return Spawned(resident=session, place="process", methods=Session.CALLS)

    return spawn


def _incarnation(randomness: Randomness) -> str:
    """Return a name for this run of the hub; two alike would let one take the other's calls for its own."""
    return randomness.token(16)


def _check_exposure(settings: Settings) -> None:
    if settings.host in LOOPBACK or settings.insecure or settings.tls_cert is not None:
        return
    raise StartError(
        f"{settings.host} can be reached from other machines, and the hub speaks plain HTTP",
        hint="give it a certificate with --tls-cert, or listen on 127.0.0.1 behind a proxy that has one, "
        "or say --insecure if the network is yours alone",
    )


def _listen(settings: Settings) -> socket.socket:
    """Bind here and not in the server, so that a port in use is one clear line."""
    if not 0 <= settings.port <= 65535:
        raise InvalidInputError(f"{settings.port} is not a port", hint="ports are 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f"cannot listen on {settings.host!r}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)  # noqa: FBT003 -- the standard library's own signature
    except OSError as error:
        listener.close()
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
            hint="is another hub running there? choose another port with --port, or stop that one",
        ) from error
    return listener


def _server(hub: Hub, settings: Settings, *, on_started: Callable[[], None]) -> uvicorn.Server:
    import uvicorn

    from covey.hub.native import TakeoverProtocol

    class Server(uvicorn.Server):
        """uvicorn, with a word to the readers before connections are closed."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- a signal handler
            # uvicorn would send the signal again once it has served, which ends the program before its sessions.
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.should_exit = True

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                on_started()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            hub.readers.drain()
            await super().shutdown(sockets=sockets)
            await hub.fanout.wait_closed(timeout_s=settings.grace_s)

    try:
        config = _config(hub, settings, http=TakeoverProtocol)
        config.load()
    except OSError as error:  # ssl.SSLError is one: a file that is missing, or no certificate, or another's key
        raise StartError(f"cannot use the certificate {str(settings.tls_cert)!r}: {error}") from error
    return Server(config)


def _config(hub: Hub, settings: Settings, *, http: type[asyncio.Protocol]) -> uvicorn.Config:
    import uvicorn

    return uvicorn.Config(
        hub,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http=http,
        ws="websockets-sansio",
        timeout_graceful_shutdown=max(1, round(settings.grace_s)),
        timeout_keep_alive=75,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )


def _allow_descriptors() -> None:
    """Take as many descriptors as the system lets us: shells give 1,024, and each reader costs one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a system may allow less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None
