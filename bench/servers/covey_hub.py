"""covey's hub with everything on: ids, retention, filters, heartbeats, a token. `native` adds the fast path."""

from __future__ import annotations

import sys

from bench.servers import asgi

from covey.hub.app import Hub
from covey.hub.auth import Outside
from covey.hub.fanout import SLICE
from covey.hub.native import TakeoverProtocol
from covey.streams.streams import Streams
from covey.team.members import Team

TOKEN = "token-of-the-benchmark-0123456789"  # noqa: S105 -- of nothing but this benchmark


def main() -> None:
    is_native, readers = sys.argv[1] == "native", int(sys.argv[2])
    streams = Streams()
    stream = streams.stream("news", object)
    hub = Hub(
        streams=streams,
        team=Team(streams),
        token=TOKEN,
        outside=Outside(),
        clock=streams.clock,
        randomness=streams.randomness,
    )

    async def publish(events: list[str]) -> None:
        for event in events:
            await stream.append(event)

    turns = 2 + readers // SLICE if is_native else 1
    asgi.serve(hub, publish, http=TakeoverProtocol if is_native else "httptools", turns=turns)


if __name__ == "__main__":
    main()
