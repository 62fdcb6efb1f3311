"""uvicorn's HTTP protocol with one thing more: a response may take the connection over.

The hand-over is the one that uvicorn itself does for a WebSocket. An app finds it as the ASGI extension
``covey.takeover``; under any other server it is not there, and the app answers by ``send``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: TID253 -- loaded by the server's start alone

EXTENSION: Final = "covey.takeover"
# A peer that acknowledges nothing for so long is gone: a laptop that left the network says no goodbye.
USER_TIMEOUT_MS: Final = 30_000


class TakeoverProtocol(HttpToolsProtocol):
    """One connection of covey's own server."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set what finds a dead peer, and go on as usual."""
        found = transport.get_extra_info("socket")
        if found is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with suppress(OSError):
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
                found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        """Offer the hand-over with each request."""
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self.take_over}  # type: ignore[typeddict-item]

    def take_over(self, make: Callable[[asyncio.Transport], asyncio.Protocol]) -> bool:
        """Give the connection to another protocol, for good; False when that cannot be done any more.

        It cannot while a request is incomplete, or when others were sent behind it.
        """
        transport, cycle = self.transport, self.cycle
        if cycle is None or cycle.more_body or cycle.response_started or self.pipeline or transport.is_closing():
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
