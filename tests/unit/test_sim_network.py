from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from covey.errors import InvalidInputError
from covey.testing import Conditions, SimWorld
from covey.testing.connection import DATA_GIVE_UP_S
from covey.testing.network import CONNECT_GIVE_UP_S

T = TypeVar("T")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PORT = 80


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def connection(
    host: str = "hub", port: int = PORT
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.close()


def serving(world: SimWorld, client: Callable[[], Coroutine[Any, Any, T]], serve: Serve = echo) -> T:
    """Run a client on one host against a server on another."""

    async def hub() -> None:
        server = await asyncio.start_server(serve, port=PORT)
        async with server:
            await server.serve_forever()

    async def main() -> T:
        world.spawn(hub, host="hub")
        await asyncio.sleep(0.1)
        return await world.spawn(client, host="laptop")

    return world.run(main)


@pytest.mark.requirement("testing.network.connections")
@pytest.mark.parametrize("seed", range(20))
def test_bytes_arrive_whole_and_in_order_however_they_are_split(seed: int) -> None:
    world = SimWorld(seed, shuffles=True)
    world.network.conditions = Conditions(delay_s=0.01, jitter_s=0.5, split_p=0.5)
    sent = [f"line {number} ".encode() * number for number in range(100)]

    async def client() -> bytes:
        async with connection() as (reader, writer):
            for data in sent:
                writer.write(data)
            writer.write_eof()
            received = await reader.read()
            writer.close()
            await writer.wait_closed()
            return received

    assert serving(world, client) == b"".join(sent)


@pytest.mark.requirement("testing.network.connections")
def test_a_slow_reader_holds_the_writer_back() -> None:
    world = SimWorld()
    written = 0

    async def client() -> int:
        nonlocal written
        async with connection() as (_, writer):
            try:
                async with asyncio.timeout(60):
                    while True:
                        writer.write(b"x" * 1000)
                        written += 1000
                        await writer.drain()
            except TimeoutError:
                pass
            assert writer.transport.get_write_buffer_size() > 64 << 10
            return written

    async def never_read(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1000)

    assert serving(world, client, never_read) < 1 << 20


@pytest.mark.requirement("testing.network.connections")
def test_a_writer_that_was_held_back_goes_on() -> None:
    async def read_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(100)
        writer.write(str(len(await reader.read())).encode())
        writer.close()

    async def client() -> bytes:
        async with connection() as (reader, writer):
            for _ in range(1000):
                writer.write(b"x" * 1000)
                await writer.drain()
            writer.write_eof()
            return await reader.read()

    assert serving(SimWorld(), client, read_late) == b"1000000"


class Recorder(asyncio.BufferedProtocol):
    """Takes what comes three bytes at a time, and notes all that happens."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.buffer = bytearray(3)
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.seen.append(transport.get_extra_info("peername"))

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.seen.append(bytes(self.buffer[:nbytes]))

    def eof_received(self) -> bool:
        self.seen.append("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.seen.append(exc)
        self.lost.set_result(None)


@pytest.mark.requirement("testing.network.connections")
def test_protocols_are_called_as_asyncio_calls_them() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def client() -> list[object]:
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, "hub", PORT)
        await protocol.lost
        assert transport.is_closing()
        return protocol.seen

    assert serving(SimWorld(), client, serve) == [("hub", PORT), b"hel", b"lo", "eof", None]


@pytest.mark.requirement("testing.network.connections")
def test_a_protocol_that_fails_loses_its_connection() -> None:
    class Failing(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            raise KeyError(data)

    async def client() -> bytes:
        transport, _ = await asyncio.get_running_loop().create_connection(Failing, "hub", PORT)
        transport.write(b"x")
        await asyncio.sleep(1)
        assert transport.is_closing()
        return b""

    with pytest.raises(KeyError):
        serving(SimWorld(), client)


@pytest.mark.requirement("testing.network.connections")
def test_addresses_are_those_of_a_system() -> None:
    world = SimWorld()

    async def hub() -> int:
        server = await asyncio.start_server(echo, "0.0.0.0", 0)  # noqa: S104 -- simulated
        name, port = server.sockets[0].getsockname()
        assert isinstance(port, int)
        assert name == "hub"
        with pytest.raises(OSError, match="in use"):
            await asyncio.start_server(echo, port=port)
        with pytest.raises(OSError, match="no address of the host"):
            await asyncio.start_server(echo, "laptop", 1)
        async with connection("localhost", port) as (_, writer):
            assert writer.get_extra_info("socket").getpeername() == ("hub", port)
        server.close()
        await server.wait_closed()
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("hub", port)
        return port

    async def main() -> int:
        assert (await asyncio.get_running_loop().getaddrinfo("hub", 80))[0][4] == ("hub", 80)
        with pytest.raises(socket.gaierror):
            await asyncio.open_connection("hub", 80)
        return await world.spawn(hub, host="hub")

    assert world.run(main) > 1024


@pytest.mark.requirement("testing.network.faults")
def test_a_connection_is_cut_after_so_many_bytes() -> None:
    world = SimWorld()
    world.network.between("laptop", "hub", Conditions(cut_after_bytes=10))

    async def client() -> bytes:
        async with connection() as (reader, writer):
            received = b""
            try:
                while True:
                    writer.write(b"abcd")
                    received += await reader.readexactly(4)
            except ConnectionResetError:
                return received

    assert serving(world, client) == b"abcdabcd"


@pytest.mark.requirement("testing.network.faults")
def test_connections_are_refused_and_cut_by_chance() -> None:
    world = SimWorld(4)
    world.network.conditions = Conditions(refuse_p=0.3, cut_p=0.3)
    fates: dict[str, int] = {}

    async def client() -> None:
        for _ in range(200):
            try:
                reader, writer = await asyncio.open_connection("hub", PORT)
                writer.write(b"ping")
                fate = (await reader.readexactly(4)).decode()
                writer.close()
            except (OSError, EOFError) as error:
                fate = type(error).__name__
            fates[fate] = fates.get(fate, 0) + 1

    serving(world, client)
    assert fates.keys() == {"ping", "ConnectionRefusedError", "ConnectionResetError"}
    assert min(fates.values()) > 20


@pytest.mark.requirement("testing.network.faults")
def test_every_connection_of_a_host_can_be_cut_now() -> None:
    world = SimWorld()

    async def client() -> int:
        async with connection() as (reader, _):
            assert world.network.cut("laptop", "nowhere") == 0
            cut = world.network.cut("laptop")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            return cut

    assert serving(world, client) == 1


@pytest.mark.requirement("testing.network.faults")
def test_a_partition_holds_up_what_a_connection_carries() -> None:
    world = SimWorld()

    async def client() -> float:
        async with connection() as (reader, writer):
            world.network.partition(["laptop"], ["hub", "other"])
            begin_s = world.now_s
            asyncio.get_running_loop().call_later(60, world.network.heal)
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
            return world.now_s - begin_s

    assert serving(world, client) == pytest.approx(60, abs=0.1)


@pytest.mark.requirement("testing.network.faults")
def test_a_connection_begins_once_a_partition_ends() -> None:
    world = SimWorld()

    async def client() -> float:
        world.network.partition(["laptop"], ["hub"])
        asyncio.get_running_loop().call_later(60, world.network.heal)
        begin_s = world.now_s
        async with connection():
            return world.now_s - begin_s

    assert serving(world, client) == pytest.approx(60, abs=0.1)


@pytest.mark.requirement("testing.network.faults")
def test_systems_give_up_at_last() -> None:
    world = SimWorld()

    async def client() -> tuple[float, float]:
        async with connection() as (reader, writer):
            world.network.mute("laptop", "hub")
            begin_s = world.now_s
            with pytest.raises(TimeoutError):
                await asyncio.open_connection("hub", PORT)
            connecting_s, begin_s = world.now_s - begin_s, world.now_s
            writer.write(b"ping")
            with pytest.raises(TimeoutError):
                await reader.read()
            return connecting_s, world.now_s - begin_s

    assert serving(world, client) == pytest.approx((CONNECT_GIVE_UP_S, DATA_GIVE_UP_S), abs=0.1)


@pytest.mark.requirement("testing.network.faults")
def test_a_mute_connection_says_nothing_while_the_other_direction_works() -> None:
    world = SimWorld()
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        world.network.between("laptop", "hub", Conditions(mute_p=1.0))
        while data := await reader.read(100):
            received.append(data)
            writer.write(data)

    async def client() -> None:
        async with connection() as (reader, writer):
            await asyncio.sleep(1)
            world.network.mute("hub", "laptop")
            writer.write(b"ping")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(30):
                    await reader.read(100)

    serving(world, client, serve)
    assert received == [b"ping"]


@pytest.mark.requirement("testing.world.crash")
def test_the_connections_of_a_process_that_crashed_are_reset() -> None:
    world = SimWorld()

    async def client() -> None:
        async with connection() as (reader, _):
            world.crash("hub")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("hub", PORT)

    serving(world, client)


@pytest.mark.requirement("testing.world.crash")
def test_a_host_without_power_is_silent_until_it_is_back() -> None:
    world = SimWorld()

    async def client() -> None:
        async with connection() as (reader, writer):
            world.crash("hub", power_cut=True)
            writer.write(b"ping")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(100):
                    await reader.read()
            world.spawn(asyncio.sleep(1000), host="hub")
            with pytest.raises(ConnectionResetError):
                await reader.read()

    serving(world, client)


@pytest.mark.requirement("testing.network.messages")
def test_messages_get_lost_doubled_and_reordered() -> None:
    world = SimWorld(2)
    world.network.conditions = Conditions(lose_p=0.2, duplicate_p=0.1, reorder_p=0.2)

    async def main() -> list[int]:
        received: list[int] = []

        async def receive() -> None:
            endpoint = world.network.endpoint(int)
            while True:
                sender, message = await endpoint.receive()
                assert sender == "laptop"
                received.append(message)

        async def send() -> None:
            endpoint = world.network.endpoint(int)
            for number in range(1000):
                endpoint.send("hub", number)
                await asyncio.sleep(0.001)

        world.spawn(receive, host="hub")
        await world.spawn(send, host="laptop")
        await asyncio.sleep(1)
        return received

    received = world.run(main)
    assert 700 < len(set(received)) < 900
    assert 50 < len(received) - len(set(received)) < 150
    assert received != sorted(received)


@pytest.mark.requirement("testing.network.messages")
def test_messages_to_nobody_and_over_a_partition_are_lost() -> None:
    world = SimWorld()

    async def main() -> str:
        endpoint = world.network.endpoint(str)
        endpoint.send("hub", "to nobody")

        async def receive() -> str:
            return (await world.network.endpoint(str).receive())[1]

        receiving = world.spawn(receive, host="hub")
        world.network.partition(["outside"], ["hub"])
        await asyncio.sleep(0.1)
        endpoint.send("hub", "over a partition")
        await asyncio.sleep(1)
        world.network.heal()
        endpoint.send("hub", "at last")
        return await receiving

    assert world.run(main) == "at last"


@pytest.mark.requirement("testing.network.faults")
@pytest.mark.parametrize(
    ("field", "value"), [("delay_s", -1.0), ("jitter_s", float("nan")), ("cut_p", 1.5), ("cut_after_bytes", -1)]
)
def test_conditions_that_mean_nothing_are_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidInputError, match=field):
        Conditions(**{field: value})  # type: ignore[arg-type]
