"""covey keeps a team of live Python teammates reachable.

The public names, each loaded when it is first used (PEP 562), so that ``import covey`` costs next to nothing and a
program that wants only Server-Sent Events pays for nothing else. Inside covey, modules import each other directly and
never from here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from covey.assembly import asgi as asgi
    from covey.assembly import serve as serve
    from covey.client.sse import subscribe as subscribe
    from covey.client.sse import subscribe_sync as subscribe_sync
    from covey.errors import CoveyError as CoveyError
    from covey.resilience.policy import Policy as Policy
    from covey.resilience.target import Target as Target
    from covey.resilience.timeout import timeout as timeout
    from covey.streams.event import Event as Event
    from covey.streams.retention import Retention as Retention
    from covey.streams.stream import Stream as Stream
    from covey.streams.streams import Streams as Streams
    from covey.wire.event_stream import ServerSentEvent as ServerSentEvent
    from covey.wire.event_stream import aparse_event_stream as aparse_event_stream
    from covey.wire.event_stream import parse_event_stream as parse_event_stream

__version__: Final = "0.1.0"

_HOMES: Final = {
    "CoveyError": "covey.errors",
    "Event": "covey.streams.event",
    "Policy": "covey.resilience.policy",
    "Retention": "covey.streams.retention",
    "ServerSentEvent": "covey.wire.event_stream",
    "Stream": "covey.streams.stream",
    "Streams": "covey.streams.streams",
    "Target": "covey.resilience.target",
    "aparse_event_stream": "covey.wire.event_stream",
    "asgi": "covey.assembly",
    "parse_event_stream": "covey.wire.event_stream",
    "serve": "covey.assembly",
    "subscribe": "covey.client.sse",
    "subscribe_sync": "covey.client.sse",
    "timeout": "covey.resilience.timeout",
}

__all__ = [  # noqa: PLE0604, RUF100 -- the names of the table above, spelled out for readers and type checkers
    "CoveyError",
    "Event",
    "Policy",
    "Retention",
    "ServerSentEvent",
    "Stream",
    "Streams",
    "Target",
    "aparse_event_stream",
    "asgi",
    "parse_event_stream",
    "serve",
    "subscribe",
    "subscribe_sync",
    "timeout",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        message = f"module 'covey' has no attribute {name!r}"
        raise AttributeError(message)
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
