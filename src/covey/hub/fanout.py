"""The fast path of event streams: connections that left ASGI, each of them a transport and an integer.

Under covey's own uvicorn start a stream's response is handed the connection itself, as uvicorn hands it over for a
WebSocket. From then on there is no task and no queue for the reader: when the stream changes, the same bytes go to
every connection that stands at the same number, once per turn of the loop, however many events came in it.

A connection whose buffer is full is passed over and goes on from its own number when it can; what it holds in memory
meanwhile is one buffer. Measured in ``bench/fanout.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from covey.hub.chunks import Chunk, Chunks
from covey.hub.representation import HEARTBEAT_SPREAD, ReadOptions, bye_block, heartbeat_block
from covey.streams.stream import Reader, Stream

if TYPE_CHECKING:
    from covey.hub.readers import Readers
    from covey.ports.randomness import Randomness

# What a transport may hold before it asks to pause; one chunk more can be on its way.
BUFFER_BYTES: Final = 32 << 10
# Connections that are written to before others get a turn: bounds how long one event keeps the loop.
SLICE: Final = 256

TakeOver = Callable[[Callable[[asyncio.Transport], asyncio.Protocol]], bool]


class Fanout:
    """All connections on the fast path, in groups that can share every byte."""

    def __init__(self, readers: Readers, randomness: Randomness) -> None:
        self._readers = readers
        self._randomness = randomness
        self._groups: dict[tuple[Stream[Any], ReadOptions], Group] = {}
        self._idle: asyncio.Event | None = None
        readers.on_drain(self._drain)

    def adopt(self, take_over: TakeOver, reader: Reader, options: ReadOptions, head: bytes) -> bool:
        """Take a connection over and write to it until the stream, the client or the hub ends it.

        Returns whether it could be taken over.

        Args:
            take_over: gives up the connection's transport to the protocol it makes.
            reader: where it starts.
            options: how it wants the stream.
            head: what is written first: the response's head and its first events.
        """

        def make(transport: asyncio.Transport) -> asyncio.Protocol:
            return Connection(self._group_of(reader.stream, options), transport, reader, head)

        return take_over(make)

    def entered(self) -> None:
        """Count a connection in."""
        self._readers.count += 1

    def left(self, group: Group) -> None:
        """Count a connection out; a group that nobody is in any more is forgotten."""
        self._readers.count -= 1
        if not group.connections:
            group.stop()
            del self._groups[group.stream, group.options]
            if not self._groups and self._idle is not None:
                self._idle.set()

    async def wait_closed(self, *, timeout_s: float) -> None:
        """Return when all connections are gone; those that do not take their last bytes in time are cut."""
        if not self._groups:
            return
        self._idle = asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            for group in list(self._groups.values()):
                for connection in list(group.connections):
                    connection.transport.abort()

    def _group_of(self, stream: Stream[Any], options: ReadOptions) -> Group:
        group = self._groups.get((stream, options))
        if group is None:
            group = self._groups[stream, options] = Group(self, stream, options, self._randomness)
        return group

    def _drain(self) -> None:
        for group in list(self._groups.values()):
            for connection in list(group.connections):
                connection.say_goodbye(bye_block("draining", return_ms=self._readers.return_ms()))


class Group:
    """Connections that read one stream in one way."""

    def __init__(self, fanout: Fanout, stream: Stream[Any], options: ReadOptions, randomness: Randomness) -> None:
        self.fanout = fanout
        self.stream = stream
        self.options = options
        self.connections: dict[Connection, None] = {}
        self.chunks: Final = Chunks(stream, options.kinds, options.render)
        self._randomness = randomness
        self._loop = asyncio.get_running_loop()
        self._sweep: asyncio.Handle | None = None
        self._is_outdated = False  # when this sweep is over, there will be more to write
        self._written_s = self._loop.time()
        self._beat = self._loop.call_at(self._next_beat_s(), self._on_beat)
        stream.on_change(self._on_change)

    def stop(self) -> None:
        """Let go of timers and wakers."""
        self._beat.cancel()
        self.stream.forget(self._on_change)
        if self._sweep is not None:
            self._sweep.cancel()

    def push(self, connection: Connection) -> None:
        """Write to one connection what it has not got, a chunk at a time, until it pauses or has everything."""
        chunk = self.chunks.after(connection.seq) if connection.is_writable else None
        if chunk is not None:
            connection.write(chunk)
            self._loop.call_soon(self.push, connection)

    # ---- the sweep

    def _on_change(self) -> None:
        if self._sweep is None:
            self._sweep = self._loop.call_soon(self._begin_sweep)
        else:
            self._is_outdated = True

    def _begin_sweep(self) -> None:
        self.stream.on_change(self._on_change)
        self._written_s = self._loop.time()
        self._is_outdated = False
        self._go_on(iter(list(self.connections)))

    def _go_on(self, waiting: Iterator[Connection]) -> None:
        """Write to the next slice; connections at the same number get the very same bytes."""
        seq = -1
        chunk: Chunk[bytes] | None = None
        count = 0
        for connection in islice(waiting, SLICE):
            count += 1
            if connection.is_writable:
                if connection.seq != seq:
                    seq = connection.seq
                    chunk = self.chunks.after(seq)
                    if chunk is not None and chunk.seq != self.stream.ring.head:
                        self._is_outdated = True
                if chunk is not None:
                    connection.write(chunk)
        if count == SLICE:
            self._sweep = self._loop.call_soon(self._go_on, waiting)
            return
        self._sweep = None
        if self._is_outdated:
            self._on_change()

    # ---- silence

    def _next_beat_s(self) -> float:
        spread = self._randomness.uniform(1 - HEARTBEAT_SPREAD, 1 + HEARTBEAT_SPREAD)
        return self._written_s + self.options.heartbeat_s * spread

    def _on_beat(self) -> None:
        now_s = self._loop.time()
        if now_s - self._written_s >= self.options.heartbeat_s * (1 - HEARTBEAT_SPREAD):
            self._written_s = now_s
            block = heartbeat_block(self.stream.head, self.options)
            for connection in list(self.connections):
                if connection.is_writable:
                    connection.transport.write(block)
        self._beat = self._loop.call_at(self._next_beat_s(), self._on_beat)


class Connection(asyncio.Protocol):
    """One reader: a transport, and the number of the last event written to it."""

    __slots__ = ("_group", "is_writable", "seq", "transport")

    def __init__(self, group: Group, transport: asyncio.Transport, reader: Reader, head: bytes) -> None:
        self.transport = transport
        self.is_writable = True
        self._group = group
        transport.set_write_buffer_limits(high=BUFFER_BYTES)
        group.connections[self] = None
        group.fanout.entered()
        # The first batch comes from the reader itself: only it knows of a cursor that the stream does not.
        first = group.chunks.first(reader)
        self.write(first._replace(data=head + first.data))
        group.push(self)

    def write(self, chunk: Chunk[bytes]) -> None:
        """Write one step of the stream."""
        self.seq, data, is_last = chunk
        if data:
            self.transport.write(data)
        if is_last:
            self._close()

    def say_goodbye(self, block: bytes) -> None:
        """Write the last block and close; a connection that cannot take more is cut."""
        if self.is_writable:
            self.transport.write(block)
            self._close()
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Ignore it: after a request for a stream a client has nothing more to say."""

    def eof_received(self) -> None:
        """Close, as the transport does by itself after this."""

    def pause_writing(self) -> None:
        """Stop writing: the buffer is full."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """Go on from where this reader stands."""
        if not self.transport.is_closing():
            self.is_writable = True
            self._group.push(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio calls it so
        """Forget the reader."""
        self.is_writable = False
        if self._group.connections.pop(self, self) is None:
            self._group.fanout.left(self._group)

    def _close(self) -> None:
        self.is_writable = False
        self.transport.close()
