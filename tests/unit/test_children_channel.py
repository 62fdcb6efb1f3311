"""Both ends of the channel between a host and its child."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from covey.children.channel import INBOX_FRAMES_MAX, ChildChannel, HostChannel
from covey.errors import LocalProtocolError, RefusedError, RemoteProtocolError, TooLargeError
from covey.wire.codec import FRAME_BYTES_MAX
from covey.wire.frames import Done, Execute, FromProcess, Quit, Stop, ToProcess

Host = HostChannel[FromProcess, ToProcess]
Child = ChildChannel[ToProcess, FromProcess]


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Host, Child]]:
    host_end, child_end = socket.socketpair()
    host: Host = HostChannel(host_end, FromProcess, loop=asyncio.get_running_loop())
    child: Child = ChildChannel(child_end, ToProcess)
    yield host, child
    host.close()
    child.close()


@pytest.mark.requirement("children.channel.frames-once-in-order")
async def test_frames_arrive_in_order_and_then_the_end(ends: tuple[Host, Child]) -> None:
    host, child = ends
    child.send([Done("a", "ok"), Done("b", "error")])
    child.send([Done("c", "ok")])
    child.close()
    assert [await host.receive() for _ in range(4)] == [Done("a", "ok"), Done("b", "error"), Done("c", "ok"), None]
    assert await host.receive() is None
    with pytest.raises(LocalProtocolError):
        host.send(Quit())


@pytest.mark.requirement("children.channel.frames-once-in-order")
async def test_the_child_takes_what_is_there_without_waiting(ends: tuple[Host, Child]) -> None:
    host, child = ends
    assert child.pull()
    assert not child.inbox
    host.send(Execute("a", "1"))
    host.send(Stop("a"))
    assert child.pull()
    assert list(child.inbox) == [Execute("a", "1"), Stop("a")]
    host.close()
    assert not child.pull()


@pytest.mark.requirement("children.channel.frames-once-in-order")
async def test_a_frame_larger_than_the_sockets_buffer_arrives_whole(ends: tuple[Host, Child]) -> None:
    host, child = ends
    large = Execute("a", "x" * 5_000_000)
    host.send(large)
    host.send(Quit())
    async with asyncio.timeout(30):
        while len(child.inbox) < 2:
            assert child.pull()
            await asyncio.sleep(0)
    assert list(child.inbox) == [large, Quit()]


@pytest.mark.requirement("children.channel.frames-once-in-order")
async def test_an_end_that_does_not_read_is_not_waited_for(ends: tuple[Host, Child]) -> None:
    host, _ = ends
    with pytest.raises(TooLargeError):
        host.send(Execute("a", "x" * (FRAME_BYTES_MAX + 1)))
    host.send(Execute("a", "x" * (FRAME_BYTES_MAX - 1000)))
    with pytest.raises(RefusedError):
        host.send(Execute("b", "x" * (2 << 20)))


@pytest.mark.requirement("children.channel.frames-once-in-order")
async def test_a_host_that_does_not_receive_lets_the_child_wait(ends: tuple[Host, Child]) -> None:
    host, child = ends
    count, most_kept = 20_000, 0

    def send_all() -> None:
        for number in range(count):
            child.send([Done(str(number), "ok")])

    sending = asyncio.create_task(asyncio.to_thread(send_all))
    first = await host.receive()
    async with asyncio.timeout(30):
        received = [first]
        while len(received) < count:
            received += [await host.receive() for _ in range(100 if len(received) > 1 else 99)]
            most_kept = max(most_kept, len(host._inbox))
        await sending
    assert received == [Done(str(n), "ok") for n in range(count)]
    assert most_kept < 2 * INBOX_FRAMES_MAX


@pytest.mark.requirement("children.channel.frames-once-in-order")
async def test_bytes_that_are_no_frame_end_it_with_the_reason() -> None:
    host_end, child_end = socket.socketpair()
    host: Host = HostChannel(host_end, FromProcess, loop=asyncio.get_running_loop())
    ended: asyncio.Future[RemoteProtocolError | None] = asyncio.get_running_loop().create_future()
    host.watch(lambda _frames: None, ended.set_result)
    child_end.sendall(b"\xff" * 8)
    async with asyncio.timeout(30):
        assert isinstance(await ended, RemoteProtocolError)
    assert not host.is_open
    host.close()
    child_end.close()


@pytest.mark.requirement("children.channel.frames-once-in-order")
async def test_closing_wakes_whoever_receives(ends: tuple[Host, Child]) -> None:
    host, _ = ends
    receiving = asyncio.create_task(host.receive())
    await asyncio.sleep(0)
    host.close()
    host.close()
    assert await receiving is None
