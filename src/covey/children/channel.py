"""Frames over a socket pair, one end in an event loop and the other in a child that may block.

The child loads this module too, so nothing of asyncio is imported here.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from covey.errors import LocalProtocolError, RefusedError, RemoteProtocolError
from covey.wire.codec import FRAME_BYTES_MAX, FrameDecoder, encode_frame

if TYPE_CHECKING:
    import asyncio

Received = TypeVar("Received")
Sent = TypeVar("Sent", bound=msgspec.Struct)

# Buffers of 128 KiB and more make the allocator map and unmap pages on every call: 20 µs where this costs none.
READ_BYTES: Final = 16 << 10
INBOX_FRAMES_MAX: Final = 1024
# A frame of the largest size must fit behind small ones; more than that means that the other end does not read.
UNSENT_BYTES_MAX: Final = FRAME_BYTES_MAX + (1 << 20)


class HostChannel(Generic[Received, Sent]):
    """The end that lives in an event loop; see ``ports.channel.Channel``.

    Args:
        sock: connected; becomes the channel's own.
        receives: the union of frame types that the other end may send.
        loop: the running loop.
    """

    def __init__(self, sock: socket.socket, receives: Any, *, loop: asyncio.AbstractEventLoop) -> None:  # noqa: ANN401 -- a union is no type
        sock.settimeout(0)
        self._sock = sock
        self._loop = loop
        self._decoder: FrameDecoder[Received] = FrameDecoder(receives)
        self._unsent = bytearray()
        self._inbox: deque[Received] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._on_frames: Callable[[list[Received]], None] = self._keep
        self._on_end: Callable[[RemoteProtocolError | None], None] = self._wake
        self._is_ended = False
        self._is_closed = False
        self._is_paused = False
        loop.add_reader(sock, self._read)

    @property
    def is_open(self) -> bool:
        """Whether a frame could still be sent and read."""
        return not (self._is_ended or self._is_closed)

    def watch(
        self, on_frames: Callable[[list[Received]], None], on_end: Callable[[RemoteProtocolError | None], None]
    ) -> None:
        """Give frames to a callback in the turn of the loop in which they arrive, instead of to ``receive``.

        ``on_end`` is called once when the other end is gone, with what was wrong with its bytes if they were no frames.
        """
        self._on_frames, self._on_end = on_frames, on_end

    def send(self, frame: Sent) -> None:
        """See ``Channel``.

        Raises:
            RefusedError: the other end has not read what it was sent before.
        """
        if not self.is_open:
            raise LocalProtocolError("the channel is closed")
        data = encode_frame(frame)
        if self._unsent:
            if len(self._unsent) + len(data) > UNSENT_BYTES_MAX:
                raise RefusedError("the process does not read what it is sent", retry_after_s=1.0)
            self._unsent += data
            return
        sent = self._write(data)
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            self._loop.add_writer(self._sock, self._flush)

    async def receive(self) -> Received | None:
        """See ``Channel``."""
        while not self._inbox:
            if self._is_ended or self._is_closed:
                return None
            self._waiter = self._loop.create_future()
            await self._waiter
        frame = self._inbox.popleft()
        if self._is_paused and len(self._inbox) < INBOX_FRAMES_MAX // 2:
            self._is_paused = False
            self._loop.add_reader(self._sock, self._read)
        return frame

    def drain(self) -> None:
        """Take what has arrived and was not read yet, now: for a process that is known to be gone."""
        while self.is_open and self._read():
            pass

    def close(self) -> None:
        """See ``Channel``."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._wake(None)

    def _read(self) -> bool:
        """Tell whether there was anything."""
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._end(None)
            return False
        try:
            frames = self._decoder.receive_data(data)
        except RemoteProtocolError as error:
            self._end(error)
            return False
        if frames:
            self._on_frames(frames)
        return True

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            # The other end is gone; reading tells that in order, after what it still sent.
            return len(data)

    def _flush(self) -> None:
        del self._unsent[: self._write(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._sock)

    def _end(self, error: RemoteProtocolError | None) -> None:
        self._is_ended = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._on_end(error)

    def _keep(self, frames: list[Received]) -> None:
        self._inbox.extend(frames)
        if len(self._inbox) >= INBOX_FRAMES_MAX and not self._is_paused:
            self._is_paused = True
            self._loop.remove_reader(self._sock)
        self._wake(None)

    def _wake(self, error: RemoteProtocolError | None) -> None:  # noqa: ARG002 -- it has the form of `on_end`
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class ChildChannel(Generic[Received, Sent]):
    """The end that lives on a child's main thread. Sending blocks; receiving takes what is there.

    Args:
        sock: connected; becomes the channel's own.
        receives: the union of frame types that the host may send.
    """

    def __init__(self, sock: socket.socket, receives: Any) -> None:  # noqa: ANN401 -- a union is no type
        sock.settimeout(None)
        self._sock = sock
        self._decoder: FrameDecoder[Received] = FrameDecoder(receives)
        self._lock = threading.Lock()
        self.inbox: deque[Received] = deque()

    def fileno(self) -> int:
        """The descriptor that is readable when ``pull`` has something to take."""
        return self._sock.fileno()

    def send(self, frames: Sequence[Sent]) -> None:
        """Send all of them, in one piece where they fit; from any thread.

        Raises:
            OSError: the host is gone.
        """
        data = b"".join([encode_frame(frame) for frame in frames])
        with self._lock:
            self._sock.sendall(data)

    def pull(self) -> bool:
        """Move what has arrived into ``inbox`` without waiting; False when the host is gone."""
        try:
            data = self._sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        self.inbox.extend(self._decoder.receive_data(data))
        return bool(data)

    def close(self) -> None:
        """Let go of the descriptor; also after a fork, in the copy that must not speak for the original."""
        self._sock.close()
