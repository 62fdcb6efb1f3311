"""The hub: streams, calls and sessions over HTTP, as a plain ASGI callable. Mirrors what it serves, file by file."""
