"""One connection: an asyncio transport at each end, and two ways between them on which bytes may be held up or cut."""

from __future__ import annotations

import asyncio
import errno
import socket
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from enum import Enum
from typing import Any, Final

from covey.testing.process import Process
from covey.testing.weather import Weather

Address = tuple[str, int]

# What Linux does: 15 repeats of data (tcp_retries2).
DATA_GIVE_UP_S: Final = 924.6
_HIGH_WATER_BYTES: Final = 64 << 10


class Mark(Enum):
    """What travels in a connection beside bytes."""

    END = "end"
    RESET = "reset"


class NotASocket:
    """What libraries ask of ``get_extra_info("socket")``: addresses, and options that change nothing here."""

    family = socket.AF_INET
    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __init__(self, local: Address, remote: Address | None = None) -> None:
        self._local = local
        self._remote = remote

    def getsockname(self) -> Address:
        return self._local

    def getpeername(self) -> Address | None:
        return self._remote

    def setsockopt(self, *_: object) -> None:
        return None

    def fileno(self) -> int:
        """Return what a closed socket has; HTTP clients then take a connection to be used up after one request."""
        return -1


class SimTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, process: Process, context: Context, local: Address, remote: Address) -> None:
        super().__init__({"sockname": local, "peername": remote, "socket": NotASocket(local, remote)})
        self.process = process
        self.is_closed = False
        self.is_reading_paused = True  # until there is a protocol
        self.outgoing: Way
        self.incoming: Way
        self._context = context
        self._protocol: asyncio.BaseProtocol = asyncio.Protocol()
        self._is_ended = False
        self._is_writing_paused = False
        self._high, self._low = _HIGH_WATER_BYTES, _HIGH_WATER_BYTES // 4

    # ---- for protocols, see asyncio
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self.is_closed

    def is_reading(self) -> bool:
        return not (self.is_reading_paused or self.is_closed)

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False
        self.incoming.pump_soon()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = (4 * low if low is not None else _HIGH_WATER_BYTES) if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return self.outgoing.held_bytes

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self.is_closed or not data:
            return
        if self._is_ended:
            raise RuntimeError("Cannot call write() after write_eof()")
        self.outgoing.send(bytes(data))
        if not self._is_writing_paused and self.outgoing.held_bytes > self._high:
            self._is_writing_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not (self._is_ended or self.is_closed):
            self._is_ended = True
            self.outgoing.mark(Mark.END)

    def close(self) -> None:
        self.write_eof()
        self.lose(None)

    def abort(self) -> None:
        if not self.is_closed:
            self.outgoing.mark(Mark.RESET)
            self.lose(None)

    # ---- for the network
    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        """Take the protocol that will be called, and tell it that the connection is there."""
        self._protocol = protocol
        self.is_reading_paused = False
        self.call(protocol.connection_made, self)
        self.incoming.pump_soon()

    def receive(self, item: bytes | Mark) -> None:
        """Hand what arrived to the protocol."""
        protocol = self._protocol
        if item is Mark.RESET:
            self.lose(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
        elif isinstance(protocol, (asyncio.Protocol, asyncio.BufferedProtocol)):
            try:
                self.call(self._hand_over, protocol, item)
            except Exception as error:  # noqa: BLE001 -- as asyncio does: a protocol that fails loses its connection
                message = "a protocol failed at what it received"
                asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
                self.outgoing.mark(Mark.RESET)
                self.lose(error)

    def lose(self, error: Exception | None) -> None:
        """End it here, and tell the protocol why."""
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self.call, self._protocol.connection_lost, error, context=Context())

    def drained(self) -> None:
        """Let the protocol write again when there is room."""
        if self._is_writing_paused and self.outgoing.held_bytes <= self._low and not self.is_closed:
            self._is_writing_paused = False
            self.call(self._protocol.resume_writing)

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Run a protocol's code in its own process, if that is still there."""
        if self.process.is_alive:
            self._context.run(function, *arguments)

    def _hand_over(self, protocol: asyncio.Protocol | asyncio.BufferedProtocol, item: bytes | Mark) -> None:
        if isinstance(item, Mark):
            if not protocol.eof_received():
                self.close()
        elif isinstance(protocol, asyncio.Protocol):
            protocol.data_received(item)
        else:
            _fill_buffers(protocol, item)


def _fill_buffers(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    while data:
        buffer = memoryview(protocol.get_buffer(len(data)))
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        protocol.buffer_updated(size)
        data = data[size:]


class Way:
    """One direction of a connection: what was written and has not arrived yet, in order."""

    def __init__(self, weather: Weather, number: int, sender: SimTransport, receiver: SimTransport) -> None:
        self.sender = sender
        self.receiver = receiver
        self.held_bytes = 0
        self.conditions = weather.conditions_between(sender.process.host, receiver.process.host)
        self._weather = weather
        self._name = f"#{number} {sender.process.host}>{receiver.process.host}"
        self._items: deque[tuple[float, bytes | Mark]] = deque()
        self._due_s = 0.0
        self._bytes_left = self.conditions.cut_after_bytes
        self._is_mute = False
        self._is_cut = False
        self._giving_up: asyncio.TimerHandle | None = None

    def send(self, data: bytes) -> None:
        """Put bytes on their way, or a part of them when this is where it is cut."""
        conditions, chance = self.conditions, self._weather.happens
        if chance(conditions.mute_p):
            self._is_mute = True
            self._record("goes mute")
        whole = len(data)
        if self._bytes_left is not None:
            data = data[: self._bytes_left]
            self._bytes_left -= len(data)
        if chance(conditions.cut_p):
            data = data[: self._weather.pick(len(data))]
        if chance(conditions.split_p):
            middle = self._weather.pick(len(data) + 1)
            self._put(data[:middle])
            self._put(data[middle:])
        else:
            self._put(data)
        if len(data) < whole:
            self.cut()

    def mark(self, mark: Mark) -> None:
        """Put a mark behind the bytes."""
        self._put(mark)

    def cut(self) -> None:
        """Reset both ends, once what was written has arrived."""
        if not self._is_cut:
            self._record("is cut")
            self._put(Mark.RESET)
            self._is_cut = True
            self._weather.after(self._due_s - self._weather.time(), self.sender.receive, Mark.RESET)

    def pump_soon(self) -> None:
        """Deliver what is due as soon as nothing else runs."""
        self._weather.after(0.0, self._pump)

    def _put(self, item: bytes | Mark) -> None:
        if item == b"" or self._is_cut:
            return
        if isinstance(item, bytes):
            self.held_bytes += len(item)
        # In order: nothing overtakes what was written before.
        self._due_s = max(self._due_s, self._weather.time() + self._weather.travel_s(self.conditions))
        self._items.append((self._due_s, item))
        self._weather.after(self._due_s - self._weather.time(), self._pump)

    def _pump(self) -> None:
        """Deliver what is due, as far as the network and the receiver let it through."""
        receiver = self.receiver
        while self._items and self._items[0][0] <= self._weather.time():
            if self._is_mute or not self._weather.is_open(self.sender.process.host, receiver.process.host):
                self._give_up_later()
                return
            if receiver.is_reading_paused and not receiver.is_closed and receiver.process.is_alive:
                return
            self._arrive(self._items.popleft()[1])

    def _arrive(self, item: bytes | Mark) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
        size = len(item) if isinstance(item, bytes) else 0
        self.held_bytes -= size
        if self.receiver.is_closed or not self.receiver.process.is_alive:
            if size:  # a system answers for a program that is gone
                self._record("is refused: nobody is there")
                self._weather.after(self._weather.travel_s(self.conditions), self.sender.receive, Mark.RESET)
            return
        self._record(item.value if isinstance(item, Mark) else f"{size} bytes {zlib.crc32(item):08x}")
        self.receiver.receive(item)
        self.sender.drained()

    def _give_up_later(self) -> None:
        if self._giving_up is None:
            error = TimeoutError(errno.ETIMEDOUT, "Connection timed out")
            self._giving_up = self._weather.after(DATA_GIVE_UP_S, self.sender.lose, error)

    def _record(self, text: str) -> None:
        self._weather.record(f"{self._name} {text}")
