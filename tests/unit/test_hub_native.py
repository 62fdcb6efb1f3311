"""covey's own server protocol: what it does before a request is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.serving import TOKEN, Served, serving


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(is_native=True) as served:
        yield served


async def connect(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))


async def rest(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionError:  # closed with bytes of ours unread
            return b""


@pytest.mark.requirement("hub.native.header-limit")
async def test_headers_without_end_are_cut_off(served: Served) -> None:
    reader, writer = await connect(served)
    writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n")
    answer = asyncio.create_task(rest(reader))
    try:
        async with asyncio.timeout(10):
            while not answer.done():
                writer.write(b"x-filler: " + b"y" * 1000 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0)
    except ConnectionError:
        pass
    assert (await answer)[:12] in {b"HTTP/1.1 431", b""}
    writer.close()
    assert (await served.http.get("/v1/teammates")).status_code == 200


@pytest.mark.requirement("hub.native.header-limit")
async def test_one_megabyte_of_headers_is_refused(served: Served) -> None:
    reader, writer = await connect(served)
    writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\nx-filler: " + b"y" * (1 << 20) + b"\r\n\r\n")
    answer = await rest(reader)
    assert answer[:12] in {b"HTTP/1.1 431", b"HTTP/1.1 413", b""}
    writer.close()


@pytest.mark.requirement("hub.native.header-time")
@pytest.mark.parametrize("first", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nhost: x\r\n"])
async def test_a_request_that_does_not_come_is_not_waited_for(
    served: Served, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr("covey.hub.native.HEADER_S", 0.05)
    reader, writer = await connect(served)
    writer.write(first)
    assert await rest(reader) == b""
    writer.close()


@pytest.mark.requirement("hub.native.header-time")
async def test_between_requests_that_time_does_not_run(served: Served) -> None:
    reader, writer = await connect(served)
    for _ in range(2):
        writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(3) == b"ok\n"
        (connection,) = served.server.server_state.connections
        assert connection._header_timer is None  # type: ignore[union-attr]
    writer.close()


@pytest.mark.requirement("hub.slow-request")
async def test_a_body_that_dribbles_is_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covey.hub.http.BODY_S", 0.05)
    port = served.url.rpartition(":")[2]
    reader, writer = await connect(served)
    head = f"POST /v1/call/ada/greet HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {TOKEN}\r\n"
    writer.write(head.encode() + b"content-length: 10\r\n\r\n[")
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()


@pytest.mark.requirement("hub.native")
async def test_a_request_sent_behind_one_for_a_stream_keeps_that_in_asgi(served: Served) -> None:
    stream = served.streams.stream("news", object)
    port = served.url.rpartition(":")[2]
    reader, writer = await connect(served)
    head = f"GET /v1/streams/news HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {TOKEN}\r\n"
    writer.write((head + "accept: text/event-stream\r\n\r\n" + head + "\r\n").encode())
    async with asyncio.timeout(10):
        await reader.readuntil(b"covey.open")
        assert not served.hub.fanout._groups
        await stream.append("still works")
        await reader.readuntil(b'"still works"')
        await served.streams.end("news")
        await reader.readuntil(b"covey.end")
        await reader.readuntil(b'"ended":true')
    writer.close()


@pytest.mark.requirement("hub.native.handshake")
@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/streams/team", b"cookie: a=" + b"x" * 9000 + b"\r\n", b"431"),
        ("/v1/streams/team", b"".join(b"x-%d: a\r\n" % n for n in range(200)), b"431"),
        ("/v1/streams/team?kinds=" + "x" * 9000, b"", b"414"),
    ],
)
async def test_a_handshake_that_the_library_refuses_is_answered(
    served: Served, path: str, headers: bytes, status: bytes
) -> None:
    reader, writer = await connect(served)
    writer.write(
        b"GET " + path.encode() + b" HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + headers + b"\r\n"
    )
    assert (await rest(reader))[:12] == b"HTTP/1.1 " + status
    writer.close()


@pytest.mark.requirement("hub.native.handshake")
async def test_a_handshake_with_a_body_is_answered(served: Served) -> None:
    reader, writer = await connect(served)
    writer.write(
        b"POST /v1/streams/team HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"content-length: 2\r\n\r\n{}"
    )
    assert (await rest(reader))[:10] == b"HTTP/1.1 4"
    writer.close()
