"""uvicorn's HTTP protocol with one thing more: a response may take the connection over.

The hand-over is the one that uvicorn itself does for a WebSocket. An app finds it as the ASGI extension
``covey.takeover``; under any other server it is not there, and the app answers by ``send``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: TID253 -- loaded by the server's start alone
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol  # noqa: TID253 -- as above

EXTENSION: Final = "covey.takeover"
# A peer that acknowledges nothing for so long is gone: a laptop that left the network says no goodbye.
USER_TIMEOUT_MS: Final = 30_000
# A request's line and headers must be whole by then, and within these bytes; a client that dribbles them is cut off.
HEADER_S: Final = 20.0
HEADER_BYTES_MAX: Final = 64 << 10

_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: 45\r\n\r\nThe request's headers may have 65,536 bytes.\n"
)
_NO_HANDSHAKE: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: 32\r\n\r\nThis is no WebSocket handshake.\n"
)


class TakeoverProtocol(HttpToolsProtocol):
    """One connection of covey's own server."""

    _header_bytes = 0
    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set what finds a dead peer, and go on as usual."""
        found = transport.get_extra_info("socket")
        if found is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with suppress(OSError):
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
                found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer, and go on as usual."""
        self._stop_expecting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, but no more headers than anybody needs."""
        if self._header_timer is not None:
            self._header_bytes += len(data)
        super().data_received(data)
        # One read may bring headers and a body: only what is still no whole head after it is too much.
        if self._header_timer is not None and self._header_bytes > HEADER_BYTES_MAX:
            self._refuse_headers()

    def on_headers_complete(self) -> None:
        """Let the request begin."""
        self._stop_expecting()
        super().on_headers_complete()

    def on_message_begin(self) -> None:
        """Offer the hand-over with each request."""
        super().on_message_begin()
        self._expect_headers()
        extensions: dict[str, Any] = {EXTENSION: self.take_over}
        self.scope["extensions"] = extensions

    def handle_websocket_upgrade(self) -> None:
        """Upgrade, and refuse what the WebSocket library refuses before it asks anyone: uvicorn would say nothing."""
        super().handle_websocket_upgrade()
        websocket = self.transport.get_protocol()
        if not isinstance(websocket, WebSocketsSansIOProtocol) or self.transport.is_closing():
            return
        if websocket.conn.handshake_exc is not None:
            self.transport.write(b"".join(websocket.conn.data_to_send()) or _NO_HANDSHAKE)
            self.transport.close()

    def take_over(self, make: Callable[[asyncio.Transport], asyncio.Protocol]) -> bool:
        """Give the connection to another protocol, for good; False when that cannot be done any more.

        It cannot while a request is incomplete, or when others were sent behind it.
        """
        transport, cycle = self.transport, self.cycle
        if cycle.more_body or cycle.response_started or self.pipeline or transport.is_closing():
            return False
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        # As far as uvicorn is concerned the client has left, so it neither answers nor waits for an answer.
        cycle.disconnected = True
        transport.set_protocol(make(transport))
        # What this request held is kept alive by nobody for as long as the stream lives.
        self.cycle = None  # type: ignore[assignment]
        self.scope = None  # type: ignore[assignment]
        self.headers = []
        return True

    def _expect_headers(self) -> None:
        if self._header_timer is None:
            self._header_bytes = 0
            self._header_timer = self.loop.call_later(HEADER_S, self._on_slow_headers)

    def _stop_expecting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_slow_headers(self) -> None:
        self._header_timer = None
        self.transport.close()

    def _refuse_headers(self) -> None:
        self._stop_expecting()
        if not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()
