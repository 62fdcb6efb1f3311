"""covey's hub with everything on: ids, retention, filters, heartbeats, a token. `native` adds the fast path."""

from __future__ import annotations

import sys

from bench.servers import asgi

import covey
from covey.hub.fanout import SLICE
from covey.hub.native import TakeoverProtocol

TOKEN = "token-of-the-benchmark-0123456789"  # noqa: S105 -- of nothing but this benchmark


def main() -> None:
    is_native, readers = sys.argv[1] == "native", int(sys.argv[2])
    streams = covey.Streams()
    stream = streams.stream("news", object)
    hub = covey.asgi(streams=streams, token=TOKEN)

    async def publish(events: list[str]) -> None:
        for event in events:
            await stream.append(event)

    turns = 2 + readers // SLICE if is_native else 1
    asgi.serve(hub, publish, http=TakeoverProtocol if is_native else "httptools", turns=turns)


if __name__ == "__main__":
    main()
