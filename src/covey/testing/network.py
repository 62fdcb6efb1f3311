"""A network between named hosts: connections for asyncio's protocols and streams, and messages that may get lost.

A connection never loses bytes in its middle, as TCP does not. What happens to it is what happens to real ones: it is
refused, slow, split into other pieces than were written, cut (reset at both ends), or goes mute: nothing arrives any
more and nothing says so. Who waits for a mute one gets ``TimeoutError`` when a real system would give up.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final, Generic, Protocol, TypeVar

from covey.testing.connection import Address, Mark, NotASocket, SimTransport, Way
from covey.testing.process import OUTSIDE, Process, current_process
from covey.testing.weather import Conditions, Record, Weather

P = TypeVar("P", bound=asyncio.BaseProtocol)
M = TypeVar("M")

# What Linux does: 6 repeats of a SYN (tcp_syn_retries).
CONNECT_GIVE_UP_S: Final = 127.0
_EPHEMERAL_PORT: Final = 49152
_THIS_HOST: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_ANY_HOST: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 -- names in a simulation


class SimServer(asyncio.AbstractServer):
    """What ``create_server`` gives: listens until it is closed, or its process crashes."""

    def __init__(self, network: Network, address: Address, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self.address = address
        self.factory = factory
        self.process = current_process()
        self.context = copy_context()
        self._network = network
        self._closed = asyncio.get_running_loop().create_future()

    @property
    def sockets(self) -> tuple[Any, ...]:
        """Each has ``getsockname()``, as a program that let the system choose a port asks for."""
        return (NotASocket(self.address),) if self.is_serving() else ()

    def close(self) -> None:
        self._network.forget(self)
        if not self._closed.done():
            self._closed.set_result(None)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._closed.get_loop()

    def is_serving(self) -> bool:
        return not self._closed.done()

    async def start_serving(self) -> None:
        """It does from the beginning."""

    async def serve_forever(self) -> None:
        try:
            await asyncio.shield(self._closed)
        finally:
            self.close()

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)


class _Mailbox(Protocol):
    """An endpoint, whatever its messages are."""

    process: Process

    def arrive(self, sender: str, message: Any) -> None: ...  # noqa: ANN401 -- of any type


class Endpoint(Generic[M]):
    """Messages of one host to others, each on its own: they may get lost, come twice or in another order."""

    def __init__(self, network: Network, process: Process) -> None:
        self.process = process
        self._network = network
        self._arrived: asyncio.Queue[tuple[str, M]] = asyncio.Queue()

    def send(self, to: str, message: M) -> None:
        """Send a message to another host's endpoint; nothing tells whether it arrives."""
        self._network.send_message(self.process.host, to, message)

    async def receive(self) -> tuple[str, M]:
        """Return the next message that arrives, and who sent it."""
        return await self._arrived.get()

    def arrive(self, sender: str, message: M) -> None:
        """Take a message from the network."""
        self._arrived.put_nowait((sender, message))


class Network(Weather):
    """All hosts and what is between them; see the module."""

    def __init__(self, loop: asyncio.AbstractEventLoop, chance: random.Random, record: Record) -> None:
        super().__init__(loop, chance, record)
        self._hosts[OUTSIDE] = True
        self._servers: dict[Address, SimServer] = {}
        self._endpoints: dict[str, _Mailbox] = {}
        self._ways: dict[int, tuple[Way, Way]] = {}
        self._numbers = 0
        self._ports = _EPHEMERAL_PORT
        self._healed = asyncio.Event()

    def heal(self) -> None:
        """See ``Weather``."""
        super().heal()
        self._repeat()

    def cut(self, first: str, second: str | None = None) -> int:
        """Reset every connection between two hosts, or of one host, and return how many there were."""
        cut = [
            ways
            for ways in self._live_ways()
            if first in (hosts := _hosts_of(ways[0])) and (second is None or second in hosts)
        ]
        for ways in cut:
            ways[0].cut()
        return len(cut)

    def endpoint(self, message: type[M], /) -> Endpoint[M]:  # noqa: ARG002 -- says what the messages are
        """Return this host's end for messages of that type; a new one takes the place of an older one."""
        endpoint: Endpoint[M] = Endpoint(self, current_process())
        self._endpoints[endpoint.process.host] = endpoint
        return endpoint

    # ---- for the loop
    async def connect(self, factory: Callable[[], P], host: str, port: int) -> tuple[SimTransport, P]:
        """Return a connection from the running process's host.

        Raises:
            ConnectionRefusedError: nobody listens there.
            TimeoutError: nothing answers.
            OSError: there is no such host.
        """
        client = current_process()
        there = client.host if host in _THIS_HOST | _ANY_HOST else host
        if there not in self._hosts:
            raise socket.gaierror(socket.EAI_NONAME, f"no host {there!r} was ever started")
        conditions = self.conditions_between(client.host, there)
        await self._pass(client.host, there, conditions)
        server = self._servers.get((there, port))
        if server is None or self.happens(conditions.refuse_p):
            self.record(f"refused {client.host}>{there}:{port}")
            await self._pass(there, client.host, conditions)
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed ({there!r}, {port})")
        here: Address = (client.host, self._next_port())
        far = SimTransport(server.process, server.context.copy(), server.address, here)
        near = SimTransport(client, copy_context(), here, server.address)
        self._join(near, far)
        far.begin(server.context.copy().run(server.factory))
        try:
            await self._pass(there, client.host, conditions)
        except BaseException:
            near.abort()
            raise
        if near.is_closed:
            raise ConnectionResetError(errno.ECONNRESET, f"Connect call failed ({there!r}, {port})")
        protocol = factory()
        near.begin(protocol)
        return near, protocol

    def listen(self, factory: Callable[[], asyncio.BaseProtocol], host: str | None, port: int) -> SimServer:
        """Return a server on the running process's host.

        Raises:
            OSError: the address is in use, or not this host's.
        """
        name = current_process().host
        if host is not None and host != name and host not in _THIS_HOST | _ANY_HOST:
            raise OSError(errno.EADDRNOTAVAIL, f"{host!r} is no address of the host {name!r}")
        address = (name, port or self._next_port())
        if address in self._servers:
            raise OSError(errno.EADDRINUSE, f"address already in use: {address}")
        self._servers[address] = SimServer(self, address, factory)
        self.record(f"listen {name}:{address[1]}")
        return self._servers[address]

    # ---- for the world
    def start(self, host: str) -> None:
        """Know a host, and give it power."""
        was_off = self._hosts.get(host) is False
        self._hosts[host] = True
        if was_off:
            self._repeat()

    def crash(self, process: Process, *, is_power_cut: bool) -> None:
        """Let go of what the process had; its system resets its connections, unless the power is gone too."""
        self._servers = {address: server for address, server in self._servers.items() if server.process is not process}
        self._endpoints = {name: end for name, end in self._endpoints.items() if end.process is not process}
        ways = [way for ways in self._live_ways() for way in ways if way.sender.process is process]
        if is_power_cut:
            self._hosts[process.host] = False
        else:
            for way in ways:
                way.mark(Mark.RESET)
        for way in ways:
            way.sender.is_closed = True

    def end(self) -> None:
        """Close what was left open: that the world ends is no fault of the program."""
        for ways in self._live_ways():
            for way in ways:
                way.sender.is_closed = True

    # ---- for connections and endpoints
    def forget(self, server: SimServer) -> None:
        """Listen no more."""
        if self._servers.get(server.address) is server:
            del self._servers[server.address]

    def send_message(self, sender: str, to: str, message: object) -> None:
        """Put a message on its way, or not."""
        conditions = self.conditions_between(sender, to)
        if self.happens(conditions.lose_p) or not self.is_open(sender, to):
            self.record(f"message {sender}>{to} is lost")
            return
        for _ in range(2 if self.happens(conditions.duplicate_p) else 1):
            delay_s = self.travel_s(conditions)
            if self.happens(conditions.reorder_p):
                delay_s *= self.stretch()
            self.after(delay_s, self._arrive, sender, to, message)

    def _arrive(self, sender: str, to: str, message: object) -> None:
        endpoint = self._endpoints.get(to)
        is_there = endpoint is not None and self.is_open(sender, to)
        self.record(f"message {sender}>{to} {'arrives' if is_there else 'is lost'}")
        if endpoint is not None and is_there:
            endpoint.arrive(sender, message)

    async def _pass(self, sender: str, receiver: str, conditions: Conditions) -> None:
        """Wait for as long as the first packets of a connection take."""
        await asyncio.sleep(self.travel_s(conditions))
        try:
            async with asyncio.timeout(CONNECT_GIVE_UP_S):
                while not self.is_open(sender, receiver):
                    self._healed.clear()
                    await self._healed.wait()
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, f"Connect call failed ({receiver!r})") from None

    def _join(self, near: SimTransport, far: SimTransport) -> None:
        self._numbers += 1
        there = near.outgoing = far.incoming = Way(self, self._numbers, near, far)
        back = far.outgoing = near.incoming = Way(self, self._numbers, far, near)
        self.record(f"#{self._numbers} {near.process.host}>{far.process.host} connects")
        self._ways[self._numbers] = (there, back)
        if len(self._ways) % 1024 == 0:
            self._live_ways()

    def _live_ways(self) -> list[tuple[Way, Way]]:
        self._ways = {
            number: ways
            for number, ways in self._ways.items()
            if not (ways[0].sender.is_closed and ways[1].sender.is_closed)
        }
        return list(self._ways.values())

    def _repeat(self) -> None:
        self._healed.set()
        for ways in self._live_ways():
            for way in ways:
                way.pump_soon()

    def _next_port(self) -> int:
        self._ports += 1
        return self._ports


def _hosts_of(way: Way) -> tuple[str, str]:
    return way.sender.process.host, way.receiver.process.host
