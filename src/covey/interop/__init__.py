"""covey inside other people's programs: one module for each of them, which needs that package and no other.

``starlette`` (and so FastAPI) and ``django`` answer a request with an event stream made by ``sse``; ``shutdown`` ends
open streams when the server is told to stop. To serve whole streams, with all three transports, mount ``covey.asgi()``.
``httpx2`` and ``httpx`` put a policy under a client, by way of ``http_exchange`` and ``stream_rules``; ``telemetry``
passes on what policies tell.
"""
